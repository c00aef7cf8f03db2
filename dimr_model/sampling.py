"""Drawing images: deterministic solvers, with noise and labels that belong to the image's index."""

import torch
from torch import Tensor

from dimr_model import randomness
from dimr_model.config import Guidance, Prediction, Sampler
from dimr_model.diffusion import NoiseSchedule, noise_level
from dimr_model.guidance import guided
from dimr_model.network import DiMR
from dimr_model.solvers import make_solver


def balanced_labels(indices: list[int], num_classes: int) -> Tensor:
    """Label of image i is i mod num_classes: ``[len(indices)]`` int64."""
    return torch.tensor([index % num_classes for index in indices], dtype=torch.int64)


def initial_noise(seed: int, indices: list[int], shape: tuple[int, ...]) -> Tensor:
    """The noise ``[len(indices), *shape]`` float32 that image i starts from, a function of (seed, i)."""
    return torch.from_numpy(randomness.normal(seed, "sampling-noise", indices, shape))


@torch.no_grad()
def sample(
    model: DiMR,
    *,
    noise: Tensor,
    labels: Tensor,
    schedule: NoiseSchedule,
    prediction: Prediction,
    sampler: Sampler,
    guidance: Guidance,
    clip: bool,
) -> Tensor:
    """Solve from ``noise [B, C, H, W]`` to clean latents or pixels of the same shape and dtype.

    Args:
        model: the network, in eval mode, on the device of ``noise``.
        labels: ``[B]`` int64, classes to draw.
        clip: keep every estimate of the clean image within [-1, 1]; right for pixels, wrong for latents.
    """
    scheduler = make_solver(sampler.kind, schedule)
    scheduler.set_timesteps(sampler.steps, device=noise.device)
    state = noise
    for timestep in scheduler.timesteps:
        step = timestep.expand(state.shape[0]) + 1  # diffusers counts 0..999, the paper 1..1000

        def predict(noisy: Tensor, classes: Tensor, step: Tensor = step) -> Tensor:
            level = noise_level(step[:1].expand(noisy.shape[0])).to(noisy.dtype)
            return model(noisy, level, classes)[-1]

        output = guided(
            predict, state, labels, model.architecture.null_class, guidance.weight(float(timestep) + 1)
        )
        clean = schedule.to_clean(state, output, step, prediction)
        state = scheduler.step(clean.clamp(-1, 1) if clip else clean, timestep, state).prev_sample
    return state
