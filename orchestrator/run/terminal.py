"""What a run shows in the terminal: how far it is, warnings, and the summary."""

import os
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.folder import METRICS_FILE, read_metrics
from orchestrator.signals import JOB_STOP_SECONDS, JOB_STOP_SECONDS_VARIABLE, seconds_until_killed
from orchestrator.tracking.tracker import server_problem

SECONDS_BETWEEN_LINES = 10.0
RECENT_UPDATES = 30


class ImageProgress:
    """Shows how many images are done, as a bar or, outside of a terminal, as lines.

    It is a context manager; call :meth:`update` with the count so far.
    """

    def __init__(self, console: Console, what: str, total: int, start: int = 0) -> None:
        self._console = console
        self._what, self._total, self._done = what, total, start
        self._last_line = time.monotonic()
        # (time, images) of recent updates: the rate leaves out what came before the first of them, such as
        # starting up.
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_UPDATES)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(what, total=total, completed=start, note="")

    def __enter__(self) -> "ImageProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Show that ``done`` images are done in all; ``note`` is shown behind the rate."""
        if done == self._done:
            return
        self._done = done
        now = time.monotonic()
        self._recent.append((now, done))
        then, done_then = self._recent[0]
        rate = (done - done_then) / (now - then) if now > then else 0.0
        text = ", ".join(part for part in (f"{rate:.1f} images/s" if rate else "", note) if part)
        if self._bar:
            self._bar.update(self._task, completed=done, note=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or done >= self._total:
            self._last_line = now
            parts = [f"{self._what} {done}/{self._total} images ({done / self._total:.0%})", text]
            if rate:
                left = int((self._total - done) / rate)
                parts.append(f"{left // 60}:{left % 60:02d} left")
            self._console.print(", ".join(part for part in parts if part), highlight=False)


def scores_table(scored: dict[str, Any], title: str) -> Table:
    """The table of what ``metrics.json`` holds; the paper's numbers, if any, are in a column of their own."""
    has_paper = any("paper" in entry for entry in scored["metrics"].values())
    table = Table("metric", "value", *(["the paper's"] if has_paper else []), "what it is", title=title)
    for name, entry in scored["metrics"].items():
        paper = [entry.get("paper", "")] if has_paper else []
        table.add_row(name, f"{entry['value']:.4g}", *paper, entry["meaning"])
    return table


def print_summary(config: ExperimentConfig, uri: str, console: Console) -> None:
    """Print a finished run's scores, and where everything of it is."""
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
        console.print(
            f"Warning: the tracking server {uri} does not answer ({problem}). Training goes on and keeps its "
            "journal; it is copied as soon as the server answers. To use a local store instead, leave out "
            "--tracking.uri and MLFLOW_TRACKING_URI.",
            soft_wrap=True,
        )


def warn_of_short_stop(console: Console) -> None:
    """Say where a submitted job may be killed before it has written its checkpoint."""
    seconds = seconds_until_killed()
    if seconds is not None and seconds <= JOB_STOP_SECONDS:
        console.print(
            f"Note: `ray job stop` kills this job {seconds:g} s after asking it to end, and what remains is "
            "its last periodic checkpoint. To have it write one then, submit it with "
            f"{JOB_STOP_SECONDS_VARIABLE} set: "
            f'--runtime-env-json \'{{"env_vars": {{"{JOB_STOP_SECONDS_VARIABLE}": "300"}}}}\'.',
            soft_wrap=True,
        )


def warn_of_temporary_folder(config: ExperimentConfig, console: Console) -> None:
    """Say where a run would lie in a submitted job's copy of the code, which Ray deletes later."""
    if "runtime_resources" in Path(config.run.root).parts and "working_dir_files" in os.fspath(
        config.run.root
    ):
        console.print(
            f"Warning: run.root {config.run.root} lies in Ray's temporary copy of the code, which Ray "
            "deletes. Give an absolute folder with --run.root to keep the run.",
            soft_wrap=True,
        )
