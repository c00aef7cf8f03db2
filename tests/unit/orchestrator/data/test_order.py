"""The order of training: exactly once per epoch, the same at every world size, one number to resume from."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.order import Order, lanes_of_rank


@st.composite
def orders(draw: st.DrawFn) -> Order:
    groups = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    lanes = draw(st.sampled_from([n for n in (1, 2, 4, 6) if n <= sum(groups)]))
    return Order(np.array(groups), draw(st.integers(0, 5)), lanes, draw(st.integers(1, 20)))


def lane_rows(order: Order, lane: int, start: int, stop: int) -> list[int]:
    """Rows (numbered over the dataset) at positions start..stop of a lane, read window by window."""
    first_row = [sum(order.row_group_rows[:group]) for group in range(len(order.row_group_rows))]
    rows: list[int] = []
    number, position = order.window_at(start), None
    while position is None or position < stop:
        window = order.read_plan(lane, number)
        string = [first_row[s.row_group] + row for s in window.slices for row in range(s.start, s.stop)]
        shuffled = [string[place] for place in window.permutation]
        position = window.start + len(shuffled)
        rows += shuffled[max(0, start - window.start) :] if not rows else shuffled
        number += 1
    return rows[: stop - start]


@given(orders(), st.integers(0, 3))
@settings(deadline=None)
def test_an_epoch_draws_every_row_at_most_once_and_leaves_out_less_than_a_row_per_lane(
    order: Order, epoch: int
) -> None:
    length = order.lane_length
    drawn = [
        row
        for lane in range(order.lanes)
        for row in lane_rows(order, lane, epoch * length, (epoch + 1) * length)
    ]
    assert len(set(drawn)) == len(drawn) == length * order.lanes
    assert order.num_rows - len(drawn) < order.lanes


@given(orders(), st.data())
@settings(deadline=None)
def test_reading_from_the_middle_continues_the_same_order(order: Order, data: st.DataObject) -> None:
    stop = data.draw(st.integers(1, 3 * order.lane_length))
    start = data.draw(st.integers(0, stop - 1))
    lane = data.draw(st.integers(0, order.lanes - 1))
    assert lane_rows(order, lane, start, stop) == lane_rows(order, lane, 0, stop)[start:]


def test_epochs_and_seeds_differ() -> None:
    def epoch(order: Order, number: int) -> list[int]:
        return lane_rows(order, 0, number * order.lane_length, (number + 1) * order.lane_length)

    order = Order(np.full(10, 10), 0, 1, 16)
    other = Order(np.full(10, 10), 1, 1, 16)
    assert epoch(order, 0) != epoch(order, 1)
    assert epoch(order, 0) != epoch(other, 0)
    assert sorted(epoch(order, 0)) == sorted(epoch(order, 1)) == list(range(100))


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_share_the_lanes_in_order(world_size: int) -> None:
    def owned() -> Iterator[int]:
        for rank in range(world_size):
            yield from lanes_of_rank(6, rank, world_size)

    assert list(owned()) == list(range(6))


def test_a_world_size_that_does_not_divide_the_lanes_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"valid are \[1, 2, 3, 6\]"):
        lanes_of_rank(6, 0, 4)


def test_only_the_first_window_of_an_epoch_looks_at_all_row_groups() -> None:
    order = Order(np.full(1000, 10), 0, 10, 16)
    number = order.window_at(700 * order.lane_length + 500)
    first = order.read_plan(3, number)
    object.__setattr__(order, "row_group_rows", None)  # Whoever looks at them now fails.
    assert order.window_at(700 * order.lane_length + 500) == number
    assert order.read_plan(3, number) == first
    assert order.read_plan(4, number + 1).slices
