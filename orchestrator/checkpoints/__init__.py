"""Checkpoints of a run: which folders are one, and what is in them."""
