"""The guidance sweep: few samples at every setting, then more of them at the best one and around it."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dimr_model.config import Guidance
from orchestrator import cluster, storage
from orchestrator.artifacts import csv_of, line_style, png_of
from orchestrator.config.evaluation import FEWEST_IMAGES
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.run.terminal import print_logs
from orchestrator.scoring.evaluate import Evaluation, evaluate
from orchestrator.scoring.jackknife import can_be_told_apart
from orchestrator.scoring.model_under_test import ModelUnderTest, load_model_under_test
from orchestrator.scoring.options import GuidanceSweepOptions
from orchestrator.scoring.protocol import is_distance
from orchestrator.tracking.tracker import ending, start_tracker, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Setting:
    """One point of the sweep."""

    scale: float
    interval: tuple[float, float]

    @property
    def text(self) -> str:
        """The setting in words."""
        low, high = self.interval
        return (
            "no guidance"
            if self.scale == 1
            else f"guidance scale {self.scale:g} on steps {low:g} to {high:g}"
        )

    def guidance(self, base: Guidance) -> Guidance:
        """The config's guidance, changed to this setting; a scale of 1 is none."""
        kind = "none" if self.scale == 1 else "constant" if base.kind == "none" else base.kind
        return dataclasses.replace(base, kind=kind, scale=self.scale, interval=self.interval)


@dataclass(frozen=True)
class GuidanceResult:
    """What one setting measured."""

    setting: Setting
    images: int
    metrics: dict[str, float]
    """Metrics, with no count in their names, such as fid_inception_ema."""
    error: float | None = None
    """The standard error of the distance."""


def run_guidance_sweep(
    config: ExperimentConfig, dataset: LatentDataset | None, options: GuidanceSweepOptions, console: Console
) -> list[GuidanceResult]:
    """Try every setting with few samples, then the best one and points around it with ``evaluation.images``.

    Raises:
        UserError: a setting is impossible. What is finished stays.
    """
    settings = _settings(config, options)
    quick = options.quick_images or max(FEWEST_IMAGES, config.evaluation.images // 10)
    config = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, save=(), grid_classes=())
    )
    tested = load_model_under_test(options.checkpoint, config)
    tracking_uri(config)  # What is wrong with it is found now.
    with cluster.connect(config):
        found = _evaluated(config, tested, dataset, settings, quick, console)
        best = min(found, key=distance)
        tried = [result.setting for result in found]
        around = refine(best.setting, tried)
        if quick == config.evaluation.images:
            around = [setting for setting in around if setting not in tried]
        found += _evaluated(config, tested, dataset, around, config.evaluation.images, console)
        folder = storage.join(config.directory, "sweeps", f"{tested.step}-{tested.weights['sha256'][:8]}")
        _write(folder, found, config, tested)
        _log(folder, found, config, tested, console)
    _print(found, folder, console)
    return found


def distance(result: GuidanceResult) -> float:
    """What the sweep makes small: the distance by the first extractor."""
    return next(value for name, value in result.metrics.items() if is_distance(name))


def refine(best: Setting, tried: list[Setting]) -> list[Setting]:
    """The best setting, and the points halfway to its neighbours at the same interval."""
    scales = sorted(setting.scale for setting in tried if setting.interval == best.interval)
    place = scales.index(best.scale)
    neighbours = scales[max(0, place - 1) : place] + scales[place + 1 : place + 2]
    halfway = [(best.scale + other) / 2 for other in neighbours]
    return [Setting(scale, best.interval) for scale in sorted({best.scale, *halfway})]


def _settings(config: ExperimentConfig, options: GuidanceSweepOptions) -> list[Setting]:
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
            "This network was trained without class dropout, so it cannot be guided; "
            "there is nothing to sweep."
        )
    # Without guidance there is one point, whatever the interval.
    return [s for s in found if s.scale != 1 or s.interval == intervals[0]]


