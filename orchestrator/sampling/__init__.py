"""Samples: who makes them, and the files that they end in."""
