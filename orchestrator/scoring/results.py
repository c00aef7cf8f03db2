"""Scores as files and in MLflow."""

import json
from typing import TYPE_CHECKING, Any

from orchestrator import storage
from orchestrator.run.folder import METRICS_FILE, write_text
from orchestrator.scoring.protocol import count_name

if TYPE_CHECKING:
    from orchestrator.scoring.evaluate import EvaluationResult


def results_folder(scores: "EvaluationResult") -> str:
    """The folder of an evaluation's numbers: with its samples, by their count and the reference's hash."""
    protocol = scores.measurements[0].protocol
    return storage.join(
        scores.samples.folder, f"{count_name(protocol['samples'])}-{protocol['reference']['sha256'][:8]}"
    )


def write_scores(
    folder: str, scores: "EvaluationResult", images_seen: int | None, seconds: dict[str, float]
) -> None:
    """Write ``metrics.json`` and copies of the grids into ``folder``."""
    from orchestrator.scoring.evaluate import plain

    content = {
        "images_seen": images_seen,
        "metrics": plain(scores.measurements),
        "warnings": scores.warnings,
        "samples": scores.samples.folder,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    for path in scores.samples.pictures.values():
        name = path.removeprefix(f"{scores.samples.folder}/")
        storage.write_bytes(storage.join(folder, name), storage.read_bytes(path))
    write_text(folder, METRICS_FILE, json.dumps(content, indent=1))


def log_scores(folder: str, scores: "EvaluationResult", step: int, tracker: Any) -> None:
    """Send the numbers, their protocols and what :func:`write_scores` wrote to the tracker of ``folder``."""
    tracker.log_scores.remote({f"eval/{m.name}": m.value for m in scores.measurements}, step)
    protocols = {f"protocol.{m.name}": json.dumps(m.protocol) for m in scores.measurements}
    # The paper's numbers as tags, so that nothing plots them among what was measured.
    tracker.log_tags.remote(protocols | {f"paper.{m.name}": m.paper for m in scores.measurements if m.paper})
    for key, path in scores.samples.pictures.items():
        tracker.log_image.remote(key, path.removeprefix(f"{scores.samples.folder}/"), step)
    tracker.log_artifact.remote(METRICS_FILE)
