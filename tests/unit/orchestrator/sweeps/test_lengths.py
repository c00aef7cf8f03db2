"""A sweep is continued at its own lengths only."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.folder import CONFIG_FILE, write_text
from orchestrator.sweeps.ablation import _refuse_other_lengths
from tests.configs import tiny


def with_train(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def test_a_trial_of_another_length_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data", train={"images": 6000, "score_every_images": 32, "score_images": 8})
    _refuse_other_lengths({"one": config})
    write_text(config.directory, CONFIG_FILE, to_yaml(config))
    _refuse_other_lengths({"one": with_train(config, workers=1, log_every_images=8)})
    for changes in ({"images": 3000}, {"score_images": 16}, {"score_every_images": 64}):
        (key,) = changes
        with pytest.raises(UserError, match=f"one was begun with train.{key} .* --run.name"):
            _refuse_other_lengths({"one": with_train(config, **changes)})
