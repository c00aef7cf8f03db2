"""A sweep of many trials of a second each, sixteen side by side, through the sweep's own code and Ray Tune.

A trial here is a process of Tune's that writes a journal, a score and its numbers, and trains nothing.
"""

import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from ray import tune
from rich.console import Console

from orchestrator import storage
from orchestrator.benchmarks.scale.growth import Row, Rows
from orchestrator.benchmarks.scale.measuring import seconds_of, small_ray
from orchestrator.config.command_line import parse
from orchestrator.config.plain import to_yaml
from orchestrator.config.saved import CONFIG_FILE
from orchestrator.config.schema import ExperimentConfig
from orchestrator.report.page import render
from orchestrator.report.reading import read_sweep
from orchestrator.run.folder import METRICS_FILE, SUITE_FILE
from orchestrator.sweeps.ablation import Sweep, run_trials
from orchestrator.sweeps.results import ResultsSoFar
from orchestrator.sweeps.suites import Axis, Option, Suite, cells_of
from orchestrator.sweeps.table import write_table
from orchestrator.sweeps.trial import Trials
from orchestrator.tracking.journal import JOURNAL_FILE, Journal, RunFiles
from orchestrator.tracking.mlflow_sync import MLflowSync

TRIALS = (16, 64, 200)
"""What is in the folders of so many trials is read, without running them."""
TUNED_TRIALS = (4, 16, 48, 200)
"""So many are run by Ray Tune."""
SIDE_BY_SIDE = 16
SECONDS = 1.0
LOGS = 5


def measure() -> Iterator[Row]:
    """Measure over the number of trials."""
    found = Rows("trials, as their folders tell")
    for trials in TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            _measure_folders(found, trials, folder)
    yield from found
    found = Rows(f"trials of {SECONDS:g} s, {SIDE_BY_SIDE} side by side")
    with small_ray():
        for trials in TUNED_TRIALS:
            with tempfile.TemporaryDirectory() as folder:
                _measure_tune(found, trials, folder)
    yield from found


def _sweep(trials: int, folder: str) -> Sweep:
    suite = Suite(
        title="simulated",
        scales={"nano": ["quickstart"]},
        axes=[
            Axis(name="seed", options=[Option(name=f"s{n}", changes={"run.seed": n}) for n in range(trials)])
        ],
    )
    base = parse("Measure.", "quickstart", ["--run.root", folder, "--run.name", "sweep"])
    cells = cells_of(suite, "nano", base)
    storage.write_bytes(f"{base.directory}/{SUITE_FILE}", json.dumps(dataclasses.asdict(suite)).encode())
    return Sweep(config=base, suite=suite, cells=cells, prune=False, finalists=0, seeds=0)


def _measure_folders(found: Rows, trials: int, folder: str) -> None:
    made: list[Sweep] = []
    found.note("cells are made, s", trials, seconds_of(lambda: made.append(_sweep(trials, folder))))
    (sweep,) = made
    configs = sweep.trials
    for config in configs.values():
        _write_trial(config)
    so_far = ResultsSoFar(sweep.cells, configs)
    one = [next(iter(configs))]

    def write_so_far() -> None:
        write_table(sweep.suite, sweep.config, so_far.after(one))

    found.note("the table is written when a trial ends, ms", trials, 1e3 * seconds_of(write_so_far, 3))
    found.note(
        "MLflow gets all trials, s", trials, seconds_of(partial(_copy, folder, list(configs.values())))
    )
    found.note("a report is made, s", trials, seconds_of(partial(_report, sweep)))
    found.note("size of the report, MB", trials, len(_report(sweep)) / 1e6)


def _report(sweep: Sweep) -> str:
    return render([], [read_sweep(sweep.config.directory)])


def _measure_tune(found: Rows, trials: int, folder: str) -> None:
    sweep, driver = _sweep(trials, folder), psutil.Process()
    with _most_files(driver) as files:
        held, began = driver.memory_info().rss, time.perf_counter()
        failures = run_trials(sweep, sweep.trials, SIDE_BY_SIDE, Console(quiet=True), _trial)
        seconds = time.perf_counter() - began
        assert not failures, failures
    overhead = seconds - SECONDS * -(-trials // SIDE_BY_SIDE)
    found.note("a trial's part of the overhead, s", trials, overhead / trials)
    found.note("more memory of the driver, MB", trials, max(0, driver.memory_info().rss - held) / 1e6)
    found.note("most open files of the driver", trials, max(files))


def _trial(point: dict[str, Any], trials: Trials) -> None:
    """A trial in Tune's process."""
    began, config = time.monotonic(), trials.configs[point["cell"]]
    _write_trial(config)
    time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
    tune.report({"images_seen": config.train.images, "distance": 1.0, "loss": 1 / LOGS})


def _write_trial(config: ExperimentConfig) -> None:
    folder = Path(config.directory)
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(to_yaml(config))
    journal = Journal(folder / JOURNAL_FILE)
    journal.append("run", key=config.run.name, name=config.run.name, parent=None)
    for number in range(1, LOGS + 1):
        step = config.train.images * number // LOGS
        journal.append(
            "metrics", step=step, values={"loss/total": 1 / number, "train/images_per_second": 1.0}
        )
    scores = {"fd8_efficientnet_lite0_ema": {"value": 1.0, "meaning": "simulated", "protocol": {}}}
    storage.write_bytes(f"{folder}/scores/{config.train.images // 2}.json", json.dumps(scores).encode())
    final = {"metrics": scores, "images_seen": config.train.images, "seconds": {"total": SECONDS}}
    (folder / METRICS_FILE).write_text(json.dumps(final))


def _copy(folder: str, configs: list[ExperimentConfig]) -> None:
    """Copy every trial's journal to one store, as the trials' own processes do one after another."""
    uri = f"sqlite:///{folder}/mlflow.db"
    for config in configs:
        files = RunFiles(config.directory, Path(config.directory))
        sync = MLflowSync(files, config.directory, "scale", uri)
        sync.copy()
        assert sync.problem is None, sync.problem


@contextmanager
def _most_files(process: psutil.Process) -> Iterator[list[int]]:
    """Count a process's open files now and then; the counts are in the list."""
    counts, is_over = [process.num_fds()], threading.Event()

    def count() -> None:
        while not is_over.wait(0.2):
            counts.append(process.num_fds())

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield counts
    finally:
        is_over.set()
        thread.join()
