"""The quickstart at a tenth of its length, as a user runs it: real Ray, real MLflow, real digits."""

import json
import re
from pathlib import Path

import mlflow
import pytest
from PIL import Image

from dimr_model import DiMR
from orchestrator.config.command_line import parse
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.report.command import main
from orchestrator.run.experiment import run_experiment
from tests.browser import browsing, needs_chromium

LENGTH = 2400


def config(root: Path, digits: LatentDataset, *arguments: str) -> ExperimentConfig:
    short = {
        "run.root": root, "data.path": digits.path, "train.images": LENGTH,
        "train.checkpoint_every_images": 1200, "train.preview_every_images": 1200, "evaluation.images": 100,
    }  # fmt: skip
    return parse("Test.", "quickstart", [*(f"--{key}={value}" for key, value in short.items()), *arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, digits: LatentDataset, ray_session: None) -> Path:
    """A folder with one finished run."""
    folder = tmp_path_factory.mktemp("runs")
    run_experiment(config(folder, digits))
    return folder


def test_everything_of_a_run_lies_in_its_folder(root: Path) -> None:
    folder = root / "quickstart"
    for name in ("config.yaml", "samples.png", "metrics.json", "journal.jsonl", "export/config.json"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "checkpoints" / str(LENGTH) / "COMPLETE.json").exists()
    assert [image.name for image in sorted((folder / "previews").glob("*.png"))] == ["1200.png", "2400.png"]
    assert Image.open(folder / "samples.png").size == (10 * 30 + 2, 10 * 30 + 2)


def test_every_number_carries_its_protocol(root: Path) -> None:
    scored = json.loads((root / "quickstart" / "metrics.json").read_text())
    metrics = scored["metrics"]
    assert scored["images_seen"] == LENGTH
    assert metrics["classifier_accuracy_held_out"]["value"] >= 0.97
    distance = metrics["fd100_efficientnet_lite0_ema"]
    assert distance["protocol"]["images_seen"] == LENGTH
    assert distance["protocol"]["sampler"]["kind"] == "dpm_solver_multistep"
    assert len(distance["protocol"]["extractor"]["weights_sha256"]) == 64
    floor, ceiling = (metrics[f"fd100_efficientnet_lite0_{kind}"]["value"] for kind in ("real", "noise"))
    assert floor < distance["value"] < ceiling
    assert all(entry["protocol"] for entry in metrics.values())


def test_mlflow_has_one_run_with_curves_grids_parameters_and_scores(root: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("dimr")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'quickstart'")
    assert run.info.status == "FINISHED"
    assert "model.depths" in run.data.params
    curve = client.get_metric_history(run.info.run_id, "loss/branch1")
    assert [point.step for point in curve] == sorted({point.step for point in curve})
    assert curve[-1].step == LENGTH
    assert curve[-1].value < curve[0].value
    for key in ("loss/branch0", "train/images_per_second", "train/gradient_norm", "train/learning_rate"):
        assert key in run.data.metrics
    assert run.data.metrics["eval/class_agreement_100_ema"] >= 0
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert sum("samples" in path and "step+1200" in path.replace("%", "+") for path in pictures) >= 1


def test_the_export_loads_without_ray(root: Path) -> None:
    model = DiMR.from_pretrained(root / "quickstart" / "export")
    assert model.architecture.input_size == 28


def test_a_finished_run_says_so(
    root: Path, digits: LatentDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "quickstart" / "journal.jsonl").read_text()
    run_experiment(config(root, digits))
    printed = capsys.readouterr().out
    assert "is finished" in printed
    assert "mlflow ui" in printed
    assert (root / "quickstart" / "journal.jsonl").read_text() == before


def test_other_settings_under_the_same_name_are_refused(root: Path, digits: LatentDataset) -> None:
    with pytest.raises(UserError, match=r"train.learning_rate \(was 0.00\d+, now 0.1\)"):
        run_experiment(config(root, digits, "--train.learning_rate=0.1"))


def test_the_report_is_one_page_with_everything(root: Path, tmp_path: Path) -> None:
    main([str(root / "quickstart"), "--out", str(tmp_path / "report.html")])
    text = (tmp_path / "report.html").read_text()
    distance = json.loads((root / "quickstart" / "metrics.json").read_text())["metrics"][
        "fd100_efficientnet_lite0_ema"
    ]
    assert f"{distance['value']:.4g}" in text
    assert distance["protocol"]["extractor"]["weights_sha256"] in text
    assert not re.search(r"(src|href|srcset)=[\"'](?!data:)", text), "the page loads something from elsewhere"


@needs_chromium
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_report_fits_its_window_and_shows_every_picture(
    root: Path, tmp_path: Path, width: int, theme: str
) -> None:
    main([str(root / "quickstart"), "--out", str(tmp_path / "report.html")])
    with browsing(viewport={"width": width, "height": 800}, color_scheme=theme) as browser:
        page = browser.new_page()
        page.goto(f"file://{tmp_path}/report.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        widths = page.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert len(widths) >= 6 and min(widths) > 0  # curves, two previews, samples
        headings = page.locator("h2").all_text_contents()
        assert headings == [
            "What was trained on what",
            "Scores",
            "Curves",
            "Samples as training goes on",
            "Cost",
        ]


def test_a_folder_without_a_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert "There is no run in" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.faults
def test_a_longer_run_of_the_same_name_continues(
    root: Path, digits: LatentDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = config(root, digits, f"--train.images={LENGTH + 320}")
    run_experiment(longer)
    assert f"from {LENGTH} images" in " ".join(capsys.readouterr().out.split())
    scored = json.loads((root / "quickstart" / "metrics.json").read_text())
    assert scored["images_seen"] == LENGTH + 320
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("dimr")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], "attributes.run_name = 'quickstart'")) == 1
