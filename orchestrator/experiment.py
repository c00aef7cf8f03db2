"""One experiment from beginning to end: dataset, training, samples, scores, and where to look at them."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from orchestrator import cluster, storage
from orchestrator.checkpoints.selection import Checkpoint, marked
from orchestrator.config import ExperimentConfig
from orchestrator.config_io import flatten, with_absolute_paths
from orchestrator.errors import UserError
from orchestrator.evaluation.aside import Aside
from orchestrator.latents import format as latents_format
from orchestrator.latents.format import LatentDataset
from orchestrator.latents.prepare import IN_MEMORY_SOURCES, check_model, prepare_dataset
from orchestrator.messages import (
    print_summary,
    warn_of_short_stop,
    warn_of_silent_server,
    warn_of_temporary_folder,
)
from orchestrator.progress import ImageProgress
from orchestrator.provenance import provenance
from orchestrator.remote_hooks import Follow, RemoteHooks
from orchestrator.runs import METRICS_FILE, Run, open_run, write_text
from orchestrator.stopping import Stopper, run_in_thread
from orchestrator.tracking.tracker import Tracker, tracking_uri
from orchestrator.training.shards import TrainJob

if TYPE_CHECKING:
    from orchestrator.evaluation.score import Scores

TRACKER_CLOSE_SECONDS = 60.0


def run_experiment(config: ExperimentConfig) -> None:
    """Train, sample, score and log, or continue where the run of this name stopped; a finished one only says so.

    Raises:
        UserError: something that the user can mend; found before training starts where it can be.
    """
    console = Console()
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    started = time.perf_counter()
    config = with_absolute_paths(config)
    warn_of_temporary_folder(config, console)
    dataset = _dataset(config, console)
    _require_extractor(config)
    held_out = _held_out(config)
    _check_initial_weights(config)
    uri = tracking_uri(config)
    run = open_run(config, dataset.fingerprint)
    warn_of_silent_server(uri, console)
    seconds = {"prepare": time.perf_counter() - started}
    # Inside, because connecting to Ray sets a handler of its own.
    with cluster.connect(config), Stopper() as stopper:
        shares = cluster.divide(config)
        tracker = _start_tracker(config, uri)
        try:
            if run.is_finished:
                console.print(
                    f"The run {run.directory} is finished; give another --run.name to start a new one."
                )
            else:
                _train_and_score(
                    _Work(config, dataset, held_out, run, shares, tracker, stopper, console), seconds, started
                )
        except BaseException as error:
            tracker.log_status.remote("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        finally:
            problem = ray.get(tracker.close.remote(TRACKER_CLOSE_SECONDS))
            if problem:
                console.print(f"Warning: MLflow at {uri} could not be written ({problem}). Nothing is lost: run the same "
                              "command again when it answers, and the journal is copied.", soft_wrap=True)  # fmt: skip
    print_summary(config, uri, console)


def _dataset(config: ExperimentConfig, console: Console) -> LatentDataset:
    if not latents_format.exists(config.data.path):
        if config.data.source == "none":
            raise UserError(
                f"There is no dataset at {config.data.path}. Make it with `python jobs/prepare_latents.py --config ...` "
                "(with the same --config, and data.source set), name another with --data.path, or try the whole system "
                "on a laptop first: `uv run jobs/train_g.py --config quickstart`."
            )
        if config.data.source not in IN_MEMORY_SOURCES:
            raise UserError(
                f"There is no dataset at {config.data.path}. Make it first, which takes a while: "
                "`python jobs/prepare_latents.py --config ...` with the same settings."
            )
        console.print(
            f"There is no dataset at {config.data.path}: preparing it from {config.data.source}.",
            soft_wrap=True,
        )
        prepare_dataset(config)
    dataset = latents_format.open_dataset(config.data.path)
    check_model(config, dataset.info)
    if config.data.lanes > dataset.num_rows:
        raise UserError(
            f"data.lanes {config.data.lanes} are more than the {dataset.num_rows} rows of {config.data.path}."
        )
    return dataset


def _held_out(config: ExperimentConfig) -> LatentDataset | None:
    if config.data.held_out_path is None:
        return None
    if not latents_format.exists(config.data.held_out_path):
        raise UserError(
            f"There is no dataset at {config.data.held_out_path}. Prepare it like the one to train on, with --data.path "
            "set to it and --data.source_path to the held-out images, or leave out --data.held_out_path."
        )
    held_out = latents_format.open_dataset(config.data.held_out_path)
    check_model(config, held_out.info)
    return held_out


def _check_initial_weights(config: ExperimentConfig) -> None:
    """Find wrong ``train.init_from`` before the workers are started."""
    if config.train.init_from is not None and not marked(config.directory):
        from orchestrator.checkpoints.weights import load_weights

        load_weights(config.train.init_from, config.model)


def _require_extractor(config: ExperimentConfig) -> None:
    """Find, or fetch, the extractor's weights before hours of training rather than after."""
    if config.evaluation.extractor == "inception":
        from orchestrator.evaluation.extractors import weights_file

        weights_file(config.evaluation)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Everything that an experiment needs at hand while it runs."""

    config: ExperimentConfig
    dataset: LatentDataset
    held_out: LatentDataset | None
    run: Run
    shares: cluster.Shares
    tracker: Any
    stopper: Stopper
    console: Console


def _train_and_score(work: _Work, seconds: dict[str, float], started: float) -> None:
    config, dataset, tracker = work.config, work.dataset, work.tracker
    # The whole config; it holds no secrets, credentials come from the environment.
    tracker.log_params.remote(flatten(config))
    tracker.log_tags.remote(
        {"dataset.source": dataset.info.source, "dataset.fingerprint": dataset.fingerprint} | provenance()
    )
    tracker.log_status.remote("RUNNING")
    began = time.perf_counter()
    checkpoint = _train(work)
    seconds["train"] = time.perf_counter() - began
    # torch and diffusers, ten seconds of import, are loaded when they are needed.
    from orchestrator.checkpoints.loading import export
    from orchestrator.evaluation.score import evaluate

    export(checkpoint, storage.join(work.run.directory, "export"))
    with ImageProgress(work.console, "sample", config.evaluation.images) as progress:
        scores = evaluate(config, checkpoint, dataset, progress.update)
    seconds |= scores.seconds
    seconds["total"] = time.perf_counter() - started
    _write_metrics(config, checkpoint, scores, seconds)
    _log_scores(checkpoint, scores, tracker)
    tracker.log_status.remote("FINISHED")


def _train(work: _Work) -> Checkpoint:
    config, run, tracker, console = work.config, work.run, work.tracker, work.console
    start = run.checkpoint.images_seen if run.checkpoint else 0
    if start >= config.train.images and run.checkpoint:
        return run.checkpoint
    if run.checkpoint:
        console.print(f"Continuing {run.directory} from {start} images.", soft_wrap=True)
    aside: Any = None
    if cluster.works_aside(config):
        resources = {"num_gpus": 1} if config.sampling.use_gpu else {"num_cpus": 1}
        aside = (
            ray.remote(Aside).options(**resources).remote(config, work.dataset.info.scaling_factor, tracker)
        )
    job = TrainJob(config, work.dataset, RemoteHooks(tracker, aside, config.train), work.held_out)
    from orchestrator.training.entry import train

    def stop() -> None:
        console.print("Stopping with a checkpoint after this step. Once more stops at once, without one.")
        tracker.ask_to_stop.remote()

    warn_of_short_stop(console)
    progress = ImageProgress(console, "train", config.train.images, start)
    with Follow(tracker, progress), work.stopper.asks(stop):
        run_in_thread(lambda: train(job, work.shares.data_cpus))
    if aside is not None:
        ray.get(aside.wait.remote())
        ray.kill(aside)
    newest = marked(run.directory)[-1]
    if newest.images_seen < config.train.images:
        raise KeyboardInterrupt(
            f"Stopped at {newest.images_seen} of {config.train.images} images, with a checkpoint. The same command continues."
        )
    return newest


def _start_tracker(config: ExperimentConfig, uri: str) -> Any:
    """The run's one writer of the journal and of MLflow, on the driver's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Callable[..., Any] = ray.remote(Tracker).options(num_cpus=0, scheduling_strategy=here).remote
    return remote(config.directory, config.run.name, config.tracking.experiment, uri)


def _write_metrics(
    config: ExperimentConfig, checkpoint: Checkpoint, scores: "Scores", seconds: dict[str, float]
) -> None:
    content = {
        "images_seen": checkpoint.images_seen,
        "metrics": {
            m.name: {"value": m.value, "meaning": m.meaning, "protocol": m.protocol}
            for m in scores.measurements
        },
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    write_text(config.directory, METRICS_FILE, json.dumps(content, indent=1))


def _log_scores(checkpoint: Checkpoint, scores: "Scores", tracker: Any) -> None:
    tracker.log_metrics.remote(
        {f"eval/{m.name}": m.value for m in scores.measurements}, checkpoint.images_seen
    )
    tracker.log_tags.remote({f"protocol.{m.name}": json.dumps(m.protocol) for m in scores.measurements})
    tracker.log_image.remote("final_samples", "samples.png", checkpoint.images_seen)
    for file in (METRICS_FILE, "config.yaml", "samples.png"):
        tracker.log_artifact.remote(file)
