"""The memory that real training steps take, measured in a process of its own.

``python -m tests.step_memory CONFIG.yaml RANK`` prints two numbers of bytes as JSON. The first is the largest
sum of what torch's CPU allocator had handed out, from its own records. The second is how far the process's
resident memory rose above what it was before the network was built.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig


def measure(config: ExperimentConfig, folder: Path) -> tuple[int, int]:
    """Bytes by torch's records and by the kernel's that two steps take, in a fresh process per worker.

    They are those of the first worker; all run on CPUs.
    """
    file = folder / "config.yaml"
    file.write_text(to_yaml(config))
    # One arena, and large blocks go back to the system when they are freed.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "tests.step_memory", str(file)]
    workers = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(config.train.workers)
    ]
    printed = [worker.communicate()[0] for worker in workers]
    assert not any(worker.returncode for worker in workers)
    recorded, resident = json.loads(printed[0].splitlines()[-1])
    return recorded, resident


def train_two_steps(config: ExperimentConfig) -> None:
    """Train as a worker does, on numbers that are drawn here."""
    import torch

    from dimr_model.diffusion import NoiseSchedule
    from orchestrator.training.parallelize import make_mesh
    from orchestrator.training.state import fresh_state
    from orchestrator.training.step import Draws, train_step
    from orchestrator.training.timing import Stopwatch

    cpu, model, workers = torch.device("cpu"), config.model, config.train.workers
    state = fresh_state(config, make_mesh(config.train, "cpu", workers, workers), cpu)
    shape = (config.train.batch_size // workers, model.channels, model.input_size, model.input_size)
    for _ in range(2):
        clean, noise = torch.randn(shape), torch.randn(shape)
        labels = torch.randint(0, model.num_classes, shape[:1])
        draws = Draws(clean, noise, torch.randint(1, 1001, shape[:1]), labels)
        assert not train_step(config, state, draws, NoiseSchedule("cosine"), Stopwatch(cpu)).skipped


def recorded(config: ExperimentConfig) -> int:
    """The peak of the running sum of every allocation and release that torch's CPU allocator reports."""
    import torch

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        train_two_steps(config)
    records = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for record in sorted(records, key=lambda e: e.start_ns()):
        live += record.nbytes()
        peak = max(peak, live)
    return peak


def resident(config: ExperimentConfig) -> int:
    """How far the kernel's high-water mark lies above what was resident when everything had been loaded."""
    # A step of a small network loads what is loaded late.
    widths = (16,) * config.model.num_branches
    small = replace(config.model, depths=(1,) * len(widths), widths=widths, num_heads=1)
    train_two_steps(replace(config, model=small))
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    train_two_steps(config)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    import torch
    import torch.distributed as dist

    from orchestrator.config.command_line import parse

    torch.set_num_threads(1)
    given = parse("Measure.", sys.argv[1], [])
    store = dist.FileStore(f"{sys.argv[1]}.store", given.train.workers)
    dist.init_process_group("gloo", store=store, rank=int(sys.argv[2]), world_size=given.train.workers)
    above = resident(given)  # First, before the records take memory themselves.
    print(json.dumps([recorded(given), above]))
    dist.destroy_process_group()
