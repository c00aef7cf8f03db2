"""Wrong values are explained in our own words."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.command_line import parse
from orchestrator.config.mistakes import did_you_mean_path, mistake_in, type_of
from orchestrator.config.plain import to_dict
from orchestrator.config.presets import preset_names
from orchestrator.config.schema import ExperimentConfig
from orchestrator.errors import UserError

PARSERS_WORDS = ("Parser key", "Expected a", "typing.", "<class", "Namespace", "unrecognized")


@pytest.mark.parametrize("name", preset_names())
def test_what_is_right_has_no_mistake(name: str) -> None:
    assert mistake_in(ExperimentConfig, to_dict(parse("Test.", name, [])), "") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampling.sampler.kind", "unipcc"],
         "sampling.sampler.kind is 'unipcc', and must be one of: released, .* Did you mean unipc?"),
        (["--sampling.sampler.kind=plms"], "must be one of: .*heun"),
        (["--data.source", "mnist"], "Did you mean mnist5k?"),
        (["--train.workers", "two"], "train.workers is 'two', and must be a whole number"),
        (["--run.seed", "1.5"], "run.seed is 1.5, and must be a whole number"),
        (["--train.use_gpu", "maybe"], "must be true or false"),
        (["--train.learning_rate", "fast"], "must be a number"),
        (["--train.betas", "3"], r"must be a list, such as '\[0.5, 0.5\]'"),
        (["--sampling.guidance.interval", "[1]"], "has 1 values, and must have 2"),
        (["--evaluation.save", "[pngs]"], "is 'pngs', and must be one of: parquet, npz"),
        (["--train.ema_rampup", "slow"], "must be a number"),
        (["--sampling.sampler", "ddim"], "must have settings of its own: kind, steps"),
        (["--train.images"], "--train.images needs a value"),
        (["quickstart"], "'quickstart' is no setting"),
    ],
)  # fmt: skip
def test_wrong_values_on_the_command_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse("Test.", "quickstart", arguments)
    assert not any(words in str(error.value) for words in PARSERS_WORDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"train": {"worker": 2}},
            r"mine.yaml: There is no setting 'train.worker'. Did you mean train.workers\?",
        ),
        ({"train": {"workers": "two"}}, "mine.yaml: train.workers is 'two'"),
        ({"trian": {"workers": 2}}, r"There is no setting 'trian'. Did you mean train\?"),
        ({"train": 3}, "train is 3, and must have settings of its own"),
        ({"sampling": {"sampler": {"kind": "dim"}}}, r"Did you mean ddim\?"),
    ],
)
def test_wrong_values_in_a_file(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message) as error:
        parse("Test.", "quickstart", ["--config", "quickstart", "--config", str(file)])
    assert not any(words in str(error.value) for words in PARSERS_WORDS)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5) | st.booleans())
def test_what_a_plain_kind_takes_is_no_mistake(value: Any) -> None:
    assert mistake_in(type(value), value, "name") is None


def test_types_by_key() -> None:
    assert type_of(ExperimentConfig, "train.workers") is int
    assert type_of(ExperimentConfig, "train.nothing.more") is None


def test_the_nearest_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    assert did_you_mean_path(f"{tmp_path}/quickstrat") == f"Did you mean {tmp_path}/quickstart? "
    assert did_you_mean_path(f"{tmp_path}/quickstrat/checkpoints/100") == (
        f"Did you mean {tmp_path}/quickstart? "
    )
    assert did_you_mean_path(f"{tmp_path}/other") == ""
    assert did_you_mean_path(f"{tmp_path}/quickstart") == ""
    assert did_you_mean_path("s3://bucket/quickstrat") == ""
