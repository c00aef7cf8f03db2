"""On what and how precisely a process computes: its GPU or the CPU, float32 or bf16, never TF32."""

import logging
from functools import cache

import torch

from orchestrator.config.settings import Precision

_logger = logging.getLogger(__name__)


def compute_device(use_gpu: bool) -> torch.device:
    """This process's GPU if ``use_gpu`` and it has one, else the CPU."""
    refuse_tf32()
    return torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")


def refuse_tf32() -> None:
    """Let float32 mean float32 on a GPU too: TF32 would change the last digits of scores."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def compute_precision(precision: Precision, device: torch.device) -> torch.autocast:
    """Autocast to bf16 where the config asks for it; norms and the loss keep float32."""
    if precision == "bf16" and device.type == "cpu":
        _warn_if_emulated()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@cache
def _warn_if_emulated() -> None:
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        _logger.warning(
            "This CPU has no bf16 instructions and emulates them, many times slower than fp32; set "
            "train.precision and sampling.precision to fp32."
        )
