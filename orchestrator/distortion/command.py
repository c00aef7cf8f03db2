"""The command line of jobs/distortion.py: study one or several models, or turn raters' votes into rates."""

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from orchestrator import cluster, storage
from orchestrator.config.plain import with_absolute_paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.data.opening import open_if_there
from orchestrator.distortion.raters import RATERS_PER_IMAGE
from orchestrator.errors import UserError
from orchestrator.exits import mistakes_explained
from orchestrator.logs import terminal
from orchestrator.run.folder import parse_beside, write_text
from orchestrator.run.terminal import print_logs
from orchestrator.tracking.tracker import ending, start_tracker, tracking_uri

if TYPE_CHECKING:
    from orchestrator.distortion.classifiers import Judge
    from orchestrator.distortion.results import Study
    from orchestrator.distortion.study import Model, Verdicts

CLASSES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class DistortionOptions:
    """The options of a study."""

    # 80,000 images, a threshold of 0.2 and five raters for each image are the paper's (Section 5.3).
    images: int = 80_000
    """Images to sample with each model."""
    threshold: float = 0.2
    """An image is low-fidelity where the classifier gives its class a lower probability."""
    classifier: str | None = None
    """dataset (trained on the images of data.path), efficientnet_lite0 (ships in a package) or any of timm's
    pretrained ones; null: a Vision Transformer for ImageNet's thousand classes, dataset for others."""
    classifier_weights: str | None = None
    """File with the weights of timm's classifier, where they cannot be downloaded."""
    images_for_raters: int = 500
    """Low-fidelity images on the raters' page, of all models together."""
    raters: int = RATERS_PER_IMAGE
    """People who will judge; each image goes to five of them."""

    def __post_init__(self) -> None:
        if self.images < 1 or self.images_for_raters < 1:
            raise ValueError("images and images_for_raters must be at least 1")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold {self.threshold} must be in (0, 1)")
        if self.raters < RATERS_PER_IMAGE:
            raise ValueError(
                f"raters {self.raters} must be at least {RATERS_PER_IMAGE}: as many judge each image"
            )


def main() -> None:
    """Run the study that the command line describes, or ``rates``."""
    with mistakes_explained():
        arguments = sys.argv[1:]
        if arguments[:1] == ["rates"]:
            rates(arguments[1:])
        else:
            distortion(arguments)


def distortion(arguments: Sequence[str]) -> None:
    """Sample images with each checkpoint named before the options, have a classifier judge them, and compare.

    Raises:
        UserError: something is wrong that the user can mend; what was sampled before stays.
    """
    checkpoints, written = _split(arguments)
    if not checkpoints and not {"-h", "--help"} & set(written):
        raise UserError(
            "Say which checkpoints to study, before the options: jobs/distortion.py runs/ONE [runs/OTHER …]"
        )
    parsed = [_parse(checkpoint, written) for checkpoint in checkpoints or [""]]
    from orchestrator.distortion.study import Model, check_comparable
    from orchestrator.scoring.model_under_test import load_model_under_test

    console, options = terminal(), parsed[0][1]
    configs = [config for config, _ in parsed]
    tested = [load_model_under_test(path, config) for path, config in zip(checkpoints, configs, strict=True)]
    names = _names(checkpoints, configs, [tested.images_seen for tested in tested])
    models = [Model(*parts) for parts in zip(names, configs, tested, strict=True)]
    check_comparable(models)
    datasets = [open_if_there(config) for config in configs]
    with cluster.connect(configs[0]):
        for config in configs:
            cluster.check_evaluation(config)
        _study(models, datasets, options, console)


def _study(
    models: list["Model"], datasets: list[LatentDataset | None], options: DistortionOptions, console: Console
) -> None:
    from orchestrator.distortion.results import write_study

    study = _judged(models, datasets, options, console)
    pictures = write_study(study, options.images_for_raters, options.raters)
    _track(study, pictures, models, console)
    _show(study, models[0].config, console)


def _judged(
    models: list["Model"], datasets: list[LatentDataset | None], options: DistortionOptions, console: Console
) -> "Study":
    """Have one judge look at every model's samples and at real images, where there are any."""
    from orchestrator.distortion.classifiers import default_name, load_judge
    from orchestrator.distortion.results import Study
    from orchestrator.distortion.study import judge_real, judge_samples

    config, dataset = models[0].config, datasets[0]
    name = options.classifier or default_name(config)
    judge = load_judge(name, options.classifier_weights, config, dataset)
    judged = tuple(
        judge_samples(model, own, judge, options.images, options.threshold, console)
        for model, own in zip(models, datasets, strict=True)
    )
    real = None
    if dataset is not None:
        real = judge_real(config, dataset, judge, name, options.images, options.threshold, console)
    return Study(
        folder=_folder(models, judged, judge, options.threshold),
        models=judged,
        real=real,
        threshold=options.threshold,
        classifier=judge.about,
        class_names=dataset.info.class_names if dataset else tuple(map(str, range(config.model.num_classes))),
        seed=config.run.seed,
        runs=tuple(model.config.run.name for model in models),
    )


