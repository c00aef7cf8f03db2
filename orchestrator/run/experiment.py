"""One experiment from beginning to end: dataset, training, samples, scores, and where to look at them."""

import dataclasses
import logging
import time
from typing import Any

import ray
from rich.console import Console

from orchestrator import cluster, storage
from orchestrator.checkpoints.retention import prune
from orchestrator.checkpoints.selection import Checkpoint, marked
from orchestrator.config.plain import flatten, with_absolute_paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.data.opening import open_held_out, open_or_prepare_dataset
from orchestrator.logs import terminal
from orchestrator.run import beside_training
from orchestrator.run.background import Background
from orchestrator.run.folder import Run, open_run, refuse_a_sweep
from orchestrator.run.provenance import provenance
from orchestrator.run.terminal import (
    ImageProgress,
    counting_all,
    print_summary,
    warn_of_short_stop,
    warn_of_silent_server,
    warn_of_temporary_folder,
)
from orchestrator.run.time_left import TimeLeft
from orchestrator.run.worker_messages import Follow, RemoteHooks, ask
from orchestrator.scoring.prerequisites import require_all, require_classes, require_real_images
from orchestrator.signals import Stopper, run_in_thread
from orchestrator.stalls import Patience
from orchestrator.storage.lease import holding
from orchestrator.tracking.tracker import ending, start_tracker, tracking_uri

SOON_SECONDS = 2.0
logger = logging.getLogger(__name__)


def run_experiment(
    config: ExperimentConfig, parent: str | None = None, trials: int = 1, console: Console | None = None
) -> None:
    """Train, sample, score and log, or continue where the run of this name stopped.

    A finished run only says that it is finished.

    Args:
        parent: folder of the sweep that the run is a trial of; MLflow shows the run below it.
        trials: how many such runs share the cluster; each takes an equal part of it.
        console: where to say how far it is; by default the terminal.

    Raises:
        UserError: something that the user can mend; found before training starts where it can be.
    """
    console = console or terminal()
    started = time.perf_counter()
    config = with_absolute_paths(config)
    warn_of_temporary_folder(config, console)
    refuse_a_sweep(config.directory)
    dataset = open_or_prepare_dataset(config, console)
    require_all(config)
    require_classes(config, dataset)
    require_real_images(config, dataset)
    held_out = open_held_out(config)
    _check_initial_weights(config)
    uri = tracking_uri(config)
    with holding(config.directory, "run", "--run.root or --run.name"):
        run = open_run(config, dataset.fingerprint)
        if run.was_cut_off:
            console.print(
                f"The process that ran {run.directory} before ended without a word: killed, out of memory, "
                "or its machine went down. This one goes on from what it left.",
                soft_wrap=True,
            )
        warn_of_silent_server(uri, console)
        seconds = {"prepare": time.perf_counter() - started}
        with cluster.connect(config) as stopper:
            if parent is None and not run.is_finished:
                cluster.grow_for_all_workers(config)
            shares = cluster.divide(config, trials)
            tracker = start_tracker(
                config.directory, config.run.name, config.tracking.experiment, uri, parent
            )
            with ending(tracker, uri, console):
                if run.is_finished:
                    console.print(
                        f"The run {run.directory} is finished; give another --run.name to start a new one.",
                        soft_wrap=True,
                    )
                else:
                    work = _Work(config, dataset, held_out, run, shares, tracker, stopper, console)
                    # A sweep has made them for all its trials.
                    is_early = parent is None and beside_training.is_made_early(config, dataset)
                    making = beside_training.start_making(config, dataset) if is_early else None
                    with counting_all(TimeLeft(config, 0 if is_early else dataset.info.num_images)):
                        _train_and_score(work, seconds, started, making)
    print_summary(config, uri, console)


def _check_initial_weights(config: ExperimentConfig) -> None:
    """Find wrong ``train.init_from`` before the workers are started."""
    if config.train.init_from is not None and not marked(config.directory):
        from orchestrator.checkpoints.weights import load_weights

        load_weights(config.train.init_from, config.model)


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


