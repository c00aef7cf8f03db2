"""A cluster that rests at few nodes: what is missing is asked of Ray's autoscaler, and waited for."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress

import ray

GROWTH_SECONDS = 30.0
"""How long nothing may grow until it is sure that nothing will. The autoscaler looks every 5 seconds."""
LOOK_SECONDS = 1.0
logger = logging.getLogger(__name__)


def grow_to(
    cpus: float, gpus: float, there: Callable[[], tuple[float, float]], longest_seconds: float
) -> bool:
    """Have the cluster grow until it has so many CPUs and GPUs in all; returns whether it has.

    Where it has no autoscaler, or one that cannot grow any further, that is known after half a minute.

    Args:
        there: tells the CPUs and GPUs that there are.
        longest_seconds: how long to wait for nodes that were begun to be started.
    """
    if _has(before := there(), cpus, gpus):
        return True
    logger.warning(
        "Waiting: the cluster has %g CPUs and %g GPUs, and its autoscaler was asked for %g and %g.",
        *before, cpus, gpus,
    )  # fmt: skip
    _request(int(cpus), int(gpus))
    try:
        began = grew = time.monotonic()
        while not _has(found := there(), cpus, gpus):
            now = time.monotonic()
            if found != before or _is_starting_nodes():
                before, grew = found, now
            if now - grew > GROWTH_SECONDS or now - began > longest_seconds:
                return False
            time.sleep(LOOK_SECONDS)
        return True
    finally:
        # It would hold the nodes for ever. What is started now holds them by itself.
        _request(0, 0)


def _has(there: tuple[float, float], cpus: float, gpus: float) -> bool:
    return there[0] >= cpus and there[1] >= gpus


def takes_whole_wishes() -> bool:
    """Whether Ray's second autoscaler is there: of a wish that it cannot meet, it meets no part."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    with suppress(Exception):  # It has never reported.
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return int(status.stats.autoscaler_version or 0) > 0
    return False


def _request(cpus: int, gpus: int) -> None:
    from ray.autoscaler.sdk import request_resources

    with_gpu = [{"GPU": 1.0, "CPU": 1.0}] * gpus
    request_resources(bundles=with_gpu + [{"CPU": 1.0}] * max(0, cpus - gpus))


def _is_starting_nodes() -> bool:
    """Whether the autoscaler has begun to start nodes that have not joined yet."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    with suppress(Exception):  # Ray's own reports: the second autoscaler's, then the first one's.
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        if status.pending_launches or status.pending_nodes:
            return True
        reported = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
        report = json.loads(reported)["autoscaler_report"]
        # It may call nodes pending that have joined.
        known = sum(report["active_nodes"].values()) + len(report["pending_nodes"])
        return bool(report["pending_launches"]) or known > sum(node["Alive"] for node in ray.nodes())
    return False
