"""A sweep is continued at its own lengths only, and in a folder of its own."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.config.command_line import parse_with
from orchestrator.config.plain import to_yaml
from orchestrator.config.saved import CONFIG_FILE
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError
from orchestrator.run.experiment import run_experiment
from orchestrator.run.folder import SUITE_FILE, open_run, write_text
from orchestrator.sweeps.ablation import Sweep, run_sweep
from orchestrator.sweeps.command import AblateOptions, _named_after_its_suite, suite_base
from orchestrator.sweeps.continuing import refuse_a_run, refuse_other_lengths
from orchestrator.sweeps.suites import Axis, Option, Suite, cells_of
from tests.configs import tiny


def with_train(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def test_a_trial_of_another_length_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data", train={"images": 6000, "score_every_images": 32, "score_images": 8})
    refuse_other_lengths({"one": config})
    write_text(config.directory, CONFIG_FILE, to_yaml(config))
    refuse_other_lengths({"one": with_train(config, workers=1, log_every_images=8)})
    for changes in ({"images": 3000}, {"score_images": 16}, {"score_every_images": 64}):
        (key,) = changes
        with pytest.raises(UserError, match=f"one was begun with train.{key} .* --run.name"):
            refuse_other_lengths({"one": with_train(config, **changes)})


def test_a_run_s_folder_is_no_sweep_s(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data")
    refuse_a_run(config)
    write_text(config.directory, CONFIG_FILE, to_yaml(config))
    with pytest.raises(UserError, match="is the folder of a run"):
        refuse_a_run(config)


def test_a_sweep_s_folder_is_no_run_s(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data")
    write_text(config.directory, SUITE_FILE, "{}")
    # There is no dataset either, and the folder is refused before one is asked for.
    with pytest.raises(UserError, match="is the folder of a sweep"):
        run_experiment(config)
    with pytest.raises(UserError, match="is the folder of a sweep"):
        open_run(config, "fingerprint")
    assert [file.name for file in Path(config.directory).iterdir()] == [SUITE_FILE]


def test_scores_that_cannot_be_compared_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data", train={"score_every_images": 32, "score_images": 8})
    options = [Option(name=str(images), changes={"train.score_images": images}) for images in (8, 9)]
    suite = Suite(title="unlike", scales={"nano": ()}, axes=(Axis(name="samples", options=tuple(options)),))
    cells = cells_of(suite, "nano", config)
    sweep = Sweep(config=config, suite=suite, cells=cells, prune=True, finalists=0, seeds=1)
    with pytest.raises(UserError, match="--prune false"):
        run_sweep(sweep, Console(quiet=True))
    assert not (Path(config.directory) / SUITE_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "tuning-nano"),
        (["--config", "fashion"], "tuning-fashion"),
        (["--config", "fashion", "--config", "suites/scales/tuning"], "tuning-fashion"),
        (["--config", "fashion", "--run.name", "mine"], "mine"),
    ],
)
def test_a_sweep_of_a_preset_has_a_name_of_its_own(arguments: list[str], name: str) -> None:
    config, options = parse_with(AblateOptions, "Test.", suite_base, ["--suite", "tuning", *arguments])
    assert _named_after_its_suite(config, options).run.name == name
