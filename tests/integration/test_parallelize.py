"""Sharding over processes changes where the weights are, not what they become."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from dimr_model import DiMR, DiMRConfig
from dimr_model.diffusion import NoiseSchedule, branch_losses, multi_scale_loss
from dimr_model.ema import EMA
from orchestrator.benchmarks.scale.step import Counts
from orchestrator.config.training import TrainConfig
from orchestrator.training import parallelize as parallelize_module
from orchestrator.training.optimizer import build_optimizer
from orchestrator.training.parallelize import count_shards, make_mesh, parallelize
from orchestrator.training.state import TrainState, fresh_state
from orchestrator.training.step import Draws, train_step
from orchestrator.training.timing import Stopwatch
from tests.configs import tiny
from tests.processes import in_processes

CONFIG = DiMRConfig(input_size=8, channels=1, num_classes=3, depths=(3, 1), widths=(16, 8), num_heads=2)
CPU = torch.device("cpu")


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.linspace(-4, 4, 4), torch.tensor([0, 1, 2, 3])


def trained(model: DiMR, share: slice) -> dict[str, Tensor]:
    """The weights after two plain steps, each on this process's share of the batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        noisy, level, labels = (tensor[share] for tensor in inputs())
        multi_scale_loss(branch_losses(model(noisy, level, labels), noisy)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in weights.items()}


def compare_with_one_process(sharding: str, smallest_unit: int, units: int, copies: int) -> None:
    """Compare the sharded network on four processes, two to a node, with a whole one."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    config = TrainConfig(images=1, sharding=sharding)  # type: ignore[arg-type]
    mesh = make_mesh(config, "cpu", world_size, workers_per_node=2)
    torch.manual_seed(0)
    whole = DiMR(CONFIG)
    expected = trained(copy.deepcopy(whole), slice(None))
    sharded = parallelize(copy.deepcopy(whole), mesh, config, smallest_unit)
    assert sum(isinstance(module, FSDPModule) for module in sharded.modules()) == units
    held = sum(p.to_local().numel() for p in sharded.parameters())  # type: ignore[attr-defined]
    everywhere = torch.tensor(held)
    dist.all_reduce(everywhere)
    assert everywhere == copies * sum(p.numel() for p in whole.parameters())
    for name, weight in trained(sharded, slice(rank, rank + 1)).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)


def compare_all() -> None:
    for sharding, copies in (("shard", 1), ("replicate", 4), ("hybrid", 2)):
        compare_with_one_process(sharding, smallest_unit=1, units=6, copies=copies)
    compare_with_one_process("shard", smallest_unit=10**9, units=1, copies=1)
    # Three workers on one node and one on another: every rank refuses, and none waits for the others.
    hybrid, here = TrainConfig(images=1, sharding="hybrid"), 3 if dist.get_rank() < 3 else 1
    with pytest.raises(ValueError, match="placed 1 and 3 to a node"):
        make_mesh(hybrid, "cpu", dist.get_world_size(), workers_per_node=here)


def test_four_processes_train_like_one_however_they_share() -> None:
    in_processes(compare_all, 4)


def test_hybrid_sharding_needs_full_nodes() -> None:
    with pytest.raises(ValueError, match="equally many workers on every node"):
        count_shards(TrainConfig(images=1, sharding="hybrid"), world_size=6, workers_per_node=4)


def bytes_held(tensors: list[Tensor]) -> int:
    return sum(t.to_local().nbytes if isinstance(t, DTensor) else t.nbytes for t in tensors)


def train_true_width(folder: str) -> None:
    """Two optimizer steps of DiMR-G/2R, with 3 blocks a branch, and what this rank holds afterwards."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = DiMRConfig(
        input_size=32, channels=4, num_classes=1000, depths=(3, 3), widths=(1152, 576), num_heads=16
    )
    config = tiny(Path(folder), folder, train={"images": 8, "batch_size": 4, "workers": world_size})
    config = dataclasses.replace(config, model=model)
    state = fresh_state(config, make_mesh(config.train, "cpu", world_size, world_size), CPU)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(2):
        shape = (2, 4, 32, 32)
        clean, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        draws = Draws(clean, noise, torch.tensor([1, 900]), torch.tensor([7, 1000]))
        result = train_step(config, state, draws, NoiseSchedule("scaled_linear"), Stopwatch(CPU))
        assert not result.skipped
    parameters = list(state.model.parameters())
    total = sum(p.numel() * p.element_size() for p in parameters)
    assert total > 240e6
    moments = [value for held in state.optimizer.state.values() for value in held.values() if value.dim()]
    for tensors, copies in ((parameters, 1), (moments, 2), (list(state.ema.weights.values()), 1)):
        share = copies * total / world_size
        assert abs(bytes_held(tensors) - share) < 0.05 * share


