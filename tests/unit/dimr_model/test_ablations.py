"""Every row of the paper's ablations builds, runs, learns and is told apart by its config alone."""

import dataclasses
from typing import Any

import pytest
import torch

from dimr_model import DiMR, DiMRConfig
from dimr_model.diffusion import branch_losses

BASE = DiMRConfig(input_size=8, channels=2, num_classes=4, depths=(3, 2), widths=(16, 8), num_heads=2)
U_VIT = DiMRConfig(
    input_size=8, channels=2, num_classes=4, depths=(3,), widths=(16,), num_heads=2, patch_size=2,
    time_conditioning="token", mlp="mlp",
)  # fmt: skip
CHANGES: dict[str, tuple[DiMRConfig, dict[str, Any]]] = {
    "released": (BASE, {}),
    "three branches": (BASE, {"depths": (3, 2, 2), "widths": (16, 8, 4)}),
    "four branches": (BASE, {"depths": (1, 1, 1, 1), "widths": (16, 8, 8, 4)}),
    "U-ViT": (U_VIT, {}),
    "U-ViT without patches": (U_VIT, {"patch_size": 1}),
    "U-ViT with AdaLN-Zero": (U_VIT, {"time_conditioning": "adaln_zero", "class_conditioning": "adaln_zero"}),
    "one branch with TD-LN": (U_VIT, {"time_conditioning": "td_layernorm"}),
    "AdaLN-Zero for time": (BASE, {"time_conditioning": "adaln_zero"}),
    "AdaLN-Zero for both": (BASE, {"time_conditioning": "adaln_zero", "class_conditioning": "adaln_zero"}),
    "TD-LN": (BASE, {"time_conditioning": "td_layernorm"}),
    "RMSNorm": (BASE, {"time_conditioning": "rmsnorm"}),
    "MLP": (BASE, {"mlp": "mlp"}),
    "unconditional": (BASE, {"class_conditioning": "none"}),
    "no null class": (BASE, {"has_null_class": False}),
    "pure convolution": (BASE, {"coarsest_blocks": "convnext", "class_conditioning": "added"}),
    "last block": (BASE, {"cascade": "last_block"}),
    "concatenation": (BASE, {"cascade_join": "concatenate"}),
    "skips between branches": (BASE, {"branch_skips": True}),
    "patches and branches": (BASE, {"patch_size": 2}),
}


def inputs(config: DiMRConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(3, config.channels, config.input_size, config.input_size, generator=generator)
    return noisy, torch.tensor([-3.9, 0.5, 3.9]), torch.tensor([0, 2, 3])


@pytest.fixture(params=CHANGES)
def model(request: pytest.FixtureRequest) -> DiMR:
    base, change = CHANGES[request.param]
    torch.manual_seed(0)
    network = DiMR(dataclasses.replace(base, **change))
    # AdaLN-Zero and time-dependent norms start where time changes nothing.
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def test_predictions_have_their_branches_sizes(model: DiMR) -> None:
    config = model.architecture
    predictions = model(*inputs(config))
    sizes = [config.input_size // 2 ** (config.num_branches - 1 - r) for r in range(config.num_branches)]
    assert [tuple(p.shape) for p in predictions] == [(3, config.channels, size, size) for size in sizes]


def test_time_and_class_are_heard(model: DiMR) -> None:
    noisy, level, labels = inputs(model.architecture)
    prediction = model(noisy, level, labels)[-1]
    assert (model(noisy, level.flip(0), labels)[-1] - prediction).abs().max() > 1e-4
    change = (model(noisy, level, (labels + 1) % 4)[-1] - prediction).abs().max().item()
    assert change == 0 if model.architecture.class_conditioning == "none" else change > 1e-4


def test_every_parameter_learns(model: DiMR) -> None:
    noisy, level, labels = inputs(model.architecture)
    branch_losses(model(noisy, level, labels), noisy).sum().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_saved_and_loaded_it_is_the_same(model: DiMR, tmp_path: object) -> None:
    model.save_pretrained(tmp_path)
    loaded = DiMR.from_pretrained(tmp_path)
    assert loaded.architecture == model.architecture
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    # Where the weights lie in memory can decide how the CPU sums.
    expected = model(*inputs(model.architecture))[-1]
    torch.testing.assert_close(loaded(*inputs(model.architecture))[-1], expected, rtol=0, atol=1e-4)


def test_the_released_operators_agree(model: DiMR) -> None:
    expected = model(*inputs(model.architecture))
    for ours, theirs in zip(expected, model.compute_as_released()(*inputs(model.architecture)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_fresh_adaln_zero_block_changes_nothing() -> None:
    base, change = CHANGES["U-ViT with AdaLN-Zero"]
    block = DiMR(dataclasses.replace(base, **change)).branches[0].blocks[0]
    tokens = torch.randn(2, 5, 16)
    from dimr_model.normalization import Condition

    assert torch.equal(block(tokens, Condition(torch.zeros(2), embedding=torch.randn(2, 16))), tokens)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (BASE, {"time_conditioning": "token"}, "cannot reach ConvNeXt branches"),
        (BASE, {"coarsest_blocks": "convnext"}, "class_conditioning added works"),
        (BASE, {"class_conditioning": "adaln_zero"}, "needs time_conditioning adaln_zero"),
        (BASE, {"cascade": "some"}, "use one of all_blocks, last_block"),
        (BASE, {"patch_size": 3}, "not divisible by 6"),
        (BASE, {"num_heads": 3}, "does not divide"),
    ],
)
def test_impossible_combinations_are_refused(base: DiMRConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base, **change)


@pytest.mark.parametrize(("has_null_class", "label"), [(True, 5), (False, 4), (True, -1)])
def test_labels_without_embedding_are_refused(has_null_class: bool, label: int) -> None:
    model = DiMR(dataclasses.replace(BASE, has_null_class=has_null_class))
    noisy, level, labels = inputs(BASE)
    labels[1] = label
    with pytest.raises(ValueError, match=r"must be in 0\.\."):
        model(noisy, level, labels)
