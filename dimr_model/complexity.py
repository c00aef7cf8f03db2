"""How large a network is and how much it computes, counted without running it."""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dimr_model.config import VARIANTS, DiMRConfig
from dimr_model.network import DiMR


@cache
def count_parameters(config: DiMRConfig) -> int:
    """The number of parameters of ``DiMR(config)``."""
    with torch.device("meta"):
        return sum(p.numel() for p in DiMR(config).parameters())


@cache
def count_macs(config: DiMRConfig) -> int:
    """The multiply-adds of one forward pass of one image, counted by torch's flop counter.

    The paper calls them Gflops (Table 1).
    """
    with torch.device("meta"):
        # Frozen, because the counter's hooks ask what needs a gradient for its function.
        model = DiMR(config).eval().requires_grad_(False)
        size = (1, config.channels, config.input_size, config.input_size)
        noisy, labels = torch.empty(size), torch.empty(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(noisy, torch.empty(1), labels)
    return int(counter.get_total_flops()) // 2


@cache
def analytic_macs(config: DiMRConfig) -> int:
    """The same number as :func:`count_macs`, worked out from the sizes of the layers.

    Every weight counts once for each position that it is applied at. Attention's two products are added.
    """
    with torch.device("meta"):
        model = DiMR(config)
    total = 0
    for index, branch in enumerate(model.branches):
        cells = (config.input_size // config.downsampling(index)) ** 2
        positions = cells
        if branch.is_sequence:
            positions += [config.time_conditioning, config.class_conditioning].count("token")
        for name, module in branch.named_modules():
            total += _module_macs(name, module, cells, positions, config.patch_size**2)
    return total


def _module_macs(name: str, module: nn.Module, cells: int, positions: int, patch_area: int) -> int:
    from dimr_model.blocks import SelfAttention

    if isinstance(module, SelfAttention):
        # Queries times keys, and their weights times the values.
        return 2 * positions**2 * module.qkv.in_features
    if isinstance(module, nn.Conv2d):
        return int(module.weight.numel()) * (cells * patch_area if name == "out" else cells)
    if not isinstance(module, nn.Linear):
        return 0
    if "modulation" in name or "time_embedding" in name:
        return module.weight.numel()
    if name.startswith(("upsample.", "block_skips.")):
        # At the resolution below, and once per image for the norm's mean and shift.
        per_image = 2 if name == "upsample.projection" else 0
        return module.weight.numel() * (cells // 4 + per_image)
    outside = name in ("join", "unpatchify")
    return module.weight.numel() * (cells if outside else positions)


def family_table() -> list[dict[str, Any]]:
    """The table of the paper's models (Section 4.4, Table 4), a row for each."""
    return [
        {
            "variant": name,
            "input": f"{config.input_size}x{config.input_size}x{config.channels}",
            "layers": ", ".join(str(config.built_depth(r)) for r in range(config.num_branches)),
            "widths": ", ".join(map(str, config.widths)),
            "parameters": count_parameters(config),
            "macs": count_macs(config),
        }
        for name, config in VARIANTS.items()
    ]
