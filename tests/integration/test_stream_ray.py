"""Ray Data brings a rank's windows in order.

Any number of Ray Train's workers gets the same global batches.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import ray.train.torch
import torch.distributed as dist

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.data.stream import StoredRows, StreamPlan, batches, make_order, rank_dataset
from orchestrator.training.shards import DeterministicOrder, TrainJob, find_start
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.unit.orchestrator.data.test_stream import read_all

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_order_through_ray_data_is_the_planned_order(tmp_path: Path, rank: int, world_size: int) -> None:
    dataset = write_numbered(tmp_path / "data", 101, 7)
    plan = StreamPlan(StoredRows.of(dataset), make_order(dataset, seed=3, lanes=4, window=10), 8, 80, 320)
    tables = rank_dataset(plan, rank, world_size).iter_batches(batch_size=None, batch_format="pyarrow")
    streamed = [batch.indices.tolist() for batch in batches(plan, iter(tables), rank, world_size)]
    assert streamed == [batch.indices.tolist() for batch in read_all(plan, rank, world_size)]
    assert len(streamed) == 30


def write_global_batches(settings: dict[str, Any]) -> None:
    """Run in every Ray Train worker: gather what each reads into global batches, and write them."""
    shard = ray.train.get_dataset_shard("train")
    plan, rank, world_size = ray.get(shard.start).plan, dist.get_rank(), dist.get_world_size()
    tables = shard.data.iter_batches(batch_size=None, batch_format="pyarrow")
    own = [batch.indices.tolist() for batch in batches(plan, iter(tables), rank, world_size)]
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, own)
    if rank == 0:
        whole = [[index for part in parts for index in part] for parts in zip(*gathered, strict=True)]
        Path(settings["file"]).write_text(json.dumps(whole))


def global_batches(config: ExperimentConfig, dataset: LatentDataset, workers: int, folder: Path) -> Any:
    file = folder / f"{workers}.json"
    ray.train.torch.TorchTrainer(
        write_global_batches,
        train_loop_config={"file": str(file)},
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        run_config=ray.train.RunConfig(name=str(workers), storage_path=str(folder / "ray_train")),
        datasets={"train": partial(find_start, TrainJob(config, dataset, lambda: None))},  # type: ignore[arg-type, return-value]
        dataset_config=DeterministicOrder(data_cpus=1),
    ).fit()
    return json.loads(file.read_text())


@pytest.mark.long
def test_two_train_workers_get_the_planned_global_batches(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 101, 7)
    config = tiny(tmp_path, dataset.path, train={"images": 160})
    plan = find_start(TrainJob(config, dataset, lambda: None)).plan  # type: ignore[arg-type, return-value]
    found = global_batches(config, dataset, 2, tmp_path)
    assert found == [batch.indices.tolist() for batch in read_all(plan, 0, 1)]
    assert len(found) == 20
    epoch = [index for batch in found[:12] for index in batch]
    assert len(set(epoch)) == len(epoch) == 96
