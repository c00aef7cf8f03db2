"""Whoever looks after a trial hears when its process stands still."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.stalls import FIRST, StalledError
from orchestrator.storage.lease import LEASE_FILE, holding, sign_of_life
from orchestrator.sweeps import watch
from orchestrator.sweeps.watch import SignsOfLife, TrialWatch
from tests.configs import tiny

STALL_SECONDS = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.seconds)
    return now


def test_a_lease_that_is_not_renewed_is_no_sign_of_life(tmp_path: Path, clock: Any) -> None:
    config = tiny(tmp_path, "data", cluster={"stall_seconds": STALL_SECONDS})
    lease = Path(config.directory) / LEASE_FILE
    signs = SignsOfLife(config)
    for renewals in range(3):
        clock.seconds += FIRST * STALL_SECONDS - 1
        lease.parent.mkdir(exist_ok=True)
        lease.write_text(str(renewals))
        signs.check()
    clock.seconds += FIRST * STALL_SECONDS + 1
    with pytest.raises(StalledError, match="sign of life of the trial tiny"):
        signs.check()


def test_a_trial_s_keeper_has_twice_as_long_and_is_forgotten_at_its_end(tmp_path: Path, clock: Any) -> None:
    config = tiny(tmp_path, "data", cluster={"stall_seconds": STALL_SECONDS})
    trial: Any = SimpleNamespace(config={"cell": "one"})
    looked = TrialWatch({"one": config})
    looked.on_trial_start(0, [], trial)
    clock.seconds += FIRST * STALL_SECONDS + watch.LOOK_SECONDS + 1
    looked.check()
    clock.seconds += FIRST * STALL_SECONDS + watch.LOOK_SECONDS + 1
    with pytest.raises(StalledError):
        looked.check()
    for end in (looked.on_trial_complete, looked.on_trial_error, looked.on_trial_recover):
        looked.on_trial_start(0, [], trial)
        end(0, [], trial)
        clock.seconds += 10 * FIRST * STALL_SECONDS
        looked.check()


def test_the_sign_changes_with_every_renewal(tmp_path: Path) -> None:
    assert sign_of_life(str(tmp_path / "run")) is None
    with holding(str(tmp_path / "run"), "run", "--run.name"):
        first = sign_of_life(str(tmp_path / "run"))
        assert first is not None
        (tmp_path / "run" / LEASE_FILE).write_text("{}")  # As a renewal writes it anew.
        assert sign_of_life(str(tmp_path / "run")) != first
