"""What samples are compared with is made beside training, and found by the evaluation."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.run.beside_training import is_made_early, start_making, wait_for
from orchestrator.scoring.evaluate import make_judges
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE

QUIET = Console(quiet=True)


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return write_numbered(tmp_path / "data", 60, 10, size=8)


def config_of(dataset: LatentDataset, **evaluation: Any) -> ExperimentConfig:
    runs = Path(dataset.path).parent / "runs"
    return tiny(
        runs, dataset.path, sampling={"actors": 1}, evaluation={"class_agreement": True, **evaluation}
    )


def kept(dataset: LatentDataset) -> dict[str, int]:
    """Name -> time of each file that was made of a dataset."""
    files = (Path(dataset.path) / "statistics").rglob("*")
    return {path.name: path.stat().st_mtime_ns for path in files if path.suffix in (".npz", ".safetensors")}


def test_the_evaluation_finds_what_was_made(ray_session: None, dataset: LatentDataset) -> None:
    config = config_of(dataset)
    wait_for(start_making(config, dataset), QUIET, PATIENCE)
    made = kept(dataset)
    assert {name.split(".")[-1] for name in made} == {"npz", "safetensors"}
    make_judges(config, dataset, QUIET)
    assert kept(dataset) == made


def test_a_process_that_was_killed_is_no_mistake(ray_session: None, dataset: LatentDataset) -> None:
    making = start_making(config_of(dataset), dataset)
    ray.cancel(making, force=True)
    wait_for(making, QUIET, PATIENCE)


def test_what_needs_gpus_pools_or_a_given_reference_waits_for_the_end(dataset: LatentDataset) -> None:
    config = config_of(dataset)
    assert is_made_early(config, dataset)
    assert not is_made_early(config_of(dataset, reference="statistics.npz"), dataset)
    assert not is_made_early(config_of(dataset, extractor_use_gpu=True), dataset)
    large = dataclasses.replace(dataset, info=dataclasses.replace(dataset.info, num_images=1_281_167))
    assert not is_made_early(config, large)
    here = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, actors=0))
    assert not is_made_early(here, dataset)
