"""The worst sources do not eat the memory: all processes of a preparation are added up while they work."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from orchestrator.config.plain import to_dict
from tests.unit.orchestrator.data.sources.making import encoded, png, settings
from tests.waiting import PATIENCE

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 4 << 30


def large_images(folder: Path) -> str:
    """Images at the bound and beyond it, four bytes a pixel, and a file of 40 GB."""
    largest = encoded(Image.new("RGBA", (8192, 8192), (1, 2, 3, 4)), compress_level=1)
    bomb = encoded(Image.new("1", (60_000, 60_000)))
    for number in range(8):
        place = folder / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(largest)
        (place / f"bomb{number}.png").write_bytes(bomb)
        (place / f"small{number}.png").write_bytes(png(number))
    (folder / "a" / ("n" * 250 + ".png")).write_bytes(png(1))
    with (folder / "b" / "huge.png").open("wb") as file:
        file.truncate(40 << 30)
    return "image_folder"


def huge_labels(folder: Path) -> str:
    folder.mkdir()
    labels = [0, 1, 5_000_000_000] * 2
    pq.write_table(pa.table({"image": [png(n) for n in range(6)], "label": labels}), folder / "a.parquet")
    return "parquet"


@pytest.mark.parametrize(("make", "code"), [(large_images, 0), (huge_labels, 2)])
def test_the_worst_sources_take_less_than_four_gigabytes(make: object, code: int, tmp_path: Path) -> None:
    kind = make(tmp_path / "source")  # type: ignore[operator]
    config = settings(kind, tmp_path / "source", path=str(tmp_path / "data"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    command = [sys.executable, "jobs/prepare_latents.py", "--config", str(tmp_path / "config.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    job = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peak, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.2):
            peak[0] = max(peak[0], resident(job.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        output, _ = job.communicate(timeout=PATIENCE)
    finally:
        is_over.set()
        watcher.join()
    assert job.returncode == code, output[-2000:]
    assert 0 < peak[0] < MOST_BYTES, f"{peak[0] / 1e9:.1f} GB"


def resident(pid: int) -> int:
    """What a process and all below it hold; memory that several share counts once."""
    total = 0
    with contextlib.suppress(psutil.Error):
        whole = psutil.Process(pid)
        for process in [whole, *whole.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):
                total += process.memory_full_info().pss
    return total
