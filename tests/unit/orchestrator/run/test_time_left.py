"""The time left of an experiment, from what was measured of it."""

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.time_left import EXTRACTED_PER_SECOND, SAMPLING_IS_FASTER, TimeLeft
from tests.configs import tiny

EXTRACTED = EXTRACTED_PER_SECOND["efficientnet_lite0", False]


def config(folder: Path) -> ExperimentConfig:
    sampling = {"sampler": {"steps": 10}, "guidance": {"kind": "constant", "scale": 2.0}, "actors": 2}
    train = {"images": 1000, "workers": 2}
    return tiny(folder, "data", train=train, sampling=sampling, evaluation={"images": 100})


def test_later_parts_are_estimated_from_training(tmp_path: Path) -> None:
    left = TimeLeft(config(tmp_path), real_images=1000)
    left.begin("train", 1000)
    # 1,100 real images and noise on one process; 100 samples of 20 calls; a step computes as much as three.
    sampling = 100 * 20 / (3 * 10 * SAMPLING_IS_FASTER)
    assert left.after("train", 10.0) == pytest.approx(1100 / EXTRACTED + sampling)
    left.took_to_start(8.0)
    left.took_to_start(100.0)
    assert left.after("train", 10.0) == pytest.approx(1100 / EXTRACTED + sampling + 2 * 4)


def test_what_was_measured_replaces_what_was_estimated(tmp_path: Path) -> None:
    left = TimeLeft(config(tmp_path), real_images=1000)
    left.begin("train", 1000)
    left.after("train", 10.0)
    left.begin("reference", 1000)
    sampling = 100 * 20 / (3 * 10 * SAMPLING_IS_FASTER)
    assert left.after("reference", 50.0) == pytest.approx(100 / 50 + sampling)
    left.begin("reference", 100)
    assert left.after("reference", 25.0) == pytest.approx(sampling)
    left.begin("sample", 100)
    assert left.after("sample", 1.0) == 0


def test_kept_statistics_take_no_time(tmp_path: Path) -> None:
    left = TimeLeft(config(tmp_path), real_images=1000)
    left.begin("sample", 100)
    assert left.after("sample", 1.0) == 0


def test_without_a_measured_speed_nothing_is_made_up(tmp_path: Path) -> None:
    left = TimeLeft(config(tmp_path), real_images=1000)
    left.begin("reference", 1000)
    assert left.after("reference", 50.0) == pytest.approx(2.0)


def test_each_extractor_takes_its_time(tmp_path: Path) -> None:
    one = config(tmp_path)
    both = dataclasses.replace(one.evaluation, extractors=("efficientnet_lite0", "dinov2"))
    left = TimeLeft(dataclasses.replace(one, evaluation=both), real_images=1000)
    left.begin("train", 1000)
    sampling = 100 * 20 / (3 * 10 * SAMPLING_IS_FASTER)
    seconds = 1 / EXTRACTED + 1 / EXTRACTED_PER_SECOND["dinov2", False]
    assert left.after("train", 10.0) == pytest.approx(1100 * seconds + sampling)
