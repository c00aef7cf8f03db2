"""Guidance by trial: few samples at every setting, then more of them near the best; trials run through Ray Tune."""

import dataclasses
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
from ray import tune
from rich.console import Console
from rich.table import Table

from dimr_model.config import Guidance
from orchestrator import cluster, storage
from orchestrator.config import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.evaluation.score import Evaluation, evaluate, prepare
from orchestrator.evaluation.subject import Subject, load_subject
from orchestrator.latents.format import LatentDataset
from orchestrator.progress import ImageProgress
from orchestrator.reporting import csv_of, line_style, png_of
from orchestrator.tracking.tracker import close_tracker, start_tracker, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Of a sweep."""

    checkpoint: str
    """What to evaluate: a run's folder, one of its checkpoints, an exported folder, or a released .pth file."""
    scales: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    """Guidance scales to try; 1 is none."""
    intervals: tuple[tuple[float, float], ...] = ()
    """Intervals of diffusion steps to try, such as [[0, 1000], [200, 800]]; by default the config's."""
    quick_images: int | None = None
    """Samples of each trial of the first round; by default a tenth of evaluation.images."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("--scales must name at least one")
        if self.quick_images is not None and self.quick_images < 2:
            raise ValueError(f"--quick_images {self.quick_images} must be at least 2")


@dataclass(frozen=True)
class Setting:
    """One point of the sweep."""

    scale: float
    interval: tuple[float, float]

    def guidance(self, base: Guidance) -> Guidance:
        """The config's guidance at this point; a scale of 1 is none."""
        kind = "none" if self.scale == 1 else "constant" if base.kind == "none" else base.kind
        return dataclasses.replace(base, kind=kind, scale=self.scale, interval=self.interval)


@dataclass(frozen=True)
class Outcome:
    """What a trial measured."""

    setting: Setting
    images: int
    metrics: dict[str, float]
    """Without the count in their names, such as fid_inception_ema."""


def run_sweep(
    config: ExperimentConfig, dataset: LatentDataset | None, options: SweepOptions, console: Console
) -> list[Outcome]:
    """Try every setting with few samples, then the best one and points around it with ``evaluation.images``.

    Raises:
        UserError: a setting is impossible, or no trial succeeded.
    """
    settings = _settings(config, options)
    quick = options.quick_images or max(2, config.evaluation.images // 10)
    config = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, save=(), grid_classes=())
    )
    subject, uri = load_subject(options.checkpoint, config), tracking_uri(config)
    with cluster.connect(config):
        found = _trials(config, subject, dataset, settings, quick, console)
        best = min(found, key=distance)
        around = refine(best.setting, [outcome.setting for outcome in found])
        found += _trials(config, subject, dataset, around, config.evaluation.images, console)
        folder = storage.join(config.directory, "sweeps", f"{subject.step}-{subject.weights['sha256'][:8]}")
        _write(folder, found, config, subject)
        _log(folder, found, config, subject, uri)
    _print(found, folder, console)
    return found


def distance(outcome: Outcome) -> float:
    """What the sweep makes small: FID, or the embedded extractor's distance."""
    return next(value for name, value in outcome.metrics.items() if name.startswith(("fid_", "fd_")))


def refine(best: Setting, tried: list[Setting]) -> list[Setting]:
    """The best setting, and the points halfway to its neighbours at the same interval."""
    scales = sorted(setting.scale for setting in tried if setting.interval == best.interval)
    place = scales.index(best.scale)
    neighbours = scales[max(0, place - 1) : place] + scales[place + 1 : place + 2]
    halfway = [(best.scale + other) / 2 for other in neighbours]
    return [Setting(scale, best.interval) for scale in sorted({best.scale, *halfway})]


def _settings(config: ExperimentConfig, options: SweepOptions) -> list[Setting]:
    base = config.sampling.guidance
    intervals = options.intervals or (base.interval,)
    scales = sorted(set(options.scales))
    found = [Setting(scale, interval) for interval in intervals for scale in scales]
    try:
        for setting in found:
            setting.guidance(base)
    except ValueError as error:
        raise UserError(f"The sweep's --scales or --intervals are not possible: {error}") from error
    if scales[-1] > 1 and config.diffusion.class_dropout == 0:
        raise UserError(
            "This network was trained without class dropout, so it cannot be guided; there is nothing to sweep."
        )
    # Without guidance there is one point, whatever the interval.
    return [s for s in found if s.scale != 1 or s.interval == intervals[0]]


