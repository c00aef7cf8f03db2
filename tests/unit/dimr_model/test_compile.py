"""Blocks and upsamplings compile without graph breaks, so that one graph each can be sharded and fused."""

import copy
import dataclasses

import pytest
import torch

from dimr_model import DiMR, DiMRConfig
from dimr_model.diffusion import branch_losses
from dimr_model.normalization import Condition

CONFIG = DiMRConfig(input_size=8, channels=1, num_classes=3, depths=(1, 1), widths=(16, 8), num_heads=2)


@pytest.mark.parametrize("time_conditioning", ["td_rmsnorm", "td_layernorm", "adaln_zero"])
def test_every_block_is_one_graph(time_conditioning: str) -> None:
    torch.manual_seed(0)
    model = DiMR(dataclasses.replace(CONFIG, time_conditioning=time_conditioning))  # type: ignore[arg-type]
    for branch, shape in zip(model.branches, [(2, 17, 16), (2, 8, 8, 8)], strict=True):
        features, width = torch.randn(shape), shape[-1]
        condition = Condition(torch.tensor([-0.5, 0.5]), embedding=torch.randn(2, width))
        block = branch.blocks[0]
        expected = block(features, condition)
        compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(features, condition), expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_compiled_units_has_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = DiMR(CONFIG)
    compiled = copy.deepcopy(model)
    compiled.compile_units(backend="aot_eager")
    noisy, level, labels = torch.randn(2, 1, 8, 8), torch.tensor([-1.0, 2.0]), torch.tensor([0, 3])
    for network in (model, compiled):
        branch_losses(network(noisy, level, labels), noisy).sum().backward()
    for (name, ours), theirs in zip(compiled.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
