"""Operators that recompute in the backward pass have the gradients of the plain expressions."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dimr_model import DiMR, DiMRConfig
from dimr_model.diffusion import branch_losses, multi_scale_loss, noise_level
from dimr_model.functional import gated_linear, rms_norm, scaled_linear


def plain_rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    gain = gain[:, None, None] if gain.dim() == 2 else gain
    return x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-8) * gain


def plain_gated(gate: Tensor, value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(F.gelu(gate) * value, weight, bias)


def plain_scaled(x: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x * (gain[:, None, None] if gain.dim() == 2 else gain), weight)


CASES = {
    "rms_norm, gain per sample": (rms_norm, plain_rms_norm, [(2, 3, 4, 6), (2, 6)]),
    "rms_norm, one gain": (rms_norm, plain_rms_norm, [(2, 3, 4, 6), (6,)]),
    "gated_linear": (gated_linear, plain_gated, [(2, 5, 6), (2, 5, 6), (3, 6), (3,)]),
    "scaled_linear, gain per sample": (scaled_linear, plain_scaled, [(2, 3, 4, 6), (2, 6), (5, 6)]),
    "scaled_linear, one gain": (scaled_linear, plain_scaled, [(2, 3, 4, 6), (6,), (5, 6)]),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(case: str) -> None:
    mine, plain, shapes = CASES[case]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def run(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        result = function(*leaves)
        weights = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).view_as(result)
        return (result.detach(), *torch.autograd.grad((result * weights).sum(), leaves))

    for ours, expected in zip(run(mine), run(plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


def test_rms_norm_of_nothing_is_nothing() -> None:
    features = torch.zeros(2, 3, 4, requires_grad=True)
    rms_norm(features, torch.ones(4)).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_norm_statistics_do_not_overflow_in_half_precision() -> None:
    large = torch.full((1, 2, 64), 3e4, dtype=torch.float16)  # its square is beyond float16
    torch.testing.assert_close(rms_norm(large, torch.ones(64)), torch.ones_like(large))
    huge = torch.full((1, 2, 64), 1e30, dtype=torch.bfloat16)
    assert torch.isfinite(rms_norm(huge / 1e12, torch.ones(64))).all()


CONFIG = DiMRConfig(
    input_size=16, channels=4, num_classes=5, depths=(5, 5, 3), widths=(64, 32, 16), num_heads=4
)


def step(model: DiMR) -> tuple[Tensor, list[Tensor], int]:
    """Take one step; returns the loss, the gradients and the bytes saved for the backward pass.

    These bytes count each tensor once and no parameter.
    """
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(4, 4, 16, 16, generator=generator)
    level = noise_level(torch.randint(1, 1001, (4,), generator=generator).float())
    labels = torch.tensor([0, 3, 5, 1])
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = multi_scale_loss(branch_losses(model(noisy, level, labels), noisy)).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.detach(), list(gradients), sum(saved.values())


@pytest.fixture
def model() -> DiMR:
    torch.manual_seed(0)
    return DiMR(CONFIG)


def test_the_released_operators_compute_the_same_and_keep_much_more(model: DiMR) -> None:
    loss, gradients, saved = step(model)
    loss_as_released, gradients_as_released, saved_as_released = step(model.compute_as_released())
    torch.testing.assert_close(loss, loss_as_released, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients, gradients_as_released, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert saved < 0.6 * saved_as_released


def test_the_cascade_never_holds_a_concatenation(model: DiMR) -> None:
    def largest_saved(network: DiMR) -> int:
        sizes = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.shape[-1] if tensor.dim() == 4 else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network(torch.randn(2, 4, 16, 16), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
        return max(sizes)

    concatenated = 6 * 64
    assert largest_saved(model) < concatenated
    assert largest_saved(model.compute_as_released()) == concatenated


def test_recomputation_changes_memory_and_nothing_else(model: DiMR) -> None:
    loss, gradients, saved = step(model)
    loss_again, gradients_again, saved_again = step(model.recompute(True))
    assert saved_again < 0.5 * saved
    assert torch.equal(loss, loss_again)
    for ours, theirs in zip(gradients, gradients_again, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    *_, saved_first = step(model.recompute([True, False, False]))
    assert saved_again < saved_first < saved
    with pytest.raises(ValueError, match="must name the 3 branches"):
        model.recompute([True])
