"""Sampling solves to the data, and image i is the same whoever draws it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dimr_model import DiMR, DiMRConfig
from dimr_model.config import Guidance, Prediction, Sampler, SamplerKind
from dimr_model.diffusion import NoiseSchedule, branch_targets
from dimr_model.guidance import guided
from dimr_model.sampling import (
    balanced_labels,
    evaluations_per_image,
    initial_noise,
    random_labels,
    sample,
    step_noise,
)

CONFIG = DiMRConfig(input_size=4, channels=1, num_classes=3, depths=(1, 1), widths=(8, 8), num_heads=2)


class Oracle(torch.nn.Module):
    """A network that knows that class c is the constant image (c - 1) / 2, and predicts accordingly."""

    architecture = CONFIG

    def __init__(self, schedule: NoiseSchedule, prediction: Prediction) -> None:
        super().__init__()
        self.schedule, self.prediction = schedule, prediction

    def forward(self, noisy: Tensor, level: Tensor, labels: Tensor) -> list[Tensor]:
        step = ((level + 4) / 8 * 1000).round().long()
        clean = ((labels - 1) / 2).view(-1, 1, 1, 1).expand_as(noisy)
        alpha, sigma = (scale.float() for scale in self.schedule.alpha_sigma(step))
        noise = (noisy - alpha * clean) / sigma
        return [noise if self.prediction == "epsilon" else alpha * noise - sigma * clean]


@pytest.mark.parametrize(
    ("kind", "prediction"), [("scaled_linear", "epsilon"), ("cosine", "v"), ("vp_linear", "v")]
)
def test_a_perfect_network_leads_to_the_data(kind: str, prediction: Prediction) -> None:
    schedule = NoiseSchedule(kind)  # type: ignore[arg-type]
    labels = balanced_labels(list(range(6)), 3)
    drawn = sample(
        Oracle(schedule, prediction),  # type: ignore[arg-type]
        noise=initial_noise(0, list(range(6)), (1, 4, 4)),
        labels=labels,
        schedule=schedule,
        prediction=prediction,
        sampler=Sampler(steps=10),
        guidance=Guidance(kind="none"),
        clip=False,
    )
    torch.testing.assert_close(
        drawn, ((labels - 1) / 2).view(-1, 1, 1, 1).expand_as(drawn), rtol=0, atol=2e-2
    )


class PerfectBranches(Oracle):
    """Knows an image of four grey levels, and each branch predicts it at its own resolution."""

    image = torch.tensor([[-0.8, -0.2], [0.4, 0.6]]).repeat_interleave(2, 0).repeat_interleave(2, 1)

    def forward(self, noisy: Tensor, level: Tensor, labels: Tensor) -> list[Tensor]:
        step = ((level + 4) / 8 * 1000).round().long()
        clean = self.image.expand_as(noisy)
        noise = self.schedule.to_noise(noisy, clean, step, "x")
        return branch_targets(self.schedule.target(clean, noise, step, self.prediction), 3)


@pytest.mark.parametrize("kind", ["dpm_solver_multistep", "heun"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_every_branch_s_clean_image_is_seen_at_every_step(kind: SamplerKind, scale: float) -> None:
    schedule, seen = NoiseSchedule("cosine"), list[list[Tensor]]()

    def draw(on_step: Callable[[list[Tensor]], None] | None) -> Tensor:
        return sample(
            PerfectBranches(schedule, "v"), noise=initial_noise(0, [0, 1], (1, 4, 4)),  # type: ignore[arg-type]
            labels=torch.tensor([0, 2]), schedule=schedule, prediction="v",
            sampler=Sampler(kind=kind, steps=4), guidance=Guidance(scale=scale), clip=True, on_step=on_step,
        )  # fmt: skip

    assert torch.equal(draw(seen.append), draw(None))
    assert len(seen) == (4 if kind == "dpm_solver_multistep" else 7)
    averages = [torch.tensor([[0.0]]), PerfectBranches.image[::2, ::2], PerfectBranches.image]
    for images in seen:
        for image, average in zip(images, averages, strict=True):
            torch.testing.assert_close(image, average.expand(2, 1, -1, -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["dpm_solver_multistep", "ddpm", "heun"])
def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in(kind: SamplerKind) -> None:
    torch.manual_seed(0)
    model = DiMR(CONFIG).eval()

    def draw(indices: list[int]) -> Tensor:
        return sample(
            model,
            noise=initial_noise(5, indices, (1, 4, 4)),
            labels=balanced_labels(indices, 3),
            schedule=NoiseSchedule("cosine"),
            prediction="v",
            sampler=Sampler(kind=kind, steps=4),
            guidance=Guidance(scale=2.0),
            clip=True,
            fresh_noise=step_noise(5, indices, (1, 4, 4)),
        )

    together = draw([7, 8, 9])
    # Far less than a grey level (8e-3); heun works in units of the noise, whose first values are large.
    torch.testing.assert_close(
        together, torch.cat([draw([9]), draw([7]), draw([8])])[[1, 2, 0]], rtol=0, atol=5e-4
    )
    assert together.abs().max() <= 1.001


def test_labels_are_balanced() -> None:
    assert balanced_labels(list(range(7)), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_guidance_of_one_asks_the_network_once() -> None:
    calls = []

    def predict(noisy: Tensor, labels: Tensor) -> list[Tensor]:
        calls.append(labels.tolist())
        fine = labels.float().view(-1, 1, 1, 1).expand_as(noisy)
        return [10 * fine, fine]

    noisy, labels = torch.zeros(2, 1, 1, 1), torch.tensor([1, 2])

    def both_branches(weight: float) -> list[list[float]]:
        combined = guided(predict, noisy, labels, null_class=3, weight=weight)
        return [output.flatten().tolist() for output in combined]

    assert both_branches(1) == [[10, 20], [1, 2]]
    assert both_branches(2) == [[-10, 10], [-1, 1]]
    assert calls == [[1, 2], [1, 2, 3, 3]]


def test_random_labels_belong_to_the_index_and_reach_every_class() -> None:
    drawn = random_labels(0, list(range(300)), 5)
    assert random_labels(0, [299, 7], 5).tolist() == drawn[[299, 7]].tolist()
    assert torch.bincount(drawn, minlength=5).min() > 30
    assert drawn.max() == 4


def test_outside_its_interval_guidance_costs_no_second_pass() -> None:
    schedule = NoiseSchedule("cosine")
    limited = Guidance(scale=3.0, interval=(200, 600))
    passes: list[int] = []

    class Counting(Oracle):
        def forward(self, noisy: Tensor, level: Tensor, labels: Tensor) -> list[Tensor]:
            passes.append(len(labels))
            return super().forward(noisy, level, labels)

    sample(
        Counting(schedule, "v"), noise=initial_noise(0, [0], (1, 4, 4)), labels=torch.tensor([1]),  # type: ignore[arg-type]
        schedule=schedule, prediction="v", sampler=Sampler(steps=20), guidance=limited, clip=True,
    )  # fmt: skip
    assert len(passes) == 20
    assert sum(passes) == evaluations_per_image(schedule, Sampler(steps=20), limited)
    assert 20 < sum(passes) < 40
    assert evaluations_per_image(schedule, Sampler(steps=20), Guidance(scale=3.0)) == 40
    assert evaluations_per_image(schedule, Sampler(kind="heun", steps=20), Guidance(kind="none")) == 39


@pytest.mark.parametrize("interval", [(600, 200), (-1, 5), (0, 1001)])
def test_an_impossible_interval_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two diffusion steps"):
        Guidance(interval=interval)


def test_ancestral_sampling_asks_for_its_noise() -> None:
    with pytest.raises(ValueError, match="give fresh_noise"):
        sample(
            Oracle(NoiseSchedule("cosine"), "v"), noise=torch.zeros(1, 1, 4, 4), labels=torch.tensor([1]),  # type: ignore[arg-type]
            schedule=NoiseSchedule("cosine"), prediction="v", sampler=Sampler(kind="ddpm", steps=2),
            guidance=Guidance(kind="none"), clip=True,
        )  # fmt: skip


def test_guidance_combines_bf16_predictions_in_float32() -> None:
    noisy = torch.zeros(2, 1, 1, 1)
    predicted = torch.tensor([1.0, 1.0, 0.998, 0.998], dtype=torch.bfloat16).view(4, 1, 1, 1)
    (combined,) = guided(
        lambda both, labels: [predicted], noisy, torch.tensor([0, 1]), null_class=2, weight=5.0
    )
    exact = predicted[2:].double() + 5 * (predicted[:2].double() - predicted[2:].double())
    assert combined.dtype == torch.float32
    assert torch.equal(combined, exact.float())