def _evaluated(
    config: ExperimentConfig,
    tested: ModelUnderTest,
    dataset: LatentDataset | None,
    settings: list[Setting],
    images: int,
    console: Console,
) -> list[GuidanceResult]:
    """Evaluate one setting after another on all actors; what was sampled before is not sampled again."""
    found = []
    for number, setting in enumerate(settings, 1):
        console.print(
            f"Setting {number} of {len(settings)}: {setting.text}, {images} images", highlight=False
        )
        guidance = setting.guidance(config.sampling.guidance)
        point = dataclasses.replace(
            config,
            sampling=dataclasses.replace(config.sampling, guidance=guidance),
            evaluation=dataclasses.replace(config.evaluation, images=images),
        )
        scored = evaluate(Evaluation(point, tested, dataset, console))
        of_samples = [m for m in scored.measurements if m.is_of_samples]
        metrics = {m.name_without_count: m.value for m in of_samples}
        error = next(m.error for m in of_samples if is_distance(m.name))
        found.append(GuidanceResult(setting, images, metrics, error))
    return found


def _rows(found: list[GuidanceResult]) -> list[dict[str, Any]]:
    # Few samples lack some metrics that many have, such as fd_infinity.
    metrics = dict.fromkeys(name for result in found for name in result.metrics)
    return [
        {
            "scale": result.setting.scale,
            "from_step": result.setting.interval[0],
            "to_step": result.setting.interval[1],
            "samples": result.images,
            **{name: result.metrics.get(name, "") for name in metrics},
        }
        for result in sorted(found, key=lambda o: (o.images, o.setting.interval, o.setting.scale))
    ]


def _write(
    folder: str, found: list[GuidanceResult], config: ExperimentConfig, tested: ModelUnderTest
) -> None:
    storage.write_bytes(storage.join(folder, "table.csv"), csv_of(_rows(found)))
    figure = plot(found, f"{config.run.name} after {tested.step} images")
    storage.write_bytes(storage.join(folder, "guidance.png"), png_of(figure))


def plot(found: list[GuidanceResult], title: str) -> "Figure":
    """Plot distance against guidance scale, with a line for each interval and number of samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    lines = sorted({(o.images, o.setting.interval) for o in found})
    for number, (images, interval) in enumerate(lines):
        points = sorted(
            (o.setting.scale, distance(o))
            for o in found
            if (o.images, o.setting.interval) == (images, interval)
        )
        label = f"{images:,} samples, steps {interval[0]:g} to {interval[1]:g}"
        axes.plot(*zip(*points, strict=True), **line_style(number), label=label)
    name = next(filter(is_distance, found[0].metrics))
    axes.set(xlabel="guidance scale (1 is none)", ylabel=name.rpartition("_")[0], title=title)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return figure


def _log(
    folder: str,
    found: list[GuidanceResult],
    config: ExperimentConfig,
    tested: ModelUnderTest,
    console: Console,
) -> None:
    uri = tracking_uri(config)
    name = f"{config.run.name} guidance sweep at {tested.step}"
    tracker = start_tracker(folder, name, config.tracking.experiment, uri, parent=config.directory)
    with ending(tracker, uri, console):
        for result in found:
            # The axis holds whole numbers: hundredths of the scale.
            step = round(100 * result.setting.scale)
            low, high = result.setting.interval
            values = {f"guidance_{low:g}-{high:g}_n{result.images}/{k}": v for k, v in result.metrics.items()}
            tracker.log_scores.remote(values, step)
        tracker.log_image.remote("guidance", "guidance.png", 0)
        tracker.log_artifact.remote("table.csv")
        tracker.log_status.remote("FINISHED")


def _print(found: list[GuidanceResult], folder: str, console: Console) -> None:
    rows = _rows(found)
    table = Table(*rows[0], title="guidance")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    most = max(result.images for result in found)
    best = min((o for o in found if o.images == most), key=distance)
    low, high = best.setting.interval
    console.print(
        f"Smallest distance with {most} samples: --sampling.guidance.scale {best.setting.scale:g} "
        f"--sampling.guidance.interval '[{low:g}, {high:g}]'",
        soft_wrap=True,
        highlight=False,
    )
    as_good = [o.setting.text for o in found if o.images == most and _is_as_good(o, best)]
    if as_good:
        console.print(
            f"It cannot be told apart from {', '.join(as_good)}: they differ by less than chance makes in 95 "
            "of 100 cases. More samples may tell.",
            soft_wrap=True,
            highlight=False,
        )
    console.print(f"Table and plot: {folder}", soft_wrap=True, highlight=False)
    print_logs(console)


def _is_as_good(other: GuidanceResult, best: GuidanceResult) -> bool:
    """Whether another setting's distance differs from the best one's by no more than chance makes."""
    if other is best or other.error is None or best.error is None:
        return False
    return not can_be_told_apart(distance(other), other.error, distance(best), best.error)
