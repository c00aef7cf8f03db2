"""Tracking: everything goes into a local journal first, and from there to MLflow when MLflow can be reached.

One process per run writes: a :class:`~orchestrator.tracking.tracker.Tracker`, usually a Ray actor beside the
driver. The journal ``journal.jsonl`` is the truth: a tracking server that is down delays MLflow and nothing
else. Replaying is harmless, because every record keeps its original timestamp.
"""
