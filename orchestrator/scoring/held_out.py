"""Which images of a training dataset are held out of references and classifiers: a fixed random fifth."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dimr_model import randomness

HELD_OUT_FRACTION = 0.2


def held_out_mask(num_images: int) -> npt.NDArray[Any]:
    """A mask of source positions: the fixed random fifth that references and classifiers do not see."""
    mask = np.zeros(num_images, bool)
    mask[held_out_order(num_images)] = True
    return mask


def held_out_order(num_images: int) -> npt.NDArray[Any]:
    """The source positions of the held-out images, in a fixed random order."""
    count = int(num_images * HELD_OUT_FRACTION)
    return randomness.generator(0, "held-out").permutation(num_images)[:count]
