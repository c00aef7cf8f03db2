"""Ray Data brings a rank's windows in order, also with several reading at once."""

from pathlib import Path

import pytest

from orchestrator.latents.stream import StreamPlan, batches, make_order, rank_dataset
from tests.datasets import write_numbered
from tests.unit.orchestrator.latents.test_stream import read_all

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_order_through_ray_data_is_the_planned_order(tmp_path: Path, rank: int, world_size: int) -> None:
    dataset = write_numbered(tmp_path / "data", 101, 7)
    plan = StreamPlan(dataset, make_order(dataset, seed=3, lanes=4, window=10), 8, 80, 320)
    tables = rank_dataset(plan, rank, world_size).iter_batches(batch_size=None, batch_format="pyarrow")
    streamed = [batch.indices.tolist() for batch in batches(plan, iter(tables), rank, world_size)]
    assert streamed == [batch.indices.tolist() for batch in read_all(plan, rank, world_size)]
    assert len(streamed) == 30
