"""What Prometheus sees of a run, from Ray's own exporter."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from orchestrator.tracking.gauges import show_progress
from orchestrator.tracking.tracker import close_tracker, start_tracker
from tests.servers import free_port
from tests.waiting import PATIENCE, wait_until

MONITORING = Path(__file__).resolve().parents[2] / "cluster" / "monitoring"
PROMETHEUS = shutil.which("prometheus")


def exporter() -> str:
    node = ray.nodes()[0]
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def exported() -> str:
    with urllib.request.urlopen(f"http://{exporter()}/metrics", timeout=30) as response:
        return str(response.read().decode())


@pytest.mark.usefixtures("ray_session")
@pytest.mark.faults
def test_the_newest_numbers_of_a_run_are_exported(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
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
        wait_until(lambda name=name: line(name), f"{name} is exported")  # type: ignore[misc]
        assert float(line(name) or "nan") == value
    close_tracker(tracker)


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """A real Prometheus with our configuration, which reads this test's Ray only; yields its address."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job.pop("file_sd_configs")
    job["static_configs"] = [{"targets": [exporter()]}]
    config["global"] = dict.fromkeys(config["global"], "1s")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yml", folder)
    port = free_port()
    command = [
        str(PROMETHEUS),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
    ]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def asked(address: str, path: str, **query: str) -> Any:
    try:
        with urllib.request.urlopen(
            f"{address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10
        ) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


@pytest.mark.usefixtures("ray_session")
@pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus: apt-get install prometheus")
@pytest.mark.long
def test_prometheus_collects_them_and_knows_the_alerts(tmp_path: Path) -> None:
    (tmp_path / "collected").mkdir()
    tracker = start_tracker(
        str(tmp_path / "collected"), "collected", "dimr", f"sqlite:///{tmp_path}/mlflow.db"
    )
    tracker.log_metrics.remote({"train/data_wait_fraction": 0.5}, 320)
    with prometheus(tmp_path) as address:
        query = 'ray_dimr_train_data_wait_fraction{run="collected"}'
        wait_until(
            lambda: (asked(address, "query", query=query) or {}).get("result"), "the number is collected"
        )
        assert float(asked(address, "query", query=query)["result"][0]["value"][1]) == 0.5

        panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
        shown = {
            target["expr"]: asked(address, "query", query=target["expr"].replace("$run", "collected"))
            for panel in panels
            for target in panel["targets"]
        }
        assert all(shown.values()), f"Prometheus does not understand all of {shown}"
        (value,) = shown['ray_dimr_train_data_wait_fraction{run=~"$run"}']["result"]
        assert float(value["value"][1]) == 0.5

        def pending() -> list[str]:
            found = (asked(address, "alerts") or {"alerts": []})["alerts"]
            wanted = {"alertname": "TrainingWaitsForData", "run": "collected"}
            return [one["annotations"]["summary"] for one in found if wanted.items() <= one["labels"].items()]

        wait_until(pending, "the alert is pending")
        assert "collected spends over a fifth" in pending()[0]
    close_tracker(tracker)
