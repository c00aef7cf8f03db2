"""The same network with another number of branches, and networks of equal size or cost to compare it with."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

from dimr_model.complexity import analytic_macs, count_parameters
from dimr_model.config import DiMRConfig

Measure = Literal["parameters", "macs"]
TOLERANCE = 0.02
"""Largest relative difference of two networks that count as matched."""
DEPTH_STEPS = (0, 2, -2, 4, -4)
"""Blocks added to the coarsest branch when widths alone cannot reach the target; built depths are odd."""
BISECTIONS = 13
_COUNTS: dict[str, Callable[[DiMRConfig], int]] = {"parameters": count_parameters, "macs": analytic_macs}


def with_branches(config: DiMRConfig, branches: int) -> DiMRConfig:
    """The network without its finest branches, at a larger patch size.

    So the coarsest branch keeps its positions. One branch is a U-ViT, the baseline of the paper's Table 2.

    Raises:
        ValueError: the network has fewer branches.
    """
    if not 1 <= branches <= config.num_branches:
        raise ValueError(f"{branches} branches cannot be taken from a network of {config.num_branches}")
    return dataclasses.replace(
        config,
        depths=config.depths[:branches],
        widths=config.widths[:branches],
        patch_size=config.downsampling(0) // 2 ** (branches - 1),
    )


def measure(config: DiMRConfig, by: Measure) -> int:
    """Parameters, or multiply-adds of one forward pass of one image."""
    return _COUNTS[by](config)


def match(config: DiMRConfig, target: int, by: Measure) -> DiMRConfig:
    """The network with its widths scaled alike, to ``target`` parameters or multiply-adds within 2%.

    The coarsest branch's width stays a multiple of ``num_heads``. Where that is too coarse, blocks are added
    to that branch or taken away.

    Raises:
        ValueError: no such widths come within 2%.
    """
    nearest: DiMRConfig | None = None
    for candidate in _candidates(config, target, by):
        if nearest is None or _error(candidate, target, by) < _error(nearest, target, by):
            nearest = candidate
        if _error(nearest, target, by) <= TOLERANCE:
            return nearest
    assert nearest is not None
    raise ValueError(
        f"no widths in the ratio of {config.widths} with depths near {config.depths} come within "
        f"{TOLERANCE:.0%} of {target:,} {by}; "
        f"the nearest are {nearest.widths} with depths {nearest.depths} and {measure(nearest, by):,}"
    )


def _candidates(config: DiMRConfig, target: int, by: Measure) -> Iterator[DiMRConfig]:
    if _error(config, target, by) <= TOLERANCE:
        yield config
    for added in DEPTH_STEPS:
        if config.depths[0] + added < 1:
            continue
        depths = (config.depths[0] + added, *config.depths[1:])
        deepened = dataclasses.replace(config, depths=depths)
        factor = _factor(deepened, target, by)
        for coarsest in _multiples(config.widths[0] * factor, config.num_heads):
            # The coarsest width is rounded first; the others make up for it.
            yield _fill(deepened, coarsest, factor, target, by)


def _multiples(width: float, heads: int) -> list[int]:
    """The multiples of ``heads`` below and above, the nearer one first."""
    below = max(heads, int(width // heads) * heads)
    return sorted({below, below + heads}, key=lambda multiple: abs(multiple - width))


def _scaled(config: DiMRConfig, coarsest: int, factor: float) -> DiMRConfig:
    finer = (max(1, round(width * factor)) for width in config.widths[1:])
    return dataclasses.replace(config, widths=(coarsest, *finer))


def _factor(config: DiMRConfig, target: int, by: Measure) -> float:
    """The factor by which to scale all widths, by bisection: the count grows with them."""

    def scaled(factor: float) -> DiMRConfig:
        return _scaled(config, _multiples(config.widths[0] * factor, config.num_heads)[0], factor)

    return _bisect(lambda factor: measure(scaled(factor), by), target, 0.05, 8.0)


def _fill(config: DiMRConfig, coarsest: int, factor: float, target: int, by: Measure) -> DiMRConfig:
    if config.num_branches == 1:
        return _scaled(config, coarsest, factor)
    finer = _bisect(
        lambda scale: measure(_scaled(config, coarsest, scale), by), target, factor / 2, factor * 2
    )
    return _scaled(config, coarsest, finer)


def _bisect(count: Callable[[float], int], target: int, low: float, high: float) -> float:
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) < target else (low, middle)
    return (low + high) / 2


def _error(config: DiMRConfig, target: int, by: Measure) -> float:
    return abs(measure(config, by) / target - 1)
