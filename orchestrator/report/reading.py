"""What the folder of a run or a sweep tells about it; nothing else is needed, wherever the run was made."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from dimr_model.complexity import count_macs, count_parameters
from orchestrator import storage
from orchestrator.config.mistakes import did_you_mean_path
from orchestrator.config.saved import CONFIG_FILE, read_config
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.folder import (
    BRANCHES_FILE,
    METRICS_FILE,
    NEAREST_FILE,
    SAMPLES_FILE,
    SUITE_FILE,
    VAE_FOLDER,
    read_metrics,
)
from orchestrator.sampling.progress import read_previews
from orchestrator.sweeps.suites import TABLE_FILE, TRIALS_FOLDER
from orchestrator.tracking.journal import JOURNAL_FILE, holds_values, newest_status, read_records

Series = list[tuple[int, float]]
"""(images seen, value), ascending."""
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class RunData:
    """A run as its folder tells it."""

    name: str
    """The run's name, as in MLflow."""
    folder: str
    config: ExperimentConfig
    status: str
    began: str
    """Date and time in UTC."""
    dataset: str
    """Where its images come from."""
    series: dict[str, Series]
    """Metric -> its values."""
    previews: list[tuple[int, bytes]]
    """(images seen, PNG), ascending."""
    samples: bytes | None
    """The grid of the first samples, a PNG."""
    final: dict[str, Any]
    """Content of metrics.json, or nothing."""
    evaluations: list[dict[str, Any]]
    """Content of metrics.json of each evaluation after training."""
    guidance: list[bytes]
    """Plots of guidance sweeps."""
    studies: list[dict[str, Any]]
    """Content of distortion.json of each study of this run."""
    vaes: list[dict[str, Any]] = field(default_factory=list)
    """Content of metrics.json of each score of this run's VAE."""
    branches: bytes | None = None
    """What each branch predicts, coarse to fine, a PNG."""
    nearest: bytes | None = None
    """Samples above the training images that are nearest to them, a PNG."""

    @property
    def parameters(self) -> int:
        """Number of the network's parameters."""
        return count_parameters(self.config.model)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of one forward pass for one image."""
        return count_macs(self.config.model)

    @property
    def images_seen(self) -> int:
        """Images seen at the last record of metrics."""
        return max((steps[-1][0] for steps in self.series.values()), default=0)

    @property
    def worker_hours(self) -> float:
        """Hours that workers trained, by the logged speed; steps repeated after a restart do not count."""
        per_worker = dict(self.series.get("train/images_per_second_per_worker", []))
        steps = sorted(per_worker)
        seconds = [
            (step - before) / per_worker[step]
            for before, step in zip([0, *steps], steps, strict=False)
            if per_worker[step] > 0
        ]
        return sum(seconds) / SECONDS_PER_HOUR

    @property
    def unit(self) -> str:
        """What a worker is: a GPU or a CPU worker."""
        return "GPU" if self.config.train.use_gpu else "CPU worker"


@dataclass(frozen=True)
class SweepData:
    """A sweep's table and plots, and its trials as runs."""

    folder: str
    title: str
    rows: list[dict[str, str]]
    plots: list[bytes]
    trials: list[RunData]


