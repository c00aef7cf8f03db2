"""Sampling: solvers, with noise and labels that belong to the image's index."""

from collections.abc import Callable

import torch
from torch import Tensor

from dimr_model import randomness
from dimr_model.config import Guidance, Prediction, Sampler
from dimr_model.diffusion import Process, branches_to_clean, noise_level
from dimr_model.guidance import guided
from dimr_model.network import DiMR
from dimr_model.solvers import make_solver


def balanced_labels(indices: list[int], num_classes: int) -> Tensor:
    """The label of image i is i mod num_classes: ``[len(indices)]`` int64."""
    return torch.tensor([index % num_classes for index in indices], dtype=torch.int64)


def random_labels(seed: int, indices: list[int], num_classes: int) -> Tensor:
    """The label of image i is a function of (seed, i), each class alike likely: ``[len(indices)]`` int64."""
    return torch.from_numpy(randomness.uniform(seed, "sampling-label", indices) * num_classes).long()


def initial_noise(seed: int, indices: list[int], shape: tuple[int, ...]) -> Tensor:
    """The noise ``[len(indices), *shape]`` float32 that image i starts from, a function of (seed, i)."""
    return torch.from_numpy(randomness.normal(seed, "sampling-noise", indices, shape))


def step_noise(seed: int, indices: list[int], shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    """The noise that an ancestral solver adds: solver step k -> ``[len(indices), *shape]`` float32.

    Image i's is a function of (seed, i, k).
    """
    return lambda step: torch.from_numpy(
        randomness.normal(seed, "sampling-step-noise", indices, shape, attempt=step)
    )


def evaluations_per_image(process: Process, sampler: Sampler, guidance: Guidance) -> int:
    """How often an image goes through the network.

    Where guidance needs a conditional and an unconditional pass, both count.
    """
    solver = make_solver(sampler, process)
    return sum(1 if guidance.weight(float(step) + 1) == 1 else 2 for step in solver.timesteps)


@torch.no_grad()
def sample(
    model: DiMR,
    *,
    noise: Tensor,
    labels: Tensor,
    schedule: Process,
    prediction: Prediction,
    sampler: Sampler,
    guidance: Guidance,
    clip: bool,
    fresh_noise: Callable[[int], Tensor] | None = None,
    on_step: Callable[[list[Tensor]], None] | None = None,
) -> Tensor:
    """Solve from ``noise [B, C, H, W]`` to clean latents or pixels of the same shape and dtype.

    Args:
        model: the network, in eval mode, on the device of ``noise``.
        labels: ``[B]`` int64, the classes to sample.
        schedule: the process that the network was trained for: a noise schedule or a flow.
        clip: keep every estimate of the clean image within [-1, 1]; right for pixels, wrong for latents.
        fresh_noise: what solver step k adds, of the shape of ``noise``; only ``ddpm`` asks for it.
        on_step: is given every branch's estimate of the clean image at each network call, coarse to fine,
            ``[B, C, H / k, W / k]`` for branches smaller by k. The last one drives the solver.

    Raises:
        ValueError: the sampler is ``ddpm``, and ``fresh_noise`` is None; or it is made for the other process.
    """
    solver = make_solver(sampler, schedule)
    if solver.adds_noise and fresh_noise is None:
        raise ValueError("ancestral sampling adds noise at every step; give fresh_noise")
    state = solver.begin(noise)
    for number, timestep in enumerate(solver.timesteps):
        noisy = solver.noisy(state, timestep)
        # Solvers count from 0, the paper from 1 (Section 3).
        step = torch.full(state.shape[:1], timestep.item() + 1, dtype=timestep.dtype, device=state.device)

        def predict(noisy: Tensor, classes: Tensor, step: Tensor = step) -> list[Tensor]:
            level = noise_level(step[:1].expand(noisy.shape[0])).to(noisy.dtype)
            outputs = model(noisy, level, classes)
            return outputs if on_step else outputs[-1:]

        weight = guidance.weight(float(timestep) + 1)
        outputs = guided(predict, noisy, labels, model.architecture.null_class, weight)
        estimates = branches_to_clean(schedule, noisy, outputs, step, prediction)
        if clip:
            estimates = [estimate.clamp(-1, 1) for estimate in estimates]
        if on_step:
            on_step(estimates)
        added = fresh_noise(number).to(state) if solver.adds_noise and fresh_noise else None
        # Section 4.1: the last branch's prediction drives the diffusion process.
        state = solver.step(estimates[-1], timestep, state, added)
    return state
