"""The quickstart at a tenth of its length, with its workers and actors, on real digits."""

import json
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from orchestrator.config.command_line import parse
from orchestrator.data.format import LatentDataset
from orchestrator.run.experiment import run_experiment

pytestmark = pytest.mark.long
LENGTH = 2400


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, digits: LatentDataset, ray_session: None) -> Path:
    """A folder with one finished run."""
    folder = tmp_path_factory.mktemp("runs")
    short = {
        "run.root": folder, "data.path": digits.path, "train.images": LENGTH,
        "train.checkpoint_every_images": 1200, "train.preview_every_images": 1200, "evaluation.images": 100,
    }  # fmt: skip
    run_experiment(parse("Test.", "quickstart", [f"--{key}={value}" for key, value in short.items()]))
    return folder


def test_its_scores_lie_between_floor_and_ceiling(root: Path) -> None:
    scored = json.loads((root / "quickstart" / "metrics.json").read_text())
    metrics = scored["metrics"]
    assert scored["images_seen"] == LENGTH
    assert metrics["classifier_accuracy_held_out"]["value"] >= 0.97
    distance = metrics["fd100_efficientnet_lite0_ema"]
    assert distance["protocol"]["sampler"]["kind"] == "dpm_solver_multistep"
    floor, ceiling = (metrics[f"fd100_efficientnet_lite0_{kind}"]["value"] for kind in ("real", "noise"))
    assert floor < distance["value"] < ceiling


def test_its_loss_falls_and_its_samples_are_a_grid_of_all_digits(root: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    (run,) = client.search_runs(["1"])
    curve = client.get_metric_history(run.info.run_id, "loss/branch1")
    assert curve[-1].step == LENGTH
    assert curve[-1].value < curve[0].value
    assert run.data.metrics["eval/class_agreement_100_ema"] >= 0
    assert Image.open(root / "quickstart" / "samples.png").size == (10 * 30 + 2, 10 * 30 + 2)
    for picture in ("progress.png", "progress.webp", "branches.png", "nearest.png"):
        assert (root / "quickstart" / picture).stat().st_size > 1000, picture
