"""On a GPU the network computes what it computes on the CPU: in float32, in bf16 and compiled."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from dimr_model import DiMR, DiMRConfig
from dimr_model.diffusion import branch_losses, multi_scale_loss, noise_level
from orchestrator.precision import compute_precision, refuse_tf32
from tests.gpu import DEVICE, marks
from tests.unit.dimr_model.golden import MODELS, load_golden, state_dict

pytestmark = marks
CONFIG = DiMRConfig(input_size=16, channels=4, num_classes=10, depths=(5, 3), widths=(128, 64), num_heads=4)
THREE = DiMRConfig(
    input_size=16, channels=3, num_classes=10, depths=(3, 3, 1), widths=(128, 64, 32), num_heads=4
)


def network(config: DiMRConfig) -> DiMR:
    """A network whose every weight matters."""
    torch.manual_seed(0)
    model = DiMR(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def inputs(config: DiMRConfig, batch: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, config.channels, config.input_size, config.input_size)
    noisy, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    steps = torch.linspace(1, 1000, batch).round()
    return noisy, noise_level(steps), torch.arange(batch) % (config.num_classes + 1), noise


def gradients(model: DiMR, precision: str, device: torch.device, batch: int = 8) -> tuple[Tensor, Tensor]:
    """The finest prediction, and the loss's gradient for all weights in one row; on the CPU."""
    refuse_tf32()
    model.zero_grad()
    noisy, level, labels, noise = (tensor.to(device) for tensor in inputs(model.architecture, batch))
    with compute_precision(precision, device):  # type: ignore[arg-type]
        predictions = model(noisy, level, labels)
    multi_scale_loss(branch_losses(predictions, noise)).mean().backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return predictions[-1].detach().float().cpu(), flat.float().cpu()


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_the_released_model(name: str) -> None:
    refuse_tf32()
    tensors, description = load_golden(name)
    heads = description["model"]["stage_configs"][0]["num_attention_heads"]
    model = DiMR.from_released(state_dict(tensors), num_heads=heads).to(DEVICE)
    noisy, steps, labels = (tensors[key].to(DEVICE) for key in ("in/xn", "in/n", "in/y"))
    for branch, prediction in enumerate(model(noisy, noise_level(steps.float()), labels)):
        torch.testing.assert_close(prediction.cpu(), tensors[f"out_f32/branch{branch}"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", [CONFIG, THREE], ids=["two branches", "three branches"])
def test_float32_gives_the_cpu_s_gradients(config: DiMRConfig) -> None:
    model = network(config)
    expected = gradients(model, "fp32", torch.device("cpu"))
    found = gradients(copy.deepcopy(model).to(DEVICE), "fp32", DEVICE)
    # TF32 would be a thousand times further away.
    assert apart(found[0], expected[0]) < 1e-5
    assert apart(found[1], expected[1]) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"time_conditioning": kind} for kind in ("td_rmsnorm", "td_layernorm", "adaln_zero")]
    + [{"qk_norm": True}],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_bf16_is_as_close_as_bf16_can_be(changes: dict[str, Any]) -> None:
    model = network(dataclasses.replace(CONFIG, **changes))
    expected = gradients(model, "fp32", torch.device("cpu"))
    found = gradients(model.to(DEVICE), "bf16", DEVICE)
    assert 1e-4 < apart(found[0], expected[0]) < 2e-2
    assert 1e-4 < apart(found[1], expected[1]) < 4e-2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_blocks_give_the_same_gradients(precision: str) -> None:
    model = network(CONFIG)
    expected = gradients(model, "fp32", torch.device("cpu"))
    compiled = copy.deepcopy(model).to(DEVICE).compile_units()
    found = gradients(compiled, precision, DEVICE)
    within = (1e-5, 1e-5) if precision == "fp32" else (2e-2, 4e-2)
    assert apart(found[0], expected[0]) < within[0]
    assert apart(found[1], expected[1]) < within[1]


def test_recomputed_blocks_give_the_same_bits() -> None:
    model = network(CONFIG).to(DEVICE)
    kept = gradients(model, "bf16", DEVICE)
    recomputed = gradients(model.recompute(True), "bf16", DEVICE)
    torch.testing.assert_close(recomputed[0], kept[0], rtol=0, atol=0)
    assert apart(recomputed[1], kept[1]) < 1e-5
