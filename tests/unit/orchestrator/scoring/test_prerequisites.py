"""What an evaluation needs is asked for before anything is trained or sampled."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import UserError
from orchestrator.scoring.model_under_test import _check_training
from orchestrator.scoring.prerequisites import require_real_images
from orchestrator.scoring.reference_files import require_enough_real
from tests.configs import tiny


def dataset(images: int) -> Any:
    return SimpleNamespace(path="here", info=SimpleNamespace(num_images=images))


def test_a_dataset_too_small_to_be_compared_with_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data")
    require_real_images(config, dataset(10))
    with pytest.raises(UserError, match="here has 9 images"):
        require_real_images(config, dataset(9))
    evaluation = dataclasses.replace(config.evaluation, reference="there")
    require_real_images(dataclasses.replace(config, evaluation=evaluation), dataset(1))


def test_a_reference_of_three_images_is_refused() -> None:
    require_enough_real("here", 4)
    with pytest.raises(UserError, match="3 images at here"):
        require_enough_real("here", 3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prediction": "x"}, "prediction was epsilon and is x"),
        ({"schedule": "cosine"}, "schedule was .* and is cosine"),
        ({"process": "flow", "prediction": "velocity"}, "process was diffusion and is flow"),
    ],
)
def test_a_network_is_not_sampled_as_what_it_was_not_trained_for(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    config = tiny(tmp_path, "data")
    trained = dataclasses.replace(
        config, diffusion=dataclasses.replace(config.diffusion, prediction="epsilon", schedule="vp_linear")
    )
    _check_training(trained, trained, "runs/mine")
    other = dataclasses.replace(trained, diffusion=dataclasses.replace(trained.diffusion, **changes))
    with pytest.raises(UserError, match=f"runs/mine was trained with other settings.*{named}"):
        _check_training(trained, other, "runs/mine")


def test_a_flow_may_be_sampled_with_another_shift(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data", diffusion={"process": "flow", "prediction": "velocity"})
    shifted = dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, time_shift=3.0))
    _check_training(config, shifted, "runs/mine")
