"""A script that trains on a Ray cluster of several local nodes and takes one of them away.

It runs in a process of its own, as ``python -m tests.faults.on_nodes SCENARIO FOLDER``. The folder holds
``config.yaml`` and the dataset in ``data``.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.cluster_utils import Cluster
from ray.train.v2._internal.execution.context import get_train_context
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import orchestrator  # noqa: F401  (sets what Ray reads when it is imported)
from orchestrator.config.plain import from_dict
from orchestrator.data.format import open_dataset
from orchestrator.training import loop
from orchestrator.training.entry import train
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from tests.waiting import PATIENCE, wait_until

OBJECT_STORE_BYTES = 200_000_000
STRUCK_AT = 40
NOTICE_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Watched:
    """Hooks that note on which node each worker is, and every report of images seen."""

    folder: str
    waits_for_notice: bool
    """Whether to wait, at ``STRUCK_AT`` images, for Ray's notice of a preemption; else for the fault."""

    def __call__(self) -> Hooks:
        self.note("workers", ray.get_runtime_context().get_node_id())
        return Hooks(on_metrics=self.follow, on_checkpoint=lambda checkpoint: None)

    def follow(self, metrics: dict[str, float], images_seen: int) -> None:
        self.note("reports", str(images_seen))
        if images_seen == STRUCK_AT:
            (Path(self.folder) / "reached").touch()
            began = time.monotonic()
            wait_until(
                (lambda: is_noticed() and time.monotonic() - began > loop.NOTICE_SECONDS)
                if self.waits_for_notice
                else (Path(self.folder) / "struck").exists,
                "the fault",
            )

    def note(self, file: str, line: str) -> None:
        with (Path(self.folder) / file).open("a") as stream:
            stream.write(f"{line}\n")


def is_noticed() -> bool:
    """Whether Ray Train has told this worker of a preemption.

    Ray's public function for it asks all workers together.
    """
    return get_train_context().preemption_context.preemption_info is not None


@ray.remote(num_cpus=0, max_retries=0)
def run(folder: str, waits_for_notice: bool) -> None:
    config = from_dict(yaml.safe_load((Path(folder) / "config.yaml").read_text()))
    train(TrainJob(config, open_dataset(config.data.path), Watched(folder, waits_for_notice)), data_cpus=1)


def replace(cluster: Cluster, node: Any, folder: Path) -> None:
    """Let the node vanish and another come."""
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)


def lose(cluster: Cluster, node: Any, folder: Path) -> None:
    """Let the node vanish for good."""
    cluster.remove_node(node, allow_graceful=False)


def preempt(cluster: Cluster, node: Any, folder: Path) -> None:
    """Announce that the node will go, and let another come.

    The node goes when its time is over or nobody uses it any more.
    """
    subprocess.run(
        [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address,
         "--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test",
         "--deadline-remaining-seconds", str(NOTICE_SECONDS)],
        check=True,
    )  # fmt: skip
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
    deadline = time.monotonic() + NOTICE_SECONDS
    wait_until(
        lambda: len((folder / "workers").read_text().split()) > 2 or time.monotonic() > deadline,
        "the run leaves",
    )
    cluster.remove_node(node, allow_graceful=False)


SCENARIOS: dict[str, Callable[[Cluster, Any, Path], None]] = {
    "replace": replace,
    "lose": lose,
    "preempt": preempt,
}


def main(scenario: str, folder: Path) -> None:
    size = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    others = [cluster.add_node(**size) for _ in range(2)]
    ray.init(address=cluster.address, logging_level="warning")
    try:
        # The driver is on the head, which stays.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        done = run.options(scheduling_strategy=here).remote(str(folder), scenario == "preempt")
        wait_until((folder / "reached").exists, "training begins")
        used = (folder / "workers").read_text().split()
        # Two workers on three nodes with a CPU each: one at least is not on the head.
        struck = next(node for node in others if node.node_id in used)
        SCENARIOS[scenario](cluster, struck, folder)
        (folder / "struck").touch()
        ray.get(done, timeout=PATIENCE)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    main(sys.argv[1], Path(sys.argv[2]))