def _folder(models: list["Model"], judged: Sequence["Verdicts"], judge: "Judge", threshold: float) -> str:
    """The study's folder, whose name tells the models and ends in a hash of what decides the verdicts."""
    key = [[one.protocol for one in judged], judge.about, threshold]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return storage.join(models[0].config.run.root, "distortion", f"{_title(models)}-{digest}")


def _title(models: list["Model"]) -> str:
    return "-vs-".join(model.name for model in models)


def _track(study: "Study", pictures: dict[str, str], models: list["Model"], console: Console) -> None:
    """Log the study in an MLflow run of its own; that of one model alone belongs to the model's run."""
    from orchestrator.distortion.results import log_study

    config, name = models[0].config, f"distortion {_title(models)}"
    uri = tracking_uri(config)
    parent = config.directory if len(models) == 1 else None
    tracker = start_tracker(study.folder, name, config.tracking.experiment, uri, parent=parent)
    with ending(tracker, uri, console):
        log_study(study, pictures, tracker)
        tracker.log_status.remote("FINISHED")


def _show(study: "Study", config: ExperimentConfig, console: Console) -> None:
    """Print the rates, and say where everything lies and what raters can do next."""
    from orchestrator.distortion.results import PAGE_FILE, print_study, table_of_classes

    print_study(study, console)
    console.print(table_of_classes(study, CLASSES_SHOWN))
    if study.real is None:
        console.print(
            f"There is no dataset at {config.data.path}, so the rate of real images, the floor, is not known."
        )
    console.print(f"Everything lies in {study.folder}", soft_wrap=True, highlight=False)
    print_logs(console)
    page = storage.join(study.folder, PAGE_FILE)
    if storage.is_file(page):
        console.print(
            f"For raters: {page}; afterwards jobs/distortion.py rates votes/*.json",
            soft_wrap=True,
            highlight=False,
        )
    else:
        console.print("No image is low-fidelity, so there is nothing for raters to judge.")


def rates(arguments: Sequence[str]) -> None:
    """Print distortion rates by the files that raters saved, and write them into the study's folder.

    Raises:
        UserError: the files, or their study, are not as they must be.
    """
    from orchestrator.distortion.results import KEY_FILE
    from orchestrator.distortion.votes import distortion_rates, read_ballots

    parser = ArgumentParser(description="Distortion rates by the files that raters saved.")
    parser.add_argument("files", nargs="*", help="Files that the raters' page saved.")
    parser.add_argument("--root", default="runs", help="Folder of runs, in which the study lies.")
    written = parser.parse_args(arguments)
    root = written.root
    study, ballots = read_ballots(written.files)
    folder = storage.join(root, "distortion", study)
    if not storage.is_file(storage.join(folder, KEY_FILE)):
        raise UserError(
            f"There is no study {study} in {root}/distortion; name the folder of its runs with --root."
        )
    found = distortion_rates(json.loads(storage.read_bytes(storage.join(folder, KEY_FILE))), ballots)
    write_text(folder, "rates.json", json.dumps(dataclasses.asdict(found), indent=1))
    console = terminal()
    models = list(found.by_rater)
    table = Table("rater", *models, title="Distorted, of the images that the classifier doubts")
    for rater in sorted(ballot.rater for ballot in ballots):
        shares = (found.by_rater[model].get(rater) for model in models)
        table.add_row(str(rater), *("" if share is None else f"{share:.1%}" for share in shares))
    means = (found.mean.get(model) for model in models)
    table.add_row("mean over raters", *("" if mean is None else f"{mean:.1%}" for mean in means))
    console.print(table)
    # The paper's rates are those of its Figure 5 (and of Section 5.3).
    console.print(
        f"Two raters of the same image agree on {found.agreement:.0%}. The paper's: DiMR 29.2%, its "
        "baselines 63.5% and 71.0% (ImageNet 256x256, five raters per image).",
        soft_wrap=True,
        highlight=False,
    )
    if found.judged_too_seldom:
        console.print(
            f"Warning: {found.judged_too_seldom} images were judged by fewer than {RATERS_PER_IMAGE} raters.",
            style="yellow",
        )
    console.print(f"Written to {storage.join(folder, 'rates.json')}", soft_wrap=True, highlight=False)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into what stands before the first option, and the rest."""
    first = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return list(arguments[:first]), list(arguments[first:])


def _parse(checkpoint: str, written: list[str]) -> tuple[ExperimentConfig, DistortionOptions]:
    description = "Study the distortion of models' images. Another command: distortion.py rates --help."
    config, options = parse_beside(DistortionOptions, description, lambda _: checkpoint, written)
    return with_absolute_paths(config), options


def _names(checkpoints: list[str], configs: list[ExperimentConfig], seen: list[int | None]) -> list[str]:
    """Name the models: by their run, with images seen where a run comes twice, or by the weights' folder."""
    names = [
        # MLflow takes no other letters than these.
        config.run.name if images is not None else re.sub(r"[^A-Za-z0-9._-]", "_", Path(path).stem)
        for path, config, images in zip(checkpoints, configs, seen, strict=True)
    ]
    names = [
        f"{name}-{images}" if names.count(name) > 1 and images is not None else name
        for name, images in zip(names, seen, strict=True)
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"Two checkpoints are called {', '.join(twice)}: give each once, or runs of other names."
        )
    return names
