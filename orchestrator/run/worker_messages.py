"""Messages between training workers and the driver: actors take reports, and pass on the wish to stop."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator import cluster, logs
from orchestrator.checkpoints.outputs import wanted
from orchestrator.checkpoints.selection import Checkpoint
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.training import TrainConfig
from orchestrator.run.terminal import ImageProgress, training_note
from orchestrator.stalls import Life
from orchestrator.tracking.tracker import Heard
from orchestrator.training.hooks import Hooks

POLL_SECONDS = 1.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteHooks:
    """Makes a worker's hooks: messages to the tracker and the background actor, which return at once."""

    tracker: Any
    background: Any
    train: TrainConfig

    def __call__(self) -> Hooks:
        """Make the hooks; it is called in the worker."""
        return Hooks(
            on_metrics=self._on_metrics,
            on_checkpoint=self._on_checkpoint,
            on_rewound=self._on_rewound,
            should_stop=_Poll(self.tracker.is_asked_to_stop),
        )

    def _on_metrics(self, metrics: dict[str, float], images_seen: int) -> None:
        self.tracker.log_metrics.remote(metrics, images_seen)

    def _on_rewound(self, images_seen: int) -> None:
        self.tracker.log_rewound.remote(images_seen)

    def _on_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.tracker.keep.remote()
        if self.background is not None:
            ask(self.background, self.train, checkpoint)


def ask(background: Any, train: TrainConfig, checkpoint: Checkpoint) -> list[Any]:
    """Send the background actor what is to be made of a checkpoint; it passes over what is there already.

    Returns:
        Ray's references, which are ready when it is made.
    """
    return [getattr(background, kind).remote(checkpoint) for kind in wanted(train, checkpoint.images_seen)]


class _Poll:
    """Asks an actor something now and then, and never waits for the answer.

    The actor hears on the way how many images were seen.
    """

    def __init__(self, method: Any) -> None:
        self._method = method
        self._asked_at, self._question = time.monotonic(), None
        self._answer = False

    def __call__(self, images_seen: int) -> bool:
        if self._question is not None and ray.wait([self._question], timeout=0)[0]:
            question, self._question = self._question, None
            with contextlib.suppress(RayError):  # It may have died; training goes on without an answer.
                self._answer = ray.get(question)
        if self._question is None and time.monotonic() - self._asked_at > POLL_SECONDS:
            self._question, self._asked_at = self._method.remote(images_seen), time.monotonic()
        return self._answer


class Follow:
    """Shows in the driver what the tracker hears from the workers, and notes that it hears something."""

    def __init__(self, tracker: Any, progress: ImageProgress, config: ExperimentConfig) -> None:
        self._tracker, self._progress, self._config = tracker, progress, config
        self.life = Life()
        self._heard = Heard()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Follow":
        self._progress.wait(_awaited(self._config))
        self._progress.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.__exit__(None, None, None)

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._show()
        self._show()

    def _show(self) -> None:
        try:
            heard = self._ask()
        except RayError:
            return
        before, self._heard = self._heard, heard
        if (heard.questions, heard.images_seen) != (before.questions, before.images_seen):
            self.life.note()
        if heard.checkpoints != before.checkpoints:
            logs.send()
        if self.life.is_heard:
            self._progress.update(heard.images_seen, training_note(heard.metrics))
        elif heard.images_seen < self._config.train.images and not self._stop.is_set():
            self._progress.wait(_awaited(self._config))

    def _ask(self) -> Heard:
        asked, question = time.monotonic(), self._tracker.heard.remote()
        while not ray.wait([question], timeout=POLL_SECONDS)[0]:
            if self._stop.is_set():
                break  # What it has to say is not worth waiting for any more.
            if time.monotonic() - asked > self._config.cluster.stall_seconds:
                logger.warning("The process that keeps the journal does not answer; another one is started.")
                ray.kill(self._tracker, no_restart=False)
                break
        answer: Heard = ray.get(question, timeout=0)
        return answer


def _awaited(config: ExperimentConfig) -> str:
    """What training waits for while no step is taken."""
    workers = config.train.workers
    if workers == 0:
        return "the first step"
    fitting = cluster.workers_that_fit(config)
    if fitting < min(config.world_sizes):
        return f"a cluster that holds {workers} training workers"
    return f"{workers} training workers to start" if workers > 1 else "the training worker to start"
