"""Parts of an evaluation on a real S3 server: written, listed and collected by the driver."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from orchestrator.benchmarks.scale.growth import Row, Rows
from orchestrator.benchmarks.scale.measuring import bytes_of, seconds_of
from orchestrator.benchmarks.scale.s3 import s3_server
from orchestrator.sampling.parts import Columns, Parts, ranges_of
from orchestrator.scoring.features import collect

IMAGES = (500, 5_000, 50_000)
RANGE = 50
FEATURES = 1280
"""Of EfficientNet-Lite0."""


def measure() -> Iterator[Row]:
    """Measure over the number of images."""
    found = Rows(f"images, in ranges of {RANGE}, {FEATURES} features each")
    features = np.random.default_rng(0).standard_normal((RANGE, FEATURES), np.float32)
    with s3_server() as bucket:
        for images in IMAGES:
            parts, ranges = Parts(f"{bucket}/{images}"), ranges_of(images, RANGE)

            def write_all(parts: Parts = parts, images: int = images) -> None:
                for piece in ranges_of(images, RANGE):
                    columns: Columns = {"index": np.arange(piece.start, piece.stop)}
                    columns["efficientnet_lite0.features"] = features[: piece.stop - piece.start]
                    parts.write(piece, columns)

            found.note("a part is written, ms", images, 1e3 * seconds_of(write_all) / len(ranges))
            found.note("parts are listed, ms", images, 1e3 * seconds_of(parts.finished, 3))
            held: list[int] = []
            gather = partial(collect, parts, ranges, ["efficientnet_lite0"], tenths_of=images)
            found.note("parts are collected, s", images, seconds_of(lambda: held.append(bytes_of(gather))))  # noqa: B023
            found.note("memory of the driver for it, MB", images, held[0] / 1e6)
    yield from found
