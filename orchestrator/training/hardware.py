"""What the hardware could do, and how busy it is."""

import time
from functools import lru_cache

import psutil
import torch

from orchestrator.config import Precision

# Dense bf16 and TF32-free fp32 peaks, FLOP/s, from NVIDIA's data sheets.
GPU_PEAKS = {
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "V100": (125e12, 15.7e12),
}
PROBE_SIZE, PROBE_REPEATS = 768, 5


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second that the device could do: its data sheet's, else what a matrix product reaches."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, (bf16, fp32) in GPU_PEAKS.items():
            if known in name:
                return bf16 if precision == "bf16" else fp32
    return _measured_peak(str(device), precision, torch.get_num_threads())


@lru_cache(maxsize=4)
def _measured_peak(device: str, precision: Precision, threads: int) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(PROBE_SIZE, PROBE_SIZE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(PROBE_REPEATS):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * PROBE_SIZE**3 / best


def node_usage(device: torch.device) -> dict[str, float]:
    """How busy this machine is: processor since the last call, memory, and its GPUs' memory."""
    memory = psutil.virtual_memory()
    usage = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
    }
    if device.type == "cuda":
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            usage[f"gpu_{index}_memory_usage_percentage"] = 100 * (1 - free / total)
    return usage
