"""Density and coverage: how samples lie among the nearest neighbours of real images.

Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models". Beside precision they are
not deceived by single real images far from all others.
"""

from typing import Any

import numpy.typing as npt
import torch

NEIGHBOURS = 5
REAL_AT_ONCE = 1000


def density_and_coverage(
    samples: npt.NDArray[Any], real: npt.NDArray[Any], neighbours: int
) -> tuple[float, float]:
    """Density and coverage of samples' features ``[N, D]`` among real ones ``[M, D]``.

    Each real image has a ball that reaches to its nearest neighbour number ``neighbours`` among the real
    images. Density is the mean number of balls that a sample lies in, over ``neighbours``. Coverage is the
    fraction of balls with a sample in them.
    """
    drawn, others = torch.from_numpy(samples), torch.from_numpy(real)
    inside = covered = 0
    for block in others.split(REAL_AT_ONCE):
        # The nearest of all is the image itself.
        radii = torch.cdist(block, others).kthvalue(neighbours + 1).values
        is_inside = torch.cdist(block, drawn) < radii[:, None]
        inside += int(is_inside.sum())
        covered += int(is_inside.any(dim=1).sum())
    return inside / (neighbours * len(drawn)), covered / len(others)
