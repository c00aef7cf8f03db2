"""Ablations: experiments that differ in few settings are run as a sweep, and compared in one table."""