def _train_and_score(work: _Work, seconds: dict[str, float], started: float, making: Any) -> None:
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
    # torch, seconds of import, is loaded when it is needed.
    from orchestrator.checkpoints.loading import export
    from orchestrator.run.gallery import write_gallery
    from orchestrator.scoring.evaluate import Evaluation, evaluate, plain
    from orchestrator.scoring.model_card import write_card
    from orchestrator.scoring.model_under_test import checkpoint_under_test
    from orchestrator.scoring.results import log_scores, write_scores

    exported = storage.join(work.run.directory, "export")
    export(checkpoint, exported)
    if making is not None:
        beside_training.wait_for(making, work.console, config.cluster.stall_seconds)
    tested = checkpoint_under_test(checkpoint, config)
    scores = evaluate(Evaluation(config, tested, dataset, work.console))
    grid = scores.samples.pictures["final_samples"]
    write_gallery(config, dataset, tested.model, grid, checkpoint.images_seen, tracker)
    seconds |= scores.seconds
    seconds["total"] = time.perf_counter() - started
    write_card(exported, config, dataset.info, checkpoint.images_seen, plain(scores.measurements))
    write_scores(config.directory, scores, checkpoint.images_seen, seconds)
    log_scores(config.directory, scores, checkpoint.images_seen, tracker)
    tracker.log_artifact.remote("config.yaml")
    tracker.log_status.remote("FINISHED")


def _train(work: _Work) -> Checkpoint:
    config, run, tracker, console = work.config, work.run, work.tracker, work.console
    start = run.checkpoint.images_seen if run.checkpoint else 0
    if start >= config.train.images and run.checkpoint:
        return run.checkpoint
    if run.checkpoint:
        console.print(f"Continuing {run.directory} from {start} images.", soft_wrap=True)
    has_room = work.shares.has_room_for_background
    if cluster.works_in_background(config) and not has_room:
        console.print(
            "No GPU is left beside the training workers: exports and scores are made when training is over, "
            "and their checkpoints are kept until then. Previews are made of the newest ones.",
            soft_wrap=True,
        )
    background = _start_background(work) if has_room else None
    # Ray Data and Ray Train, three seconds of import, are loaded when they are needed.
    from orchestrator.training.entry import train
    from orchestrator.training.shards import TrainJob

    job = TrainJob(config, work.dataset, RemoteHooks(tracker, background, config.train), work.held_out)

    def stop() -> None:
        if not follow.life.is_heard:
            raise KeyboardInterrupt  # No step is being taken, so there is nothing to keep.
        console.print("Stopping with a checkpoint after this step. Once more stops at once, without one.")
        tracker.ask_to_stop.remote()

    warn_of_short_stop(console)
    progress = ImageProgress(console, "train", config.train.images, start)
    follow = Follow(tracker, progress, config)
    gpus_beside = 1 if background is not None and config.sampling.use_gpu else 0
    with follow, work.stopper.asks(stop):
        run_in_thread(lambda: train(job, work.shares.data_cpus, follow.life, gpus_beside))
    if not has_room:
        background = _start_background(work)
    if background is not None:
        # It is asked again, because what a dead process owed comes in any order, also after the waiting.
        owed = [
            part for checkpoint in marked(run.directory) for part in ask(background, config.train, checkpoint)
        ]
        owed.append(background.wait.remote())
        if len(ray.wait(owed, num_returns=len(owed), timeout=SOON_SECONDS)[1]):
            console.print("Waiting for the previews, exports and scores of the checkpoints.")
        _wait_for_background(background, owed, config.cluster.stall_seconds)
        ray.kill(background)
        prune(config)  # What was kept for it may go now.
    newest = marked(run.directory)[-1]
    if newest.images_seen < config.train.images:
        raise KeyboardInterrupt(
            f"Stopped at {newest.images_seen} of {config.train.images} images, with a checkpoint. "
            "The same command continues."
        )
    return newest


def _wait_for_background(background: Any, owed: list[Any], stall_seconds: float) -> None:
    """Wait for all of ``owed``. A process that does not answer is ended, and Ray starts another one."""
    patience = Patience(stall_seconds)
    while owed:
        asked = time.monotonic()
        ready, owed = ray.wait(owed, timeout=patience.longest)
        if ready:
            patience.took(time.monotonic() - asked)
        else:
            logger.warning("Previews, exports and scores make no progress; another process is started.")
            ray.kill(background, no_restart=False)


def _start_background(work: _Work) -> Any:
    """The actor that makes previews, exports and scores, or None where none are wanted.

    It is asked at once for what the checkpoints that are there still lack.
    """
    config = work.config
    if not cluster.works_in_background(config):
        return None
    resources = {"num_gpus": 1} if config.sampling.use_gpu else {"num_cpus": 1}
    # Where its process dies, another does what was asked for: a checkpoint's turn is tried four times.
    retried = {"max_restarts": -1, "max_task_retries": 3}
    background = (
        ray.remote(Background).options(**resources, **retried).remote(config, work.dataset, work.tracker)
    )
    for checkpoint in marked(work.run.directory):
        ask(background, config.train, checkpoint)
    return background
