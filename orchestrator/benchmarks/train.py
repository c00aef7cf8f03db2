"""Speed of the training loop: with Ray and without, sharded and replicated, and where a step's time goes."""

import dataclasses
import json
import os
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from rich.console import Console
from rich.table import Table

from dimr_model import DiMRConfig
from orchestrator.benchmarks.data import write_latents
from orchestrator.benchmarks.model import network_of
from orchestrator.checkpoints.saving import CheckpointWriter
from orchestrator.cluster import connect_embedded
from orchestrator.config.data import DataConfig
from orchestrator.config.evaluation import SamplingConfig
from orchestrator.config.schema import ExperimentConfig, RunConfig
from orchestrator.config.training import TrainConfig
from orchestrator.training.entry import train
from orchestrator.training.hooks import Hooks
from orchestrator.training.parallelize import make_mesh
from orchestrator.training.process_group import of_this_process
from orchestrator.training.shards import TrainJob
from orchestrator.training.state import fresh_state
from orchestrator.training.worker import run_process

INTERVAL_STEPS = 2
INTERVALS = 5
ROWS = 4096
NO_IMAGES = 10**9


@dataclass(frozen=True)
class _Noted:
    """Makes hooks that add every interval's metrics to a file."""

    file: str

    def __call__(self) -> Hooks:
        return Hooks(on_metrics=self._note, on_checkpoint=lambda checkpoint: None)

    def _note(self, metrics: dict[str, float], images_seen: int) -> None:
        with open(self.file, "a") as stream:
            stream.write(json.dumps(metrics) + "\n")


def measure_training(
    variant: str, batch_size: int, workers: int, repeats: int, use_gpu: bool, console: Console
) -> None:
    """Train on random latents in each way, in turns, and print ratios of medians."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = _Jobs(Path(folder), network_of(variant), batch_size, use_gpu)
        with connect_embedded():
            alone = [(jobs.bare(1, "shard"), jobs.through_ray(1, "shard")) for _ in range(repeats)]
            several = [(jobs.bare(workers, "shard"), jobs.bare(workers, "replicate")) for _ in range(repeats)]
        stalls = jobs.checkpoint_stalls(repeats)
    table = Table("", "images/s", "ratio", title=f"{variant}, batch {batch_size}, {_place(use_gpu)}")
    bare, in_ray = (_rate(side) for side in zip(*alone, strict=True))
    sharded, replicated = (_rate(side) for side in zip(*several, strict=True))
    table.add_row("one process without Ray", f"{bare:.2f}", "1x")
    table.add_row("one Ray Train worker fed by Ray Data", f"{in_ray:.2f}", f"{in_ray / bare:.3f}x")
    table.add_row(f"{workers} processes, replicated", f"{replicated:.2f}", "1x")
    table.add_row(f"{workers} processes, sharded", f"{sharded:.2f}", f"{sharded / replicated:.3f}x")
    console.print(table)
    console.print(_split(alone[0][0]), highlight=False)
    waiting, beside = stalls
    console.print(
        f"checkpoint: training waits {waiting:.3f} s when it is written at once, {beside:.3f} s when it is "
        f"written beside training ({beside / waiting:.2f}x)",
        highlight=False,
    )


class _Jobs:
    def __init__(self, folder: Path, model: DiMRConfig, batch_size: int, use_gpu: bool) -> None:
        self._folder, self._number = folder, 0
        shape = (2 * model.channels, model.input_size, model.input_size)
        self._dataset = write_latents(str(folder / "latents"), ROWS, shape, model.num_classes)
        self._config = ExperimentConfig(
            run=RunConfig(name="run", root=str(folder)),
            data=DataConfig(path=self._dataset.path, lanes=batch_size, shuffle_window=128),
            model=model,
            train=TrainConfig(
                images=batch_size * INTERVAL_STEPS * INTERVALS,
                batch_size=batch_size,
                log_every_images=batch_size * INTERVAL_STEPS,
                checkpoint_every_images=NO_IMAGES,
                preview_every_images=0,
                precision="bf16" if use_gpu else "fp32",
                use_gpu=use_gpu,
            ),
            sampling=SamplingConfig(vae="none", use_gpu=use_gpu),
        )

    def bare(self, processes: int, sharding: str) -> list[dict[str, float]]:
        """Train without Ray, and return the metrics of every interval but the first."""
        job = self._job(processes, sharding)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(_run_bare, (processes, port, job), nprocs=processes)
        return self._noted(job)

    def through_ray(self, workers: int, sharding: str) -> list[dict[str, float]]:
        """Train with Ray Train and Ray Data, and return the metrics of every interval but the first."""
        job = self._job(workers, sharding)
        train(job, data_cpus=1)
        return self._noted(job)

    def checkpoint_stalls(self, repeats: int) -> tuple[float, float]:
        """Seconds that training loses to a checkpoint: written at once, and written in the background."""
        config = self._job(1, "shard").config
        device = torch.device("cuda" if config.train.use_gpu else "cpu")
        with of_this_process(device):
            state = fresh_state(config, make_mesh(config.train, device.type, 1, 1), device)
            writer = CheckpointWriter(config, device)
            waiting, beside = list[float](), list[float]()
            for number in range(1 + repeats):
                started = time.perf_counter()
                writer.start(number, state.state_dict(), {})
                stall = time.perf_counter() - started
                writer.finish()
                if number:  # The first one sets up the memory that the others copy to.
                    waiting.append(time.perf_counter() - started)
                    beside.append(stall)
            writer.close()
        return statistics.median(waiting), statistics.median(beside)

    def _job(self, workers: int, sharding: Any) -> TrainJob:
        self._number += 1
        run = dataclasses.replace(self._config.run, name=f"run-{self._number}")
        settings = dataclasses.replace(self._config.train, workers=workers, sharding=sharding)
        config = dataclasses.replace(self._config, run=run, train=settings)
        return TrainJob(config, self._dataset, _Noted(str(self._folder / f"{self._number}.jsonl")))

    def _noted(self, job: TrainJob) -> list[dict[str, float]]:
        assert isinstance(job.make_hooks, _Noted)
        lines = Path(job.make_hooks.file).read_text().splitlines()
        return [json.loads(line) for line in lines][1:]


def _run_bare(rank: int, processes: int, port: int, job: TrainJob) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    run_process(job)


def _rate(runs: Any) -> float:
    return statistics.median(metrics["train/images_per_second"] for run in runs for metrics in run)


def _split(run: list[dict[str, float]]) -> str:
    """Where a step's time goes, in words."""
    names = [name for name in run[0] if name.startswith("time/")]
    shares = {name: statistics.median(metrics[name] for metrics in run) for name in names}
    parts = [
        f"{name.removeprefix('time/').removesuffix('_fraction')} {share:.1%}"
        for name, share in shares.items()
    ]
    rest = 1 - sum(shares.values())
    mfu = statistics.median(m["train/mfu"] for m in run)
    memory = max(m.get("train/gpu_memory_gigabytes", 0.0) for m in run)
    shown = f", {memory:.1f} GB of GPU memory" if memory else ""
    return (
        f"one process without Ray: {', '.join(parts)}, logging and the rest {rest:.1%}; MFU {mfu:.0%}{shown}"
    )


def _place(use_gpu: bool) -> str:
    return torch.cuda.get_device_name() if use_gpu else f"{os.cpu_count()} cores"
