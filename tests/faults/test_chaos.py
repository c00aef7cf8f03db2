"""Any process may be killed at any moment: the run ends as an undisturbed one does."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow
import pytest

from orchestrator.checkpoints.selection import marked
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.storage import sha256_of
from orchestrator.tracking.journal import read_records
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.faults.chaos import Toll, run_under_kills
from tests.sweeps import arguments, table

pytestmark = pytest.mark.faults
LENGTH = 16_384


def settings(root: Path, name: str, data: str) -> ExperimentConfig:
    every = LENGTH // 4
    return tiny(
        root, data, run={"name": name, "root": str(root)}, model={"input_size": 8},
        train={
            "images": LENGTH, "workers": 2, "checkpoint_every_images": every, "log_every_images": 256,
            "preview_every_images": every, "export_every_images": every, "score_every_images": every,
            "score_images": 8, "max_restarts": 100, "keep_checkpoints": 4,
        },
        sampling={"sampler": {"steps": 2}, "batch_size": 4, "actors": 2, "use_gpu": False},
        evaluation={"images": 512, "extractors": ["efficientnet_lite0"]},
    )  # fmt: skip


def result_of(config: ExperimentConfig) -> dict[str, Any]:
    """Everything that a kill could change."""
    folder = Path(config.directory)
    records = read_records(config.directory)
    values = Counter(
        (key, record["step"])
        for record in records
        if record["kind"] in ("metrics", "scores")
        for key in record["values"]
        if not key.startswith(("system/", "time/"))
    )
    losses = {
        (key, record["step"]): value
        for record in records
        if record["kind"] in ("metrics", "scores")
        for key, value in record["values"].items()
        if key.startswith(("loss", "eval/"))
    }
    client = mlflow.MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    (run,) = [run for run in client.search_runs(["1"]) if run.info.run_name == config.run.name]
    return {
        "each value once": set(values.values()),
        "values": set(values),
        "losses": losses,
        "status": run.info.status,
        "steps in MLflow": [m.step for m in client.get_metric_history(run.info.run_id, "loss/total")],
        "scores in MLflow": {
            key: value for key, value in run.data.metrics.items() if key.startswith("eval/")
        },
        "metrics": json.loads((folder / "metrics.json").read_text())["metrics"],
        "weights": sha256_of(str(folder / "export" / "diffusion_pytorch_model.safetensors")),
        "checkpoints": [checkpoint.images_seen for checkpoint in marked(config.directory)],
        "files": sorted(
            str(path.relative_to(folder))
            for inner in ("previews", "exports", "scores", "export")
            for path in (folder / inner).rglob("*")
        ),
    }


@pytest.mark.timeout(0)  # Each call has its own; how many there are depends on --kills.
def test_whatever_is_killed_nothing_is_lost(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    data = write_numbered(tmp_path / "data", 60, 10, size=8).path
    undisturbed = settings(tmp_path, "undisturbed", data)
    (tmp_path / "undisturbed.yaml").write_text(to_yaml(undisturbed))
    log = tmp_path / "log"
    words = ["jobs/train_g.py", "--config"]
    run_under_kills([*words, str(tmp_path / "undisturbed.yaml")], log, Toll(), 0, random.Random(0))
    expected = result_of(undisturbed)
    wanted, toll, number = pytestconfig.getoption("--kills"), Toll(), 0
    seed = pytestconfig.getoption("--chaos-seed")
    while sum(toll.kills.values()) < wanted:
        number += 1
        config = settings(tmp_path, f"disturbed{number}", data)
        file = tmp_path / f"{config.run.name}.yaml"
        file.write_text(to_yaml(config))
        left = wanted - sum(toll.kills.values())
        run_under_kills([*words, str(file)], log, toll, left, random.Random(f"{seed}-{number}"))
        print(f"{config.run.name}: {sum(toll.kills.values())} kills, {toll.calls} calls", flush=True)
        found = result_of(config)
        for what, value in expected.items():
            assert found[what] == value, f"{what} of {config.run.name}, see {log}"
    print(f"seed {seed}: {dict(toll.kills)}; {number} runs, {toll.calls} calls; log {log}")
    assert not toll.problems


AXES = [{"name": "time", "options": [{"name": "TD-LN"}, {"name": "token", "changes": {
    "model.time_conditioning": "token", "model.depths": [3], "model.widths": [32],
}}]}]  # fmt: skip


def result_of_sweep(root: Path) -> dict[str, Any]:
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs(["1"])
    trials = {str(run.info.run_name): run for run in runs if run.info.run_name != "mine-nano"}
    return {
        "table": table(root),
        "statuses": {str(run.info.run_name): run.info.status for run in runs},
        "points": {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/total")]
            for name, run in trials.items()
        },
        "scores": {
            name: {key: value for key, value in run.data.metrics.items() if key.startswith("eval/")}
            for name, run in trials.items()
        },
    }


@pytest.mark.timeout(0)
def test_whatever_is_killed_of_a_sweep_nothing_is_lost(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seed, log = pytestconfig.getoption("--chaos-seed"), tmp_path / "log"
    toll, kills, found = Toll(), pytestconfig.getoption("--kills") // 3, {}
    for name in ("undisturbed", "disturbed"):
        root = tmp_path / name
        dataset = write_numbered(root / "data", 60, 10)
        words = ["jobs/ablate.py", *arguments(root, dataset, images=4000, axes=AXES), "--prune", "false",
                 "--train.checkpoint_every_images", "1000", "--train.score_every_images", "2000"]  # fmt: skip
        is_disturbed = name == "disturbed"
        run_under_kills(
            words, log, toll if is_disturbed else Toll(), kills if is_disturbed else 0, random.Random(seed)
        )
        found[name] = result_of_sweep(root)
    print(f"seed {seed}: {dict(toll.kills)}; {toll.calls} calls; log {log}")
    for what, value in found["undisturbed"].items():
        assert found["disturbed"][what] == value, f"{what}, see {log}"
    assert not toll.problems
