"""Images to compare with, in any form that they come in: a dataset, a folder, ADM's .npz, or noise."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
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
from orchestrator.data.sources.decode import Decoding, open_image
from orchestrator.data.sources.files import UnreadableError, read_part
from orchestrator.data.sources.names import printable
from orchestrator.data.vae import downsampling, vae_config
from orchestrator.errors import UserError
from orchestrator.precision import compute_device
from orchestrator.sampling.decoder import Decoder
from orchestrator.sampling.parts import Columns, Range, ranges_of
from orchestrator.scoring.reference_files import (
    ADM_IMAGES,
    list_folder,
    read_arrays,
    read_headers,
    require_enough_real,
    require_images,
    require_resolution,
)

IMAGES_PER_RANGE = 100


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
    elif names:
        found = _folder_images(path, Decoding.of(config.prepare))
    else:
        raise UserError(
            f"There are no images at {path}: expected a prepared dataset, a folder of images, or an "
            ".npz with "
            f"uint8 images in {ADM_IMAGES}."
        )
    require_enough_real(path, found.count)
    require_resolution(path, found.resolution, image_resolution(config))
    return found


def dataset_images(dataset: LatentDataset, config: ExperimentConfig) -> RealImages:
    """A dataset's images; where it holds moments, the images that the VAE decodes from their means."""
    groups = [rows for _, _, rows in dataset.row_groups]
    # Row groups are the unit of reading; as many in a range as make about its usual size.
    size = max(1, IMAGES_PER_RANGE // max(groups))
    is_pixels = dataset.info.kind == "pixels"
    resolution = dataset.info.shape[-1] if is_pixels else image_resolution(config)
    return RealImages(
        dataset.path, "dataset", dataset.info.num_images, tuple(ranges_of(len(groups), size)),
        dataset.fingerprint, resolution, dataset=dataset,
    )  # fmt: skip


def noise_images(count: int, like: RealImages, channels: int) -> RealImages:
    """Standard normal noise, clamped and rounded: what the worst network could sample."""
    return RealImages(
        str(channels), "noise", count, tuple(ranges_of(count, IMAGES_PER_RANGE)), f"noise-{count}-{channels}",
        like.resolution,
    )  # fmt: skip


def _folder_images(path: str, decoding: Decoding) -> RealImages:
    files, size = list_folder(path, decoding)
    listed = [[[printable(file.name), file.stamp] for file in files], decoding.to_dict()]
    ranges, names = tuple(ranges_of(len(files), IMAGES_PER_RANGE)), tuple(file.path for file in files)
    return RealImages(path, "folder", len(files), ranges, _fingerprint(listed), size, files=names)


def _npz_images(path: str) -> RealImages:
    headers = read_headers(path)
    if ADM_IMAGES not in headers:
        raise UserError(f"{path} holds {', '.join(headers)}, and no images in {ADM_IMAGES}.")
    size = require_images(path, *headers[ADM_IMAGES])
    count = headers[ADM_IMAGES][0][0]
    return RealImages(
        path, "npz", count, tuple(ranges_of(count, IMAGES_PER_RANGE)), storage.sha256_of(path), size
    )


def _fingerprint(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _npz_array(path: str) -> npt.NDArray[Any]:
    return read_arrays(path, only=ADM_IMAGES)[ADM_IMAGES]


class ImageReader:
    """Reads ranges of real images; holds the VAE where latents must be decoded."""

    def __init__(self, images: RealImages, config: ExperimentConfig, use_gpu: bool = False) -> None:
        torch.set_num_threads(1)
        self._images, self._decoding = images, Decoding.of(config.prepare)
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
                image, _ = open_image(read_part(self._images.path, file), "RGB", self._decoding)
            except (OSError, ValueError, SyntaxError, UnreadableError) as error:
                raise UserError(
                    f"{printable(file)} is no image that can be read ({error}). Remove or replace it."
                ) from error
            if image.size != size:
                raise UserError(
                    f"{printable(file)} is {image.width}x{image.height} and the others are "
                    f"{size[0]}x{size[1]}."
                )
            found.append(np.asarray(image).transpose(2, 0, 1))
        return np.stack(found)

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
