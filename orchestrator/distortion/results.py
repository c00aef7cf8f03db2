"""A study's numbers and pictures as files, in MLflow and in the terminal."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from orchestrator import storage
from orchestrator.artifacts import csv_of
from orchestrator.distortion.analysis import (
    EqualRate,
    Interval,
    as_rows,
    at_equal_rate,
    difference_interval,
    rate_intervals,
)
from orchestrator.distortion.pictures import SHEET_IMAGES, contact_sheet, probability_plot
from orchestrator.distortion.raters import choose_images, make_page
from orchestrator.distortion.study import Verdicts
from orchestrator.run.folder import write_text

RESULTS_FILE = "distortion.json"
PAGE_FILE = "raters.html"
KEY_FILE = "raters-key.json"


@dataclass(frozen=True)
class Study:
    """Everything that was found."""

    folder: str
    """Where the study's files go, a path or URI."""
    models: tuple[Verdicts, ...]
    real: Verdicts | None
    """Verdicts on real images, where there is a dataset."""
    threshold: float
    classifier: dict[str, Any]
    """What one must know of the judge."""
    class_names: tuple[str, ...]
    seed: int
    runs: tuple[str, ...]
    """Names of the runs that the models are of."""

    @property
    def all(self) -> list[Verdicts]:
        """The verdicts on each model's samples, and those on real images after them."""
        return [*self.models, *([self.real] if self.real else [])]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The table of rates: a row for each model, and one for real images, which is the floor."""
        scored = [one.scored for one in self.all]
        return as_rows(scored, rate_intervals(scored, self.threshold), self.threshold)

    @cached_property
    def differences(self) -> dict[str, Interval]:
        """The low-fidelity rate of each model minus that of the first."""
        first, *others = (one.scored for one in self.models)
        return {
            f"{other.name} - {first.name}": difference_interval(other, first, self.threshold, self.seed)
            for other in others
        }

    @cached_property
    def rates_by_class(self) -> list[npt.NDArray[np.float64]]:
        """The low-fidelity rates ``[num_classes]`` of each set of images."""
        return [one.scored.rates_by_class(self.threshold, len(self.class_names)) for one in self.all]

    @cached_property
    def equal_rate(self) -> EqualRate:
        """The models compared where the same share of the images of each is rejected."""
        return at_equal_rate([one.scored for one in self.models], self.threshold)


def write_study(study: Study, images_for_raters: int, raters: int) -> dict[str, str]:
    """Write numbers, pictures and the raters' page into the study's folder.

    Returns:
        MLflow's key of each picture, and the name of its file.
    """
    rows, names = study.rows, study.class_names
    content = {
        "runs": study.runs,
        "threshold": study.threshold,
        "classifier": study.classifier,
        "images": rows,
        "differences": {name: asdict(interval) for name, interval in study.differences.items()},
        "equal_rate": asdict(study.equal_rate),
        "protocols": {one.scored.name: one.protocol for one in study.all},
    }
    write_text(study.folder, RESULTS_FILE, json.dumps(content, indent=1))
    storage.write_bytes(storage.join(study.folder, "rates.csv"), csv_of(rows))
    classes = [
        {
            "class": name,
            **{
                one.scored.name: rates[label]
                for one, rates in zip(study.all, study.rates_by_class, strict=True)
            },
        }
        for label, name in enumerate(names)
    ]
    storage.write_bytes(storage.join(study.folder, "classes.csv"), csv_of(classes))
    _write_page(study, images_for_raters, raters)
    return _write_pictures(study)


def _write_pictures(study: Study) -> dict[str, str]:
    pictures = {"probabilities": "probabilities.png"}
    plot = probability_plot([one.scored for one in study.all], study.threshold)
    storage.write_bytes(storage.join(study.folder, "probabilities.png"), plot)
    equal = study.equal_rate.rate
    for one in study.all:
        low, name = int(one.scored.is_low(study.threshold).sum()), one.scored.name
        sheets = {f"worst {name}": one.scored.worst(min(low, SHEET_IMAGES))}
        if len(study.models) > 1 and one is not study.real:
            worst = one.scored.worst(round(equal * len(one.scored.labels)))
            # As in the paper's Figure 1, bottom: not the worst of all, but some of all that was rejected.
            sheets[f"equal rate {name}"] = worst[:: max(1, len(worst) // SHEET_IMAGES)][:SHEET_IMAGES]
        for title, places in sheets.items():
            if len(places):
                file = f"{title.replace(' ', '-')}.png"
                sheet = contact_sheet(one, places, study.threshold, study.class_names)
                storage.write_bytes(storage.join(study.folder, file), sheet)
                pictures[title.replace(" ", "_")] = file
    return pictures


def _write_page(study: Study, images: int, raters: int) -> None:
    chosen = choose_images(study.models, study.threshold, max(1, images // len(study.models)), study.seed)
    if not chosen:
        return
    identity = study.folder.rstrip("/").rpartition("/")[2]
    page, key = make_page(
        identity, study.models, chosen, study.threshold, study.class_names, raters, study.seed
    )
    write_text(study.folder, PAGE_FILE, page)
    write_text(study.folder, KEY_FILE, json.dumps(key, indent=1))


def log_study(study: Study, pictures: dict[str, str], tracker: Any) -> None:
    """Send the rates with their protocol, and the pictures, to the tracker of the study's folder."""
    step = 0
    for one, row in zip(study.all, study.rows, strict=True):
        name = one.scored.name.replace(" ", "_")
        values = {
            f"distortion/{name}/{key}": row[key] for key in ("rate", "rate_low", "rate_high", "accuracy")
        }
        tracker.log_scores.remote(values, step)
        tracker.log_tags.remote({f"protocol.{name}": json.dumps(one.protocol)})
    tracker.log_tags.remote({"classifier": json.dumps(study.classifier), "threshold": str(study.threshold)})
    for key, file in pictures.items():
        tracker.log_image.remote(key, file, step)
    for file in (RESULTS_FILE, "rates.csv", "classes.csv"):
        tracker.log_artifact.remote(file)


