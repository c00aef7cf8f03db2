"""Ablations: suites of experiments that differ in few settings, run as a sweep and compared in one table."""
