"""CPU seconds that each kind of process spends on imports, before it does any work."""

import statistics
import subprocess
import sys

from rich.console import Console
from rich.table import Table

_STEP = (
    "import torch, ray.train.torch, torch.distributed.checkpoint\n"
    "from torch.distributed.fsdp import fully_shard\n"
    "weights = torch.nn.Linear(2, 2); optimizer = torch.optim.AdamW(weights.parameters())\n"
    "weights(torch.ones(1, 2)).sum().backward(); optimizer.step()"
)
CASES = {
    "import torch": "import torch",
    "from dimr_model import DiMR": "from dimr_model import DiMR; DiMR",
    "jobs/train_g.py --help": "import orchestrator.config.command_line, orchestrator.run.experiment",
    "jobs/report.py --help": "import orchestrator.report.command",
    "Ray's reader of a dataset": "import ray.data, orchestrator.data.stream",
    "torch, FSDP2, DCP, AdamW's step and ray.train.torch": _STEP,
    "training worker, with AdamW's step": f"import orchestrator.training.worker\n{_STEP}",
    "sampling, with a solver of ours": "import ray.data, orchestrator.sampling.sampler",
    "sampling, with a solver of diffusers'": (
        "import ray.data, orchestrator.sampling.sampler, dimr_model.diffusers_solvers"
    ),
    "scoring, EfficientNet-Lite0": (
        "import ray.data, orchestrator.scoring.features, orchestrator.scoring.efficientnet"
    ),
    "scoring, Inception": "import ray.data, orchestrator.scoring.features, orchestrator.scoring.inception",
    "tracker": "import orchestrator.tracking.tracker, orchestrator.tracking.gauges, mlflow",
}
_MEASURED = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF)
exec({code!r})
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


def measure_imports(repeats: int, console: Console) -> dict[str, float]:
    """Measure the CPU seconds of each case in new processes, in turns, and return the medians.

    They are printed with their ratio to torch's own.
    """
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats):
        for name, code in CASES.items():
            done = subprocess.run(
                [sys.executable, "-c", _MEASURED.format(code=code)],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[name].append(float(done.stdout.split()[-1]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    table = Table("process", "CPU s", "of import torch", title=f"imports, median of {repeats}")
    for name, value in medians.items():
        table.add_row(name, f"{value:.1f}", f"{value / medians['import torch']:.2f}x")
    console.print(table)
    return medians
