"""Random numbers from (seed, purpose, index), never from global state.

A counter-based generator (Philox) gives every item its own stream. What an item draws does not depend on
which other items are drawn, in which order, by which process, or after how many restarts. The arrays are
NumPy's, so that processes which only read data need no torch.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt


def generator(seed: int, purpose: str, index: int = 0, attempt: int = 0) -> np.random.Generator:
    """An independent stream for each (seed, purpose, index, attempt); all integers are non-negative."""
    # The low 128 bits of the counter count within a stream, the high ones name it.
    return np.random.Generator(
        np.random.Philox(key=_key(seed, purpose), counter=(index << 128) | (attempt << 192))
    )


def normal(
    seed: int, purpose: str, indices: Sequence[int], shape: tuple[int, ...], attempt: int = 0
) -> npt.NDArray[np.float32]:
    """Standard normal noise ``[len(indices), *shape]``, row i from ``indices[i]`` alone."""
    rows = np.empty((len(indices), *shape), dtype=np.float32)
    for row, index in zip(rows, indices, strict=True):
        generator(seed, purpose, index, attempt).standard_normal(dtype=np.float32, out=row)
    return rows


def uniform(seed: int, purpose: str, indices: Sequence[int], attempt: int = 0) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), ``[len(indices)]``, entry i from ``indices[i]`` alone."""
    return np.array([generator(seed, purpose, index, attempt).random() for index in indices])


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), "little")
