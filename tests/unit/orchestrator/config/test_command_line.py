"""Reading configs: presets, overrides, and errors that name the way out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.command_line import parse
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "quickstrat"], "Did you mean quickstart"),
        (["--train.batchsize", "3"], "Did you mean 'train.batch_size'"),
        (["--train.lr", "3"], "train has: .*train.learning_rate"),
        (["--bogus", "3"], "Sections: cluster, data"),
        (["--train.images", "many"], "train.images"),
        (["--diffusion.prediction", "x0"], "'epsilon', 'v'"),
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
