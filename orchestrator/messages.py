"""What an experiment tells its user in the terminal, besides its progress."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator import storage
from orchestrator.config import ExperimentConfig
from orchestrator.runs import METRICS_FILE, read_metrics
from orchestrator.stopping import JOB_STOP_SECONDS, JOB_STOP_SECONDS_VARIABLE, seconds_until_killed
from orchestrator.tracking.tracker import server_problem


def scores_table(scored: dict[str, Any], title: str) -> Table:
    """What ``metrics.json`` holds; the paper's numbers in a column of their own where there are any."""
    has_paper = any("paper" in entry for entry in scored["metrics"].values())
    table = Table("metric", "value", *(["the paper's"] if has_paper else []), "what it is", title=title)
    for name, entry in scored["metrics"].items():
        paper = [entry.get("paper", "")] if has_paper else []
        table.add_row(name, f"{entry['value']:.4g}", *paper, entry["meaning"])
    return table


def print_summary(config: ExperimentConfig, uri: str, console: Console) -> None:
    """A finished run's scores, and where everything of it is."""
    scored = read_metrics(config.directory)
    console.print(scores_table(scored, f"{config.run.name} after {scored['images_seen']} images"))
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in scored["seconds"].items())
    store = f"--backend-store-uri {uri}" if not uri.startswith("http") else ""
    # Its job runner would be seven more processes.
    ui = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false uv run mlflow ui"
    look = f"{ui} --workers 1 {store}" if store else f"open {uri}"
    for line in (
        f"Samples   {storage.join(config.directory, 'samples.png')}",
        f"Metrics   {storage.join(config.directory, METRICS_FILE)} (every number with its protocol)",
        f"Weights   {storage.join(config.directory, 'export')} (DiMR.from_pretrained)",
        f"Took      {parts}",
        f"MLflow    {look}",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def warn_of_silent_server(uri: str, console: Console) -> None:
    """Say before training that MLflow will have to wait."""
    problem = server_problem(uri)
    if problem:
        console.print(f"Warning: the tracking server {uri} does not answer ({problem}). Training goes on and keeps its "
                      "journal; it is copied as soon as the server answers. To use a local store instead, leave out "
                      "--tracking.uri and MLFLOW_TRACKING_URI.", soft_wrap=True)  # fmt: skip


def warn_of_short_stop(console: Console) -> None:
    """A submitted job may be killed before it has written its checkpoint."""
    seconds = seconds_until_killed()
    if seconds is not None and seconds <= JOB_STOP_SECONDS:
        console.print(f"Note: `ray job stop` kills this job {seconds:g} s after asking it to end, and what remains is its last "
                      f"periodic checkpoint. To have it write one then, submit it with {JOB_STOP_SECONDS_VARIABLE} set: "
                      f"--runtime-env-json '{{\"env_vars\": {{\"{JOB_STOP_SECONDS_VARIABLE}\": \"300\"}}}}'.",
                      soft_wrap=True)  # fmt: skip


def warn_of_temporary_folder(config: ExperimentConfig, console: Console) -> None:
    """A submitted job starts in a copy of the code that Ray deletes later."""
    if "runtime_resources" in Path(config.run.root).parts and "working_dir_files" in os.fspath(
        config.run.root
    ):
        console.print(f"Warning: run.root {config.run.root} lies in Ray's temporary copy of the code, which Ray deletes. "
                      "Give an absolute folder with --run.root to keep the run.", soft_wrap=True)  # fmt: skip