def _trials(
    config: ExperimentConfig, subject: Subject, dataset: LatentDataset | None, settings: list[Setting], images: int,
    console: Console,
) -> list[Outcome]:  # fmt: skip
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, images=images))
    # Once, on all actors, rather than in every trial.
    prepare(Evaluation(config, subject, dataset, console))
    resources = {"gpu": 1} if config.sampling.use_gpu else {"cpu": 1}
    trainable = tune.with_resources(
        tune.with_parameters(_trial, config=config, subject=subject, dataset=dataset), resources
    )
    progress = ImageProgress(console, f"{len(settings)} trials", len(settings) * images)
    tuner = tune.Tuner(
        trainable,
        param_space={"setting": tune.grid_search([dataclasses.asdict(s) for s in settings])},
        tune_config=tune.TuneConfig(reuse_actors=False),
        # What is finished lies with the samples; Tune's own notes are for this call.
        run_config=tune.RunConfig(
            storage_path=tempfile.mkdtemp(prefix="dimr-sweep-"),
            verbose=0,
            callbacks=[_Shown(progress, images)],
        ),
    )
    with progress:
        results = tuner.fit()
    if results.num_errors:
        raise UserError(
            f"{results.num_errors} of {len(settings)} trials failed, the first with: {results.errors[0]}"
        )
    outcomes = []
    for result in results:
        assert result.metrics is not None
        assert result.config is not None
        point = result.config["setting"]
        setting = Setting(point["scale"], tuple(point["interval"]))
        outcomes.append(Outcome(setting, images, result.metrics["scores"]))
    return outcomes


class _Shown(tune.Callback):
    """Counts finished trials on the progress bar."""

    def __init__(self, progress: ImageProgress, images: int) -> None:
        self._progress, self._images, self._done = progress, images, 0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a copy of its callbacks with its notes, and a progress bar cannot be copied."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += self._images
        self._progress.update(self._done)


def _trial(
    point: dict[str, Any], config: ExperimentConfig, subject: Subject, dataset: LatentDataset | None
) -> None:
    setting = Setting(point["setting"]["scale"], tuple(point["setting"]["interval"]))
    guidance = setting.guidance(config.sampling.guidance)
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, guidance=guidance))
    scores = evaluate(Evaluation(config, subject, dataset, Console(quiet=True), here=True))
    count = str(scores.measurements[0].protocol["samples"])
    tune.report(
        {"scores": {m.bare_name: m.value for m in scores.measurements if m.is_of_samples}, "count": count}
    )


def _rows(found: list[Outcome]) -> list[dict[str, Any]]:
    return [
        {"scale": o.setting.scale, "from_step": o.setting.interval[0], "to_step": o.setting.interval[1],
         "samples": o.images, **o.metrics}
        for o in sorted(found, key=lambda o: (o.images, o.setting.interval, o.setting.scale))
    ]  # fmt: skip


def _write(folder: str, found: list[Outcome], config: ExperimentConfig, subject: Subject) -> None:
    storage.write_bytes(storage.join(folder, "table.csv"), csv_of(_rows(found)))
    figure = plot(found, f"{config.run.name} after {subject.step} images")
    storage.write_bytes(storage.join(folder, "guidance.png"), png_of(figure))


def plot(found: list[Outcome], title: str) -> "Figure":
    """Distance against guidance scale, a line for each interval and number of samples."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    lines = sorted({(o.images, o.setting.interval) for o in found})
    for number, (images, interval) in enumerate(lines):
        points = sorted(
            (o.setting.scale, distance(o))
            for o in found
            if (o.images, o.setting.interval) == (images, interval)
        )
        axes.plot(*zip(*points, strict=True), **line_style(number),
                  label=f"{images:,} samples, steps {interval[0]:g} to {interval[1]:g}")  # fmt: skip
    name = next(name for name in found[0].metrics if name.startswith(("fid_", "fd_")))
    axes.set(xlabel="guidance scale (1 is none)", ylabel=name.removesuffix("_ema"), title=title)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    pyplot.close(figure)
    return figure


def _log(folder: str, found: list[Outcome], config: ExperimentConfig, subject: Subject, uri: str) -> None:
    name = f"{config.run.name} guidance sweep at {subject.step}"
    tracker = start_tracker(folder, name, config.tracking.experiment, uri, parent=config.directory)
    for outcome in found:
        # The axis holds whole numbers: hundredths of the scale.
        step = round(100 * outcome.setting.scale)
        low, high = outcome.setting.interval
        values = {f"guidance_{low:g}-{high:g}_n{outcome.images}/{k}": v for k, v in outcome.metrics.items()}
        tracker.log_metrics.remote(values, step)
    tracker.log_image.remote("guidance", "guidance.png", 0)
    tracker.log_artifact.remote("table.csv")
    tracker.log_status.remote("FINISHED")
    close_tracker(tracker)


def _print(found: list[Outcome], folder: str, console: Console) -> None:
    rows = _rows(found)
    table = Table(*rows[0], title="guidance")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    most = max(outcome.images for outcome in found)
    best = min((o for o in found if o.images == most), key=distance)
    low, high = best.setting.interval
    console.print(f"Smallest distance with {most} samples: --sampling.guidance.scale {best.setting.scale:g} "
                  f"--sampling.guidance.interval '[{low:g}, {high:g}]'", soft_wrap=True, highlight=False)  # fmt: skip
    console.print(f"Table and plot: {folder}", soft_wrap=True, highlight=False)