def read_run(folder: str) -> RunData:
    """Read everything of a run.

    Raises:
        UserError: there is no run in the folder.
    """
    names = storage.sizes(folder)
    if CONFIG_FILE not in names or JOURNAL_FILE not in names:
        raise UserError(
            f"There is no run in {folder}: expected a folder with {CONFIG_FILE} and {JOURNAL_FILE}, "
            f"such as runs/quickstart. {did_you_mean_path(folder)}".strip()
        )

    def picture(name: str) -> bytes | None:
        return storage.read_bytes(storage.join(folder, name)) if name in names else None

    config, records = read_config(folder), read_records(folder)
    if not records:
        raise UserError(f"The run in {folder} has logged nothing yet; run its command again.")
    status = newest_status(records) or "RUNNING"
    return RunData(
        name=config.run.name,
        folder=folder,
        config=config,
        status=status,
        began=datetime.fromtimestamp(records[0]["time"] / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        dataset=_tags(records).get("dataset.source", config.data.path),
        series=_series(records),
        previews=read_previews(folder),
        samples=picture(SAMPLES_FILE),
        branches=picture(BRANCHES_FILE),
        nearest=picture(NEAREST_FILE),
        final=read_metrics(folder),
        evaluations=list(_evaluations(folder)),
        guidance=[
            storage.read_bytes(storage.join(folder, "sweeps", name, "guidance.png"))
            for name in _names(folder, "sweeps")
            if storage.is_file(storage.join(folder, "sweeps", name, "guidance.png"))
        ],
        studies=list(_studies(folder, config.run.name)),
        vaes=list(_vaes(folder, read_metrics(folder))),
    )


def _series(records: Iterable[dict[str, Any]]) -> dict[str, Series]:
    found: dict[str, dict[int, float]] = {}
    for record in records:
        if holds_values(record):
            for key, value in record["values"].items():
                found.setdefault(key, {})[record["step"]] = value
    return {key: sorted(values.items()) for key, values in found.items()}


def _tags(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {key: value for r in records if r["kind"] == "tags" for key, value in r["values"].items()}


def _names(folder: str, inner: str, suffix: str = "") -> list[str]:
    return sorted(name for name in storage.sizes(storage.join(folder, inner)) if name.endswith(suffix))


def _evaluations(folder: str) -> Iterable[dict[str, Any]]:
    for samples in _names(folder, "evaluations"):
        for scored in _names(folder, f"evaluations/{samples}"):
            found = storage.join(folder, "evaluations", samples, scored)
            if storage.is_file(storage.join(found, METRICS_FILE)):
                yield read_metrics(found)


def _studies(folder: str, run: str) -> Iterable[dict[str, Any]]:
    root = folder.rstrip("/").rpartition("/")[0]
    for name in _names(root, "distortion"):
        file = storage.join(root, "distortion", name, "distortion.json")
        if storage.is_file(file):
            study = json.loads(storage.read_bytes(file))
            if run in study["runs"]:
                yield study


def _vaes(folder: str, scored: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The scores, beside the run, of the VAE that decoded its samples."""
    mine = [entry["protocol"].get("vae") for entry in scored.get("metrics", {}).values()]
    root = folder.rstrip("/").rpartition("/")[0]
    for name in _names(root, VAE_FOLDER):
        found = read_metrics(storage.join(root, VAE_FOLDER, name))
        if any(entry["protocol"]["vae"] in mine for entry in found.get("metrics", {}).values()):
            yield found


def is_sweep(folder: str) -> bool:
    """Whether a folder holds a sweep of trials rather than a run."""
    return SUITE_FILE in storage.sizes(folder)


def read_sweep(folder: str) -> SweepData:
    """Read a sweep's table and plots, and its trials as runs.

    Raises:
        UserError: it has no table yet.
    """
    table = storage.join(folder, TABLE_FILE)
    if not storage.is_file(table):
        raise UserError(f"The sweep {folder} has no table yet; run its command again to finish it.")
    rows = list(csv.DictReader(io.StringIO(storage.read_bytes(table).decode())))
    suite = json.loads(storage.read_bytes(storage.join(folder, SUITE_FILE)))
    trials = storage.join(folder, TRIALS_FOLDER)
    return SweepData(
        folder=folder,
        title=suite["title"],
        rows=[{key: _short(value) for key, value in row.items()} for row in rows],
        plots=[storage.read_bytes(storage.join(folder, name)) for name in _names(folder, "", ".png")],
        trials=[
            read_run(storage.join(trials, name))
            for name in _names(folder, TRIALS_FOLDER)
            if storage.is_file(storage.join(trials, name, JOURNAL_FILE))
        ],
    )


def _short(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:,.0f}" if number.is_integer() else f"{number:.4g}"
