"""Depthwise 7x7 convolutions on a GPU: in which layout of memory, and by whose kernel, they are fastest."""

import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from orchestrator.training.hardware import seconds_of

SHAPES = {
    "G/2R-256, branch 1": (64, 576, 32),
    "XL/3R-512, branch 2": (64, 240, 64),
    "M/3R-64, branch 2": (128, 192, 64),
}
"""Images, channels and positions a side."""
CALLS = 10
"""Passes per measurement."""


def _channels_last(convolution: nn.Module, features: Tensor) -> Tensor:
    """As the blocks do it: features ``[B, H, W, C]`` seen as ``[B, C, H, W]``."""
    return convolution(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def _contiguous(convolution: nn.Module, features: Tensor) -> Tensor:
    """Copied to ``[B, C, H, W]`` and back."""
    return convolution(features.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1).contiguous()  # type: ignore[no-any-return]


def _by_torch(convolution: nn.Module, features: Tensor) -> Tensor:
    """The same by torch's own kernel."""
    with torch.backends.cudnn.flags(enabled=False):
        return _contiguous(convolution, features)


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "channels last": _channels_last,
    "contiguous": _contiguous,
    "contiguous, torch's kernel": _by_torch,
}


def measure_layouts(repeats: int, console: Console) -> dict[tuple[str, str], float]:
    """Print milliseconds of a forward pass and of both passes, for every shape and way."""
    table = Table("depthwise 7x7 in bf16", "way", "forward, ms", "both passes, ms", "against the first")
    both: dict[tuple[str, str], float] = {}
    for shape, (images, channels, side) in SHAPES.items():
        for way, run in WAYS.items():
            with torch.device("cuda"):
                features = torch.randn(images, side, side, channels, dtype=torch.bfloat16)
                convolution = nn.Conv2d(channels, channels, 7, padding=3, groups=channels).bfloat16()
            forward, total = _seconds(run, convolution, features, repeats)
            both[shape, way] = total
            ratio = total / both[shape, "channels last"]
            table.add_row(shape, way, f"{1e3 * forward:.2f}", f"{1e3 * total:.2f}", f"{ratio:.2f}x")
    console.print(table)
    return both


def _seconds(
    run: Callable[[nn.Module, Tensor], Tensor], convolution: nn.Module, features: Tensor, repeats: int
) -> tuple[float, float]:
    """Median seconds of a forward pass, and of a forward and a backward pass."""
    features.requires_grad_()
    gradient = torch.randn_like(features)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(CALLS):
                run(convolution, features)

    def both() -> None:
        for _ in range(CALLS):
            run(convolution, features).backward(gradient)

    medians = []
    for work in (forward, both):
        work()
        medians.append(statistics.median(seconds_of(work, features.device) for _ in range(repeats)) / CALLS)
    return medians[0], medians[1]
