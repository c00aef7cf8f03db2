"""A real autoscaler whose nodes rest at zero: a job gets what it needs, or is told what there can be.

Nodes are Ray's own fake ones, on this machine. Their GPUs are numbers.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node import node_provider
from ray.util import get_node_ip_address

from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from tests.commands import ROOT
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.faults
NODE = {"CPU": 4, "GPU": 2, "object_store_memory": 200_000_000}
MOST_NODES = 2
COMMANDS = (
    "setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"
)  # fmt: skip
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1", "RAY_AUTH_MODE": "disabled", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": node_provider.FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_provider.FAKE_HEAD_NODE_ID,
}  # fmt: skip
"""Ray's second autoscaler, which KubeRay uses, too."""
DIVIDE = """
import dataclasses, json, sys
import orchestrator, ray, yaml
from orchestrator.cluster import divide, grow_for_all_workers
from orchestrator.config.plain import from_dict
from orchestrator.errors import UserError
path, trials = sys.argv[1:]
config = from_dict(yaml.safe_load(open(path)))
ray.init(config.cluster.address, logging_level="warning", log_to_driver=False)
if trials == "1":
    grow_for_all_workers(config)  # As a run does.
try:
    print(json.dumps(dataclasses.asdict(divide(config, int(trials)))))
except UserError as error:
    print(json.dumps({"refused": str(error)}))
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster whose head has no CPU, and no other node yet."""
    with socket.socket() as free:
        free.bind(("", 0))
        ip, port = get_node_ip_address(), free.getsockname()[1]
    address = f"{ip}:{port}"
    config = {
        "cluster_name": "resting", "max_workers": MOST_NODES, "idle_timeout_minutes": 60,
        "provider": {
            # By its name it would want a file that Ray's wheel lacks.
            "type": "external", "module": f"{node_provider.__name__}.FakeMultiNodeProvider",
            "gcs_address": address, "head_node_id": node_provider.FAKE_HEAD_NODE_ID, "launch_multiple": True,
        },
        "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "head_node_type": "ray.head.default",
        **{f"{kind}_commands": [] for kind in COMMANDS},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": NODE, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES},
        },
    }  # fmt: skip
    (tmp_path / "autoscaler.json").write_text(json.dumps(config))
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0",
         f"--node-ip-address={ip}", f"--port={port}", "--include-dashboard=false",
         f"--object-store-memory={NODE['object_store_memory']}",
         f"--autoscaling-config={tmp_path / 'autoscaler.json'}"],
        env=os.environ | AUTOSCALER,
    )  # fmt: skip
    try:
        wait_until(lambda: _answers(ip, port), "the head")
        yield address
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            process.kill()
        head.wait()


def _answers(ip: str, port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex((ip, port)) == 0


def ask(config: ExperimentConfig, folder: Path, trials: int = 1) -> dict[str, Any]:
    """What the cluster says to this experiment."""
    (folder / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-c", DIVIDE, str(folder / "config.yaml"), str(trials)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def on_gpus(folder: Path, address: str, workers: int, actors: int = 1, **train: Any) -> ExperimentConfig:
    return tiny(
        folder, "data", cluster={"address": address}, data={"path": "data", "lanes": 8},
        train={"workers": workers, "use_gpu": True, "score_every_images": 32, **train},
        sampling={"use_gpu": True, "actors": actors},
    )  # fmt: skip


def test_gpus_come_when_they_are_asked_for(address: str, tmp_path: Path) -> None:
    # Two workers, scoring and reading need a CPU each: one node. No GPU of it is left for scoring.
    assert ask(on_gpus(tmp_path, address, 2), tmp_path) == {
        "data_cpus": 1.0,
        "has_room_for_background": False,
    }
    # An evaluation's three actors are more than that node has.
    shares = ask(on_gpus(tmp_path, address, 2, actors=3), tmp_path)
    assert shares == {"data_cpus": 5.0, "has_room_for_background": True}
    # Two trials share the two nodes.
    shares = ask(on_gpus(tmp_path, address, 2), tmp_path, trials=2)
    assert shares == {"data_cpus": 1.0, "has_room_for_background": False}
    # Eight workers never fit, but four do.
    refused = ask(on_gpus(tmp_path, address, 8), tmp_path)["refused"]
    assert "needs 8 GPUs" in refused and "the cluster has 4" in refused
    shares = ask(on_gpus(tmp_path, address, 8, min_workers=1), tmp_path)
    assert shares == {"data_cpus": 3.0, "has_room_for_background": False}


def test_a_run_that_takes_any_number_of_workers_gets_all_that_there_can_be(
    address: str, tmp_path: Path
) -> None:
    shares = ask(on_gpus(tmp_path, address, 8, min_workers=1), tmp_path)
    assert shares == {"data_cpus": 3.0, "has_room_for_background": False}  # Four workers, on both nodes.


def test_a_run_starts_from_no_nodes(address: str, tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    config = tiny(
        tmp_path, dataset.path, cluster={"address": address},
        train={"workers": 2, "preview_every_images": 32}, sampling={"actors": 1},
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "jobs/train_g.py", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "the cluster has 0 CPUs and 0 GPUs" in said
    assert (Path(config.directory) / "metrics.json").exists()
