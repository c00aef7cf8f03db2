"""What became of a sweep's trials, as their folders tell."""

import dataclasses
from dataclasses import dataclass, field

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.folder import METRICS_FILE, read_metrics
from orchestrator.scoring.protocol import Measurement
from orchestrator.sweeps.pruning import pruned_at, why_pruned
from orchestrator.sweeps.suites import Cell
from orchestrator.sweeps.trial import distance_of, losses_of, scores_of


@dataclass(frozen=True)
class Finalist:
    """A finished trial, scored in full with one seed."""

    seed: int
    measurements: list[Measurement]

    def values(self) -> dict[tuple[str, str | None], float]:
        """Metric and extractor, None for those without one -> value."""
        return {(m.metric, m.extractor): m.value for m in self.measurements if m.is_of_samples}


@dataclass(frozen=True)
class TrialResult:
    """What became of a cell: a row of the table."""

    cell: Cell
    status: str
    """finished, pruned, failed, not run, or not possible."""
    parameters: int | None = None
    macs: int | None = None
    scores: list[tuple[int, float]] = field(default_factory=list)
    """(images seen, distance) of scores with few samples."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    """Every number of a finished trial by its whole name, such as ``class_agreement_250_ema``."""
    finals: list[Finalist] = field(default_factory=list)
    note: str = ""

    @property
    def distance(self) -> float | None:
        """The distance with few samples, at the last score."""
        return self.scores[-1][1] if self.scores else None


def results_of(
    cells: list[Cell],
    trials: dict[str, ExperimentConfig],
    failures: dict[str, str],
    finalists: dict[str, list[Finalist]],
) -> list[TrialResult]:
    """Read from the trials' folders what became of every cell, in the suite's order."""
    found = {
        name: _result(cell, trials[name], failures.get(name), finalists.get(name, []))
        for name, cell in _tried(cells).items()
    }
    return _in_order(cells, found)


class ResultsSoFar:
    """What became of the cells of a sweep that goes on; only trials that may have changed are read again."""

    def __init__(self, cells: list[Cell], trials: dict[str, ExperimentConfig]) -> None:
        self._cells, self._trials = cells, trials
        self._found: dict[str, TrialResult] = {}
        self._read(list(trials))

    def after(self, changed: list[str]) -> list[TrialResult]:
        """The results of all cells in the suite's order, after trials ``changed``."""
        self._read(changed)
        return _in_order(self._cells, self._found)

    def _read(self, names: list[str]) -> None:
        cells = _tried(self._cells)
        self._found |= {name: _result(cells[name], self._trials[name], None, []) for name in names}


def _tried(cells: list[Cell]) -> dict[str, Cell]:
    """Name -> cell that has a trial of its own."""
    return {cell.name: cell for cell in cells if cell.config is not None and not cell.same_as}


def _in_order(cells: list[Cell], found: dict[str, TrialResult]) -> list[TrialResult]:
    results = []
    for cell in cells:
        if cell.config is None:
            results.append(TrialResult(cell, "not possible", note=cell.reason))
        elif cell.same_as:
            note = f"the same trial as {cell.same_as}"
            results.append(dataclasses.replace(found[cell.same_as], cell=cell, note=note))
        else:
            results.append(found[cell.name])
    return results


def _result(cell: Cell, config: ExperimentConfig, failure: str | None, finals: list[Finalist]) -> TrialResult:
    from dimr_model.complexity import count_macs, count_parameters

    scores, status, note = scores_of(config.directory), "not run", failure or ""
    metrics: dict[str, float] = {}
    if storage.is_file(storage.join(config.directory, METRICS_FILE)):
        status = "finished"
        measured = read_metrics(config.directory)["metrics"]
        metrics = {name: float(entry["value"]) for name, entry in measured.items()}
        final = (config.train.images, distance_of(measured))
        scores = [score for score in scores if score[0] < config.train.images] + [final]
    elif failure is not None:
        status = "failed"
    elif pruned_at(config.directory) is not None:
        status, note = "pruned", why_pruned(config.directory)
    sizes = count_parameters(config.model), count_macs(config.model)
    return TrialResult(cell, status, *sizes, scores, losses_of(config.directory), metrics, finals, note)
