"""A study of two models on a real Ray, its page in a real browser, and the votes that come out of it."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from dimr_model import DiMR
from orchestrator.config.plain import to_yaml
from orchestrator.data.format import LatentDataset
from orchestrator.distortion.command import distortion, rates
from orchestrator.errors import UserError
from tests.browser import browsing, needs_chromium
from tests.configs import tiny
from tests.waiting import wait_until

OPTIONS = ["--images", "24", "--threshold", "0.5", "--images_for_raters", "12", "--raters", "6"]


def export(folder: Path, numbered: LatentDataset, seed: int, **model: Any) -> str:
    """Untrained weights, with the config that belongs to them."""
    root = folder.parent
    config = tiny(
        root, numbered.path, run={"name": folder.name, "root": str(root)}, model={"input_size": 8, **model}
    )
    torch.manual_seed(seed)
    DiMR(config.model).save_pretrained(folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    return str(folder)


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, numbered: LatentDataset, empty_store: Path
) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_store, root / "mlflow.db")
    return [export(root / name, numbered, seed) for seed, name in enumerate(("one", "other"))]


@pytest.fixture(scope="module")
def study(checkpoints: list[str], ray_session: None) -> Path:
    distortion([*checkpoints, *OPTIONS])
    (folder,) = Path(checkpoints[0]).parent.glob("distortion/one-vs-other-*")
    return folder


def test_models_and_real_images_stand_side_by_side(study: Path) -> None:
    found = json.loads((study / "distortion.json").read_text())
    assert [row["images_of"] for row in found["images"]] == ["one", "other", "real images"]
    for row in found["images"]:
        assert row["rate"] == row["low_fidelity"] / row["images"]
        assert row["rate_low"] <= row["rate"] <= row["rate_high"]
    assert found["images"][0]["images"] == 24
    assert found["differences"].keys() == {"other - one"}
    assert found["equal_rate"]["rate"] == min(row["rate"] for row in found["images"][:2])
    assert found["protocols"]["one"]["seed"] == 0
    with (study / "classes.csv").open() as stream:
        assert [row["class"] for row in csv.DictReader(stream)] == ["zero", "one", "two"]
    assert {"probabilities.png", "worst-one.png", "equal-rate-other.png"} <= {
        file.name for file in study.iterdir()
    }


@pytest.mark.long
def test_what_was_judged_is_not_drawn_again(study: Path, checkpoints: list[str]) -> None:
    parts = {file: file.stat().st_mtime_ns for file in study.parents[1].rglob("distortion/*/features/*")}
    assert len(parts) == 2 * 6
    before = (study / "rates.csv").read_bytes()
    distortion([*checkpoints, *OPTIONS])
    assert {file: file.stat().st_mtime_ns for file in parts} == parts
    assert (study / "rates.csv").read_bytes() == before


def test_mlflow_has_the_rates_with_their_protocols(study: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{study.parents[1]}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    run = next(run for run in runs if run.info.run_name == "distortion one-vs-other")
    rows = json.loads((study / "distortion.json").read_text())["images"]
    assert run.data.metrics["distortion/one/rate"] == rows[0]["rate"]
    assert run.data.metrics["distortion/real_images/rate"] == rows[2]["rate"]
    assert json.loads(run.data.tags["protocol.other"])["samples"] == 24
    assert run.info.status == "FINISHED"
    pictures = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")}
    for name in ("probabilities", "worst_one", "equal_rate_other"):
        assert any(name in picture for picture in pictures), pictures


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, checkpoints: list[str], numbered: LatentDataset
) -> None:
    small = export(tmp_path / "small", numbered, 0, input_size=4)
    with pytest.raises(UserError, match="cannot be compared"):
        distortion([checkpoints[0], small, *OPTIONS])
    with pytest.raises(UserError, match="Two checkpoints are called one"):
        distortion([checkpoints[0], checkpoints[0], *OPTIONS])
    with pytest.raises(UserError, match="Say which checkpoints"):
        distortion(OPTIONS)
    (tmp_path / "votes.json").write_text('{"study": "none", "rater": 1, "votes": {}}')
    with pytest.raises(UserError, match="no study"):
        rates([str(tmp_path / "votes.json"), "--root", str(tmp_path)])


@needs_chromium
@pytest.mark.long
def test_raters_judge_by_keyboard_pause_go_back_and_save(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = json.loads((study / "raters-key.json").read_text())["images"]
    url, files = f"file://{study}/raters.html", []
    with browsing(accept_downloads=True) as browser:
        for rater in range(1, 7):
            page = browser.new_page()
            page.goto(url)
            page.select_option("#rater", str(rater))
            page.click("#begin")
            files.append(tmp_path / f"{rater}.json")
            judge(page, rater, files[-1])
            page.close()
    votes = [json.loads(file.read_text())["votes"] for file in files]
    assert sorted(len(one) for one in votes) == [10] * 6
    rates([*map(str, files), "--root", str(study.parents[1])])
    found = json.loads((study / "rates.json").read_text())
    assert found["judged_too_seldom"] == 0
    for model, mean in found["mean"].items():
        shares = [share(one, {i for i, image in key.items() if image["model"] == model}) for one in votes]
        assert mean == pytest.approx(sum(shares) / len(shares))
    assert "mean over raters" in capsys.readouterr().out


def share(votes: dict[str, str], images: set[str]) -> float:
    mine = [vote for image, vote in votes.items() if image in images]
    return mine.count("distorted") / len(mine)


def judge(page: Any, rater: int, file: Path) -> None:
    """Judge ten images: the first rater calls all distorted, the others the second and the third.

    A wrong key is taken back, and there is a pause.
    """
    is_strict = rater == 1
    page.keyboard.press("d")
    page.keyboard.press("b")
    assert page.text_content("#count") == "1 of 10"
    assert "chosen" in page.get_attribute("#distorted", "class")
    page.keyboard.press("d" if is_strict else "f")
    page.keyboard.press("ArrowRight")
    page.click("#distorted")

    def knows_after_a_reload() -> bool:
        page.reload()
        page.select_option("#rater", str(rater))
        return "3 judged already" in page.text_content("#known")

    # On a busy machine Chromium now and then shows a file's page an empty storage, until it is loaded again.
    wait_until(knows_after_a_reload, "the page knows of the three votes")
    page.click("#begin")
    assert page.text_content("#count") == "4 of 10"
    assert page.evaluate("() => document.getElementById('image').decode().then(() => true)")
    for _ in range(7):
        page.keyboard.press("d" if is_strict else "ArrowLeft")
    assert page.text_content("#summary") == f"10 images judged, {10 if is_strict else 2} of them distorted."
    with page.expect_download() as download:
        page.keyboard.press("s")
    download.value.save_as(file)
