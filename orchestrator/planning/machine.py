"""What a run is planned for: which GPU, at what price, how well it is used."""

from dataclasses import dataclass

from orchestrator.config.schema import ExperimentConfig, Precision
from orchestrator.planning.options import PlanOptions
from orchestrator.training.gpus import GPUS

ASSUMED_MFU = {"a CPU": 0.4, "a GPU, without train.compile": 0.15, "a GPU, with train.compile": 0.4}
"""Model FLOPs utilization (Chowdhery et al., 2022) where none was measured.

On a GPU, thousands of small operators that are not compiled wait for memory. At 85% of an H100's bandwidth
they alone bound it at 14% (M/3R) to 23% (G/2R); this was simulated, not measured. For compiled blocks nothing
is known but what others reach.
"""
CONTEXT_BYTES = 2e9
"""Allowance for the CUDA context, NCCL's buffers and the libraries' workspaces; assumed."""
FRAGMENTATION = 0.05
"""Allowance for memory that the allocator holds and cannot use, as a fraction of the tensors; assumed."""


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
    mode: str
    """Key of ``ASSUMED_MFU``."""

    def fits(self, tensors: int) -> bool:
        """Whether so many bytes of tensors fit, with the allowances."""
        return self.memory is None or tensors * (1 + FRAGMENTATION) + CONTEXT_BYTES <= self.memory


def machine_of(config: ExperimentConfig, options: PlanOptions) -> Machine:
    """The GPU that was named; where the config trains on CPUs, the CPU of this machine.

    A GPU's peak is looked up; for the CPU a matrix product is timed.
    """
    if config.train.use_gpu:
        gpu = GPUS[options.gpu]
        peaks = {"bf16": gpu.bf16_flops, "fp32": gpu.fp32_flops}
        mode = f"a GPU, {'with' if config.train.compile else 'without'} train.compile"
        return Machine(
            options.gpu, peaks[config.train.precision], peaks[config.sampling.precision], gpu.memory, mode
        )
    import torch

    from orchestrator.training.hardware import matmul_peak

    threads = torch.get_num_threads()
    torch.set_num_threads(config.train.threads_per_worker)
    try:
        precisions: set[Precision] = {config.train.precision, config.sampling.precision}
        measured = {precision: matmul_peak(torch.device("cpu"), precision) for precision in precisions}
    finally:
        torch.set_num_threads(threads)
    name = f"this machine's CPU, {config.train.threads_per_worker} thread(s) a worker"
    return Machine(name, measured[config.train.precision], measured[config.sampling.precision], None, "a CPU")
