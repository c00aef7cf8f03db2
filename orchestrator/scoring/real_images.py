"""Images to compare with, in any form that they come in: a dataset, a folder, ADM's .npz, or noise."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from dimr_model import randomness
from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import INFO_FILE, LatentDataset, open_dataset, to_arrays
from orchestrator.data.vae import downsampling, vae_config
from orchestrator.errors import UserError
from orchestrator.images import to_pixels
from orchestrator.precision import compute_device
from orchestrator.sampling.decoder import Decoder
from orchestrator.sampling.parts import Columns, Range, ranges_of

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGES_PER_RANGE = 100
ADM_IMAGES = "arr_0"


@dataclass(frozen=True)
class RealImages:
    """A set of images, and how it is cut into ranges."""

    path: str
    kind: Literal["dataset", "folder", "npz", "noise"]
    count: int
    """Number of images; flipped copies do not count."""
    ranges: tuple[Range, ...]
    """Ranges of row groups in a dataset, of images elsewhere."""
    fingerprint: str
    """A text that changes when the images do."""
    resolution: int
    """Height and width in pixels."""
    dataset: LatentDataset | None = None
    files: tuple[str, ...] = ()


def image_resolution(config: ExperimentConfig) -> int:
    """The height and width of what the network samples, in pixels.

    Raises:
        UserError: ``sampling.vae`` is not there.
    """
    vae = config.sampling.vae
    return config.model.input_size * (
        1 if vae is None else downsampling(vae_config(vae, config.prepare.vae_revision))
    )


def open_images(path: str, config: ExperimentConfig) -> RealImages:
    """The images at ``path``: a dataset, a folder of images, or an .npz with ``arr_0``.

    Raises:
        UserError: there are none, or they are of another resolution than the network's samples.
    """
    names = storage.sizes(path)
    if INFO_FILE in names:
        found = dataset_images(open_dataset(path), config)
    elif path.endswith(".npz"):
        found = _npz_images(path)
    elif names and storage.is_local(path):
        found = _folder_images(path)
    else:
        raise UserError(
            f"There are no images at {path}: expected a prepared dataset, a local folder with "
            f"{', '.join(IMAGE_SUFFIXES)} files, or an .npz with uint8 images in {ADM_IMAGES}."
        )
    if found.resolution != image_resolution(config):
        raise UserError(
            f"The images at {path} are {found.resolution}x{found.resolution} and the network samples "
            f"{image_resolution(config)}x{image_resolution(config)}. Give images of its resolution; resizing "
            "would change the scores."
        )
    return found


def dataset_images(dataset: LatentDataset, config: ExperimentConfig) -> RealImages:
    """A dataset's images; where it holds moments, the images that the VAE decodes from their means."""
    groups = [rows for _, _, rows in dataset.row_groups]
    # Row groups are the unit of reading; as many in a range as make about its usual size.
    size = max(1, IMAGES_PER_RANGE // max(groups))
    return RealImages(
        dataset.path, "dataset", dataset.info.num_images, tuple(ranges_of(len(groups), size)),
        dataset.fingerprint, image_resolution(config), dataset=dataset,
    )  # fmt: skip


def noise_images(count: int, like: RealImages, channels: int) -> RealImages:
    """Standard normal noise, clamped and rounded: what the worst network could sample."""
    return RealImages(
        str(channels), "noise", count, tuple(ranges_of(count, IMAGES_PER_RANGE)), f"noise-{count}-{channels}",
        like.resolution,
    )  # fmt: skip


def _folder_images(path: str) -> RealImages:
    files = sorted(
        file for file in Path(path).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    if not files:
        raise UserError(f"There are no images ({', '.join(IMAGE_SUFFIXES)}) in {path} or the folders in it.")
    listed = [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    height, width = to_pixels(files[0].read_bytes()).shape[1:]
    if height != width:
        raise UserError(f"{files[0]} is {width}x{height}; references must be square.")
    ranges, names = tuple(ranges_of(len(files), IMAGES_PER_RANGE)), tuple(str(file) for file in files)
    return RealImages(path, "folder", len(files), ranges, _fingerprint(listed), height, files=names)


def _npz_images(path: str) -> RealImages:
    images = _npz_array(path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(f"{ADM_IMAGES} in {path} is not uint8 [N, H, W, C].")
    ranges = tuple(ranges_of(len(images), IMAGES_PER_RANGE))
    return RealImages(path, "npz", len(images), ranges, storage.sha256_of(path), images.shape[1])


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _npz_array(path: str) -> npt.NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content[ADM_IMAGES])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as an .npz with images in {ADM_IMAGES}: {error}") from error


class ImageReader:
    """Reads ranges of real images; holds the VAE where latents must be decoded."""

    def __init__(self, images: RealImages, config: ExperimentConfig, use_gpu: bool = False) -> None:
        torch.set_num_threads(1)
        self._images = images
        self._decoder: Decoder | None = None
        if images.dataset is not None and images.dataset.info.kind == "moments":
            device = compute_device(use_gpu)
            scaling_factor = images.dataset.info.scaling_factor
            self._decoder = Decoder(config.sampling.vae, config.prepare.vae_revision, scaling_factor, device)

    def read(self, piece: Range) -> Columns:
        """Read ``image [N, C, H, W]`` uint8, ``label`` (-1 where there is none) and ``index`` of a range.

        Raises:
            UserError: an image cannot be read or has another size.
        """
        if self._images.kind == "dataset":
            return self._read_dataset(piece)
        places = np.arange(piece.start, piece.stop)
        if self._images.kind == "npz":
            images = _npz_array(self._images.path)[piece.start : piece.stop].transpose(0, 3, 1, 2)
        elif self._images.kind == "folder":
            images = self._read_files(piece)
        else:
            shape = (int(self._images.path), self._images.resolution, self._images.resolution)
            noise = randomness.normal(0, "noise-images", places.tolist(), shape)
            images = Decoder(None, None, None, torch.device("cpu")).decode(torch.from_numpy(noise)).numpy()
        return {"image": images, "label": np.full(len(places), -1), "index": places}

    def _read_files(self, piece: Range) -> npt.NDArray[Any]:
        size = (self._images.resolution, self._images.resolution)
        found = []
        for file in self._images.files[piece.start : piece.stop]:
            try:
                pixels = to_pixels(Path(file).read_bytes())
            except OSError as error:
                raise UserError(
                    f"{file} is no image that can be read ({error}). Remove or replace it."
                ) from error
            if pixels.shape[1:] != size:
                raise UserError(
                    f"{file} is {pixels.shape[2]}x{pixels.shape[1]} and the others are {size[0]}x{size[1]}."
                )
            found.append(pixels.expand(3, -1, -1))
        return torch.stack(found).numpy()

    def _read_dataset(self, piece: Range) -> Columns:
        dataset = self._images.dataset
        assert dataset is not None
        filesystem, root = storage.filesystem_of(dataset.path)
        tables = [
            pq.ParquetFile(f"{root}/{name}", filesystem=filesystem).read_row_group(group)
            for name, group, _ in dataset.row_groups[piece.start : piece.stop]
        ]
        table = pa.concat_tables(tables)
        table = table.filter(pc.invert(table["flipped"]))
        stored = torch.from_numpy(np.array(to_arrays(dataset.info, table)))
        if self._decoder is not None:
            stored = self._decoder.decode_means(stored)
        return {
            "image": stored.numpy(),
            "label": table["label"].to_numpy().astype(np.int64),
            "index": table["index"].to_numpy(),
        }
