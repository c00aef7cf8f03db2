"""The page says which numbers chance alone could have made different, and what the VAE allows at best."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from orchestrator.report.comparison import PLUS_MINUS, indistinguishable
from orchestrator.report.page import render
from orchestrator.report.reading import RunData, _vaes
from tests.configs import tiny

LITE0 = {"name": "efficientnet_lite0", "weights_sha256": "1" * 64}
CLASSIFIER = {"name": "dataset_classifier", "weights_sha256": "2" * 64}
VAE = {"name": "vae", "revision": "main"}


def entry(
    value: float, error: float | None, extractor: dict[str, str] | None, **protocol: Any
) -> dict[str, Any]:
    whole = {
        "samples": 1000, "seed": 0, "weights": {"kind": "ema"}, "sampler": {"kind": "ddim", "steps": 10},
        "guidance": {"kind": "none"}, "vae": VAE, "batch_size": 4,
        **({"extractor": extractor, "reference": {"sha256": extractor["name"]}} if extractor else {}),
        **protocol,
    }  # fmt: skip
    known = {} if error is None else {"error": error}
    return {"value": value, "meaning": "distance", "protocol": whole, **known}


def run(name: str, lite0: float, classifier: float, **protocol: Any) -> RunData:
    metrics = {
        "fd1k_efficientnet_lite0_ema": entry(lite0, 2.0, LITE0, **protocol),
        "precision1k_efficientnet_lite0_ema": entry(0.5, None, LITE0, **protocol),
        "fd1k_dataset_classifier_ema": entry(classifier, 0.1, CLASSIFIER, **protocol),
        "class_agreement_1k_ema": entry(0.9, None, None, **protocol),
    }
    config = tiny(Path("runs"), "data", run={"name": name})
    return RunData(
        name, f"runs/{name}", config, "FINISHED", "today", "digits", {}, [], None,
        {"images_seen": 64, "metrics": metrics}, [], [], [],
    )  # fmt: skip


def said(*runs: RunData) -> list[str]:
    return [text.replace(PLUS_MINUS, " ± ") for text in indistinguishable([(one, one.final) for one in runs])]


def test_what_chance_could_have_made_is_said_for_each_space() -> None:
    lite0, classifier = said(run("one", 100, 5), run("two", 103, 6), run("three", 150, 5.1))
    assert "the smallest is 100 ± 2, of one" in lite0
    assert "cannot be told apart from two after 64 images with seed 0 (103 ± 2): chance" in lite0
    assert "cannot be told apart from three after 64 images with seed 0 (5.1 ± 0.1)" in classifier
    (lite0, _) = said(run("one", 100, 5), run("two", 120, 6))
    assert "All others differ from it by more than chance makes in 95 of 100 cases" in lite0


def test_only_what_was_measured_alike_is_ranked() -> None:
    assert said(run("one", 100, 5), run("two", 103, 6, batch_size=7)) == []
    assert len(said(run("one", 100, 5), run("two", 103, 6, seed=3))) == 2
    assert said(run("one", 100, 5)) == []


def test_the_page_has_a_row_for_each_space_and_the_vaes_floor() -> None:
    floor = {**entry(42.5, 0.5, LITE0), "meaning": "the floor"}
    del floor["protocol"]["samples"]
    one = dataclasses.replace(run("one", 100, 5), vaes=[{"metrics": {"rfd500_efficientnet_lite0": floor}}])
    page = render([one, run("two", 103, 6)], []).replace(PLUS_MINUS, " ± ")
    assert "<td>100 ± 2</td>" in page and "<td>5 ± 0.1</td>" in page
    assert page.count("<td>dataset_classifier</td>") == 2
    assert "floor by the VAE" in page and page.count("<td>42.5 ± 0.5</td>") == 1
    assert "rfd500_efficientnet_lite0: 42.5 ± 0.5, the floor" in page
    assert "cannot be told apart from two" in page
    # Two extractors differ, and their rows were measured alike all the same.
    assert "not measured alike" not in page
    assert "not measured alike (batch_size differ)" in render([one, run("two", 103, 6, batch_size=7)], [])


def test_a_vae_s_scores_are_found_beside_the_run_that_it_decoded(tmp_path: Path) -> None:
    for name, vae in (("mine", VAE), ("other", {"name": "other"})):
        (tmp_path / "vae" / name).mkdir(parents=True)
        content = {"metrics": {"psnr_5": {"value": 1.0, "protocol": {"vae": vae}}}}
        (tmp_path / "vae" / name / "metrics.json").write_text(json.dumps(content))
    scored = {"metrics": {"fd": entry(1.0, None, LITE0)}}
    (found,) = _vaes(str(tmp_path / "run"), scored)
    assert found["metrics"]["psnr_5"]["protocol"]["vae"] == VAE
    assert list(_vaes(str(tmp_path / "run"), {})) == []


def test_scores_of_older_versions_are_shown_and_not_ranked() -> None:
    old = run("old", 100, 5)
    for one in old.final["metrics"].values():
        one.pop("error", None)
    assert "<td>100</td>" in render([old], [])
    assert said(old, run("new", 101, 5)) == []
