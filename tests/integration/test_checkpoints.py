"""Checkpoints written beside training: kept by rule, given up where they cannot be written.

Other runs begin from them.
"""

import gzip
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from orchestrator.checkpoints.loading import export, load_ema
from orchestrator.checkpoints.saving import CheckpointWriter
from orchestrator.checkpoints.selection import Checkpoint, marked, newest_valid
from orchestrator.checkpoints.weights import load_weights
from orchestrator.config.plain import to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import tiny
from tests.datasets import write_numbered
from tests.processes import in_processes
from tests.waiting import PATIENCE


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return write_numbered(tmp_path / "data", 50, 8)


def train(
    config: ExperimentConfig, dataset: LatentDataset, held_out: LatentDataset | None = None
) -> dict[int, dict[str, float]]:
    """The metrics of a run, by images seen."""
    reported: dict[int, dict[str, float]] = {}

    def note(metrics: dict[str, float], images_seen: int) -> None:
        reported.setdefault(images_seen, {}).update(metrics)

    hooks = Hooks(on_metrics=note, on_checkpoint=lambda checkpoint: None)
    run_process(TrainJob(config, dataset, lambda: hooks, held_out))
    return reported


def newest(config: ExperimentConfig) -> Checkpoint:
    found = newest_valid(config.directory)
    assert found is not None
    return found


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path, dataset: LatentDataset) -> None:
    rules: dict[str, Any] = {"checkpoint_every_images": 8, "log_every_images": 8, "keep_checkpoints": 2}
    config = tiny(tmp_path, dataset.path, train={**rules, "keep_best_by": "train/gradient_norm"})
    reported = train(config, dataset)
    norms = {seen: metrics["train/gradient_norm"] for seen, metrics in reported.items()}
    # The best at the time when each older one had to go.
    best = min((seen for seen in norms), key=lambda seen: norms[seen])
    assert [checkpoint.images_seen for checkpoint in marked(config.directory)] == sorted({best, 56, 64})
    assert sorted(
        int(folder.name) for folder in (Path(config.directory) / "checkpoints").iterdir()
    ) == sorted({best, 56, 64})


def test_one_that_cannot_be_written_is_given_up_and_training_goes_on(
    tmp_path: Path, dataset: LatentDataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(tmp_path, dataset.path)
    undisturbed = tiny(tmp_path / "undisturbed", dataset.path)
    in_the_way = Path(config.directory) / "checkpoints" / "32"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder should be")
    train(config, dataset)
    train(undisturbed, dataset)
    assert "could not be written and was given up; training goes on" in caplog.text
    assert [checkpoint.images_seen for checkpoint in marked(config.directory)] == [64]
    assert same_weights(load_ema(newest(config)), load_ema(newest(undisturbed)))


def test_a_last_one_that_cannot_be_written_is_an_error(tmp_path: Path, dataset: LatentDataset) -> None:
    config = tiny(tmp_path, dataset.path)
    in_the_way = Path(config.directory) / "checkpoints" / "64"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where a folder should be")
    with pytest.raises(UserError, match="The last checkpoint, at 64 images, could not be written"):
        train(config, dataset)
    in_the_way.unlink()
    assert sorted(train(config, dataset)) == [48, 64]


def test_a_new_run_begins_from_whatever_holds_weights(tmp_path: Path, dataset: LatentDataset) -> None:
    first = tiny(tmp_path, dataset.path)
    train(first, dataset)
    export(newest(first), str(tmp_path / "exported"))
    weights = load_ema(newest(first))
    for source in (first.directory, newest(first).path, str(tmp_path / "exported")):
        assert same_weights(load_weights(source, first.model), weights), source
    # One step at learning rate zero leaves them as they are.
    settings = {"init_from": first.directory, "images": 8, "warmup_images": 100}
    second = tiny(tmp_path / "second", dataset.path, train=settings)
    train(second, dataset)
    assert same_weights(load_ema(newest(second)), weights)
    # A run that goes on does not need them any more.
    gone = tiny(
        tmp_path / "second", dataset.path, train={**settings, "init_from": "/not/there", "images": 16}
    )
    train(gone, dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There are no weights at"),
        (b"not a checkpoint", "cannot be read as weights|is not a released DiMR file"),
        ("other", "of another network than the config's: .*widths"),
        ("interrupted", "is not a complete checkpoint: it has no COMPLETE.json"),
        ("broken", "are broken"),
    ],
)
def test_wrong_weights_are_named(tmp_path: Path, dataset: LatentDataset, content: Any, message: str) -> None:
    config, path = tiny(tmp_path, dataset.path), tmp_path / "weights"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        other = tiny(tmp_path / "other", dataset.path, model={"widths": [16, 8]})
        train(other, dataset)
        path = Path(newest(other).path)
        if content == "interrupted":
            (path / "COMPLETE.json").unlink()
        if content == "broken":
            path = tmp_path / "exported"
            export(newest(other), str(path))
            (path / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=message):
        load_weights(str(path), config.model)


