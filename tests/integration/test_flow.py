"""A run with a recipe of today, from beginning to end: trained, previewed, scored, exported, told of."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.report.command import report
from orchestrator.run.experiment import run_experiment
from orchestrator.sampling.class_grid import draw
from orchestrator.sampling.sampler import ImageSampler
from orchestrator.scoring.model_under_test import load_model_under_test
from orchestrator.tracking.journal import read_records
from tests.configs import tiny

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def flow(
    tmp_path_factory: pytest.TempPathFactory, numbered: LatentDataset, empty_store: Path, ray_session: None
) -> ExperimentConfig:
    """A small finished run of a flow, with all that a recipe can have."""
    root = tmp_path_factory.mktemp("flow")
    shutil.copy(empty_store, root / "mlflow.db")
    config = tiny(
        root, numbered.path, model={"input_size": 8, "qk_norm": True},
        data={"held_out_path": numbered.path},
        diffusion={
            "process": "flow", "prediction": "velocity", "time": "logit_normal", "time_shift": 2.0,
            "loss_weight": "min_snr",
        },
        train={"preview_every_images": 32, "score_every_images": 32, "score_images": 12, "optimizer": "muon"},
        sampling={"sampler": {"kind": "heun", "steps": 3}},
    )  # fmt: skip
    run_experiment(config)
    return config


def test_it_is_trained_previewed_scored_and_exported(flow: ExperimentConfig) -> None:
    folder = Path(flow.directory)
    for name in (
        "previews/32.png",
        "previews/64.png",
        "samples.png",
        "export/config.json",
        "export/README.md",
    ):
        assert (folder / name).stat().st_size > 0, name
    logged: dict[str, float] = {}
    for record in read_records(flow.directory):
        logged |= record.get("values", {})
    # The times are not whole steps, and have their place among them all the same.
    assert any(name.startswith("loss_by_noise/steps_") for name in logged)
    assert all(np.isfinite(logged[name]) for name in ("loss/total", "held_out/loss/total"))
    assert json.loads((folder / "export" / "config.json").read_text())["qk_norm"] is True


def test_its_scores_say_what_was_sampled(flow: ExperimentConfig) -> None:
    metrics: dict[str, Any] = json.loads((Path(flow.directory) / "metrics.json").read_text())["metrics"]
    protocol = metrics["fd12_efficientnet_lite0_ema"]["protocol"]
    assert (protocol["process"], protocol["prediction"], protocol["time_shift"]) == ("flow", "velocity", 2.0)
    assert protocol["sampler"] == {"kind": "heun", "steps": 3} and "schedule" not in protocol
    assert protocol["weights"]["network"]["qk_norm"] is True
    page = Path(flow.directory).parent / "report.html"
    report([flow.directory], str(page))
    words = "flow, predicts velocity, logit_normal times (0, 1), shifted by 2, loss weight min_snr"
    card = (Path(flow.directory) / "export" / "README.md").read_text()
    assert words in page.read_text() and words in card and "Muon and AdamW" in card


def test_the_exported_pipeline_samples_the_same_pictures(flow: ExperimentConfig, tmp_path: Path) -> None:
    tested = load_model_under_test(flow.directory, flow)
    expected, labels = ImageSampler(flow, tested.model, None).sample([0, 1, 2])
    assert labels.tolist() == [0, 1, 2]
    (code,) = re.findall(
        r"```python\n(.*?)```", (Path(flow.directory) / "export" / "README.md").read_text(), re.DOTALL
    )
    assert 'process="flow", prediction="velocity", time_shift=2.0' in code
    names: dict[str, Any] = {}
    exec(code.replace("FOLDER", f"{flow.directory}/export"), names)
    found = torch.tensor(np.stack([np.asarray(image.convert("L")) for image in names["images"]]))[:, None]
    assert (found.int() - expected.int()).abs().max() <= 1 and expected.float().std() > 10
    # So does the pipeline that was saved as a whole.
    names["pipeline"].save_pretrained(tmp_path / "pipeline")
    loaded = type(names["pipeline"]).from_pretrained(tmp_path / "pipeline")
    sampler, guidance = flow.sampling.sampler, flow.sampling.guidance
    images = loaded([0, 1, 2], sampler=sampler, guidance=guidance, output_type="pt").images
    assert ((images * 255).round().int() - expected.int()).abs().max() <= 1


def test_a_grid_of_classes_shows_the_same_pictures(flow: ExperimentConfig, tmp_path: Path) -> None:
    tested = load_model_under_test(flow.directory, flow)
    draw(flow, tested.model, None, [1, 2], 2, str(tmp_path / "grid.png"))
    expected, _ = ImageSampler(flow, tested.model, None).sample([1, 4, 2, 5])
    grid = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    for number, image in enumerate(expected[:, 0].numpy()):
        top, left = 2 + 10 * (number // 2), 2 + 10 * (number % 2)
        assert np.array_equal(grid[top : top + 8, left : left + 8], image)