@pytest.mark.long
def test_every_rank_holds_its_share_of_weights_optimizer_and_ema(tmp_path: Path) -> None:
    in_processes(train_true_width, 2, str(tmp_path))


NETWORKS: dict[str, dict[str, Any]] = {
    "the paper's": {"qk_norm": True},
    "AdaLN-Zero": {"time_conditioning": "adaln_zero", "class_conditioning": "adaln_zero"},
    "TD-LN with skips": {"time_conditioning": "td_layernorm", "branch_skips": True},
}


def compare_what_is_sent(sharding: str, fields: dict[str, Any]) -> None:
    """Train in bf16, once with weights that are sent as bf16 and once as float32, and compare the bits."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    train = {
        "images": 96, "batch_size": 16, "workers": world_size, "micro_batches": 2, "warmup_images": 0,
        "precision": "bf16", "sharding": sharding,
    }  # fmt: skip
    model = {"input_size": 8, "depths": [3, 3], "widths": [16, 8], **fields}
    config = tiny(Path("unused"), "unused", model=model, train=train, data={"lanes": world_size})
    states, sent = [], []
    for policy in (parallelize_module._sent_as_bf16, lambda _: MixedPrecisionPolicy()):
        torch.manual_seed(0)
        network = DiMR(config.model).train()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallelize_module, "_sent_as_bf16", policy)
            network = parallelize(network, make_mesh(config.train, "cpu", world_size, 2), config.train, 1)
        states.append(TrainState(network, build_optimizer(network, config.train), EMA(network), CPU))
        generator, counts = torch.Generator().manual_seed(rank), Counts()
        for _ in range(3):
            clean, noise = (torch.randn(4, 1, 8, 8, generator=generator) for _ in range(2))
            draws = Draws(clean, noise, torch.tensor([1, 300, 600, 900]), torch.tensor([0, 1, 2, 3]))
            with counts:
                result = train_step(config, states[-1], draws, NoiseSchedule("cosine"), Stopwatch(CPU))
            assert not result.skipped
        sent.append(counts)
    one, other = (dict(state.model.named_parameters()) for state in states)
    for name, weight in one.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight.to_local(), other[name].to_local()), name  # type: ignore[attr-defined]
    assert sent[0].bytes["all_gather"] < 0.8 * sent[1].bytes["all_gather"]
    assert sent[0].bytes["reduce_scatter"] == sent[1].bytes["reduce_scatter"]


def compare_all_that_is_sent() -> None:
    for fields in NETWORKS.values():
        compare_what_is_sent("shard", fields)
    compare_what_is_sent("hybrid", NETWORKS["the paper's"])


def test_weights_sent_as_bf16_train_the_same_bits() -> None:
    in_processes(compare_all_that_is_sent, 4)


def one_step(**train: Any) -> TrainState:
    config = tiny(
        Path("unused"),
        "unused",
        model={"input_size": 8, "depths": [3, 1], "widths": [16, 8]},
        train={"warmup_images": 0, **train},
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        state = fresh_state(config, make_mesh(config.train, "cpu", 1, 1), CPU)
        generator = torch.Generator().manual_seed(1)
        clean, noise = (torch.randn(8, 1, 8, 8, generator=generator) for _ in range(2))
        draws = Draws(clean, noise, torch.arange(100, 900, 100), torch.arange(8) % 4)
        train_step(config, state, draws, NoiseSchedule("cosine"), Stopwatch(CPU))
    finally:
        dist.destroy_process_group()
    return state


def test_a_batch_in_parts_is_the_same_batch() -> None:
    whole, parts = one_step(), one_step(micro_batches=4)
    assert whole.images_seen == parts.images_seen == 8
    for one, other in zip(whole.optimizer.state.values(), parts.optimizer.state.values(), strict=True):
        torch.testing.assert_close(
            one["exp_avg"].to_local(), other["exp_avg"].to_local(), rtol=1e-4, atol=1e-8
        )


def test_bf16_computes_on_fp32_weights_gradients_and_moments() -> None:
    exact, coarse = one_step(), one_step(precision="bf16")
    for other in coarse.optimizer.state.values():
        assert other["exp_avg"].dtype == other["exp_avg_sq"].dtype == torch.float32
    assert {p.dtype for p in coarse.model.parameters()} == {torch.float32}
    moved = torch.cat([s["exp_avg"].to_local().flatten() for s in coarse.optimizer.state.values()])
    expected = torch.cat([s["exp_avg"].to_local().flatten() for s in exact.optimizer.state.values()])
    assert not torch.equal(moved, expected)
    torch.testing.assert_close(moved, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
