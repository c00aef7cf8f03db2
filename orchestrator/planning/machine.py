"""What a run is planned for: which GPU, at what price, how well it is used."""

from dataclasses import dataclass

import torch

from orchestrator.config import ExperimentConfig, Precision
from orchestrator.training.hardware import GPUS, matmul_peak

ASSUMED_MFU = 0.4
CONTEXT_BYTES = 2e9
"""Allowance for the CUDA context, NCCL's buffers and the libraries' workspaces; assumed."""
FRAGMENTATION = 0.05
"""Allowance for pieces of memory that the allocator holds and cannot use, as a fraction of the tensors; assumed."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What the config does not say."""

    gpu: str = "H100"
    """GPU of the workers: H200, H100, A100 (80 GB), L40S, L4 or V100 (32 GB)."""
    gpus_per_node: int = 8
    """GPUs of a machine; matters to train.sharding hybrid."""
    price: float | None = None
    """Of one GPU (or CPU worker) for one hour, in whatever currency; null: no cost is printed."""
    mfu: float | None = None
    """Model FLOPs utilization, measured: train/mfu of a run, or what jobs/benchmark.py train prints; null: 0.4, assumed."""
    images_per_second_per_worker: float | None = None
    """Measured speed of training with this very config; instead of mfu."""

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            raise ValueError(f"gpu {self.gpu!r} is unknown; use one of {', '.join(GPUS)}")
        if self.gpus_per_node < 1:
            raise ValueError(f"gpus_per_node {self.gpus_per_node} must be at least 1")
        if self.price is not None and not 0 < self.price < float("inf"):
            raise ValueError(f"price {self.price} must be positive: what one GPU costs for one hour")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise ValueError(f"mfu {self.mfu} must be in (0, 1], for example 0.4")
        speed = self.images_per_second_per_worker
        if speed is not None and not 0 < speed < float("inf"):
            raise ValueError(f"images_per_second_per_worker {speed} must be positive")
        if self.mfu is not None and speed is not None:
            raise ValueError("give mfu or images_per_second_per_worker, not both: one follows from the other")


@dataclass(frozen=True)
class Machine:
    """What one worker computes with."""

    name: str
    training_flops: float
    """Peak operations per second in training's precision."""
    sampling_flops: float
    """Peak operations per second in sampling's precision."""
    memory: float | None
    """Bytes of GPU memory; None for a CPU worker."""

    def fits(self, tensors: int) -> bool:
        """Whether so many bytes of tensors fit, with the allowances."""
        return self.memory is None or tensors * (1 + FRAGMENTATION) + CONTEXT_BYTES <= self.memory


def machine_of(config: ExperimentConfig, options: PlanOptions) -> Machine:
    """The GPU that was named; where the config trains on CPUs, this machine's, of which a matrix product is timed."""
    if config.train.use_gpu:
        gpu = GPUS[options.gpu]
        peaks = {"bf16": gpu.bf16_flops, "fp32": gpu.fp32_flops}
        return Machine(
            options.gpu, peaks[config.train.precision], peaks[config.sampling.precision], gpu.memory
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.train.threads_per_worker)
    try:
        precisions: set[Precision] = {config.train.precision, config.sampling.precision}
        measured = {precision: matmul_peak(torch.device("cpu"), precision) for precision in precisions}
    finally:
        torch.set_num_threads(threads)
    name = f"this machine's CPU, {config.train.threads_per_worker} thread(s) a worker"
    return Machine(name, measured[config.train.precision], measured[config.sampling.precision], None)
