"""The trials of a sweep in the terminal, as they go."""

import time
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.config.schema import ExperimentConfig


class LiveTable(tune.Callback):
    """Shows a table that stays up to date in a terminal; elsewhere it prints a line for each event."""

    def __init__(self, configs: dict[str, ExperimentConfig], console: Console) -> None:
        self._console, self._configs = console, configs
        self._rows: dict[str, dict[str, Any]] = {name: {"status": "waiting"} for name in configs}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing, because Tune keeps a copy of its callbacks, and a terminal cannot be copied."""
        return {}

    def setup(self, **info: Any) -> None:
        """Start the table."""
        if self._live is not None:
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial runs."""
        self._note(trial, status="running", began=time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a trial's score."""
        known = {name: result[name] for name in ("images_seen", "loss", "distance") if name in result}
        self._note(trial, **known)

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

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Stop the table, and leave it as it is."""
        if self._live is not None:
            self._live.stop()

    def _note(self, trial: Any, **values: Any) -> None:
        name = trial.config["cell"]
        row = self._rows[name]
        row.update(values)
        if "began" in row:
            row["seconds"] = time.monotonic() - row["began"]
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            told = (f"{column} {text}" for column, text in self._cells(name).items() if text)
            self._console.print(", ".join([name, row["status"], *told]), soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table("trial", "status", "images", "loss", "distance", "minutes")
        for name, row in self._rows.items():
            table.add_row(name, row["status"], *self._cells(name).values())
        return table

    def _cells(self, name: str) -> dict[str, str]:
        row = self._rows[name]
        seen = row.get("images_seen")
        return {
            "images": "" if seen is None else f"{seen:,} of {self._configs[name].train.images:,}",
            "loss": "" if seen is None else f"{row['loss']:.4f}",
            "distance": "" if seen is None else f"{row['distance']:.4g}",
            "minutes": f"{row['seconds'] / 60:.1f}" if "seconds" in row else "",
        }