def print_study(study: Study, console: Console) -> None:
    """Print the rates side by side, with their intervals."""
    judge = study.classifier["name"]
    table = Table(
        "images of",
        "images",
        "low fidelity",
        "rate",
        "95% interval",
        "classified as asked",
        title=f"Probability of the conditioned class under {study.threshold:g}, by {judge}",
    )
    for row in study.rows:
        table.add_row(
            row["images_of"],
            f"{row['images']:,}",
            f"{row['low_fidelity']:,}",
            f"{row['rate']:.2%}",
            f"{row['rate_low']:.2%} to {row['rate_high']:.2%}",
            f"{row['accuracy']:.1%}",
        )
    console.print(table)
    lines = [
        f"{name}: {i.value:+.2%}, 95% interval {i.low:+.2%} to {i.high:+.2%}"
        for name, i in study.differences.items()
    ]
    equal = study.equal_rate
    if len(study.models) > 1 and equal.rate:
        below = ", ".join(f"{name} under {value:.3g}" for name, value in equal.thresholds.items())
        lines.append(  # The paper's Figure 1, bottom, in numbers.
            f"At an equal rejection rate of {equal.rate:.2%} the rejected images' probabilities are: {below}"
        )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def table_of_classes(study: Study, worst: int) -> Table:
    """Make a table of the classes in which the first model has the highest low-fidelity rates."""
    rates = study.rates_by_class
    table = Table("class", *(one.scored.name for one in study.all), title="Classes with the highest rates")
    order = np.argsort(-np.nan_to_num(rates[0]), kind="stable")[:worst]
    for label in order:
        table.add_row(study.class_names[label], *(f"{rate[label]:.2%}" for rate in rates))
    return table
