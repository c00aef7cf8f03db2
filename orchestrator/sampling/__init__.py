"""Samples: the actors that make them, and the files that they end in."""
