"""Numbers in any notation, no key twice, and the nearest name for every typo."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.command_line import parse
from orchestrator.config.yaml_files import as_whole_number, read_yaml
from orchestrator.errors import UserError


def read(tmp_path: Path, text: str, *arguments: str) -> Any:
    (tmp_path / "x.yaml").write_text(text)
    return parse(
        "Test.", "quickstart", ["--config", "quickstart", "--config", str(tmp_path / "x.yaml"), *arguments]
    )


@pytest.mark.parametrize("written", ["1000000", "1e6", "1E6", "1.0e6", "1_000_000", "1000000.0", "+1e6"])
def test_whole_numbers_are_read_in_any_notation(written: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"train: {{images: {written}}}").train.images == 1_000_000
    assert read(tmp_path, "", "--train.images", written).train.images == 1_000_000
    assert read(tmp_path, "", f"--train.images={written}").train.images == 1_000_000


@pytest.mark.parametrize("written", [".5", "5e-1", "0.5", "5.0E-1", ".5e0"])
def test_fractions_are_read_in_any_notation(written: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"diffusion: {{class_dropout: {written}}}").diffusion.class_dropout == 0.5
    assert read(tmp_path, "", "--diffusion.class_dropout", written).diffusion.class_dropout == 0.5


@pytest.mark.parametrize("written", ["1.5", "1e-3", "1e400", "many"])
def test_what_is_no_whole_number_stays_a_mistake(written: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.images is .*, and must be a whole number"):
        read(tmp_path, f"train: {{images: {written}}}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  images: 1\n  images: 2\n", "not valid YAML: images is there twice, in lines 2 and 3"),
        ("train: {images: 1}\ntrain: {batch_size: 8}\n", "train is there twice, in lines 1 and 2"),
        ("train: {imges: 1}", "no setting 'train.imges'. Did you mean train.images"),
        ("trian: {images: 1}", "no setting 'trian'. Did you mean train"),
        ("sampling: {labels: balancd}", "Did you mean balanced"),
        ("run: {name: 0123}", "Put it in quotes"),
        ("- 1", "holds no settings"),
        ("train:\n\timages: 1", "is not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_are_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, text)


def test_a_forgotten_dash_is_seen(tmp_path: Path) -> None:
    for argument in ("train.images=5", "-train.images=5"):
        with pytest.raises(UserError, match="begin with two dashes: --train.images"):
            read(tmp_path, "", argument)


def test_merged_mappings_may_override(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n")
    assert read_yaml(tmp_path / "x.yaml")["d"] == {"b": 3, "c": 2}


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_a_whole_number_stays_what_it_is(number: int) -> None:
    for written in (number, float(number), f"{number:_}", f"{number}.0"):
        assert as_whole_number(written) == number
    assert as_whole_number(number + 0.5) == number + 0.5
