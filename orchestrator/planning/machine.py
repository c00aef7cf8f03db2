"""What a run is planned for: which GPU, with how much memory."""

from dataclasses import dataclass

from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.settings import Precision
from orchestrator.planning.options import PlanOptions
from orchestrator.training.gpus import GPUS

CONTEXT_BYTES = 2e9
"""Allowance for the CUDA context, NCCL's buffers and the libraries' workspaces; assumed."""
FRAGMENTATION = 0.05
"""Allowance for memory that the allocator holds and cannot use, as a fraction of the tensors; assumed."""
COMPILED = 0.14
"""Tensors that compiled blocks hold beyond what is planned, as a fraction of it.

On an H200 (torch 2.11, 2026-11-26) it was 0.13 (M/3R) and 0.14 (G/2R).
"""


@dataclass(frozen=True)
class Machine:
    """What one worker computes with."""

    name: str
    flops: dict[Precision, float]
    """Peak operations per second, by precision."""
    memory: float | None
    """Bytes of GPU memory; None for a CPU worker."""
    bandwidth: float | None
    """Bytes per second between a GPU and its memory; None for a CPU worker."""

    def fits(self, tensors: int, compiled: bool) -> bool:
        """Whether so many bytes of tensors fit, with the allowances."""
        if self.memory is None:
            return True
        share = (1 + FRAGMENTATION) * (1 + COMPILED if compiled else 1)
        return tensors * share + CONTEXT_BYTES <= self.memory


def machine_of(config: ExperimentConfig, options: PlanOptions) -> Machine:
    """The GPU that was named; where the config trains on CPUs, the CPU of this machine.

    A GPU's peak is looked up; for the CPU a matrix product is timed.
    """
    if config.train.use_gpu:
        gpu = GPUS[options.gpu]
        peaks: dict[Precision, float] = {"bf16": gpu.bf16_flops, "fp32": gpu.fp32_flops}
        return Machine(options.gpu, peaks, gpu.memory, gpu.bandwidth)
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
    return Machine(name, measured, None, None)
