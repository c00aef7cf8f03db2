"""The last stage of the pipeline: it turns images into parts on disk, and collects what lies in them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from orchestrator import storage
from orchestrator.config.evaluation import ExtractorKind
from orchestrator.config.schema import ExperimentConfig
from orchestrator.images import to_png
from orchestrator.sampling.grids import GRID_IMAGES
from orchestrator.sampling.parts import Columns, Parts, Range
from orchestrator.sampling.sinks import IMAGES_FOLDER
from orchestrator.scoring.classifier import Classifier, shrink
from orchestrator.scoring.extractors import load_extractor
from orchestrator.scoring.frechet import FeatureStatistics
from orchestrator.scoring.jackknife import TENTHS
from orchestrator.scoring.metrics import Collected

FEATURES_FOLDER = "features"
SMALL = "small"
NOT_KEPT = {"image", "start", "stop"}
Choose = Callable[[Columns], npt.NDArray[np.bool_]]
"""A part's columns -> which of its rows are meant."""


class FeatureWriter:
    """Turns each range of images into a part, and keeps the images themselves where the config asks for it.

    Args:
        folder: the evaluation's folder. Parts lie in ``features/``, parquet files of images in ``images/``.
        classifier: says how likely each image shows the class asked for, and which class is most likely.
        extractors: whose features are kept of each image; all of them look at it in one pass.
        use_gpu: whether this process was given a GPU.
        keep_below: images to which the classifier gives a lower probability stay in their part.
        keep_small: whether all images stay in their part, as small as the dataset's classifier takes them.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        folder: str,
        classifier: Classifier | None,
        extractors: Sequence[ExtractorKind],
        use_gpu: bool,
        keep_below: float = 0.0,
        keep_small: bool = False,
    ) -> None:
        torch.set_num_threads(1)
        self._extractors = {kind: load_extractor(config.evaluation, kind, use_gpu) for kind in extractors}
        self._classify = classifier.load(use_gpu) if classifier else None
        self._keep_below, self._keep_small = keep_below, keep_small
        self._save = bool(config.evaluation.save)
        self._folder = folder
        self._parts = Parts(storage.join(folder, FEATURES_FOLDER))

    def write(self, piece: Range, batch: dict[str, npt.NDArray[Any]]) -> None:
        """Write the part of a range from its ``index``, ``image`` and ``label``; then the range is done.

        Other columns of the batch, a number for each image, are kept as they are.
        """
        images = torch.from_numpy(np.array(batch["image"]))
        columns: Columns = {name: np.asarray(batch[name], np.int64) for name in ("index", "label")}
        columns |= {name: np.asarray(batch[name]) for name in batch.keys() - columns.keys() - NOT_KEPT}
        for kind, extractor in self._extractors.items():
            columns |= {_column(kind, name): found.numpy() for name, found in extractor(images).items()}
        if self._classify is not None:
            probabilities = self._classify(images).numpy()
            asked = probabilities[np.arange(len(images)), columns["label"]]
            columns |= {"class_probability": asked, "predicted": probabilities.argmax(1)}
            if self._keep_below:
                columns["doubtful"] = images[asked < self._keep_below].numpy()
        if self._keep_small:
            columns[SMALL] = shrink(images).numpy()
        if self._save:
            self._write_images(piece, images, columns)
        columns["grid"] = images[columns["index"] < GRID_IMAGES].numpy()
        self._parts.write(piece, columns)

    def _write_images(self, piece: Range, images: torch.Tensor, columns: Columns) -> None:
        table = pa.table(
            {
                "image": pa.array([to_png(image) for image in images], pa.binary()),
                "label": pa.array(columns["label"], pa.int32()),
                "index": pa.array(columns["index"]),
            }
        )
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="NONE")
        storage.write_bytes(
            storage.join(self._folder, IMAGES_FOLDER, f"{piece.name}.parquet"), content.getvalue()
        )


def collect(
    parts: Parts,
    pieces: list[Range],
    extractors: Sequence[ExtractorKind],
    select: Choose | None = None,
    keep: Choose | None = None,
    *,
    tenths_of: int | None = None,
) -> dict[ExtractorKind, Collected]:
    """Statistics of the features of all ranges, and the features themselves, for each extractor.

    Args:
        select: which of a part's rows count; None: all.
        keep: of which rows the features are handed back one by one; None: of those that count.
        tenths_of: the number of images, where the statistics of each tenth of them are wanted.
    """
    found = {kind: _Collecting(kind) for kind in extractors}
    for columns in parts.read(pieces):
        counted = slice(None) if select is None else select(columns)
        kept = counted if keep is None else keep(columns)
        group = None if tenths_of is None else columns["index"][counted] * TENTHS // tenths_of
        for one in found.values():
            one.add(columns, counted, kept, group)
    return {kind: one.finish() for kind, one in found.items()}


class _Collecting:
    """What is collected of one extractor, part by part."""

    def __init__(self, kind: ExtractorKind) -> None:
        self._kind = kind
        self._rows: dict[str, list[npt.NDArray[Any]]] = {"features": [], "logits": []}
        self._sums: dict[str, dict[int, FeatureStatistics]] = {"features": {}, "spatial": {}}

    def add(self, columns: Columns, counted: Any, kept: Any, group: npt.NDArray[Any] | None) -> None:
        for name, rows in self._rows.items():
            if (column := _column(self._kind, name)) in columns:
                rows.append(columns[column][kept])
        for name, sums in self._sums.items():
            if (column := _column(self._kind, name)) not in columns:
                continue
            features = columns[column][counted]
            for number in [0] if group is None else np.unique(group).tolist():
                part = FeatureStatistics.of(features if group is None else features[group == number])
                if number in sums:
                    sums[number] += part
                else:
                    sums[number] = part

    def finish(self) -> Collected:
        parts = {name: tuple(sums[number] for number in sorted(sums)) for name, sums in self._sums.items()}
        logits = np.concatenate(self._rows["logits"]) if self._rows["logits"] else None
        return Collected(np.concatenate(self._rows["features"]), parts["features"], parts["spatial"], logits)


def _column(kind: ExtractorKind, name: str) -> str:
    """The column of a part that holds what an extractor calls ``name``."""
    return f"{kind}.{name}"
