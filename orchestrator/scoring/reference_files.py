"""What is wrong with a reference, found from headers alone: nothing is decoded, and torch is not loaded."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from orchestrator import storage
from orchestrator.config.evaluation import FEWEST_IMAGES
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import INFO_FILE, open_dataset
from orchestrator.data.sources.decode import Decoding, size_of
from orchestrator.data.sources.files import File, UnreadableError, open_file, patiently, walk
from orchestrator.data.sources.folder import images_of
from orchestrator.data.sources.names import printable
from orchestrator.errors import UserError

ADM_IMAGES = "arr_0"
READ_AT_ONCE = 16
HEADER_BYTES = 1 << 16
MOST_NAMED = 5
INCEPTION_DIMENSIONS = 2048
ABOUT = "about"
"""The array with which a file of ours says what its statistics were made from."""
Value = TypeVar("Value")
NPZ_ERRORS = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, RuntimeError)


def check_reference(path: str, config: ExperimentConfig) -> None:
    """Find what is wrong with the reference at ``path`` before anything is sampled.

    Raises:
        UserError: it is damaged, of another kind, extractor or resolution.
    """
    resolution = known_resolution(config)
    if path.endswith(".npz"):
        _check_npz(path, config, resolution)
    elif INFO_FILE in storage.sizes(path):
        info = open_dataset(path).info
        require_enough_real(path, info.num_images)
        if info.kind == "pixels" and resolution is not None:
            require_resolution(path, info.shape[-1], resolution)
    else:
        names, size = list_folder(path, Decoding.of(config.prepare))
        require_enough_real(path, len(names))
        if resolution is not None:
            require_resolution(path, size, resolution)


def known_resolution(config: ExperimentConfig) -> int | None:
    """Height and width of what the network samples; None where only a download would tell."""
    vae = config.sampling.vae
    if vae is None:
        return config.model.input_size
    described = Path(vae).expanduser() / "config.json"
    if not described.is_file():
        return None
    blocks = json.loads(described.read_text()).get("block_out_channels")
    return config.model.input_size * 2 ** (len(blocks) - 1) if blocks else None


def require_enough_real(path: str, count: int) -> None:
    """Check that there are as many real images as a score needs.

    Raises:
        UserError: they are fewer.
    """
    if count < FEWEST_IMAGES:
        raise UserError(
            f"There are {count} images at {path}, and a score compares with at least {FEWEST_IMAGES}. Name "
            "more."
        )


def require_resolution(path: str, found: int, wanted: int) -> None:
    """Check that images are as large as the network's samples.

    Raises:
        UserError: they are not.
    """
    if found != wanted:
        raise UserError(
            f"The images at {path} are {found}x{found} and the network samples {wanted}x{wanted}. Give "
            "images "
            "of its resolution; resizing would change the scores."
        )


@contextmanager
def npz_errors(path: str) -> Iterator[None]:
    """Explain what an ``.npz`` raises that is cut short, damaged or none.

    Raises:
        UserError: there is such an error.
    """
    try:
        yield
    except NPZ_ERRORS as error:
        raise UserError(
            f"{path} cannot be read as a reference: {error}. The file is cut short, damaged or no .npz. "
            "Fetch it "
            "again and compare its size, or make it again with `python jobs/evaluate.py reference`."
        ) from error


def read_arrays(path: str, *, but: str | None = None, only: str | None = None) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an ``.npz``, from a disk or a store.

    Raises:
        UserError: it is cut short, damaged, or holds anything but arrays.
    """
    filesystem, inner = storage.filesystem_of(path)
    with (
        npz_errors(path),
        filesystem.open_input_file(inner) as stream,
        np.load(stream, allow_pickle=False) as content,
    ):
        names = [name for name in content.files if name != but and only in (None, name)]
        return {name: np.asarray(content[name]) for name in names}


