"""Networks with other numbers of branches, matched in parameters or multiply-adds."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimr_model import VARIANTS, DiMRConfig
from dimr_model.complexity import count_macs, count_parameters
from dimr_model.matching import TOLERANCE, match, measure, with_branches

THREE = DiMRConfig(
    input_size=28, channels=1, num_classes=10, depths=(3, 3, 1), widths=(128, 64, 24), num_heads=4
)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_fewer_branches_keep_the_coarsest_ones_positions(branches: int) -> None:
    reduced = with_branches(THREE, branches)
    assert reduced.num_branches == branches
    assert reduced.downsampling(0) == THREE.downsampling(0) == 4
    assert (reduced.depths, reduced.widths) == (THREE.depths[:branches], THREE.widths[:branches])


def test_one_branch_of_the_papers_medium_model_has_u_vits_patch_size() -> None:
    assert with_branches(VARIANTS["M/3R-64"], 1).patch_size == 4


def test_more_branches_than_there_are_cannot_be_taken() -> None:
    with pytest.raises(ValueError, match="4 branches cannot be taken from a network of 3"):
        with_branches(THREE, 4)


@pytest.mark.parametrize("by", ["parameters", "macs"])
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("variant", ["quickstart", "M/3R-64"])
def test_fewer_branches_match_all_within_two_percent(by: str, branches: int, variant: str) -> None:
    whole = VARIANTS.get(variant, THREE)
    matched = match(with_branches(whole, branches), measure(whole, by), by)  # type: ignore[arg-type]
    count = count_parameters if by == "parameters" else count_macs
    assert abs(count(matched) / count(whole) - 1) <= TOLERANCE
    assert matched.widths[0] > whole.widths[0]
    assert matched.num_branches == branches


@settings(max_examples=10)
@given(factor=st.floats(0.5, 4))
def test_any_size_from_half_to_four_times_is_matched(factor: float) -> None:
    target = round(measure(THREE, "parameters") * factor)
    matched = match(with_branches(THREE, 2), target, "parameters")
    assert abs(count_parameters(matched) / target - 1) <= TOLERANCE
    assert matched.widths[0] % THREE.num_heads == 0


def test_what_matches_already_is_left_as_it_is() -> None:
    assert match(THREE, measure(THREE, "macs"), "macs") == THREE


def test_what_cannot_be_matched_says_how_near_it_came() -> None:
    coarse = dataclasses.replace(with_branches(THREE, 1), num_heads=128)
    with pytest.raises(ValueError, match="come within 2% of 500,000 parameters; the nearest are"):
        match(coarse, 500_000, "parameters")
