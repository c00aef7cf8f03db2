"""Updates of each worker's own shards are those of the sharded tensors, bit for bit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from orchestrator.training.adamw import ShardAdamW
from orchestrator.training.optimizer import clip_gradients, set_learning_rate
from orchestrator.training.parallelize import make_mesh
from orchestrator.training.state import TrainState, fresh_state
from tests.configs import tiny


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(folder: Path, as_shards: bool) -> tuple[TrainState, list[float]]:
    """A state after three updates with fixed gradients, and the gradients' norms."""
    train = {"weight_decay": 0.03, "vector_learning_rate_scale": 3.0, "clip_gradient_norm": 0.5}
    config = tiny(folder, "data", train=train)
    state = fresh_state(config, make_mesh(config.train, "cpu", 1, 1), torch.device("cpu"))
    parameters = list(state.model.parameters())
    assert all(isinstance(p, DTensor) for p in parameters)
    assert isinstance(state.optimizer, ShardAdamW)
    if not as_shards:
        # Everything as torch does it on the sharded tensors.
        groups = state.optimizer.param_groups
        state.optimizer = torch.optim.AdamW(groups, betas=config.train.betas, eps=1e-8, foreach=True)
    generator, norms = torch.Generator().manual_seed(0), []
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
            local = parameter.grad.to_local()  # type: ignore[attr-defined]
            local.copy_(torch.randn(local.shape, generator=generator))
        if as_shards:
            norms.append(clip_gradients(state.model, 0.5))
        else:
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.5).full_tensor()))  # type: ignore[attr-defined]
        set_learning_rate(state.optimizer, 1e-3)
        state.optimizer.step()
        if as_shards:
            state.ema.update(state.model, 0.9)
        else:
            with torch.no_grad():
                torch._foreach_lerp_(list(state.ema.weights.values()), parameters, 1 - 0.9)
    return state, norms


def test_the_state_is_the_same_under_the_same_names(tmp_path: Path, group: None) -> None:
    (state, norms), (expected, expected_norms) = (trained(tmp_path, as_shards) for as_shards in (True, False))
    assert norms == expected_norms and norms[0] > 0.5
    found, wanted = state.state_dict(), expected.state_dict()
    assert found["optimizer"]["state"].keys() == wanted["optimizer"]["state"].keys()
    for name, moments in wanted["optimizer"]["state"].items():
        for key, value in moments.items():
            mine = found["optimizer"]["state"][name][key]
            assert type(mine) is type(value) and equal(mine, value), f"{name} {key}"
    for part in ("model", "ema"):
        for name, value in wanted[part].items():
            assert isinstance(found[part][name], DTensor) and equal(found[part][name], value), name


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    whole = [t.full_tensor() if isinstance(t, DTensor) else t for t in (one, other)]
    return torch.equal(*whole)
