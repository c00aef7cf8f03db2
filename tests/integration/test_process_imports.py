"""No process loads what it does not use: each process of a run notes its modules (`tests/probes`)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.plain import to_yaml
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
PROBES = ROOT / "tests" / "probes"
HEAVY = {
    "torch",
    "torchvision",
    "diffusers",
    "timm",
    "torch_fidelity",
    "mlflow",
    "matplotlib",
    "scipy",
    "transformers",
}
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
MAY_LOAD = {
    # What the process is called -> the heavy packages that its work needs.
    "RayTrainWorker": {"torch"},
    "_SampleActor": {"torch"},
    # timm is the embedded extractor's; it brings torchvision.
    "_WriteActor": {"torch", "timm", "torchvision"},
    "_ReadAndWriteActor": {"torch", "timm", "torchvision"},
    # Previews, exports and whole scores: the extractor, and torch-fidelity's formulas, which bring SciPy.
    "Background": {"torch", "timm", "torchvision", "torch_fidelity", "scipy"},
    # MLflow brings SciPy.
    "Tracker": {"mlflow", "scipy"},
    # Ray Train's own, which is torch's because the job is.
    "TrainController": {"torch"},
    # What samples will be compared with, made beside training.
    "_make": {"torch", "timm", "torchvision", "torch_fidelity", "scipy"},
    # The job itself computes the scores from the features.
    "train_g.py": {"torch", "torchvision", "torch_fidelity", "scipy"},
}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What processes of a short run were called -> the modules that they had loaded at their end."""
    folder = tmp_path_factory.mktemp("imports")
    dataset = write_numbered(folder / "data", 60, 10)
    train = {
        "workers": 1,
        "preview_every_images": 64,
        "export_every_images": 64,
        "score_every_images": 64,
        "score_images": 8,
        "checkpoint_every_images": 64,
    }
    config = tiny(folder / "runs", dataset.path, train=train, sampling={"actors": 1})
    (folder / "tiny.yaml").write_text(to_yaml(config))
    (folder / "modules").mkdir()
    environment = os.environ | {"PYTHONPATH": str(PROBES), "MODULES_FOLDER": str(folder / "modules")}
    command = [sys.executable, "jobs/train_g.py", "--config", str(folder / "tiny.yaml")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "runs" / "tiny" / "scores" / "64.json").exists()
    notes = [json.loads(path.read_text()) for path in (folder / "modules").glob("*.json")]
    found: dict[str, set[str]] = {}
    for note in notes:
        found.setdefault(_called(note["titles"]), set()).update(note["modules"])
    return found


def _called(titles: list[str]) -> str:
    """Ray's names of a process, or its command line where Ray gave it none."""
    return " ".join(title for title in titles if title.startswith("ray::")) or titles[0]


def of_kind(processes: dict[str, set[str]], kind: str) -> list[set[str]]:
    return [modules for title, modules in processes.items() if kind in title]


@pytest.mark.parametrize("kind", MAY_LOAD)
@pytest.mark.faults
def test_a_process_loads_what_it_uses(processes: dict[str, set[str]], kind: str) -> None:
    found = of_kind(processes, kind)
    assert found, f"no process called {kind} among {sorted(processes)}"
    for modules in found:
        assert modules & HEAVY <= MAY_LOAD[kind]


@pytest.mark.faults
def test_readers_of_the_dataset_load_no_torch(processes: dict[str, set[str]]) -> None:
    # Their tasks are too short to be seen by name; what they read with tells them from everyone else.
    readers = [
        modules
        for modules in processes.values()
        if "orchestrator.data.stream" in modules and "orchestrator.training.shards" not in modules
    ]
    assert readers
    for modules in readers:
        assert modules & HEAVY == set()


@pytest.mark.faults
def test_the_training_worker_was_seen_after_its_steps(processes: dict[str, set[str]]) -> None:
    (worker,) = of_kind(processes, "RayTrainWorker")
    # AdamW's first step loads torch's compiler.
    assert {"orchestrator.training.step", "torch._dynamo"} <= worker


@pytest.mark.faults
def test_no_process_compiles_that_was_not_asked_to(processes: dict[str, set[str]]) -> None:
    (sampling,) = of_kind(processes, "_SampleActor")
    # AdamW brings it to the training worker, timm to the extractor; nothing brings it to sampling.
    assert "torch._dynamo" not in sampling


def printed_modules(code: str, *arguments: str) -> Iterator[str]:
    script = f"import sys; sys.argv = {['job', *arguments]!r}\ntry:\n {code}\nexcept SystemExit: pass\n"
    script += "print('MODULES', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-2000:]
    yield from next(line for line in done.stdout.splitlines() if line.startswith("MODULES")).split()[1:]


@pytest.mark.parametrize("arguments", [["--help"], ["--train.imagess", "5"]], ids=["help", "mistake"])
def test_help_and_a_mistake_need_no_torch(arguments: list[str]) -> None:
    code = "pass"
    for job in JOBS:
        code += f"\n try: runpy.run_path('jobs/{job}', run_name='__main__')\n except SystemExit: pass"
    assert HEAVY & set(printed_modules(f"import runpy\n {code}", *arguments)) == set()


def test_the_network_brings_torch_and_little_more() -> None:
    with_network = set(printed_modules("from dimr_model import DiMR; DiMR"))
    alone = set(printed_modules("import torch"))
    assert not with_network & {"diffusers", "transformers", "torchvision", "torch._dynamo"}
    assert len(with_network) < 1.4 * len(alone)


@pytest.mark.faults
def test_a_training_worker_imports_what_its_parts_bring() -> None:
    parts = (
        "import ray.train.torch, torch.distributed.checkpoint; "
        "from torch.distributed.fsdp import fully_shard; "
        "w = torch.nn.Linear(2, 2); o = torch.optim.AdamW(w.parameters()); "
        "w(torch.ones(1, 2)).sum().backward(); o.step()"
    )
    ours = set(printed_modules(f"import orchestrator.training.worker; import torch; {parts}"))
    theirs = set(printed_modules(f"import torch; {parts}"))
    assert len(ours) < 1.1 * len(theirs)


READS = """
import sys
from types import SimpleNamespace

import torch
from orchestrator.training.worker import _reading

def blocks(**options):
    yield sorted(name for name in sys.modules if name.startswith("torch._dynamo.polyfills"))

with _reading(SimpleNamespace(data=SimpleNamespace(iter_batches=blocks)), 600.0) as tables:
    (then,) = tables
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    now = sorted(name for name in sys.modules if name.startswith("torch._dynamo.polyfills"))
    print(len(now) > 0, then == now)
"""


@pytest.mark.long
def test_reading_begins_when_no_module_is_taken_away_any_more() -> None:
    """Pickling fails in any thread while torch._dynamo's polyfills are loaded, as AdamW does."""
    found = subprocess.run(
        [sys.executable, "-c", READS], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert found.stdout == "True True\n", found.stdout + found.stderr
