"""Control plane: workers that compute nothing, what they tell the tracker, and ranges of images on actors.

Up to 24 workers are real processes that Ray Train starts on logical CPUs. More are calls of a few actors. So
are 256 actors that wait in place of sampling.
"""

import asyncio
import pickle
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import ray.train

from orchestrator.benchmarks.data import write_latents
from orchestrator.benchmarks.scale.growth import Row, Rows
from orchestrator.benchmarks.scale.measuring import small_ray
from orchestrator.config.command_line import parse
from orchestrator.data.stream import StoredRows, StreamPlan, make_order
from orchestrator.run.worker_messages import RemoteHooks
from orchestrator.sampling.parts import Parts, Range, ranges_of
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import DeterministicOrder, Start

WORKERS = (1, 8, 24)
"""Many more do not fit into 24 GB of memory: each process takes 0.7 GB, most of it for torch's code."""
CALLS = (64, 512, 1024)
ACTORS = 8
STEPS, STEP_SECONDS, STEPS_PER_LOG = 300, 0.01, 10
METRICS = 100
IMAGES, RANGE = (500, 5_000, 50_000), 50
SIMULATED_ACTORS, RANGE_SECONDS = 256, 0.5
STALL_SECONDS = 600.0
TINY = (
    "--model.input_size", "2", "--model.channels", "1", "--model.depths", "[1,1]", "--model.widths", "[8,8]",
    "--model.num_heads", "2", "--sampling.sampler.steps", "2",
)  # fmt: skip


class _Counter:
    """Stands for the tracker: counts messages and their bytes."""

    def __init__(self) -> None:
        self._messages = self._bytes = 0
        self._steps: list[float] = []

    def log_metrics(self, *content: Any) -> None:
        self._count(content)

    def is_asked_to_stop(self, *content: Any) -> bool:
        self._count(content)
        return False

    def _count(self, content: Any) -> None:
        self._messages += 1
        self._bytes += len(pickle.dumps(content))

    def first_step(self, at: float) -> None:
        self._steps.append(at)

    def counted(self) -> tuple[int, int, list[float]]:
        return self._messages, self._bytes, self._steps


def measure() -> Iterator[Row]:
    """Measure over workers, over calls that stand for them, and over ranges of images."""
    with small_ray(max(WORKERS) + ACTORS + 2), tempfile.TemporaryDirectory() as folder:
        yield from _workers(folder)
        yield from _calls()
        yield from _ranges(folder)
        yield from _simulated_ranges(folder)


def _told(found: Rows, size: int, began: float, counter: Any) -> None:
    messages, size_of_all, first_steps = ray.get(counter.counted.remote())
    assert len(first_steps) == size
    found.note("from the command to everyone's first step, s", size, max(first_steps) - began)
    found.note("messages to the tracker a step", size, messages / STEPS)
    found.note("bytes to the tracker a step", size, size_of_all / STEPS)


def _workers(folder: str) -> Rows:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    found = Rows("workers, real processes")
    dataset = write_latents(f"{folder}/rows", 8192, (1, 2, 2))
    driver = psutil.Process()
    for workers in WORKERS:
        order = make_order(dataset, seed=0, lanes=max(WORKERS), window=16)
        start = Start(None, StreamPlan(StoredRows.of(dataset), order, max(WORKERS), 0, 8192), None)
        counter, held, began = (
            ray.remote(num_cpus=0)(_Counter).remote(),
            driver.memory_info().rss,
            time.time(),
        )
        DataParallelTrainer(
            _train,
            train_loop_config={"counter": counter},
            scaling_config=ray.train.ScalingConfig(num_workers=workers),
            run_config=ray.train.RunConfig(name=str(workers), storage_path=f"{folder}/ray_train"),
            datasets={"train": lambda start=start: start},
            dataset_config=DeterministicOrder(1.0),
        ).fit()
        _told(found, workers, began, counter)
        found.note("more memory of the driver, MB", workers, max(0, driver.memory_info().rss - held) / 1e6)
    return found


