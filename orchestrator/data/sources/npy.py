"""The released code's feature files, read without running what is pickled in them."""

import io
import pickle

import numpy as np
import numpy.typing as npt

from orchestrator.errors import UserError
from orchestrator.storage.unpickling import RestrictedUnpickler

# What NumPy needs to rebuild an array, and nothing else, under the module names of NumPy 1 and 2.
_ALLOWED = {
    (module, name)
    for package in ("numpy.core", "numpy._core")
    for module, name in (
        (f"{package}.multiarray", "_reconstruct"),
        (f"{package}.multiarray", "scalar"),
        (f"{package}.numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype")}


NO_SPREAD = -30.0
"""Log-variance of latents that come without one; diffusers clamps there, and half precision holds it."""
MEAN_ONLY = "latents without a variance, taken as means"


def read_released(content: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """Read (latents ``[C, h, w]``, label) from one feature file: an object array, pickled inside ``.npy``.

    Raises:
        ValueError: it holds anything else.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        _, _, dtype = read_header(stream)
        if not dtype.hasobject:
            raise ValueError(f"it is a plain array of {dtype}")
        latents, label = RestrictedUnpickler(stream, _ALLOWED).load()
        return _three_dimensional(latents), _one_label(label)
    except (ValueError, TypeError, EOFError, pickle.UnpicklingError, OSError, UserError) as error:
        raise ValueError(f"no feature file of the released code (latents and label): {error}") from error


def read_fast_dit(content: bytes, label: bytes, scale: float) -> tuple[npt.NDArray[np.float32], int]:
    """Read (latents ``[C, h, w]``, label) from fast-DiT's two files; its latents are scaled, these are not.

    Raises:
        ValueError: they hold anything else.
    """
    latents = np.load(io.BytesIO(content), allow_pickle=False)
    return _three_dimensional(latents) / np.float32(scale), _one_label(
        np.load(io.BytesIO(label), allow_pickle=False)
    )


def to_moments(
    latents: npt.NDArray[np.float32], shape: tuple[int, int, int]
) -> tuple[npt.NDArray[np.float32], str | None]:
    """Latents as moments of ``shape [2C, h, w]``, and a remark; means alone get a variance of nothing.

    Raises:
        ValueError: they are of another shape.
    """
    if latents.shape == shape:
        return latents, None
    channels, *size = shape
    if latents.shape == (channels // 2, *size):
        return np.concatenate([latents, np.full_like(latents, NO_SPREAD)]), MEAN_ONLY
    raise ValueError(f"latents of shape {latents.shape} instead of {shape} or {(channels // 2, *size)}")


def _three_dimensional(latents: npt.ArrayLike) -> npt.NDArray[np.float32]:
    array = np.asarray(latents, dtype=np.float32)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3:
        raise ValueError(f"the latents have shape {array.shape}")
    return array


def _one_label(label: npt.ArrayLike) -> int:
    array = np.asarray(label)
    if array.size != 1 or not np.issubdtype(array.dtype, np.number) or array.reshape(-1)[0] % 1 != 0:
        raise ValueError(f"{label!r} is no class number")
    return int(array.reshape(-1)[0])
