"""Which Ray to use, and whether it can hold what the experiment asks for."""

import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.job_config import JobConfig

from orchestrator import logs
from orchestrator.autoscaling import grow_to, takes_whole_wishes
from orchestrator.config.schema import ExperimentConfig
from orchestrator.embedded_ray import MIN_CPUS, start_embedded
from orchestrator.errors import UserError
from orchestrator.signals import Stopper
from orchestrator.stalls import Patience

PROBE_SECONDS = 5.0
SETTLE_SECONDS = 30.0
"""How long to wait before starting with fewer workers. Ray needs about 20 seconds to see that a node is gone,
and the failure of its workers is known before that; a new node may come as well."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shares:
    """How the cluster is divided while training."""

    data_cpus: float
    """CPUs left for Ray Data to read with."""
    has_room_for_background: bool
    """Whether previews and scores can be made beside the training workers, rather than after them."""


@contextmanager
def connect(config: ExperimentConfig, embedded_cpus: int = MIN_CPUS) -> Iterator[Stopper]:
    """Use the configured Ray cluster, RAY_ADDRESS, a Ray that is already connected, or an embedded one.

    What Ray and its processes say goes into the run's ``logs/``, unless ``cluster.show_logs`` is set. Inside,
    SIGINT and SIGTERM raise KeyboardInterrupt, unless the stopper is told otherwise.

    Args:
        embedded_cpus: the fewest logical CPUs of an embedded Ray.

    Raises:
        UserError: the cluster does not answer, or the embedded Ray does not start.
    """
    address = cluster_address(config)

    def start() -> None:
        for_workers = logs.for_workers()
        if address:
            logs.terminal().print(f"Connecting to the Ray cluster at {address}.", highlight=False)
            _join(address, for_workers)
        else:
            logs.terminal().print("Starting Ray on this machine.", highlight=False)
            start_embedded(embedded_cpus, job_config=for_workers)

    with (
        logs.kept(config.directory, config.cluster.show_logs),
        _started_by(start) as stopper,
        logs.taken_from_ray(),
    ):
        yield stopper


def cluster_address(config: ExperimentConfig) -> str | None:
    """Where the cluster is; None: an embedded one is started."""
    return config.cluster.address or os.environ.get("RAY_ADDRESS")


@contextmanager
def connect_embedded() -> Iterator[None]:
    """Use a Ray that is already connected, or start one on this machine."""
    with _started_by(start_embedded):
        yield


@contextmanager
def _started_by(start: Callable[[], None]) -> Iterator[Stopper]:
    is_ours = not ray.is_initialized()
    if is_ours:
        start()
    try:
        # After the start, because connecting to Ray sets a handler of its own.
        with Stopper() as stopper:
            yield stopper
    finally:
        if is_ours:
            ray.shutdown()


def _join(address: str, for_workers: JobConfig | None) -> None:
    try:
        _probe(address)
        ray.init(address=address, logging_level=logging.WARNING, job_config=for_workers)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"No Ray cluster answers at {address} ({error}). Start one with `ray start --head`, correct "
            "RAY_ADDRESS or --cluster.address, or leave both out to use an embedded Ray on this machine."
        ) from error


def _probe(address: str) -> None:
    """Raise OSError at once where nothing listens at ``host:port``; Ray itself tries for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()


def works_in_background(config: ExperimentConfig) -> bool:
    """Whether previews, exports or scores are made while training goes on, on a CPU or GPU of their own."""
    train = config.train
    return max(train.preview_every_images, train.export_every_images, train.score_every_images) > 0