def _train(settings: dict[str, Any]) -> None:
    shard = ray.train.get_dataset_shard("train")
    assert ray.get(shard.start).plan.images
    asyncio.run(_steps(ray.train.get_context().get_world_rank(), settings["counter"]))


async def _steps(rank: int, counter: Any) -> None:
    """Take steps as the loop does, which has the first rank alone report."""
    config = parse("Measure.", "quickstart", [])
    hooks: Hooks = RemoteHooks(counter, None, config.train)()
    counter.first_step.remote(time.time())
    for step in range(1, STEPS + 1):
        await asyncio.sleep(STEP_SECONDS)
        hooks.on_step(step == STEPS)
        if rank == 0:
            hooks.should_stop(step)
            if step % STEPS_PER_LOG == 0:
                hooks.on_metrics({f"loss_by_noise/{n:03d}": 1.0 for n in range(METRICS)}, step)


class _Workers:
    """A process that stands for many workers."""

    async def work(self, rank: int, counter: Any) -> None:
        await _steps(rank, counter)


def _calls() -> Rows:
    found = Rows(f"workers, asynchronous calls of {ACTORS} actors")
    for calls in CALLS:
        counter, began = ray.remote(num_cpus=0)(_Counter).remote(), time.time()
        kind = ray.remote(num_cpus=0, max_concurrency=-(-max(CALLS) // ACTORS))(_Workers)
        actors = [kind.remote() for _ in range(ACTORS)]
        ray.get([actors[rank % ACTORS].work.remote(rank, counter) for rank in range(calls)])
        _told(found, calls, began, counter)
        for actor in actors:
            ray.kill(actor)
    return found


def _ranges(folder: str) -> Rows:
    from dimr_model import DiMR
    from orchestrator.scoring.pipeline import Samples, Work, run_on_actors

    found = Rows(f"images, in ranges of {RANGE}, on {ACTORS} actors")
    config = parse("Measure.", "quickstart", [*TINY, "--sampling.actors", str(ACTORS)])
    model = DiMR(config.model)
    for images in IMAGES:
        work = Work(
            config, Samples(model, None), tuple(ranges_of(images, RANGE)), str(Path(folder) / str(images))
        )
        _note_ranges(found, images, run_on_actors(work, work.missing()))
        assert len(work.parts.finished()) == len(work.ranges)
    return found


class _SimulatedActors:
    """A process that stands for many actors: it waits, and writes a part."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(RANGE_SECONDS)
        from orchestrator.scoring.pipeline import range_of

        piece = range_of(batch)
        self._parts.write(piece, {"index": np.arange(piece.start, piece.stop)})
        yield batch


def _simulated_ranges(folder: str) -> Rows:
    from orchestrator.scoring.pipeline import Stage, through

    found = Rows(f"images, in ranges of {RANGE}, on {SIMULATED_ACTORS} actors as calls of {ACTORS}")
    for images in IMAGES:
        parts, ranges = Parts(str(Path(folder) / f"simulated-{images}")), ranges_of(images, RANGE)
        calls = {"num_cpus": 1, "max_concurrency": SIMULATED_ACTORS // ACTORS}
        stage = Stage(_SimulatedActors, (parts,), ACTORS, calls)
        _note_ranges(found, images, through([stage], ranges, STALL_SECONDS))
        assert len(parts.finished()) == len(ranges)
    return found


def _note_ranges(found: Rows, images: int, done: Iterable[Range]) -> None:
    driver = psutil.Process()
    held, began = driver.memory_info().rss, time.perf_counter()
    ends = [time.perf_counter() for _ in done]
    found.note("to the first finished range, s", images, ends[0] - began)
    found.note("each range after that, ms", images, 1e3 * (ends[-1] - ends[0]) / max(1, len(ends) - 1))
    found.note("more memory of the driver, MB", images, max(0, driver.memory_info().rss - held) / 1e6)
