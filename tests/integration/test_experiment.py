"""One small run from beginning to end: what lies in its folder, in MLflow and in its report afterwards."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from PIL import Image

from dimr_model import DiMR
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.report.command import main
from orchestrator.run.experiment import run_experiment
from tests.browser import browsing, needs_chromium
from tests.spoken import not_ours


def metrics_of(config: ExperimentConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(config.directory) / "metrics.json").read_text())
    return found


def runs_of(config: ExperimentConfig) -> list[Any]:
    client = mlflow.MlflowClient(f"sqlite:///{config.run.root}/mlflow.db")
    experiment = client.get_experiment_by_name("dimr")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_everything_of_a_run_lies_in_its_folder(finished: ExperimentConfig) -> None:
    folder = Path(finished.directory)
    for name in ("config.yaml", "samples.png", "metrics.json", "journal.jsonl", "export/config.json",
                 "progress.png", "progress.webp", "branches.png"):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "checkpoints" / "64" / "COMPLETE.json").exists()
    assert [image.name for image in sorted((folder / "previews").glob("*.png"))] == ["32.png", "64.png"]
    assert (folder / "exports" / "64" / "config.json").exists()
    assert Image.open(folder / "samples.png").size[0] > 0
    assert Image.open(folder / "progress.webp").n_frames == 2  # type: ignore[attr-defined]
    assert list((folder / "logs").glob("*.log"))


def test_every_number_carries_its_protocol(finished: ExperimentConfig) -> None:
    scored = metrics_of(finished)
    assert scored["images_seen"] == 64
    distance = scored["metrics"]["fd12_efficientnet_lite0_ema"]
    assert distance["value"] > 0
    assert distance["protocol"]["images_seen"] == 64
    assert distance["protocol"]["sampler"]["kind"] == finished.sampling.sampler.kind
    assert len(distance["protocol"]["extractor"]["weights_sha256"]) == 64
    assert all(entry["protocol"] for entry in scored["metrics"].values())
    # Two extractors looked at the samples.
    others = {"fd12_dataset_classifier_ema", "class_agreement_12_ema", "classifier_accuracy_held_out"}
    assert others <= scored["metrics"].keys()


def test_mlflow_has_one_run_with_curves_grids_parameters_and_scores(finished: ExperimentConfig) -> None:
    (run,) = runs_of(finished)
    client = mlflow.MlflowClient(f"sqlite:///{finished.run.root}/mlflow.db")
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert "model.depths" in run.data.params
    curve = client.get_metric_history(run.info.run_id, "loss/branch1")
    assert [point.step for point in curve] == [16, 32, 48, 64]
    for key in ("loss/branch0", "train/images_per_second", "train/gradient_norm", "train/learning_rate"):
        assert key in run.data.metrics
    for name, entry in metrics_of(finished)["metrics"].items():
        assert run.data.metrics[f"eval/{name}"] == pytest.approx(entry["value"])
        assert json.loads(run.data.tags[f"protocol.{name}"]) == entry["protocol"]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert sum("samples" in path and "step+32" in path.replace("%", "+") for path in pictures) >= 1
    for key in ("progress", "branches"):
        assert any(key in path for path in pictures), key
    assert "progress.webp" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_the_export_loads_without_ray(finished: ExperimentConfig) -> None:
    model = DiMR.from_pretrained(f"{finished.directory}/export")
    assert model.architecture.input_size == 8


def test_a_finished_run_says_so(finished: ExperimentConfig, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Path(finished.directory) / "journal.jsonl"
    before = journal.read_text()
    run_experiment(finished)
    printed = capsys.readouterr().out
    assert "is finished" in printed
    assert "mlflow ui" in printed
    assert journal.read_text() == before


def test_other_settings_under_the_same_name_are_refused(finished: ExperimentConfig) -> None:
    other = dataclasses.replace(finished, train=dataclasses.replace(finished.train, learning_rate=0.1))
    with pytest.raises(UserError, match=r"train.learning_rate \(was 0.001, now 0.1\)"):
        run_experiment(other)


@pytest.mark.long
def test_a_longer_run_of_the_same_name_continues(
    finished: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.run.root, tmp_path / "copied")
    longer = dataclasses.replace(
        finished,
        run=dataclasses.replace(finished.run, root=str(tmp_path / "copied")),
        train=dataclasses.replace(finished.train, images=96, preview_every_images=0, export_every_images=0),
    )
    run_experiment(longer)
    said = capsys.readouterr()
    assert "from 64 images" in " ".join(said.out.split())
    assert not_ours(said.out + said.err) == []
    assert said.out.count("train: waiting for the first step") == 1
    assert metrics_of(longer)["images_seen"] == 96
    assert len(runs_of(longer)) == 1


@pytest.mark.long
def test_a_run_whose_scores_are_not_in_its_journal_is_completed(
    finished: ExperimentConfig, tmp_path: Path, empty_store: Path
) -> None:
    """As where the journal's process died last, and nobody noticed."""
    shutil.copytree(finished.run.root, tmp_path / "copied")
    shutil.copy(empty_store, tmp_path / "copied" / "mlflow.db")
    cut = dataclasses.replace(finished, run=dataclasses.replace(finished.run, root=str(tmp_path / "copied")))
    journal = Path(cut.directory) / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    scored = next(number for number, line in enumerate(lines) if '"eval/' in line)
    journal.write_text("".join(lines[:scored]))
    (journal.parent / "journal.offset").unlink()
    before = metrics_of(cut)["metrics"]
    run_experiment(cut)
    assert metrics_of(cut)["metrics"] == before
    (run,) = runs_of(cut)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/fd12_efficientnet_lite0_ema"] == pytest.approx(
        before["fd12_efficientnet_lite0_ema"]["value"]
    )


def test_the_report_is_one_page_with_everything(finished: ExperimentConfig, tmp_path: Path) -> None:
    main([finished.directory, "--out", str(tmp_path / "report.html")])
    text = (tmp_path / "report.html").read_text()
    distance = metrics_of(finished)["metrics"]["fd12_efficientnet_lite0_ema"]
    assert f"{distance['value']:.4g}" in text
    assert distance["protocol"]["extractor"]["weights_sha256"] in text
    assert not re.search(r"(src|href|srcset)=[\"'](?!data:)", text), "the page loads something from elsewhere"


@needs_chromium
@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_the_report_fits_its_window_and_shows_every_picture(
    finished: ExperimentConfig, tmp_path: Path, width: int, theme: str
) -> None:
    main([finished.directory, "--out", str(tmp_path / "report.html")])
    with browsing(viewport={"width": width, "height": 800}, color_scheme=theme) as browser:
        page = browser.new_page()
        page.goto(f"file://{tmp_path}/report.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        widths = page.evaluate(
            "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        )
        assert len(widths) >= 7 and min(widths) > 0  # curves, film, samples, strip, branches
        headings = page.locator("h2").all_text_contents()
        assert headings == [
            "What was trained on what",
            "Scores",
            "Curves",
            "Samples as training goes on",
            "Cost",
        ]
        assert "Coarse to fine" in page.locator("h3").all_text_contents()


def test_a_folder_without_a_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert "There is no run in" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
