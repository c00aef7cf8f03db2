"""Muon in several processes: matrices are whole where they are orthogonalized, and sharded elsewhere."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from dimr_model import DiMR, DiMRConfig
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.training import TrainConfig
from orchestrator.data.format import open_dataset
from orchestrator.training import muon
from orchestrator.training.optimizer import build_optimizer, set_learning_rate
from orchestrator.training.parallelize import make_mesh, parallelize
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.processes import in_processes
from tests.states import whole_state

pytestmark = pytest.mark.long
# Widths that four processes cannot share alike.
CONFIG = DiMRConfig(input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(18, 7), num_heads=2)
RATE = 1e-2


def updated(model: DiMR, config: TrainConfig) -> dict[str, Tensor]:
    """The weights after two updates with gradients that are the same however they are sharded."""
    optimizer = build_optimizer(model, config)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        set_learning_rate(optimizer, RATE)
        optimizer.step()
    for parameter in model.parameters():
        for value in optimizer.state[parameter].values():
            assert not value.dim() or isinstance(value, DTensor) == isinstance(parameter, DTensor)
    return whole_weights(model)


def whole_weights(model: DiMR) -> dict[str, Tensor]:
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in weights.items()}


def compare_with_one_process() -> None:
    torch.manual_seed(0)
    whole = DiMR(CONFIG)
    for sharding in ("shard", "replicate", "hybrid"):
        config = TrainConfig(images=1, optimizer="muon", sharding=sharding)  # type: ignore[arg-type]
        mesh = make_mesh(config, "cpu", dist.get_world_size(), workers_per_node=2)
        expected = updated(copy.deepcopy(whole), config)
        same = parallelize(copy.deepcopy(whole), mesh, config, smallest_unit=1)
        for name, weight in updated(same, config).items():
            assert torch.equal(weight, expected[name]), f"{sharding} {name}"


def test_four_processes_update_like_one_however_they_share() -> None:
    in_processes(compare_with_one_process, 4)


def share_few_matrices() -> None:
    orthogonalize, done = muon._orthogonalized, []

    def counting(matrices: Tensor, count: int) -> Tensor:
        done.append(tuple(matrices.shape))
        return orthogonalize(matrices, count)

    muon._orthogonalized = counting
    mesh = make_mesh(TrainConfig(images=1), "cpu", dist.get_world_size(), workers_per_node=4)
    shapes = [(12, 4), (5, 7)]
    generator = torch.Generator().manual_seed(1)
    whole = [torch.randn(shape, generator=generator) for shape in shapes]
    shared = [distribute_tensor(matrix, mesh, [Shard(0)]) for matrix in whole]
    found = muon.orthogonalized([matrix.to_local() for matrix in shared], shared, [3, 1])
    for matrix, part, like, count in zip(whole, found, shared, [3, 1], strict=True):
        expected = distribute_tensor(orthogonalize(matrix, count), mesh, [Shard(0)]).to_local()
        assert torch.equal(part, expected), like.shape
    by_all: list[list[tuple[int, ...]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(by_all, done)
    assert sorted(by_all) == [[], [], [(5, 7)], [(12, 4)]]


def test_each_matrix_is_the_work_of_one_worker_and_some_have_none() -> None:
    in_processes(share_few_matrices, 4)


def config_of(root: str, images: int, workers: int) -> ExperimentConfig:
    folder = Path(root)
    train = {"optimizer": "muon", "images": images, "workers": workers}
    return tiny(folder / "run", str(folder / "data"), train=train)


def train_half(root: str) -> None:
    config = config_of(root, 32, dist.get_world_size())
    run_process(TrainJob(config, open_dataset(config.data.path), no_hooks))


def test_one_process_goes_on_where_two_stopped(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    in_processes(train_half, 2, str(tmp_path))
    config = config_of(str(tmp_path), 64, 0)
    assert (tmp_path / "run" / "tiny" / "checkpoints" / "32" / "__1_0.distcp").is_file()
    run_process(TrainJob(config, dataset, no_hooks))
    alone = tiny(tmp_path / "alone", dataset.path, train={"optimizer": "muon"})
    run_process(TrainJob(alone, dataset, no_hooks))
    found, expected = whole_state(config), whole_state(alone)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if "/ema/" in name or "/model/" in name:
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4, msg=name)
