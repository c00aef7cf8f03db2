"""What a run shows in the terminal: how far it is, warnings, and the summary."""

import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

from orchestrator import logs, storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.folder import (
    BRANCHES_FILE,
    FILM_FILE,
    METRICS_FILE,
    NEAREST_FILE,
    SAMPLES_FILE,
    STRIP_FILE,
    read_metrics,
)
from orchestrator.run.time_left import TimeLeft
from orchestrator.signals import JOB_STOP_SECONDS, JOB_STOP_SECONDS_VARIABLE, seconds_until_killed
from orchestrator.tracking.tracker import server_problem

SECONDS_BETWEEN_LINES = 10.0
RECENT_UPDATES = 30
BAR_WIDTH = 20
_all: ContextVar[TimeLeft | None] = ContextVar("time_left", default=None)


class ImageProgress:
    """Shows how many images are done, as a bar or, outside of a terminal, as lines.

    It is a context manager; call :meth:`update` with the count so far. Inside of :func:`counting_all`, the
    time left is that of the whole experiment.
    """

    def __init__(self, console: Console, what: str, total: int, start: int = 0, waits_for: str = "") -> None:
        self._console = console
        self._what, self._total, self._done = what, total, start
        self._began = self._last_line = time.monotonic()
        # (time, images) of recent updates: the rate leaves out what came before the first of them, such as
        # starting up.
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_UPDATES)
        self._all = _all.get()
        self._note = ""
        self._waits_for = ""
        self._is_told = False
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=BAR_WIDTH),
                MofNCompleteColumn(),
                _Words(self._words),
                console=console,
                # What others print goes where it is sent, and not between our lines.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(what, total=total, completed=start)
        self.wait(waits_for)

    def __enter__(self) -> "ImageProgress":
        if self._bar:
            self._bar.start()
        if self._all:
            self._all.begin(self._what, self._total - self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def wait(self, text: str) -> None:
        """Show that nothing is being done yet, and what is waited for."""
        if text == self._waits_for:
            return
        self._waits_for, self._began = text, time.monotonic()
        self._recent.clear()
        if text and not self._bar:
            self._console.print(f"{self._what}: waiting for {text}", soft_wrap=True, highlight=False)

    def update(self, done: int, note: str = "") -> None:
        """Show that ``done`` images are done in all; ``note`` is shown behind the rate."""
        if done < self._done:  # It went back to a checkpoint.
            self._recent.clear()
        elif done == self._done:
            return
        if not self._recent and self._all:
            self._all.took_to_start(time.monotonic() - self._began)
        self._waits_for = ""
        self._done, self._note = done, note or self._note
        now = time.monotonic()
        self._recent.append((now, done))
        if self._bar:
            self._bar.update(self._task, completed=done)
        elif self._is_time(now):
            self._last_line, self._is_told = now, True
            share = f"{self._what} {done}/{self._total} images ({done / self._total:.0%})"
            text = ", ".join(part for part in (share, self._words()) if part)
            self._console.print(text, soft_wrap=True, highlight=False)

    def _is_time(self, now: float) -> bool:
        """Whether to print a line: the first as soon as it can say how long all will take."""
        is_due = not self._is_told or now - self._last_line >= SECONDS_BETWEEN_LINES
        return self._done >= self._total or (is_due and self._rate() > 0)

    def _rate(self) -> float:
        """Images per second of late; 0 where it is not known yet."""
        if not self._recent:
            return 0.0
        (then, done_then), (now, done) = self._recent[0], self._recent[-1]
        return (done - done_then) / (now - then) if now > then else 0.0

    def _words(self) -> str:
        if self._waits_for:
            return f"waiting for {self._waits_for} ({clock(time.monotonic() - self._began)})"
        rate = self._rate()
        parts = [self._note]
        if rate:
            left = (self._total - self._done) / rate
            if self._all:
                left += self._all.after(self._what, rate)
            of = " in all" if self._all else ""
            parts = [f"{clock(left)} left{of}", f"{rate:.3g} images/s", *parts]
        return ", ".join(part for part in parts if part)


class _Words(ProgressColumn):
    """Whatever there is to say behind a bar."""

    def __init__(self, words: Callable[[], str]) -> None:
        # One line, however narrow the terminal; what is most wanted stands first.
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._words = words

    def render(self, task: Task) -> Text:
        """Return the words of now."""
        return Text(self._words())


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds or hours:minutes:seconds."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def training_note(metrics: dict[str, float]) -> str:
    """What the progress of training says of its newest metrics; nothing where there are none yet."""
    shown = {
        "loss/total": "loss {:.4f}",
        "train/gradient_norm": "gradient norm {:.3g}",
        "train/mfu": "MFU {:.1%}",
        "train/gpu_memory_gigabytes": "{:.1f} GB on the GPU",
    }
    return ", ".join(text.format(metrics[name]) for name, text in shown.items() if name in metrics)


@contextmanager
def counting_all(time_left: TimeLeft) -> Iterator[None]:
    """Inside, progress says when the whole experiment will be over."""
    token = _all.set(time_left)
    try:
        yield
    finally:
        _all.reset(token)


def scores_table(scored: dict[str, Any], title: str) -> Table:
    """The table of what ``metrics.json`` holds, with standard errors behind a ±.

    The paper's numbers, if any, are in a column of their own.
    """
    has_paper = any("paper" in entry for entry in scored["metrics"].values())
    table = Table(title=title)
    # A name that is cut is no name. In a narrow terminal the words give way.
    for whole in ("metric", "value", *(["the paper's"] if has_paper else [])):
        table.add_column(whole, no_wrap=True, overflow="fold")
    table.add_column("what it is")
    for name, entry in scored["metrics"].items():
        paper = [entry.get("paper", "")] if has_paper else []
        error = f" ± {entry['error']:.2g}" if "error" in entry else ""
        table.add_row(name, f"{entry['value']:.4g}{error}", *paper, entry["meaning"])
    return table


def print_summary(config: ExperimentConfig, uri: str, console: Console) -> None:
    """Print a finished run's scores, and where everything of it is."""
    scored = read_metrics(config.directory)
    console.print(scores_table(scored, f"{config.run.name} after {scored['images_seen']} images"))
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in scored["seconds"].items())
    store = f"--backend-store-uri {shlex.quote(uri)}" if not uri.startswith("http") else ""
    # Its job runner would be seven more processes.
    ui = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false uv run mlflow ui"
    look = f"{ui} --workers 1 {store}" if store else f"open {uri}"
    there = storage.sizes(config.directory)
    gallery = [name for name in (FILM_FILE, STRIP_FILE, BRANCHES_FILE, NEAREST_FILE) if name in there]
    for line in (
        f"Samples   {storage.join(config.directory, SAMPLES_FILE)}",
        *(f"Gallery   {storage.join(config.directory, name)}" for name in gallery),
        f"Metrics   {storage.join(config.directory, METRICS_FILE)} (every number with its protocol)",
        f"Weights   {storage.join(config.directory, 'export')} (DiMR.from_pretrained)",
        f"Took      {parts}",
        f"MLflow    {look}",
    ):
        console.print(line, soft_wrap=True, highlight=False)
    print_logs(console)


def print_logs(console: Console) -> None:
    """Say where the lines of Ray and its processes are."""
    if logs.newest():
        console.print(f"Logs      {logs.newest()}", soft_wrap=True, highlight=False)


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
