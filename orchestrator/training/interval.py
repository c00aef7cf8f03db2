"""The metrics of an interval of training: means over its steps and over all ranks."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from dimr_model.complexity import count_macs
from dimr_model.config import NUM_STEPS
from dimr_model.diffusion import loss_weights
from orchestrator.config.schema import ExperimentConfig
from orchestrator.training.hardware import node_usage, peak_flops
from orchestrator.training.optimizer import learning_rate
from orchestrator.training.state import TrainState
from orchestrator.training.step import StepResult
from orchestrator.training.timing import Stopwatch

NOISE_BINS = 5
"""Diffusion steps 1..1000 in equal parts, for the loss by noise level."""
PEAK_PROBES = 5
"""Intervals at which the peak is looked up.

The largest counts, because a busy CPU reaches less than its peak.
"""
FORWARD_AND_BACKWARD = 3
"""A training step computes about three times what a forward pass does."""


class Interval:
    """Collects the steps since the last report."""

    def __init__(self, config: ExperimentConfig, source_images: int, device: torch.device) -> None:
        self._config, self._source_images, self._device = config, source_images, device
        self._flops_per_image = 2 * FORWARD_AND_BACKWARD * count_macs(config.model)
        self._peak_flops, self._probes_left = 0.0, PEAK_PROBES
        self._started = time.perf_counter()
        self._results: list[StepResult] = []
        self._paused = self._checkpoint_stall = 0.0

    def add(self, result: StepResult) -> None:
        """Add a step to the interval."""
        self._results.append(result)

    @contextmanager
    def pause(self, for_checkpoint: bool = False) -> Iterator[None]:
        """Keep what happens inside out of training's speed."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._paused += seconds
        self._checkpoint_stall += seconds if for_checkpoint else 0.0

    def close(self, state: TrainState, stopwatch: Stopwatch) -> dict[str, float]:
        """Return the interval's metrics, and begin the next one; collective, so every rank must call it."""
        config, results = self._config, self._results
        seconds = time.perf_counter() - self._started - self._paused
        images_per_second = len(results) * config.train.batch_size / seconds
        parts = {f"time/{name}_fraction": spent / seconds for name, spent in stopwatch.seconds().items()}
        metrics = mean_losses(
            torch.cat([result.losses for result in results], dim=1),
            torch.cat([result.steps for result in results]),
            config.diffusion.multi_scale_loss,
        )
        if self._probes_left:
            self._probes_left -= 1
            self._peak_flops = max(self._peak_flops, peak_flops(self._device, config.train.precision))
        utilization = images_per_second * self._flops_per_image / (self._peak_flops * dist.get_world_size())
        metrics |= parts | {
            "train/gradient_norm": sum(r.gradient_norm for r in results) / len(results),
            "train/learning_rate": learning_rate(config.train, state.images_seen),
            "train/images_per_second": images_per_second,
            "train/images_per_second_per_worker": images_per_second / dist.get_world_size(),
            "train/mfu": utilization,
            "train/data_wait_fraction": parts.get("time/data_fraction", 0.0),
            "train/checkpoint_stall_seconds": self._checkpoint_stall,
            "train/skipped_steps": float(state.skipped_steps),
            "train/epoch": state.images_seen / self._source_images,
        }
        metrics |= _usage_of_nodes(self._device)
        self._started, self._results = time.perf_counter(), []
        self._paused = self._checkpoint_stall = 0.0
        return metrics


def mean_losses(
    losses: torch.Tensor, steps: torch.Tensor, multi_scale: bool, prefix: str = ""
) -> dict[str, float]:
    """Mean losses over all ranks: by branch, their weighted sum, and the finest branch's by noise level.

    This is collective: every rank must call it.

    Args:
        losses: ``[R, B]`` branch losses of this rank's samples.
        steps: ``[B]`` diffusion steps of these samples, up to 1,000, whole or not.
        prefix: what the metrics' names begin with.
    """
    num_branches = losses.shape[0]
    bins = (steps.ceil().long().clamp_min(1) - 1) * NOISE_BINS // NUM_STEPS
    finest = losses[-1].double()
    by_noise = torch.zeros(NOISE_BINS, dtype=torch.float64, device=losses.device).index_add_(0, bins, finest)
    counts = torch.bincount(bins, minlength=NOISE_BINS).double()
    sums = torch.cat([losses.double().sum(dim=1), by_noise, counts])
    dist.all_reduce(sums)
    by_branch, by_noise, counts = sums.cpu().split([num_branches, NOISE_BINS, NOISE_BINS])
    means = by_branch / counts.sum()
    weights = loss_weights(num_branches, multi_scale)
    named = {f"{prefix}loss/branch{r}": float(mean) for r, mean in enumerate(means)}
    named[f"{prefix}loss/total"] = float(sum(w * float(m) for w, m in zip(weights, means, strict=True)))
    width = NUM_STEPS // NOISE_BINS
    for number, (total, count) in enumerate(zip(by_noise, counts, strict=True)):
        if count:
            key = f"{prefix}loss_by_noise/steps_{number * width + 1:04d}-{(number + 1) * width:04d}"
            named[key] = float(total / count)
    return named


def _usage_of_nodes(device: torch.device) -> dict[str, float]:
    """How busy every node is, and the most GPU memory that a worker used since the last call; collective."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    if peak:
        torch.cuda.reset_peak_memory_stats(device)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (socket.gethostname(), node_usage(device), peak))
    nodes: dict[str, dict[str, float]] = {}
    for host, usage, _ in reversed(gathered):
        # Every rank tells of its own GPU.
        nodes[host] = nodes.get(host, {}) | usage
    named = {
        f"system/node{number}/{name}": value
        for number, host in enumerate(sorted(nodes))
        for name, value in nodes[host].items()
    }
    largest = max(peak for _, _, peak in gathered)
    return named | ({"train/gpu_memory_gigabytes": largest / 1e9} if largest else {})
