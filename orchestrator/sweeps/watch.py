"""Trials of which nothing is heard any more: a process that stands still is noticed in bounded time."""

import time
from typing import Any

from ray import tune

from orchestrator.config.schema import ExperimentConfig
from orchestrator.stalls import Life, Patience, StalledError, explained
from orchestrator.storage.lease import sign_of_life

LOOK_SECONDS = 15.0


class SignsOfLife:
    """Looks at whether a run's process renews the lease of its folder."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._config, self._life = config, Life()
        self._sign: object = None

    def check(self, patience: int = 1) -> None:
        """Look once.

        Args:
            patience: how many times as long to wait as the longest that anything may take.

        Raises:
            StalledError: there was no sign of life for too long.
        """
        sign = sign_of_life(self._config.directory)
        if sign != self._sign:
            self._sign = sign
            self._life.note()
        limit = patience * Patience(self._config.cluster.stall_seconds).longest
        if time.monotonic() - self._life.last > limit:
            raise StalledError(explained(f"sign of life of the trial {self._config.run.name}", limit))


class TrialWatch(tune.Callback):
    """Looks after the processes that look after the trials. These have had their time before."""

    def __init__(self, configs: dict[str, ExperimentConfig]) -> None:
        self._configs = configs
        self._running: dict[str, SignsOfLife] = {}
        self._looked_at = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin to look after a trial."""
        name = trial.config["cell"]
        self._running[name] = SignsOfLife(self._configs[name])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Stop looking after a trial."""
        self._running.pop(trial.config["cell"], None)

    # Also where it failed, and until it starts again.
    on_trial_error = on_trial_recover = on_trial_complete

    def check(self) -> None:
        """Look at all running trials, now and then.

        Raises:
            StalledError: one of them stands still.
        """
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            for signs in list(self._running.values()):
                signs.check(patience=2)
