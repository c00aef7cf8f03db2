"""The command line of jobs/evaluate.py.

It samples and scores a checkpoint, only samples, draws its branches, makes a reference, sweeps guidance, or
scores a VAE.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich.console import Console

from orchestrator import cluster, storage
from orchestrator.config.command_line import parse_with
from orchestrator.config.plain import absolute, flatten, with_absolute_paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.data.opening import open_if_there
from orchestrator.errors import UserError
from orchestrator.exits import mistakes_explained
from orchestrator.logs import terminal
from orchestrator.run.folder import SAMPLES_FILE, parse_beside, read_metrics
from orchestrator.run.terminal import print_logs, scores_table
from orchestrator.scoring.options import (
    BranchesOptions,
    CheckpointOptions,
    GuidanceSweepOptions,
    ReferenceOptions,
    SampleOptions,
    VAEOptions,
)
from orchestrator.tracking.tracker import ending, start_tracker, tracking_uri

Options = TypeVar("Options", bound=CheckpointOptions)
SUBCOMMANDS = (
    "Other commands: evaluate.py sample, branches, reference, sweep and vae; each has its own --help."
)


def main() -> None:
    """Run the subcommand of the command line; without one, sample and score."""
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "score": score, "sample": sample, "branches": branches, "reference": reference, "sweep": sweep,
        "vae": vae,
    }  # fmt: skip
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in commands else "score"
    with mistakes_explained():
        commands[name](arguments)


def score(arguments: Sequence[str]) -> None:
    """Sample images with a checkpoint, compare them with real ones, and log the numbers with their protocol.

    Raises:
        UserError: something that the user can mend; what was sampled before stays.
    """
    config, checkpoint = _parse(f"Sample images with a checkpoint and score them. {SUBCOMMANDS}", arguments)
    from orchestrator.scoring.model_under_test import load_model_under_test
    from orchestrator.scoring.prerequisites import require_all

    console, started = terminal(), time.perf_counter()
    require_all(config)
    tested, dataset = load_model_under_test(checkpoint, config), open_if_there(config)
    uri = tracking_uri(config)
    with cluster.connect(config):
        cluster.check_evaluation(config)
        from orchestrator.scoring.evaluate import Evaluation, evaluate
        from orchestrator.scoring.results import log_scores, results_folder, write_scores

        scores = evaluate(Evaluation(config, tested, dataset, console))
        folder = results_folder(scores)
        seconds = {**scores.seconds, "total": time.perf_counter() - started}
        write_scores(folder, scores, tested.images_seen, seconds)
        name = f"{config.run.name} {folder.removeprefix(config.directory + '/evaluations/')}"
        tracker = start_tracker(folder, name, config.tracking.experiment, uri, parent=config.directory)
        with ending(tracker, uri, console):
            tracker.log_params.remote(_parameters(config))
            log_scores(folder, scores, tested.step, tracker)
            tracker.log_status.remote("FINISHED")
    _print(config, folder, console)


def sample(arguments: Sequence[str]) -> None:
    """Sample images with a checkpoint into grids, parquet files or an .npz, without scoring them.

    Raises:
        UserError: something that the user can mend; what was sampled before stays.
    """
    config, options = _parse_for(SampleOptions, "Sample images with a checkpoint.", arguments)
    if options.out is not None:
        _draw(config, options, options.out)
        return
    checkpoint = options.checkpoint
    config = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, class_agreement=False)
    )
    from orchestrator.scoring.model_under_test import load_model_under_test

    console = terminal()
    tested, dataset = load_model_under_test(checkpoint, config), open_if_there(config)
    with cluster.connect(config):
        cluster.check_evaluation(config)
        from orchestrator.scoring.evaluate import Evaluation, sample_images

        made = sample_images(Evaluation(config, tested, dataset, console), judges={})
    console.print(
        f"Sampled {config.evaluation.images} images; everything lies in {made.folder}", soft_wrap=True
    )
    for picture in made.pictures.values():
        console.print(f"Grid      {picture}", soft_wrap=True, highlight=False)
    if not config.evaluation.save:
        console.print("Only grids were kept; --evaluation.save '[parquet]' or '[npz]' keeps the images.")
    print_logs(console)


def _draw(config: ExperimentConfig, options: SampleOptions, path: str) -> None:
    from orchestrator.sampling.class_grid import changed, draw, labels_named
    from orchestrator.scoring.model_under_test import load_model_under_test

    started, dataset = time.perf_counter(), open_if_there(config)
    names = _class_names(config, dataset)
    labels = labels_named(options.classes, names)
    config = changed(config, options.guidance, options.seed)
    tested = load_model_under_test(options.checkpoint, config)
    draw(
        config, tested.model, dataset.info.scaling_factor if dataset else None, labels, options.columns, path
    )
    shown = ", ".join(names[label] for label in labels)
    _say_drawn(f"Grid      {path}: a row for each of {shown}", config, started)


def _class_names(config: ExperimentConfig, dataset: LatentDataset | None) -> Sequence[str]:
    return dataset.info.class_names if dataset else tuple(map(str, range(config.model.num_classes)))


def _say_drawn(what: str, config: ExperimentConfig, started: float) -> None:
    guidance = config.sampling.guidance
    scale = "none" if guidance.kind == "none" else f"{guidance.kind} {guidance.scale:g}"
    terminal().print(
        f"{what}; seed {config.run.seed}, guidance {scale}, {time.perf_counter() - started:.1f} s",
        soft_wrap=True,
        highlight=False,
    )


def branches(arguments: Sequence[str]) -> None:
    """Draw the clean image that each branch predicts, coarse to fine, at some steps of sampling.

    Raises:
        UserError: something that the user can mend, such as a network of latents.
    """
    config, options = _parse_for(BranchesOptions, "Draw what each branch predicts.", arguments)
    from orchestrator.sampling.branches import branches_sheet, require_pixels, shown_labels
    from orchestrator.sampling.class_grid import changed, labels_named
    from orchestrator.scoring.model_under_test import load_model_under_test

    require_pixels(config)
    started = time.perf_counter()
    names = _class_names(config, open_if_there(config))
    labels = labels_named(options.classes, names) if options.classes else shown_labels(len(names))
    config = changed(config, options.guidance, options.seed)
    tested = load_model_under_test(options.checkpoint, config)
    storage.write_bytes(options.out, branches_sheet(config, tested.model, labels, names))
    shown = ", ".join(names[label] for label in labels)
    _say_drawn(f"Branches  {options.out}: a block for each of {shown}", config, started)


def reference(arguments: Sequence[str]) -> None:
    """Make statistics of real images, to compare samples with.

    Raises:
        UserError: there are no images, or they cannot be read.
    """
    config, options = parse_with(ReferenceOptions, "Make statistics of real images.", None, arguments)
    config = with_absolute_paths(config)
    if not options.out.endswith(".npz"):
        raise UserError(f"--out {options.out} must end in .npz")
    out = absolute(options.out) or options.out
    from orchestrator.scoring.extractors import check_weights, describe_extractors

    _require_classifier_file(config)
    check_weights(config.evaluation)
    described = describe_extractors(config.evaluation)
    console = terminal()
    with cluster.connect(config):
        from orchestrator.scoring.real_images import open_images
        from orchestrator.scoring.reference import join_references, make_references

        images = open_images(absolute(options.images) or config.data.path, config)
        made = make_references(images, config, described, console)
        sha256 = join_references(made, out)
    console.print(
        f"Statistics of {made[0].about['images']} images in the features of "
        f"{' and '.join(config.evaluation.extractors)}: {out}, sha256 {sha256}",
        soft_wrap=True,
    )
    console.print(f"Use them with --evaluation.reference {out}", soft_wrap=True)
    print_logs(console)


def vae(arguments: Sequence[str]) -> None:
    """Compare real images with what the VAE makes of them: the floor of what its latents allow.

    Raises:
        UserError: there is no VAE, there are no images, or they cannot be read; what is finished stays.
    """
    config, options = parse_with(VAEOptions, "Score a VAE on real images.", None, arguments)
    config = with_absolute_paths(config)
    from orchestrator.scoring.extractors import check_weights

    _require_classifier_file(config)
    check_weights(config.evaluation)
    console = terminal()
    with cluster.connect(config):
        from orchestrator.scoring.real_images import open_images
        from orchestrator.scoring.vae_score import score_vae

        images = open_images(absolute(options.images) or config.data.path, config)
        folder, numbers = score_vae(config, images, console)
    console.print(scores_table({"metrics": numbers}, f"{config.sampling.vae} on {images.count} images"))
    console.print(f"Metrics   {storage.join(folder, 'metrics.json')}", soft_wrap=True, highlight=False)
    print_logs(console)


def _require_classifier_file(config: ExperimentConfig) -> None:
    evaluation = config.evaluation
    if "dataset_classifier" in evaluation.extractors and evaluation.dataset_classifier_weights is None:
        raise UserError(
            "The extractor dataset_classifier needs its file here: name it with "
            "--evaluation.dataset_classifier_weights (it lies in the `statistics` folder of its dataset), or "
            "take it out of --evaluation.extractors."
        )


def sweep(arguments: Sequence[str]) -> None:
    """Find the guidance scale, and interval, with the smallest distance.

    Raises:
        UserError: something that the user can mend; settings that are finished stay.
    """
    config, options = _parse_for(GuidanceSweepOptions, "Sweep guidance.", arguments)
    from orchestrator.sweeps.guidance import run_guidance_sweep

    run_guidance_sweep(config, open_if_there(config), options, terminal())


def _parse(description: str, arguments: Sequence[str]) -> tuple[ExperimentConfig, str]:
    config, options = _parse_for(CheckpointOptions, description, arguments)
    return config, options.checkpoint


def _parse_for(
    kind: type[Options], description: str, arguments: Sequence[str]
) -> tuple[ExperimentConfig, Options]:
    """The config, by default the one that lies with the checkpoint, and the job's own options."""
    config, options = parse_beside(kind, description, lambda chosen: chosen.checkpoint, arguments)
    if hasattr(options, "out"):  # Shells leave ~ as it is behind a =.
        options = dataclasses.replace(options, **{"out": absolute(options.out)})  # type: ignore[arg-type]
    return with_absolute_paths(config), options


def _parameters(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that decide an evaluation, for MLflow's columns."""
    return {
        key: value
        for key, value in flatten(config).items()
        if key.startswith(("sampling.", "evaluation.")) or key in ("run.name", "run.seed")
    }


def _print(config: ExperimentConfig, folder: str, console: Console) -> None:
    from orchestrator.scoring.protocol import summary_of

    scored = read_metrics(folder)
    console.print(scores_table(scored, config.run.name))
    console.print(summary_of(scored["metrics"]), soft_wrap=True, highlight=False)
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in scored["seconds"].items())
    for line in (
        f"Samples   {storage.join(folder, SAMPLES_FILE)}",
        f"Metrics   {storage.join(folder, 'metrics.json')} (every number with its protocol)",
        f"Took      {parts}",
    ):
        console.print(line, soft_wrap=True, highlight=False)
    print_logs(console)
