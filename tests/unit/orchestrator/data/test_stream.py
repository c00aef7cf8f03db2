"""Batches are the same at every world size and from every point of resuming."""

import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.format import DatasetFile, DatasetInfo, LatentDataset
from orchestrator.data.stream import (
    Batch,
    StoredRows,
    StreamPlan,
    batches,
    make_order,
    read_directly,
    read_window,
)
from tests.datasets import write_numbered

INFO = DatasetInfo(kind="pixels", shape=(1, 2, 2), source="none", num_images=1, class_names=("a",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    return write_numbered(tmp_path_factory.mktemp("numbered") / "data", rows=101, row_group_rows=7)


def plan_of(
    dataset: LatentDataset, *, seen: int, images: int, batch_size: int, lanes: int, window: int
) -> StreamPlan:
    return StreamPlan(
        StoredRows.of(dataset),
        make_order(dataset, seed=3, lanes=lanes, window=window),
        batch_size,
        seen,
        images,
    )


def read_all(plan: StreamPlan, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """A rank's batches, without Ray Data."""
    return list(batches(plan, read_directly(plan, rank, world_size), rank, world_size))


@given(st.sampled_from([4, 8, 12]), st.sampled_from([1, 2, 4]), st.integers(1, 40), st.integers(0, 30))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_global_batches_do_not_depend_on_world_size_or_restarts(
    dataset: LatentDataset, batch_size: int, lanes: int, window: int, restart: int
) -> None:
    images = 30 * batch_size
    settings_ = {"images": images, "batch_size": batch_size, "lanes": lanes, "window": window}
    whole = [b.indices.tolist() for b in read_all(plan_of(dataset, seen=0, **settings_))]
    assert len(whole) == 30
    for world_size in (w for w in (1, 2, 4) if lanes % w == 0):
        if restart == 30:
            continue
        plan = plan_of(dataset, seen=restart * batch_size, **settings_)
        ranks = [read_all(plan, rank, world_size) for rank in range(world_size)]
        joined = [[i for part in parts for i in part.indices.tolist()] for parts in zip(*ranks, strict=True)]
        assert joined == whole[restart:]


def test_rows_keep_their_pixels_labels_and_positions_together(dataset: LatentDataset) -> None:
    for batch in read_all(plan_of(dataset, seen=0, images=96, batch_size=8, lanes=2, window=10)):
        assert batch.arrays.shape == (8, 1, 2, 2)
        assert np.array_equal(batch.arrays[:, 0, 0, 0], batch.indices)
        assert np.array_equal(batch.labels, batch.indices % 3)
        assert not batch.flipped.any()


def test_windows_out_of_order_are_refused(dataset: LatentDataset) -> None:
    plan = plan_of(dataset, seen=0, images=96, batch_size=8, lanes=1, window=4)
    with pytest.raises(RuntimeError, match="should go on at 4"):
        list(batches(plan, (read_window(plan, 0, number) for number in (0, 2, 1)), 0, 1))


def test_what_a_process_must_build_of_a_plan_does_not_grow_with_the_dataset() -> None:
    def plan_for(files: int) -> StreamPlan:
        described = tuple(DatasetFile(f"part-{n:05d}.parquet", (7,) * 16, 1, "") for n in range(files))
        dataset = LatentDataset("data", INFO, described)
        return StreamPlan(StoredRows.of(dataset), make_order(dataset, seed=3, lanes=4, window=10), 8, 0, 80)

    def built(plan: StreamPlan) -> int:
        """Bytes beside the arrays, which Ray maps into a process's memory."""
        return len(pickle.dumps(plan, protocol=5, buffer_callback=lambda buffer: None))

    assert built(plan_for(5000)) <= built(plan_for(5)) + 50


def test_row_groups_are_found_in_their_files(dataset: LatentDataset) -> None:
    rows = StoredRows.of(dataset)
    for number, (name, group, _) in enumerate(dataset.row_groups):
        expected = pq.ParquetFile(f"{dataset.path}/{name}").read_row_group(group)
        assert rows.read(number).equals(expected)
