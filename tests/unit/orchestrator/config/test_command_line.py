"""Reading configs: presets, overrides, and errors that name the way out."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.command_line import merged, parse, parse_with
from orchestrator.config.plain import flatten, from_dict, to_dict
from orchestrator.config.presets import preset_names
from orchestrator.errors import UserError


def read(*arguments: str) -> object:
    return parse("Test.", "quickstart", list(arguments))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_survives_a_round_trip(name: str) -> None:
    config = parse("Test.", name, [])
    assert from_dict(to_dict(config)) == config


def test_command_line_overrides_the_preset() -> None:
    config = parse(
        "Test.", "quickstart", ["--train.images", "640", "--run.name=other", "--train.betas", "[0.9, 0.95]"]
    )
    assert (config.train.images, config.run.name, config.train.betas) == (640, "other", (0.9, 0.95))
    assert config.model.input_size == 28


@settings(max_examples=30)
@given(st.integers(1, 10**12), st.floats(1e-9, 1.0), st.booleans())
def test_values_survive_a_round_trip(images: int, rate: float, flip: bool) -> None:
    plain = to_dict(parse("Test.", "quickstart", []))
    plain["train"] |= {"images": images, "learning_rate": rate}
    plain["data"]["random_flip"] = flip
    assert to_dict(from_dict(plain)) == plain


def test_flattened_keys_are_those_of_the_command_line() -> None:
    flat = flatten(parse("Test.", "quickstart", []))
    assert flat["sampling.sampler.kind"] == "dpm_solver_multistep"
    assert flat["model.num_classes"] == 10


DIFFUSION = ("--diffusion.process", "diffusion", "--diffusion.prediction", "v")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "quickstrat"], "Did you mean quickstart"),
        (["--train.batchsize", "3"], "Did you mean 'train.batch_size'"),
        (["--train.lr", "3"], "train has: .*train.learning_rate"),
        (["--bogus", "3"], "Sections: cluster, data"),
        (["--train.images", "many"], "train.images"),
        (["--diffusion.prediction", "x0"], "diffusion.prediction is 'x0', and must be one of: epsilon, v"),
        (["--diffusion.process", "flow", "--diffusion.prediction", "epsilon"], "Use velocity, v or x"),
        (["--diffusion.process", "diffusion"], "use v"),
        (["--diffusion.prediction", "x", "--diffusion.loss_weight", "edm"], "use v or velocity"),
        ([*DIFFUSION, "--diffusion.time_shift", "3"], "leave time_shift at 1"),
        (["--diffusion.time_std", "0"], "must be positive"),
        (["--train.betas", "[0.9, 1.0]"], r"must be in \[0, 1\)"),
        (["--train.initial_std", "-1"], "must be positive, or null"),
        (
            ["--diffusion.process", "flow", "--sampling.sampler.kind", "ddim"],
            "use one of dpm_solver_multistep",
        ),
        (
            [*DIFFUSION, "--sampling.sampler.kind", "euler"],
            "euler does not sample diffusion.process diffusion",
        ),
        (["--train.optimizer", "moun"], "must be one of: adamw, muon"),
        (["--train.workers", "3"], "the nearest that do are 2 and 4"),
        (["--train.min_workers", "3"], "must be in 1..train.workers 2"),
        (["--train.batch_size", "18"], "the nearest that does is"),
        (["--model.num_heads", "3"], "does not divide"),
        (["--run.name", "../escape"], "must start with a letter"),
        (["--tracking.uri", "https://me:hidden@mlflow.example"], "MLFLOW_TRACKING_PASSWORD"),
        (["--run.root", "s3://key:hidden@bucket/runs"], "AWS_SECRET_ACCESS_KEY"),
        (["--sampling.guidance.scale", "0.4"], "the released code's 0.4 is 1.4"),
        (["--diffusion.class_dropout", "0"], "set diffusion.class_dropout above 0"),
        (["--train.preview_every_images", "100"], "must be a multiple of"),
        (["--data.source", "idx"], "needs data.source_path"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(*arguments)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--train.workers", "8"], [8]),
        (["--train.workers", "8", "--train.min_workers", "2"], [2, 4, 8]),
        (["--train.workers", "8", "--train.min_workers", "3"], [4, 8]),
        # A worker's share of the batch of 64 goes through the network in 16 parts.
        (["--train.workers", "4", "--train.min_workers", "1", "--train.micro_batches", "16"], [1, 2, 4]),
        (["--train.workers", "0"], [0]),
    ],
)
def test_world_sizes_divide_the_lanes(arguments: list[str], expected: list[int]) -> None:
    config = parse("Test.", "quickstart", [*arguments, "--train.batch_size", "64", "--data.lanes", "64"])
    assert config.world_sizes == expected


def test_a_wrong_key_in_a_file_is_named(tmp_path: object) -> None:
    path = f"{tmp_path}/mine.yaml"
    with open(path, "w") as stream:
        stream.write("run:\n  name: mine\ntrain:\n  image: 5\n")
    with pytest.raises(UserError, match="image"):
        read("--config", path)


@dataclasses.dataclass(frozen=True)
class Chosen:
    preset: str = "quickstart"


@pytest.mark.parametrize(
    "arguments",
    [
        # Each fits the preset that the options choose, and not the quickstart.
        ["--train.workers", "8"],
        ["--evaluation.grid_classes", "[300]"],
        ["--data.lanes", "32", "--train.workers", "16"],
    ],
)
def test_the_config_that_the_options_choose_is_the_one_that_counts(arguments: list[str]) -> None:
    arguments = ["--preset", "imagenet256_g2r", *arguments]
    config, chosen = parse_with(Chosen, "Test.", lambda options: merged([options.preset]), arguments)
    assert (config.model.num_classes, chosen.preset) == (1000, "imagenet256_g2r")
    assert config == parse("Test.", "imagenet256_g2r", arguments[2:])


def test_a_mistake_in_what_the_options_choose_is_explained() -> None:
    with pytest.raises(UserError, match="does not divide data.lanes"):
        parse_with(Chosen, "Test.", lambda options: merged([options.preset]), ["--train.workers", "3"])
    with pytest.raises(UserError, match="Did you mean 'train.images'"):
        parse_with(Chosen, "Test.", lambda options: merged([options.preset]), ["--train.image", "3"])


def test_a_base_is_overridden_by_files_and_these_by_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {images: 5000, warmup_images: 100}\n")
    base = merged(["quickstart"]) | {"run": {"name": "base"}}
    config, _ = parse_with(Chosen, "Test.", base, ["--config", str(file), "--train.images", "6000"])
    assert (config.run.name, config.train.images, config.train.warmup_images) == ("base", 6000, 100)


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse("Test.", "imagenet64_m3r", [*arguments, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_says_what_settings_are_and_what_they_are_set_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = help_of(capsys)
    assert "Weights, data order, training noise and samples all derive from it." in said
    assert "(type: str, default: imagenet64_m3r)" in said and "(required" not in said
    assert "(type: str, default: fashion)" in help_of(capsys, "--config", "fashion")
    (tmp_path / "mine.yaml").write_text("run: {name: mine}\ntrain:\nof_tomorrow: 1\n")
    assert "(type: str, default: mine)" in help_of(capsys, f"--config={tmp_path / 'mine.yaml'}")


@pytest.mark.parametrize("is_known", [True, False])
def test_help_asks_for_the_base_that_the_options_choose(
    is_known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def base(chosen: Chosen) -> dict[str, Any]:
        if not is_known:
            raise UserError("There is no such run.")
        return merged([chosen.preset])

    with pytest.raises(SystemExit) as ended:
        parse_with(Chosen, "Test.", base, ["--preset", "fashion", "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("(type: str, default: datasets/fashion)" in said) == is_known
    assert ("(required, type: str)" in said) != is_known
