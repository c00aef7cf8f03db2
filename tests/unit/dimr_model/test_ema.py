"""The moving average of the weights."""

import math

import pytest
import torch

from dimr_model.ema import EMA, ema_decay


def test_average_moves_by_one_minus_decay() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = EMA(model)
    torch.nn.init.ones_(model.weight)
    ema.update(model, 0.9)
    assert ema.weights["weight"].tolist() == [[pytest.approx(0.1)] * 2]
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_horizon_of_the_paper_is_its_decay() -> None:
    assert ema_decay(1024, 10_240_000) == pytest.approx(0.9999, abs=1e-8)


def test_decay_does_not_depend_on_how_images_are_batched() -> None:
    assert math.isclose(ema_decay(32, 1000) ** 4, ema_decay(128, 1000))
