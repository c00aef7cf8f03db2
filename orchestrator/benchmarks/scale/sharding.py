"""Collectives and bytes of a step of DiMR-G/2R at 1,024 ranks; a process group that only pretends.

Two shallow branches stand for the network: what one more block adds is the same at every depth.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from orchestrator.benchmarks.scale.growth import Row, Rows

RANKS = (8, 64, 1024)
DEPTH = 3
PRESET = "imagenet256_g2r"


def measure() -> Iterator[Row]:
    """Measure over the number of ranks, eight to a node."""
    found = Rows(f"ranks, {PRESET} with branches of {DEPTH} blocks")
    for ranks in RANKS:
        for sharding in ("shard", "hybrid"):
            step = _step(ranks, sharding)
            for kind in ("all_gather", "reduce_scatter", "all_reduce"):
                count = step["collectives"].get(kind, 0)
                found.note(f"{sharding}: {kind} a step", ranks, count)
                found.note(f"{sharding}: MB of {kind} a step", ranks, step["bytes"].get(kind, 0) / 1e6)
            shards = ranks if sharding == "shard" else min(ranks, 8)
            # A rank sends its shard on to each of the others, once around the ring.
            found.note(f"{sharding}: ranks in a gathering", ranks, shards)
            smallest = step["sent"] / step["units"] / shards / 1e3
            found.note(f"{sharding}: kB that a rank gives to a gathering", ranks, smallest)
    yield from found


def _step(ranks: int, sharding: str) -> dict[str, Any]:
    """In a process of its own, because a process has one process group."""
    words = ["-m", "orchestrator.benchmarks.scale.step", PRESET, str(ranks), sharding, str(DEPTH)]
    done = subprocess.run([sys.executable, *words], text=True, capture_output=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
