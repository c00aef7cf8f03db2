"""A torch-profiler trace of a few steps, for chrome://tracing or Perfetto."""

import tempfile
from pathlib import Path
from typing import Any

import torch.profiler

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig

WARMUP_STEPS = 3


class Profiler:
    """Traces ``train.profile_steps`` steps of the first rank.

    The trace is ``profile/trace.json.gz`` in the run's folder.
    """

    def __init__(self, config: ExperimentConfig, rank: int) -> None:
        self._target = storage.join(config.directory, "profile", "trace.json.gz")
        self._profiler: torch.profiler.profile | None = None
        if config.train.profile_steps and rank == 0:
            plan = torch.profiler.schedule(
                wait=0, warmup=WARMUP_STEPS, active=config.train.profile_steps, repeat=1
            )
            self._profiler = torch.profiler.profile(schedule=plan, on_trace_ready=self._write)
            self._profiler.start()

    def step(self) -> None:
        """Note that a training step ended; called after every one."""
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json.gz"
            profiler.export_chrome_trace(str(trace))
            storage.write_bytes(self._target, trace.read_bytes())
