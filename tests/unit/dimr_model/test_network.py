"""The network does what the released one does, and what its configuration says."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dimr_model import VARIANTS, DiMR, DiMRConfig
from dimr_model.cascade import Upsample
from dimr_model.diffusion import branch_losses, multi_scale_loss, noise_level
from dimr_model.normalization import Condition
from dimr_model.pretrained import rename_released
from tests.unit.dimr_model.golden import MODELS, load_golden, state_dict

TINY = DiMRConfig(input_size=8, channels=2, num_classes=5, depths=(3, 2), widths=(16, 8), num_heads=2)


@pytest.fixture
def model() -> DiMR:
    torch.manual_seed(0)
    network = DiMR(TINY)
    # Norms and biases start at values that hide the paths through them.
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(batch, 2, 8, 8, generator=generator)
    return noisy, noise_level(torch.tensor([10.0, 400.0, 990.0])[:batch]), torch.tensor([0, 3, 5])[:batch]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "suffix", "tolerance"), [(torch.float32, "f32", 2e-5), (torch.float64, "f64", 1e-10)]
)
def test_outputs_loss_and_gradients_equal_the_released_model(
    name: str, dtype: torch.dtype, suffix: str, tolerance: float
) -> None:
    tensors, description = load_golden(name)
    heads = description["model"]["stage_configs"][0]["num_attention_heads"]
    network = DiMR.from_released(state_dict(tensors), num_heads=heads).to(dtype)
    noisy = tensors["in/xn" if suffix == "f32" else "in/xn_f64"]
    predictions = network(noisy, noise_level(tensors["in/n"].to(dtype)), tensors["in/y"])
    for branch, prediction in enumerate(predictions):
        torch.testing.assert_close(
            prediction, tensors[f"out_{suffix}/branch{branch}"], rtol=0, atol=tolerance
        )

    losses = multi_scale_loss(branch_losses(predictions, tensors["in/eps"].to(dtype)))
    torch.testing.assert_close(losses, tensors[f"loss_{suffix}/per_sample"], rtol=0, atol=tolerance)
    losses.mean().backward()
    parameters = dict(network.named_parameters())
    for place, released in enumerate(description["param_order"]):
        gradient = parameters[rename_released(released)].grad
        assert gradient is not None
        flat = gradient.double().flatten()
        probe = (flat * torch.cos(0.7 * torch.arange(len(flat), dtype=torch.float64) + 0.3)).sum()
        expected = tensors[f"grad_probe_{suffix}"][place]
        scale = max(1.0, float(tensors[f"grad_norm_{suffix}"][place]))
        assert abs(float(flat.norm() - tensors[f"grad_norm_{suffix}"][place])) < tolerance * scale, released
        assert abs(float(probe - expected)) < tolerance * scale, released


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("XL/2R-256", 505_046_408), ("G/2R-256", 1_056_352_904), ("XL/3R-512", 525_027_372)],
)
def test_variants_have_the_papers_sizes(variant: str, parameters: int) -> None:
    with torch.device("meta"):
        network = DiMR(VARIANTS[variant])
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("depths", [(3,), (3, 2), (2, 1, 1)])
def test_one_prediction_per_branch_coarse_to_fine(depths: tuple[int, ...]) -> None:
    widths = (16, 8, 4)[: len(depths)]
    network = DiMR(
        DiMRConfig(input_size=12, channels=2, num_classes=5, depths=depths, widths=widths, num_heads=2)
    )
    noisy = torch.randn(2, 2, 12, 12)
    predictions = network(noisy, noise_level(torch.tensor([5.0, 900.0])), torch.tensor([0, 5]))
    sizes = [12 // 2 ** (len(depths) - 1 - r) for r in range(len(depths))]
    assert [tuple(p.shape) for p in predictions] == [(2, 2, size, size) for size in sizes]


def test_time_and_class_change_the_prediction(model: DiMR) -> None:
    noisy, level, labels = inputs()
    prediction = model(noisy, level, labels)[-1]
    assert (model(noisy, level + 1, labels)[-1] - prediction).abs().max() > 1e-3
    assert (model(noisy, level, (labels + 1) % 6)[-1] - prediction).abs().max() > 1e-3


def test_each_sample_depends_on_its_own_input_alone(model: DiMR) -> None:
    noisy, level, labels = inputs()
    together = model(noisy, level, labels)[-1]
    alone = torch.cat([model(noisy[i : i + 1], level[i : i + 1], labels[i : i + 1])[-1] for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_same_seed_same_weights_and_output() -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(DiMR(TINY)(*inputs())[-1])
    assert torch.equal(*outputs)


def test_gradients_reach_every_parameter(model: DiMR) -> None:
    noisy, level, labels = inputs()
    branch_losses(model(noisy, level, labels), noisy).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_saves_and_loads_like_a_diffusers_model(model: DiMR, tmp_path: object) -> None:
    model.save_pretrained(tmp_path)
    loaded = DiMR.from_pretrained(tmp_path)
    assert loaded.architecture == TINY
    assert torch.equal(loaded(*inputs())[-1], model(*inputs())[-1])


def test_wrong_input_shape_is_refused(model: DiMR) -> None:
    with pytest.raises(ValueError, match=r"this network takes \[B, 2, 8, 8\]"):
        model(torch.randn(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


class _MakesOf(TorchDispatchMode):
    """Counts the tensors of a shape that operators make."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.made = shape, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made += isinstance(result, Tensor) and result.shape == self.shape
        return result


def test_more_maps_make_no_more_gradients_of_the_whole_upsampling_weight() -> None:
    made = []
    for depth in (3, 9):
        model = {"depths": (depth, 1), "widths": (16, 8), "num_heads": 2}
        upsample = Upsample(DiMRConfig(input_size=8, channels=1, num_classes=3, **model), 1)  # type: ignore[arg-type]
        assert upsample.maps == depth + 1
        features = [torch.randn(2, 4, 4, 16, requires_grad=True) for _ in range(upsample.maps)]
        loss = upsample(features, Condition(torch.zeros(2))).square().sum()
        with _MakesOf(upsample.projection.weight.shape) as seen:
            loss.backward()
        made.append(seen.made)
    assert made[0] == made[1]