def read_headers(path: str) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array in an ``.npz``.

    Raises:
        UserError: it is cut short, damaged, or holds anything but arrays.
    """
    filesystem, inner = storage.filesystem_of(path)
    headers = {}
    with npz_errors(path), filesystem.open_input_file(inner) as stream, zipfile.ZipFile(stream) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                if version == (1, 0):
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                else:
                    shape, _, dtype = np.lib.format.read_array_header_2_0(member)
            headers[name.removesuffix(".npy")] = (shape, dtype)
    return headers


def by_space(names: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """What an ``.npz`` of ours holds of each extractor, by the arrays' names there; nothing where it is none.

    An extractor that is alone in the file has no name before its arrays, and is called ``""``.
    """
    found: dict[str, dict[str, Value]] = {}
    for name, value in names.items():
        space, _, inner = name.rpartition(".")
        found.setdefault(space, {})[inner] = value
    return {space: inner for space, inner in found.items() if ABOUT in inner}


def _check_npz(path: str, config: ExperimentConfig, resolution: int | None) -> None:
    headers = read_headers(path)
    spaces = by_space(headers)
    if spaces:
        _check_ours(path, config, resolution, spaces)
        return
    others = [kind for kind in config.evaluation.extractors if kind != "inception"]
    if "mu" in headers or "sigma" in headers:
        _require_arrays(path, headers, ("mu", "sigma"))
        if headers["mu"][0] != (INCEPTION_DIMENSIONS,) or (others and ADM_IMAGES not in headers):
            raise UserError(
                f"{path} holds statistics of Inception's features, of {headers['mu'][0][0]} dimensions, "
                "without images, and evaluation.extractors is "
                f"[{', '.join(config.evaluation.extractors)}]. Set --evaluation.extractors '[inception]', or "
                "another --evaluation.reference: images, or a dataset."
            )
    elif ADM_IMAGES not in headers:
        raise UserError(
            f"{path} holds {', '.join(headers) or 'nothing'}, and neither statistics (mu and sigma) nor "
            "images "
            f"({ADM_IMAGES}). Name a file that `python jobs/evaluate.py reference` or ADM made."
        )
    if ADM_IMAGES in headers:
        size = require_images(path, *headers[ADM_IMAGES])
        if resolution is not None:
            require_resolution(path, size, resolution)


def _check_ours(
    path: str, config: ExperimentConfig, resolution: int | None, spaces: dict[str, dict[str, Any]]
) -> None:
    found: dict[str, int] = {}
    for space, headers in spaces.items():
        _require_arrays(path, headers, ("mu", "sigma", "features"))
        name = ".".join(filter(None, (space, ABOUT)))
        with npz_errors(path):
            about = json.loads(str(read_arrays(path, only=name)[name]))
            found[about["extractor"]["name"]] = about["resolution"]
    missing = [kind for kind in config.evaluation.extractors if kind not in found]
    if missing:
        raise UserError(
            f"The reference {path} has statistics of {' and '.join(found)}, and none of "
            f"{' or '.join(missing)}, which evaluation.extractors asks for. Set --evaluation.extractors "
            f"'[{', '.join(found)}]', name the images themselves as --evaluation.reference, or make the file "
            "again with `python jobs/evaluate.py reference`."
        )
    for size in found.values():
        if resolution not in (None, size):
            raise UserError(
                f"The reference {path} is of {size}x{size} images and the network samples "
                f"{resolution}x{resolution}. Make one of that resolution."
            )


def _require_arrays(path: str, headers: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in headers]
    if missing:
        raise UserError(
            f"{path} cannot be read as a reference: it has no {' and no '.join(missing)}, only "
            f"{', '.join(headers)}. Fetch or make it again."
        )
    for suffix in ("", "_s"):
        if f"mu{suffix}" not in headers:
            continue
        (mean, kind), (covariance, _) = headers[f"mu{suffix}"], headers.get(f"sigma{suffix}", ((), None))
        if len(mean) != 1 or covariance != (*mean, *mean) or kind.kind != "f":
            raise UserError(
                f"{path} cannot be read as a reference: mu{suffix} has the shape {mean} and sigma{suffix} "
                f"{covariance}; they do not belong together. Fetch or make it again."
            )


def require_images(path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Check that an array holds square uint8 images; returns their height.

    Raises:
        UserError: it does not.
    """
    if (
        dtype != np.uint8
        or len(shape) != 4
        or shape[-1] not in (1, 3)
        or shape[1] != shape[2]
        or not shape[0]
    ):
        raise UserError(
            f"{ADM_IMAGES} in {path} is {dtype} {list(shape)}, not uint8 [N, H, W, C] of square images."
        )
    return shape[1]


def list_folder(path: str, decoding: Decoding) -> tuple[list[File], int]:
    """All images of a folder, and their height and width, which their headers tell.

    Raises:
        UserError: there are none, one cannot be read, or they are not square and of one size.
    """
    tree = walk(path)
    files, _ = images_of(path, tree)
    if not files:
        raise UserError(f"There are no images in {printable(path)} or the folders in it.")

    def look(file: File) -> tuple[int, int] | str:
        def start() -> bytes:
            with open_file(path, file.path) as stream:
                return bytes(stream.read(HEADER_BYTES if file.size > 2 * HEADER_BYTES else file.size))

        try:
            content = patiently(start, file.path)
            return size_of(content, decoding)
        except UnreadableError as error:
            return str(error)
        except (OSError, ValueError, SyntaxError) as error:
            return str(error)

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        sizes = dict(zip(files, pool.map(look, files), strict=True))
    broken = [(printable(file.path), size) for file, size in sizes.items() if isinstance(size, str)]
    if broken:
        others = ", ".join(name for name, _ in broken[1:MOST_NAMED])
        raise UserError(
            f"{broken[0][0]} is no image that can be read ({broken[0][1]})"
            + (f", nor are {len(broken) - 1} more: {others}" if others else "")
            + ". Remove or replace it."
        )
    counts: dict[Any, list[File]] = {}
    for file, size in sizes.items():
        counts.setdefault(size, []).append(file)
    usual = max(counts, key=lambda size: len(counts[size]))
    for size, group in counts.items():
        if size != usual:
            raise UserError(
                f"{printable(group[0].path)} is {size[0]}x{size[1]} and the others are "
                f"{usual[0]}x{usual[1]}. "
                "A reference has images of one size; remove or replace it."
            )
    if usual[0] != usual[1]:
        raise UserError(f"{printable(files[0].path)} is {usual[0]}x{usual[1]}; references must be square.")
    return files, usual[0]
