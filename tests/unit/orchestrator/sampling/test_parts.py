"""Parts are read in order, and fetched ahead."""

import threading
from pathlib import Path

import numpy as np
import pytest

from orchestrator import storage
from orchestrator.sampling.parts import READ_AHEAD, Parts, ranges_of
from tests.waiting import PATIENCE


def test_parts_are_fetched_side_by_side_and_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, ranges = Parts(str(tmp_path)), ranges_of(6 * READ_AHEAD, 3)
    for piece in ranges:
        parts.write(piece, {"index": np.arange(piece.start, piece.stop)})
    together, read = threading.Barrier(READ_AHEAD), storage.read_bytes

    def read_together(path: str) -> bytes:
        together.wait(PATIENCE)  # A reader that is alone waits for ever.
        return read(path)

    monkeypatch.setattr(storage, "read_bytes", read_together)
    found = [columns["index"].tolist() for columns in parts.read(ranges)]
    assert found == [list(range(piece.start, piece.stop)) for piece in ranges]
