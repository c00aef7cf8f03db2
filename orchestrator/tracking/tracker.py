"""The one process per run that writes its journal and its MLflow run."""

import json
import logging
import os
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.settings import holds_credentials
from orchestrator.errors import UserError
from orchestrator.tracking.journal import JOURNAL_FILE, OFFSET_FILE, Journal, RunFiles, holds_values
from orchestrator.tracking.mlflow_sync import MLflowSync

STARTED_FILE, STOP_FILE = "started", "stop"
SYNC_SECONDS = 2.0
RETRY_SECONDS = 15.0
# Longer, because in an object store the whole journal is written anew each time.
SYNC_SECONDS_OF_OBJECT_STORE = 60.0
# Loading MLflow and creating its store takes seconds of CPU that the starting workers need more.
START_SECONDS = 30.0
# Loading MLflow alone can take minutes where others use the CPUs; a dead server is noticed sooner.
CLOSE_SECONDS = 300.0
# Someone waits for the interrupted job to end.
KILLED_SECONDS = 20.0
ANSWER_SECONDS = 10.0
NAME_PREFIX = "tracker-"
"""Begins the names of the actors."""
logger = logging.getLogger(__name__)


def tracking_uri(config: ExperimentConfig) -> str:
    """Where MLflow is: the config's server, else the environment's, else the SQLite store of all runs.

    Raises:
        UserError: no server is named and the runs lie in an object store, where there can be no SQLite; or
            the environment's URI holds a password.
    """
    named = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if holds_credentials(named):
        raise UserError(
            "MLFLOW_TRACKING_URI holds a name or password before an @, and it is written into logs and the "
            "journal. Leave them out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if not named and not storage.is_local(config.run.root):
        raise UserError(
            f"run.root {config.run.root} is an object store, which cannot hold MLflow's embedded database. "
            "Name a tracking server with --tracking.uri or MLFLOW_TRACKING_URI (a local file will do: "
            "sqlite:////path/mlflow.db)."
        )
    return named or f"sqlite:///{storage.join(config.directory.rpartition('/')[0], 'mlflow.db')}"


def server_problem(uri: str, timeout_seconds: float = 3.0) -> str | None:
    """Say why a tracking server does not answer, or None if it does (or is a local store)."""
    if not uri.startswith(("http://", "https://")):
        return None
    try:
        # /health would answer also where no call is let in.
        asked = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
        urllib.request.urlopen(asked, timeout=timeout_seconds).close()
    except urllib.error.HTTPError as error:
        if b"Invalid Host header" in error.read():
            return (
                "it refuses calls by that name; set MLFLOW_SERVER_ALLOWED_HOSTS at the server to what "
                "clients call it"
            )
        return None  # It answers; whether we are let in shows when writing.
    except (OSError, ValueError) as error:
        return str(error)
    return None


def start_tracker(directory: str, run_name: str, experiment: str, uri: str, parent: str | None = None) -> Any:
    """Start a folder's one writer of the journal and of MLflow, an actor on the driver's node.

    Where its process dies, Ray starts another, which goes on where the journal ends; what it was told and had
    not written is told again.

    Args:
        parent: folder of the run that this one belongs to; MLflow shows it below that.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    options["name"] = f"{NAME_PREFIX}{uuid.uuid4().hex}"
    remote: Callable[..., Any] = ray.remote(Tracker).options(**options).remote
    scratch = tempfile.mkdtemp(prefix="dimr-tracking-")
    return remote(directory, run_name, experiment, uri, parent, scratch)


def close_tracker(tracker: Any, seconds: float = CLOSE_SECONDS) -> str | None:
    """Have what is left copied to MLflow within about ``seconds``, and return why that failed, or None."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    try:
        problem: str | None = ray.get(tracker.close.remote(seconds), timeout=seconds + ANSWER_SECONDS)
    except RayActorError as error:
        return f"the process that writes it ended: {str(error).splitlines()[0]}"
    except GetTimeoutError:
        return "the process that writes it does not answer"
    return problem


def _mark_killed(but: Any) -> None:
    """Log KILLED for every other run of this job that still goes on, such as a sweep's trials."""
    import ray
    from ray.util import list_named_actors

    trackers = []
    for name in list_named_actors():
        if name.startswith(NAME_PREFIX):
            with suppress(ValueError):  # It ended just now.
                trackers.append(ray.get_actor(name))
    trackers = [tracker for tracker in trackers if tracker != but]
    for tracker in trackers:
        tracker.log_status.remote("KILLED")
    closed = [tracker.close.remote(KILLED_SECONDS) for tracker in trackers]
    ray.wait(closed, num_returns=len(closed), timeout=KILLED_SECONDS)


@contextmanager
def ending(tracker: Any, uri: str, console: Console) -> Iterator[None]:
    """Log an error or interruption within as the tracker's status, and close the tracker at the end."""
    seconds = CLOSE_SECONDS
    try:
        yield
    except BaseException as error:
        seconds = KILLED_SECONDS
        is_interrupted = isinstance(error, KeyboardInterrupt)
        tracker.log_status.remote("KILLED" if is_interrupted else "FAILED")
        if is_interrupted:
            _mark_killed(but=tracker)
        raise
    finally:
        problem = close_tracker(tracker, seconds)
        if problem:
            console.print(
                f"Warning: MLflow at {uri} could not be written ({problem}). Nothing is lost: run the same "
                "command again when it answers, and the journal is copied.",
                soft_wrap=True,
            )


def _key_of(directory: str | None) -> str | None:
    """The key under which MLflow knows the run in a folder, or None if there is none."""
    file = storage.join(directory, JOURNAL_FILE) if directory else None
    if file is None or not storage.is_file(file):
        return None
    return str(json.loads(storage.read_bytes(file).split(b"\n", 1)[0])["key"])


@dataclass(frozen=True)
class Heard:
    """What a tracker has heard of training so far."""

    metrics: dict[str, float] = field(default_factory=dict)
    """The newest value of every metric."""
    images_seen: int = 0
    questions: int = 0
    """How often the first rank has asked."""
    checkpoints: int = 0


class Tracker:
    """Takes records at once, and copies them to MLflow in a thread of its own.

    Args:
        scratch: a local folder that outlives the process. It holds what another process would need to go on.
    """

    def __init__(
        self,
        directory: str,
        run_name: str,
        experiment: str,
        uri: str,
        parent: str | None = None,
        scratch: str | None = None,
    ) -> None:
        self._scratch = Path(scratch or tempfile.mkdtemp(prefix="dimr-tracking-"))
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._files = RunFiles(directory, self._scratch)
        self._journal = Journal(self._files.folder / JOURNAL_FILE)
        self._latest: dict[str, float] = {}
        self._images_seen = self._questions = self._checkpoints = 0
        from orchestrator.tracking.gauges import Gauges  # Ray is not needed to read a command line.

        self._gauges = Gauges(run_name)
        if self._journal.is_empty:
            self._journal.append("run", key=uuid.uuid4().hex, name=run_name, parent=_key_of(parent))
        if (self._scratch / STARTED_FILE).exists():
            logger.warning("The process that keeps the journal had died; another one goes on.")
            for record in self._journal.records():
                if holds_values(record):
                    self._show(record["values"], record["step"])
        (self._scratch / STARTED_FILE).touch()
        self._sync = MLflowSync(self._files, directory, experiment, uri)
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-sync", daemon=True)
        self._thread.start()

    def log_params(self, params: dict[str, Any]) -> None:
        """Log the configuration: dotted keys and values."""
        self._journal.append("params", values={key: str(value) for key, value in params.items()})

    def log_metrics(self, values: dict[str, float], images_seen: int) -> None:
        """Log metrics at a point of training; MLflow's step is images seen."""
        self._journal.append("metrics", step=images_seen, values=values)
        self._show(values, images_seen)

    def log_scores(self, values: dict[str, float], step: int) -> None:
        """Log what was measured of samples; the newest value of a step counts."""
        self._journal.append("scores", step=step, values=values)
        self._show(values, step)

    def log_rewound(self, images_seen: int) -> None:
        """Log that training went back to this point and goes on otherwise: later metrics do not count."""
        self._journal.append("rewound", step=images_seen)

    def _show(self, values: dict[str, float], images_seen: int) -> None:
        # A score of an older checkpoint arrives late, and does not set training back.
        is_training = any(key.startswith("train/") for key in values)
        self._latest |= values | ({"images_seen": float(images_seen)} if is_training else {})
        self._images_seen = images_seen if is_training else self._images_seen
        self._gauges.set(self._latest)

    def log_image(self, key: str, file: str, images_seen: int) -> None:
        """Log a picture in the run's folder, by its path within the folder."""
        self._journal.append("image", step=images_seen, key=key, file=file)

    def log_artifact(self, file: str) -> None:
        """Log a file in the run's folder, by its path within the folder."""
        self._journal.append("artifact", file=file)

    def log_tags(self, tags: dict[str, str]) -> None:
        """Log tags of the run, such as an evaluation's protocol."""
        self._journal.append("tags", values=tags)

    def log_status(self, status: str) -> None:
        """Log the status: RUNNING, FINISHED, FAILED or KILLED."""
        self._journal.append("status", status=status)

    def ask_to_stop(self) -> None:
        """Note that the driver wants training to end; the workers ask :meth:`is_asked_to_stop`."""
        (self._scratch / STOP_FILE).touch()

    def is_asked_to_stop(self, images_seen: int) -> bool:
        """Whether training should end; the first rank asks while it takes steps."""
        self._questions += 1
        self._images_seen = images_seen
        return (self._scratch / STOP_FILE).exists()

    def heard(self) -> Heard:
        """What there is to show of training."""
        return Heard(self._latest, self._images_seen, self._questions, self._checkpoints)

    def keep(self) -> None:
        """Ask for what was logged so far to be copied to where the checkpoint is, soon; never waits."""
        self._checkpoints += 1
        if self._files.is_copy:
            self._wake.set()

    def close(self, timeout_seconds: float) -> str | None:
        """Copy what is left, and return why that failed, or None; the journal keeps everything anyway."""
        unwritten = self._journal.write()
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            return "it does not answer"
        problem = unwritten or self._sync.problem
        if problem is None or not self._files.is_copy:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return problem

    def _run(self) -> None:
        self._wake.wait(START_SECONDS)
        pause = SYNC_SECONDS_OF_OBJECT_STORE if self._files.is_copy else SYNC_SECONDS
        is_last = False
        while not is_last:
            self._wake.clear()
            is_last = self._stop.is_set()
            self._send(JOURNAL_FILE)
            self._sync.copy()
            self._send(OFFSET_FILE)
            if not is_last:
                self._wake.wait(max(pause, RETRY_SECONDS) if self._sync.problem else pause)

    def _send(self, name: str) -> None:
        try:
            self._files.send(name)
        except OSError as error:
            logger.warning("%s could not be copied to the run's folder; it is tried again. %s", name, error)
