"""The trials of a sweep in the terminal, as they go."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator import storage
from orchestrator.config.schema import ExperimentConfig
from orchestrator.run.terminal import clock
from orchestrator.sweeps.trial import LOSS, losses_in, newest_score
from orchestrator.tracking.journal import FollowedJournal

SECONDS_BETWEEN_LOOKS = 5.0
# There the trials' journals are copied once a minute.
SECONDS_BETWEEN_LOOKS_AT_OBJECT_STORE = 60.0
LOOKS_BETWEEN_LINES = 6
logger = logging.getLogger(__name__)


class LiveTable(tune.Callback):
    """Shows a table that stays up to date in a terminal.

    Elsewhere it prints a line for each event, and one for each running trial now and then.

    Args:
        on_result: called whenever a trial has ended, with its name and those of the trials that run, to write
            down what there is so far.
    """

    def __init__(
        self, configs: dict[str, ExperimentConfig], console: Console, on_result: Callable[[list[str]], object]
    ) -> None:
        self._console, self._configs, self._on_result = console, configs, on_result
        self._rows: dict[str, dict[str, Any]] = {name: {"status": "waiting"} for name in configs}
        self._journals = {name: FollowedJournal(one.directory, LOSS) for name, one in configs.items()}
        self._began = time.monotonic()
        self._lock, self._is_over = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._look_often, name="sweep-table", daemon=True)
        self._live: Live | None = None
        if console.is_terminal:
            # What others print goes where it is sent, and not into the table.
            self._live = Live(
                console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, because Tune keeps a copy of its callbacks, and a terminal cannot be copied."""
        return {}

    def setup(self, **info: Any) -> None:
        """Start the table."""
        if self._live is not None:
            self._live.start()
        self._thread.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial runs."""
        self._note(trial, status="running", began=time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a trial's score."""
        known = {name: result[name] for name in ("images_seen", "loss", "distance") if name in result}
        self._note(trial, **known, scored_at=known.get("images_seen"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial failed for the last time."""
        self._note(trial, status="failed")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial failed and is started again."""
        self._note(trial, status="started again")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial ended, by itself or because the scheduler stopped it."""
        name = trial.config["cell"]
        is_whole = self._rows[name].get("images_seen", 0) >= self._configs[name].train.images
        self._note(trial, status="finished" if is_whole else "pruned")
        try:
            self._on_result([name, *self._running()])
        except OSError as error:
            logger.warning("What is known so far could not be written: %s", error)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Stop the table, and leave it as it is."""
        self._is_over.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _note(self, trial: Any, **values: Any) -> None:
        name = trial.config["cell"]
        with self._lock:
            row = self._rows[name]
            row.update(values)
            if "began" in row:
                row["seconds"] = time.monotonic() - row["began"]
            self._show([name])

    def _look_often(self) -> None:
        is_local = all(storage.is_local(config.directory) for config in self._configs.values())
        pause = SECONDS_BETWEEN_LOOKS if is_local else SECONDS_BETWEEN_LOOKS_AT_OBJECT_STORE
        looks = 0
        while not self._is_over.wait(pause):
            looks += 1
            running = self._running()
            found = {name: self._look(name) for name in running}
            with self._lock:
                for name, values in found.items():
                    row = self._rows[name]
                    row.update(values, seconds=time.monotonic() - row["began"])
                is_line = self._live is not None or looks % LOOKS_BETWEEN_LINES == 0
                self._show(running if is_line else [])

    def _running(self) -> list[str]:
        return [name for name, row in self._rows.items() if row["status"] == "running"]

    def _look(self, name: str) -> dict[str, Any]:
        """How far a running trial is, by what is new in its journal and by its newest score."""
        try:
            journal, directory = self._journals[name], self._configs[name].directory
            journal.read()
            losses, score = losses_in(journal.records), newest_score(directory)
        except (OSError, ValueError):  # It is being written just now, or the storage does not answer.
            return {}
        found: dict[str, Any] = {}
        if losses:
            found |= {"images_seen": losses[-1][0], "loss": losses[-1][1]}
        if score:
            found |= {"scored_at": score[0], "distance": score[1]}
        return found

    def _show(self, names: list[str]) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for name in names:
            told = [f"{column} {text}" for column, text in self._cells(name).items() if text]
            parts = [name, self._rows[name]["status"], *told, self._left()]
            line = ", ".join(part for part in parts if part)
            self._console.print(line, soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table("trial", "status", "images", "loss", "distance", "minutes", caption=self._left())
        for name, row in self._rows.items():
            table.add_row(name, row["status"], *self._cells(name).values())
        return table

    def _left(self) -> str:
        """How long the trials that are left will take; empty where nothing is known yet."""
        seen = left = 0
        for name, row in self._rows.items():
            done, images = row.get("images_seen", 0), self._configs[name].train.images
            seen += done
            left += images - done if row["status"] in ("waiting", "running", "started again") else 0
        seconds = time.monotonic() - self._began
        return f"about {clock(left * seconds / seen)} left for all trials" if seen and left > 0 else ""

    def _cells(self, name: str) -> dict[str, str]:
        row = self._rows[name]
        seen, scored = row.get("images_seen"), row.get("scored_at")
        score = f"{row['distance']:.4g}" if "distance" in row else ""
        return {
            "images": "" if seen is None else f"{seen:,} of {self._configs[name].train.images:,}",
            "loss": f"{row['loss']:.4f}" if "loss" in row else "",
            "distance": f"{score} at {scored:,}" if scored and scored != seen else score,
            "minutes": f"{row['seconds'] / 60:.1f}" if "seconds" in row else "",
        }
