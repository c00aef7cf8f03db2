"""How fast an evaluation's ranges were finished, by the files that say so."""

from pathlib import Path

from orchestrator.scoring.pipeline import Work


def images_per_second(work: Work, skipped: int) -> float:
    """Speed from the end of the first ``skipped`` ranges to the last one; starting actors does not count.

    The times are those of the parts' files. Ray Data hands on finished ranges several at a time, so the
    moments at which they arrive here say less.
    """
    parts = sorted(Path(work.parts.folder).glob("*.safetensors"), key=lambda part: part.stat().st_mtime_ns)
    bounds = [part.stem.split("-") for part in parts[skipped:]]
    images = sum(int(stop) - int(start) for start, stop in bounds)
    return images / (parts[-1].stat().st_mtime - parts[skipped - 1].stat().st_mtime)
