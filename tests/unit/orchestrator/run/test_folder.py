"""Jobs that go on with a run write into its folder, wherever that is now."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.checkpoints.selection import MARKER, Checkpoint
from orchestrator.config.command_line import parse
from orchestrator.config.plain import to_yaml
from orchestrator.config.saved import CONFIG_FILE
from orchestrator.errors import UserError
from orchestrator.run.folder import METRICS_FILE, open_run, parse_beside, read_metrics
from orchestrator.tracking.journal import Journal
from tests.configs import tiny


@dataclass(frozen=True)
class Options:
    checkpoint: str = ""


IMPOSSIBLE = to_yaml(parse("Test.", "quickstart", [])).replace("class_dropout: 0.", "class_dropout: 2.")


def downloaded(folder: Path) -> str:
    """A folder with the config of a run that was trained somewhere else."""
    folder.mkdir(parents=True)
    config = parse("Test.", "quickstart", ["--run.root", "/etc/somewhere", "--run.name", "theirs"])
    (folder / CONFIG_FILE).write_text(to_yaml(config))
    return str(folder)


def directory(weights: str, *arguments: str) -> str:
    return parse_beside(Options, "Test.", lambda options: weights, arguments)[0].directory


def test_a_run_that_was_moved_is_written_to_where_it_is(tmp_path: Path) -> None:
    run = downloaded(tmp_path / "downloads" / "mine")
    assert directory(run) == run
    assert directory(f"{run}/") == run
    assert directory(run, "--run.root", str(tmp_path)) == str(tmp_path / "mine")


def test_a_config_changes_settings_of_a_run_and_not_its_place(tmp_path: Path) -> None:
    run = downloaded(tmp_path / "downloads" / "mine")
    (tmp_path / "eight.yaml").write_text("sampling: {sampler: {steps: 3}}")
    config, _ = parse_beside(Options, "Test.", lambda _: run, ["--config", str(tmp_path / "eight.yaml")])
    assert (config.directory, config.sampling.sampler.steps) == (run, 3)
    assert config.model == parse("Test.", "quickstart", []).model
    assert directory(run, "--config", "fashion") == run
    assert directory(run, "--config", "fashion", "--run.name=other") == str(tmp_path / "downloads" / "other")


def test_a_config_of_another_version_is_said_to_be_one(tmp_path: Path) -> None:
    run = downloaded(tmp_path / "mine")
    for wrong in ("of_tomorrow: 1", "run: {", "[]", IMPOSSIBLE):
        (Path(run) / CONFIG_FILE).write_text(wrong)
        with pytest.raises(UserError, match=r"config\.yaml is no config of this version"):
            directory(run)
        with pytest.raises(UserError, match=r"config\.yaml is no config of this version"):
            _ = Checkpoint(run, 100).config


def test_metrics_that_are_cut_short_are_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"metrics": {')
    with pytest.raises(UserError, match="damaged"):
        read_metrics(str(tmp_path))


def test_a_checkpoint_of_a_run_belongs_to_that_run(tmp_path: Path) -> None:
    checkpoint = downloaded(tmp_path / "mine" / "checkpoints" / "100")
    (Path(checkpoint) / MARKER).write_text("{}")
    assert directory(checkpoint) == str(tmp_path / "mine")


def test_a_checkpoint_without_its_run_writes_to_the_default_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = downloaded(tmp_path / "100")
    (Path(checkpoint) / MARKER).write_text("{}")
    assert directory(checkpoint) == str(tmp_path / "runs" / "theirs")


def test_a_relative_path_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = downloaded(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert directory("mine") == run


def test_without_a_config_it_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is nothing at .*gone"):
        directory(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"No config\.yaml lies with .*--config NAME"):
        directory(str(tmp_path))


def test_a_run_whose_process_ended_without_a_word_is_told_from_others(tmp_path: Path) -> None:
    config = tiny(tmp_path, "data")
    assert not open_run(config, "fingerprint").was_cut_off
    journal = Journal(Path(config.directory) / "journal.jsonl")
    for status, expected in (("RUNNING", True), ("KILLED", False), ("RUNNING", True), ("FAILED", False)):
        journal.append("status", status=status)
        assert open_run(config, "fingerprint").was_cut_off == expected
