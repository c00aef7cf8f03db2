"""The squared maximum mean discrepancy (MMD) between samples and real images, under a kernel.

CMMD takes a Gaussian kernel on CLIP's features, KID a cubic one. Sums are kept for each tenth of the samples,
so that leaving out a tenth costs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
ROWS_AT_ONCE = 2000

Array = npt.NDArray[np.float64]
Kernel = Callable[[Array, Array], Array]
"""Features ``[N, D]`` and ``[M, D]`` -> the kernel of every pair ``[N, M]``."""


def gaussian_kernel(first: Array, second: Array) -> Array:
    """CMMD's: exp(-|x - y|^2 / (2 sigma^2)), Jayasumana et al. 2024, "Rethinking FID"."""
    squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1)[None]
    return np.exp(-(squares - 2 * first @ second.T) / (2 * CMMD_SIGMA**2))


def cubic_kernel(first: Array, second: Array) -> Array:
    """KID's: (x.y / D + 1)^3, Bińkowski et al. 2018, "Demystifying MMD GANs"."""
    base = first @ second.T / first.shape[1] + 1
    return base * base * base  # many times faster than a power


@dataclass(frozen=True)
class KernelSums:
    """Sums of a kernel over pairs of images."""

    counts: Array
    """Samples in each of G groups ``[G]``."""
    within: Array
    """Sums over the pairs of samples of two groups ``[G, G]``."""
    diagonal: Array
    """The part of ``within`` that are samples with themselves ``[G]``."""
    across: Array
    """Sums over the pairs of a group's samples and the real images ``[G]``."""
    real: float
    """Sum over the pairs of real images."""
    real_diagonal: float
    """The part of ``real`` that are images with themselves."""
    real_count: int

    def mmd(self, *, unbiased: bool, without: int | None = None) -> float:
        """The squared MMD.

        Args:
            unbiased: leave out the pairs of an image with itself, as KID does and CMMD does not.
            without: a group of samples that is left out.
        """
        kept = np.arange(len(self.counts)) != (-1 if without is None else without)
        samples, real = self.counts[kept].sum(), self.real_count
        within, across = self.within[np.ix_(kept, kept)].sum(), self.across[kept].sum()
        if unbiased:
            of_samples = (within - self.diagonal[kept].sum()) / (samples * (samples - 1))
            of_real = (self.real - self.real_diagonal) / (real * (real - 1))
        else:
            of_samples, of_real = within / samples**2, self.real / real**2
        return float(of_samples + of_real - 2 * across / (samples * real))


def kernel_sums(groups: Sequence[npt.NDArray[Any]], real: npt.NDArray[Any], kernel: Kernel) -> KernelSums:
    """The sums over groups of samples' features ``[N_g, D]`` and real ones ``[M, D]``, in float64."""
    wide, others = [group.astype(np.float64) for group in groups], real.astype(np.float64)
    within = np.zeros((len(wide), len(wide)))
    for one in range(len(wide)):
        for other in range(one + 1):
            within[one, other] = within[other, one] = _sum(wide[one], wide[other], kernel)
    return KernelSums(
        counts=np.array([len(group) for group in wide], np.float64),
        within=within,
        diagonal=np.array([_diagonal(group, kernel) for group in wide]),
        across=np.array([_sum(group, others, kernel) for group in wide]),
        real=_sum(others, others, kernel),
        real_diagonal=_diagonal(others, kernel),
        real_count=len(others),
    )


def _sum(first: Array, second: Array, kernel: Kernel) -> float:
    """The sum over all pairs, in blocks: 50,000 images have too many pairs to hold."""
    blocks = (first[start : start + ROWS_AT_ONCE] for start in range(0, len(first), ROWS_AT_ONCE))
    return float(sum(kernel(block, second).sum() for block in blocks))


def _diagonal(features: Array, kernel: Kernel) -> float:
    return float(sum(kernel(one[None], one[None])[0, 0] for one in features))
