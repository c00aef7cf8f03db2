"""What the hardware could do, and how busy it is."""

import re
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from orchestrator.config.settings import Precision
from orchestrator.training.gpus import GPUS

PROBE_REPEATS = 2


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second that the device could do.

    They are those of its data sheet, or what a matrix product reaches where there is none.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, gpu in GPUS.items():
            # As a word: an L40 is no L4.
            if re.search(rf"\b{known}\b", name):
                return gpu.bf16_flops if precision == "bf16" else gpu.fp32_flops
    return matmul_peak(device, precision)


def matmul_peak(device: torch.device, precision: Precision) -> float:
    """Operations per second of a large square matrix product, the best of a few, on the threads set now."""
    size = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return (
        2 * size**3 / min(seconds_of(lambda: torch.mm(left, right), device) for _ in range(1 + PROBE_REPEATS))
    )


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """How long ``work`` takes, to the end of what it starts on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def node_usage(device: torch.device) -> dict[str, float]:
    """How busy this node is: its CPUs since the last call, its memory, and the memory of this process's GPU.

    To ask for another process's GPU would open a context on it, which takes half a gigabyte there.
    """
    memory = psutil.virtual_memory()
    usage = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        usage[f"gpu_{device.index or 0}_memory_usage_percentage"] = 100 * (1 - free / total)
    return usage
