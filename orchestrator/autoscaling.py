"""A cluster that rests at few nodes: what is missing is asked of Ray's autoscaler, and waited for."""

import json
import logging
import math
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

    Where the autoscaler tells the most that there can be, no more than that is asked for: of a wish that can
    never be met it would meet no part. Where it does not tell, or there is none, it is known after half a
    minute that nothing grows.

    Args:
        there: tells the CPUs and GPUs that there are.
        longest_seconds: how long to wait for nodes that were begun to be started.
    """
    before, most = there(), _most()
    wish = [min(one, max(has, can)) for one, has, can in zip((cpus, gpus), before, most, strict=True)]
    is_whole = wish == [cpus, gpus]
    if _has(before, *wish):
        return is_whole
    logger.warning(
        "Waiting: the cluster has %g CPUs and %g GPUs, and its autoscaler was asked for %g and %g.",
        *before, *wish,
    )  # fmt: skip
    _request(*map(int, wish))
    try:
        began = grew = time.monotonic()
        while not _has(found := there(), *wish):
            now = time.monotonic()
            if found != before or _is_starting_nodes():
                before, grew = found, now
            if now - grew > GROWTH_SECONDS or now - began > longest_seconds:
                return False
            time.sleep(LOOK_SECONDS)
        return is_whole
    finally:
        # It would hold the nodes for ever. What is started now holds them by itself.
        _request(0, 0)


def _has(there: tuple[float, float], cpus: float, gpus: float) -> bool:
    return there[0] >= cpus and there[1] >= gpus


def _most() -> tuple[float, float]:
    """The CPUs and GPUs that the cluster can have at most, by its config; infinity where that is not told."""
    from ray._private.state import state

    with suppress(Exception):  # Ray's own report, of the second autoscaler alone.
        if most := state.get_max_resources_from_cluster_config():
            return float(most.get("CPU", 0)), float(most.get("GPU", 0))
    return math.inf, math.inf


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
