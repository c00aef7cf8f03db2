"""Draws belong to (seed, purpose, index) and to nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dimr_model.randomness import generator, normal, uniform


@given(
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True),
    st.integers(0, 5),
)
def test_a_row_does_not_depend_on_the_other_rows(seed: int, indices: list[int], attempt: int) -> None:
    together = normal(seed, "p", indices, (3,), attempt)
    for row, index in zip(together, indices, strict=True):
        assert np.array_equal(row, normal(seed, "p", [index], (3,), attempt)[0])


def test_seed_purpose_index_and_attempt_all_matter() -> None:
    draws = {
        uniform(seed, purpose, [index], attempt)[0]
        for seed in (0, 1) for purpose in ("a", "b") for index in (0, 1) for attempt in (0, 1)
    }  # fmt: skip
    assert len(draws) == 16


def test_neighbouring_streams_do_not_overlap() -> None:
    # Enough draws to leave the first counter block many times over.
    first, second = (generator(0, "p", index).random(100_000) for index in (0, 1))
    assert not np.intersect1d(first, second).size


def test_noise_is_standard_normal() -> None:
    noise = normal(0, "p", range(2000), (50,))
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