def test_the_held_out_loss_is_the_same_function_of_the_weights_every_time(
    tmp_path: Path, dataset: LatentDataset
) -> None:
    held_out = write_numbered(tmp_path / "held-out", 30, 8)
    # Weights that never move: a learning rate of zero throughout.
    config = tiny(tmp_path, dataset.path, train={"warmup_images": 10**9})
    reported = train(config, dataset, held_out)
    first, last = (
        {key: value for key, value in reported[seen].items() if "held_out" in key} for seen in (32, 64)
    )
    assert first == pytest.approx(last, rel=1e-3)
    assert {"held_out/loss/total", "held_out/loss/branch0", "held_out/loss/branch1"} <= first.keys()
    assert len([key for key in first if key.startswith("held_out/loss_by_noise/")]) == 5
    assert reported[32]["loss/total"] != reported[64]["loss/total"]


def test_what_is_seen_of_training(tmp_path: Path, dataset: LatentDataset) -> None:
    metrics = train(tiny(tmp_path, dataset.path), dataset)[64]
    assert 0 < metrics["train/mfu"] < 1
    assert metrics["train/checkpoint_stall_seconds"] >= 0
    assert 0 <= metrics["train/data_wait_fraction"] <= 1
    parts = {key for key in metrics if key.startswith("time/")}
    stages = ("data", "forward", "backward", "optimizer", "ema")
    assert parts == {f"time/{stage}_fraction" for stage in stages}
    assert sum(metrics[key] for key in parts) <= 1
    assert 0 < metrics["system/node0/system_memory_usage_percentage"] <= 100
    by_noise = {key: value for key, value in metrics.items() if key.startswith("loss_by_noise/")}
    assert by_noise and all(value > 0 for value in by_noise.values())


def test_a_profile_of_a_few_steps_is_written(tmp_path: Path, dataset: LatentDataset) -> None:
    config = tiny(tmp_path, dataset.path, train={"profile_steps": 2})
    train(config, dataset)
    trace = json.loads(gzip.decompress((Path(config.directory) / "profile" / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2
    assert any("mm" in name for name in names)


@pytest.mark.faults
def test_torchrun_calls_the_same_loop(tmp_path: Path, dataset: LatentDataset) -> None:
    config = tiny(tmp_path, dataset.path)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = [
        str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2",
        "-m", "orchestrator.training.standalone", "--config", str(tmp_path / "config.yaml"),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "64 images: loss/total" in done.stdout
    assert sorted(file.name for file in Path(newest(config).path).glob("*.distcp")) == [
        "__0_0.distcp", "__1_0.distcp",
    ]  # fmt: skip
    alone = tiny(tmp_path / "alone", dataset.path)
    train(alone, dataset)
    pairs = zip(load_ema(newest(config)).parameters(), load_ema(newest(alone)).parameters(), strict=True)
    for together, one in pairs:
        torch.testing.assert_close(together, one, rtol=0, atol=1e-4)


def gathers(folder: Path) -> None:
    """Run in every rank: gather, and note what this rank was told."""
    writer = CheckpointWriter(tiny(folder, "data"), torch.device("cpu"))
    rank = dist.get_rank()
    told: dict[str, Any] = {}
    told["results"] = writer._gather(lambda: {f"__{rank}_0.distcp": rank})
    for name, fails in (("any", rank == 1), ("first", rank == 0)):
        try:
            if name == "any":
                writer._gather(partial(fail_if, fails))
            else:
                writer._on_first_rank(partial(fail_if, fails))
        except OSError as error:
            told[name] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(told))
    writer.close()


def fail_if(fails: bool) -> None:
    if fails:
        raise ValueError("no room")


@pytest.mark.long
def test_one_rank_hears_of_all_files_and_all_hear_of_a_failure(tmp_path: Path) -> None:
    in_processes(gathers, 2, tmp_path)
    first, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["results"] == [{"__0_0.distcp": 0}, {"__1_0.distcp": 1}]
    assert other["results"] == []
    for told in (first, other):
        assert told["any"] == told["first"] == "ValueError: no room"
