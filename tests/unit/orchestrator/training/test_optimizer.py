"""Schedules count images, and the optimizer is the released one."""

import dataclasses

import pytest
import torch

from dimr_model import DiMR
from dimr_model.diffusion import NoiseSchedule, branch_losses, multi_scale_loss, noise_level
from dimr_model.ema import EMA
from dimr_model.pretrained import rename_released
from orchestrator.config.training import TrainConfig
from orchestrator.training.optimizer import build_optimizer, ema_horizon, learning_rate, set_learning_rate
from tests.unit.dimr_model.golden import load_golden, state_dict


def test_four_steps_equal_the_released_ones() -> None:
    tensors, description = load_golden("train_4steps_2r")
    recipe = description["optimizer"]
    model = DiMR.from_released(state_dict(tensors, "sd0/"), num_heads=4).double()
    batch = description["batch"]
    config = TrainConfig(
        images=1000, batch_size=batch, learning_rate=recipe["lr"], weight_decay=recipe["weight_decay"],
        betas=tuple(recipe["betas"]), warmup_images=description["warmup_steps"] * batch,
    )  # fmt: skip
    optimizer, ema, schedule = build_optimizer(model, config), EMA(model), NoiseSchedule("scaled_linear")
    assert [len(group["params"]) for group in optimizer.param_groups] == description["group_sizes"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == description["group_weight_decay"]
    for number in range(4):
        clean, noise, step, labels = (tensors[f"step{number}/{name}"] for name in ("x0", "eps", "n", "y"))
        predictions = model(schedule.add_noise(clean, noise, step), noise_level(step.double()), labels)
        loss = multi_scale_loss(branch_losses(predictions, noise)).mean()
        assert abs(float(loss.detach()) - description["losses"][number]) < 1e-9
        loss.backward()
        set_learning_rate(optimizer, learning_rate(config, number * batch))
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(description["lr_used"][number])
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, description["ema_rate"])
    weights = dict(model.named_parameters())
    for released, expected in state_dict(tensors, "sd_end/").items():
        torch.testing.assert_close(weights[rename_released(released)].data, expected, rtol=0, atol=1e-9)
    for released, expected in state_dict(tensors, "ema_end/").items():
        torch.testing.assert_close(ema.weights[rename_released(released)], expected, rtol=0, atol=1e-9)


def test_learning_rate_warms_up_and_decays_by_images() -> None:
    config = TrainConfig(images=1000, batch_size=10, learning_rate=1.0, warmup_images=100)
    assert [learning_rate(config, seen) for seen in (0, 50, 100, 900)] == [0, 0.5, 1, 1]
    decaying = dataclasses.replace(config, learning_rate_decay="cosine", warmup_images=0)
    assert [learning_rate(decaying, seen) for seen in (0, 500, 1000)] == [
        1,
        pytest.approx(0.5),
        pytest.approx(0),
    ]


def test_ema_looks_back_a_fraction_of_a_short_run() -> None:
    config = TrainConfig(images=1000, ema_horizon_images=500, ema_rampup=0.1)
    assert [ema_horizon(config, seen) for seen in (100, 1000, 10_000)] == [10, 100, 500]
    assert ema_horizon(dataclasses.replace(config, ema_rampup=None), 100) == 500


def test_norms_and_embeddings_learn_at_their_own_rate() -> None:
    model = DiMR(input_size=4, channels=1, num_classes=2, depths=(1, 1), widths=(8, 8), num_heads=2)
    optimizer = build_optimizer(model, TrainConfig(images=100, vector_learning_rate_scale=5.0))
    set_learning_rate(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    faster = {name for name, rate in named.items() if rate == pytest.approx(0.5)}
    assert all(named[name] == pytest.approx(0.1) for name in set(named) - faster)
    assert {"branches.0.positions", "branches.1.positions", "branches.0.class_embedding.weight"} < faster
    assert {name for name in named if "norm" in name} < faster
    assert not any("patchify" in name or "projection" in name or ".out." in name for name in faster)