def trials_that_fit(configs: Collection[ExperimentConfig]) -> int:
    """How many experiments as large as the largest of ``configs`` fit side by side; at least 1.

    A cluster that can grow does so before, until all of them fit or it grows no more.
    """
    shares = []
    for config in configs:
        # All workers of each: one that would begin with fewer takes what belongs to the others.
        needed_cpus, needed_gpus = _needed(config, config.world_sizes[-1])
        if works_in_background(config) and config.sampling.use_gpu and config.train.use_gpu:
            needed_gpus += 1
        pools = _pools(config)
        shares.append((max(needed_cpus, pools["CPU"]), max(needed_gpus, pools["GPU"])))
    largest_cpus, largest_gpus = (max(of_kind) for of_kind in zip(*shares, strict=True))
    counts = [len(shares) >> halvings for halvings in range(len(shares).bit_length())]
    one = next(iter(configs))
    _grow(one, [(n * largest_cpus, n * largest_gpus) for n in counts], one.cluster.stall_seconds)
    cpus, gpus = _resources()
    return max(1, int(min(cpus // largest_cpus, gpus // largest_gpus if largest_gpus else cpus)))


def grow_for_all_workers(config: ExperimentConfig) -> None:
    """Have a cluster that can grow do so for ``train.workers``, where fewer would do as well.

    They are waited for only as long as nodes come, and for ``cluster.stall_seconds`` at most.
    """
    if len(config.world_sizes) > 1:
        wishes = [_needed(config, workers) for workers in reversed(config.world_sizes)]
        _grow(config, wishes, config.cluster.stall_seconds)


def divide(config: ExperimentConfig, trials: int = 1) -> Shares:
    """Check that workers, reading and previews fit side by side, and say what is left for each.

    If they did not fit, Ray would wait silently for ever.

    Args:
        trials: how many experiments share the cluster, in equal parts.

    Raises:
        UserError: they do not fit; the message says what is needed and what there is.
    """
    sampling, (least_cpus, least_gpus) = config.sampling, _needed(config, config.world_sizes[0])
    # Also for the evaluation: what it will need there may be room for the background until then.
    pools = _pools(config)
    _grow(config, [(max(trials * least_cpus, pools["CPU"]), max(trials * least_gpus, pools["GPU"]))])
    cpus, gpus = (whole / trials for whole in _resources())
    workers = workers_that_fit(config) or config.world_sizes[0]
    cpus_needed, gpus_needed = _needed(config, workers)
    preview_cpus = 1 if works_in_background(config) else 0
    if gpus_needed > gpus:
        raise UserError(
            f"The experiment needs {gpus_needed:g} GPUs ({workers} training workers with one each) and the "
            f"cluster has {gpus:g}. Use a larger cluster, lower --train.workers to a divisor of data.lanes "
            f"{config.data.lanes}, or train on CPUs with --train.use_gpu false --sampling.use_gpu false."
        )
    if cpus_needed > cpus:
        fitting = [
            n for n in range(1, workers) if config.data.lanes % n == 0 and n + preview_cpus + 1 <= cpus
        ]
        remedy = f"Lower --train.workers to {max(fitting)}" if fitting else "Use --train.workers 0"
        raise UserError(
            f"The experiment needs {cpus_needed} CPUs ({workers} training workers, {preview_cpus} for "
            f"previews, 1 for reading data) and the cluster has {cpus:g}. {remedy}, or use a larger cluster."
        )
    _require_pools(config)
    has_room = not sampling.use_gpu or gpus >= (workers if config.train.use_gpu else 0) + 1
    return Shares(cpus - workers - preview_cpus, has_room)


def check_evaluation(config: ExperimentConfig) -> None:
    """Check that the pools of an evaluation fit side by side.

    Raises:
        UserError: they do not fit; the message says what is needed and what there is.
    """
    needed = _pools(config)
    _grow(config, [(needed["CPU"], needed["GPU"])])
    _require_pools(config)


def _require_pools(config: ExperimentConfig) -> None:
    needed, sampling, evaluation = _pools(config), config.sampling, config.evaluation
    cpus, gpus = _resources()
    if needed["CPU"] > cpus or needed["GPU"] > gpus:
        raise UserError(
            f"sampling.actors {sampling.actors} and evaluation.extractor_actors "
            f"{evaluation.extractor_actors} need {needed['CPU']} CPUs and {needed['GPU']} GPUs side by side, "
            f"and the cluster has {cpus:g} and {gpus:g}. Lower them, or set sampling.use_gpu and "
            "evaluation.extractor_use_gpu to what there is."
        )


def _grow(
    config: ExperimentConfig, wishes: Sequence[tuple[float, float]], longest_seconds: float | None = None
) -> None:
    """Have a cluster that can grow do so, to the first of ``wishes`` (CPUs, GPUs) that it can reach.

    The largest comes first. One of this job's own cannot grow.

    Args:
        longest_seconds: how long to wait for nodes that are being started; by default as for any process that
            may hang.
    """
    if not cluster_address(config):
        return
    for cpus, gpus in wishes:
        if grow_to(cpus, gpus, _resources, longest_seconds or Patience(config.cluster.stall_seconds).longest):
            return
        if not takes_whole_wishes():
            return  # What could be had of the wish is there.


def _pools(config: ExperimentConfig) -> dict[str, int]:
    """The CPUs and GPUs of an evaluation's actors."""
    sampling, evaluation = config.sampling, config.evaluation
    needed = {"CPU": 0, "GPU": 0}
    if sampling.actors == 0:
        return needed
    needed["GPU" if sampling.use_gpu else "CPU"] += sampling.actors
    needed["GPU" if evaluation.extractor_use_gpu else "CPU"] += evaluation.extractor_actors
    return needed


def _resources(leaving: Collection[str] = ()) -> tuple[float, float]:
    """The CPUs and GPUs of the nodes that are there and stay."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    return cpus, gpus


def _needed(config: ExperimentConfig, workers: int) -> tuple[int, int]:
    """The CPUs and GPUs for ``workers`` workers, previews and reading side by side."""
    cpus = workers + (1 if works_in_background(config) else 0) + 1
    return cpus, max(workers if config.train.use_gpu else 0, 1 if config.sampling.use_gpu else 0)


def workers_that_fit(config: ExperimentConfig, leaving: Collection[str] = (), gpus_beside: int = 0) -> int:
    """The largest valid world size that fits the cluster without the nodes ``leaving``; 0 if none does.

    Args:
        gpus_beside: GPUs that others of this run hold.
    """
    cpus, gpus = _resources(leaving)

    def fits(workers: int) -> bool:
        cpus_needed, gpus_needed = _needed(config, workers)
        if gpus_beside:  # Sampling has its GPU already.
            gpus_needed = gpus_beside + (workers if config.train.use_gpu else 0)
        return cpus_needed <= cpus and gpus_needed <= gpus

    return max(filter(fits, config.world_sizes), default=0)


def wait_for_workers(
    config: ExperimentConfig, leaving: Collection[str], is_restart: bool, gpus_beside: int = 0
) -> int:
    """Wait for the world size to start with, where ``train.min_workers`` leaves a choice.

    It is the largest valid one that fits. After a failure, or where not all workers fit, it is decided only
    when ``SETTLE_SECONDS`` have passed.
    """
    most = config.train.workers
    if len(config.world_sizes) == 1:
        return most  # Ray Train waits for them by itself.
    began, is_told = time.monotonic(), False
    while True:
        fitting = workers_that_fit(config, leaving, gpus_beside)
        is_settled = time.monotonic() - began > SETTLE_SECONDS
        if fitting and (is_settled or (fitting == most and not is_restart)):
            break
        if is_settled and not is_told:
            logger.warning("Waiting: the cluster holds fewer than %d workers.", config.world_sizes[0])
            is_told = True
        time.sleep(1)
    if fitting < most:
        logger.warning("Going on with %d of %d workers: the cluster holds no more.", fitting, most)
    return fitting
