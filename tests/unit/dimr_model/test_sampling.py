"""Sampling solves to the data, and image i is the same whoever draws it."""

import pytest
import torch
from torch import Tensor

from dimr_model import DiMR, DiMRConfig
from dimr_model.config import Guidance, Prediction, Sampler
from dimr_model.diffusion import NoiseSchedule
from dimr_model.guidance import guided
from dimr_model.sampling import balanced_labels, initial_noise, sample

CONFIG = DiMRConfig(input_size=4, channels=1, num_classes=3, depths=(1, 1), widths=(8, 8), num_heads=2)


class Oracle(torch.nn.Module):
    """Knows that class c is the constant image (c - 1) / 2, and predicts accordingly."""

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


def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in() -> None:
    torch.manual_seed(0)
    model = DiMR(CONFIG).eval()

    def draw(indices: list[int]) -> Tensor:
        return sample(
            model,
            noise=initial_noise(5, indices, (1, 4, 4)),
            labels=balanced_labels(indices, 3),
            schedule=NoiseSchedule("cosine"),
            prediction="v",
            sampler=Sampler(steps=4),
            guidance=Guidance(scale=2.0),
            clip=True,
        )

    together = draw([7, 8, 9])
    torch.testing.assert_close(
        together, torch.cat([draw([9]), draw([7]), draw([8])])[[1, 2, 0]], rtol=0, atol=1e-5
    )
    assert together.abs().max() <= 1


def test_labels_are_balanced() -> None:
    assert balanced_labels(list(range(7)), 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_guidance_of_one_asks_the_network_once() -> None:
    calls = []

    def predict(noisy: Tensor, labels: Tensor) -> Tensor:
        calls.append(labels.tolist())
        return labels.float().view(-1, 1, 1, 1).expand_as(noisy)

    noisy, labels = torch.zeros(2, 1, 1, 1), torch.tensor([1, 2])
    assert guided(predict, noisy, labels, null_class=3, weight=1).flatten().tolist() == [1, 2]
    assert guided(predict, noisy, labels, null_class=3, weight=2).flatten().tolist() == [-1, 1]
    assert calls == [[1, 2], [1, 2, 3, 3]]
