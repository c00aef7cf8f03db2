"""Sampling actors, feature extractors, scores and their protocol."""
