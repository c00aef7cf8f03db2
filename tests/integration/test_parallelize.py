"""Sharding over processes changes where the weights are, not what they become."""

import copy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from dimr_model import DiMR, DiMRConfig
from dimr_model.diffusion import branch_losses, multi_scale_loss
from orchestrator.config import TrainConfig
from orchestrator.training.parallelize import parallelize

CONFIG = DiMRConfig(input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(16, 8), num_heads=2)
WORLD_SIZE = 2


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.linspace(-4, 4, 4), torch.tensor([0, 1, 2, 3])


def trained(model: DiMR, share: slice) -> dict[str, Tensor]:
    """Weights after two plain steps, each on this process's share of the batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        noisy, level, labels = (tensor[share] for tensor in inputs())
        multi_scale_loss(branch_losses(model(noisy, level, labels), noisy)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in weights.items()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    mesh, share = init_device_mesh("cpu", (WORLD_SIZE,)), slice(2 * rank, 2 * rank + 2)
    torch.manual_seed(0)
    whole = DiMR(CONFIG)
    expected = trained(copy.deepcopy(whole), slice(None))
    for smallest_unit, units in ((1, 5), (10**9, 1)):
        sharded = parallelize(copy.deepcopy(whole), mesh, TrainConfig(images=1), smallest_unit)
        assert sum(isinstance(module, FSDPModule) for module in sharded.modules()) == units
        for name, weight in trained(sharded, share).items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


def test_two_processes_train_like_one_whatever_is_gathered_together(tmp_path: Path) -> None:
    mp.spawn(process, args=(str(tmp_path),), nprocs=WORLD_SIZE)
