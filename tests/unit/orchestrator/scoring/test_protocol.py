"""A metric's name says what was measured, of how many images, and by which network."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.scoring.judge import warnings_of
from orchestrator.scoring.protocol import Measurement, sample_protocol
from tests.configs import tiny


def measurement(metric: str, count: int | None, extractor: str | None, images: str = "ema") -> Measurement:
    return Measurement(
        metric=metric, count=count, extractor=extractor, images=images, value=1.0, meaning="", protocol={}
    )


@pytest.mark.parametrize(
    ("count", "name"),
    [(50_000, "fid50k_inception_ema"), (40_000, "fid40k_inception_ema"), (1234, "fid1234_inception_ema")],
)
def test_the_name_says_how_many_samples(count: int, name: str) -> None:
    assert measurement("fid", count, "inception").name == name


@pytest.mark.parametrize(
    ("made", "name", "without_count"),
    [
        (("fd", 1000, "efficientnet_lite0"), "fd1k_efficientnet_lite0_ema", "fd_efficientnet_lite0_ema"),
        (
            ("fd", 1000, "efficientnet_lite0", "noise"),
            "fd1k_efficientnet_lite0_noise",
            "fd_efficientnet_lite0_noise",
        ),
        (("class_agreement", 1000, None), "class_agreement_1k_ema", "class_agreement_ema"),
        (
            ("classifier_accuracy_held_out", None, None, ""),
            "classifier_accuracy_held_out",
            "classifier_accuracy_held_out",
        ),
    ],
)
def test_what_the_metric_has_no_part_of_is_left_out(
    made: tuple[str, int, str], name: str, without_count: str
) -> None:
    assert measurement(*made).name == name
    assert measurement(*made).name_without_count == without_count


def warnings(config: ExperimentConfig, images: int) -> list[str]:
    evaluation = dataclasses.replace(config.evaluation, images=images)
    return warnings_of(dataclasses.replace(config, evaluation=evaluation))


def test_samples_that_miss_classes_are_told_of(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data", model={"num_classes": 100})
    tested: Any = SimpleNamespace(weights={}, images_seen=0)
    assert "only the first 40 of 100 classes" in sample_protocol(config, tested, None, 40)["labels"]
    singular, missing = warnings(config, 40)
    assert "KID is unbiased" not in singular and "only the first 40 of 100 classes" in missing
    # Nothing is missing with enough samples, with labels by chance, or where there are no classes.
    for changed, count in (
        (config, 100),
        (tiny(tmp_path, "data", model={"num_classes": 100}, sampling={"labels": "random"}), 40),
        (
            tiny(
                tmp_path, "data", model={"num_classes": 100, "class_conditioning": "none"},
                diffusion={"class_dropout": 0.0}, sampling={"guidance": {"kind": "none"}},
            ),
            40,
        ),
    ):  # fmt: skip
        assert sample_protocol(changed, tested, None, count) == sample_protocol(changed, tested, None)
        (only,) = warnings(changed, count)
        assert only.endswith("KID is unbiased at any count.")
    assert warnings(config, 400) == []
