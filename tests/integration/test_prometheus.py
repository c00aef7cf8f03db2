"""What Prometheus sees of a run, from Ray's own exporter."""

import urllib.request
from pathlib import Path

import pytest
import ray

from orchestrator.tracking.gauges import show_progress
from orchestrator.tracking.tracker import close_tracker, start_tracker
from tests.waiting import wait_until


def exported() -> str:
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=30) as response:
        return str(response.read().decode())


@pytest.mark.usefixtures("ray_session")
def test_the_newest_numbers_of_a_run_are_exported(tmp_path: Path) -> None:
    tracker = start_tracker(str(tmp_path / "watched"), "watched", "dimr", f"sqlite:///{tmp_path}/mlflow.db")
    tracker.log_metrics.remote({"train/mfu": 0.25, "train/images_per_second": 12.5}, 640)
    show_progress("watched", "sample", 30, 50)

    def line(name: str) -> str | None:
        found = [
            one
            for one in exported().splitlines()
            if one.startswith(f"ray_dimr_{name}{{") and 'run="watched"' in one
        ]
        return found[0].rpartition(" ")[2] if found else None

    wanted = {
        "images_seen": 640,
        "train_mfu": 0.25,
        "train_images_per_second": 12.5,
        "evaluation_images_done": 30,
    }
    for name, value in wanted.items():
        wait_until(lambda name=name: line(name), f"{name} is exported", 120)  # type: ignore[misc]
        assert float(line(name) or "nan") == value
    close_tracker(tracker)
