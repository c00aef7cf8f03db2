"""S3 is gone for several checkpoints: training waits for none of them, and the later ones are good."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import storage
from orchestrator.checkpoints import saving
from orchestrator.checkpoints.selection import marked, problem_of, unfinished
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.servers import s3_proxy, stopped_at_the_end
from tests.states import whole_state

pytestmark = pytest.mark.faults

LEFT_OUT = "is left out, because the one before it is still being written; training goes on"
GIVEN_UP = "could not be written and was given up; training goes on"


@pytest.fixture
def few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a store that is gone after seconds, not after more than a minute."""
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 4)
    monkeypatch.setattr(saving, "PATIENCE_SECONDS", 0.5)


@pytest.fixture(autouse=True)
def own_connections() -> Any:
    """Connect afresh: the connections of other tests lead to another address."""
    for cached in (storage.connect_to_s3, storage.s3_objects):
        cached.cache_clear()
    yield
    for cached in (storage.connect_to_s3, storage.s3_objects):
        cached.cache_clear()


@pytest.mark.usefixtures("few_attempts")
def test_training_goes_on_and_later_checkpoints_are_good(
    tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    settings = {"images": 800, "log_every_images": 8, "checkpoint_every_images": 16}
    config = tiny(tmp_path, dataset.path, train=settings, run={"name": "outage", "root": f"{s3_server}/runs"})
    with stopped_at_the_end(s3_proxy(os.environ["AWS_ENDPOINT_URL"])) as proxy:
        proxy.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.uri)
        gone: dict[int, float] = {}  # images seen -> when, while S3 was gone

        def act(metrics: dict[str, float], images_seen: int) -> None:
            has_seen_all = LEFT_OUT in caplog.text and caplog.text.count(GIVEN_UP) >= 2
            if images_seen == 24:
                proxy.kill()
            if images_seen >= 24 and not has_seen_all:
                gone[images_seen] = time.monotonic()
            if gone and has_seen_all and max(gone) == images_seen - 8:
                proxy.start()

        hooks = Hooks(on_metrics=act, on_checkpoint=lambda checkpoint: None)
        run_process(TrainJob(config, dataset, lambda: hooks))
        # Down for many cadences, and no step waited for the store much longer than it may.
        assert max(gone) - min(gone) >= 5 * settings["checkpoint_every_images"]
        times = list(gone.values())
        assert max(after - before for before, after in itertools.pairwise(times)) < 5
        found = marked(config.directory)
        assert [checkpoint.images_seen for checkpoint in found][-1] == 800
        assert all(problem_of(checkpoint) is None for checkpoint in found)
        assert unfinished(config.directory) == []
        # The same command goes on from there.
        runs = {"name": "outage", "root": f"{s3_server}/runs"}
        longer = tiny(tmp_path, dataset.path, train={**settings, "images": 832}, run=runs)
        run_process(TrainJob(longer, dataset, no_hooks))
        state = whole_state(longer)
    undisturbed = tiny(tmp_path / "undisturbed", dataset.path, train={**settings, "images": 832})
    run_process(TrainJob(undisturbed, dataset, no_hooks))
    for name, tensor in whole_state(undisturbed).items():
        assert torch.equal(tensor, state[name]), name
