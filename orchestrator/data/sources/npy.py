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


def read_released(content: bytes, path: str) -> tuple[npt.NDArray[np.float32], int]:
    """Read (moments ``[2C, h, w]``, label) from one feature file: an object array, pickled inside ``.npy``.

    Raises:
        UserError: it holds anything else.
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
        moments, label = RestrictedUnpickler(stream, _ALLOWED).load()
        array = np.asarray(moments, dtype=np.float32)
        if array.ndim != 3 or array.shape[0] % 2:
            raise ValueError(f"the moments have shape {array.shape}")
        return array, int(label)
    except (ValueError, TypeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise UserError(
            f"{path} is not a feature file of the released code (moments and label): {error}."
        ) from error
