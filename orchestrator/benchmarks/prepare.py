"""Speed of preparation: CPU seconds of a picture that is found, read and decoded, against Pillow alone."""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from orchestrator.config.plain import from_dict
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.encode import CHUNK_ROWS, decode_chunk, plan_encoding
from orchestrator.data.prepare import collection_info
from orchestrator.data.sources.decode import centre_crop
from orchestrator.data.sources.listing import list_source

FOLDERS, WIDTH, HEIGHT, SIZE = 10, 500, 375, 256


def measure_preparing(images: int, repeats: int, console: Console) -> None:
    """Make ``images`` JPEGs in ten folders, and decode them in each way, taken in turns."""
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder) / "images", images)
        config = _config(folder)
        cases: dict[str, Callable[[], int]] = {
            "found, read, decoded, accounted for": lambda: _prepared(config),
            "Pillow: read, convert, centre crop": lambda: _plain(Path(folder) / "images"),
        }
        cpu: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(repeats):
            for name, work in cases.items():
                started = time.process_time()
                count = work()
                cpu[name].append((time.process_time() - started) / count)
    table = Table(
        "", "CPU ms a picture", "ratio", title=f"{images} JPEGs of {WIDTH}x{HEIGHT} to {SIZE}x{SIZE}"
    )
    base = statistics.median(cpu["Pillow: read, convert, centre crop"])
    for name, seconds in cpu.items():
        median = statistics.median(seconds)
        table.add_row(name, f"{1000 * median:.2f}", f"{median / base:.3f}x")
    console.print(table)


def write_jpegs(folder: Path, count: int) -> None:
    """Write photograph-like JPEGs: smooth colours with some noise."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8))
        smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-12, 12, smooth.shape, np.int16)
        content = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, format="JPEG", quality=90)
        place = folder / f"class{number % FOLDERS}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(content.getvalue())


def _config(folder: str) -> ExperimentConfig:
    return from_dict(
        {
            "run": {"name": "benchmark"},
            "data": {"path": f"{folder}/data", "source": "image_folder", "source_path": f"{folder}/images"},
            "model": {"input_size": SIZE, "channels": 3, "num_classes": FOLDERS, "depths": [1], "widths": [8],
                      "num_heads": 2},
            "train": {"images": 1},
        }
    )  # fmt: skip


def _prepared(config: ExperimentConfig) -> int:
    listing = list_source(config.data)
    plan = plan_encoding(config, collection_info(config, listing), listing)
    for start in range(0, listing.rows.num_rows, CHUNK_ROWS):
        decode_chunk(plan, listing.rows.slice(start, CHUNK_ROWS))
    return listing.rows.num_rows


def _plain(folder: Path) -> int:
    files = sorted(folder.rglob("*.jpg"))
    for file in files:
        with Image.open(io.BytesIO(file.read_bytes())) as opened:
            image = opened.convert("RGB")
        np.asarray(centre_crop(image, SIZE), dtype=np.uint8).transpose(2, 0, 1).tobytes()
    return len(files)
