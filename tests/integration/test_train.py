"""Training on a real Ray: two workers, resume, and a single process give the same."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import Checkpoint, newest_valid
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.training.entry import train
from orchestrator.training.hooks import Hooks
from orchestrator.training.shards import TrainJob
from tests.configs import tiny
from tests.datasets import write_moments, write_numbered
from tests.states import whole_state

pytestmark = pytest.mark.usefixtures("ray_session")


class Curve:
    """Hooks that keep the metrics by images seen; they only work if training runs in this process."""

    def __init__(self) -> None:
        self.metrics: dict[int, dict[str, float]] = {}

    def __call__(self) -> Hooks:
        return Hooks(on_metrics=self.note, on_checkpoint=lambda checkpoint: None)

    def note(self, metrics: dict[str, float], images_seen: int) -> None:
        self.metrics[images_seen] = {
            key: value
            for key, value in metrics.items()
            if key.startswith("loss") or key in ("train/gradient_norm", "train/learning_rate")
        }


def run(config: ExperimentConfig, dataset: LatentDataset, curve: Curve | None = None) -> Checkpoint:
    train(TrainJob(config, dataset, curve or Curve()), data_cpus=1)
    checkpoint = newest_valid(config.directory)
    assert checkpoint is not None
    return checkpoint


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in load_ema(checkpoint).named_parameters()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=tolerance, atol=tolerance, msg=name)


def test_stopping_and_continuing_gives_the_same_bits(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    whole, parts = Curve(), Curve()
    config = tiny(tmp_path / "whole", dataset.path)
    run(config, dataset, whole)
    run(tiny(tmp_path / "parts", dataset.path, train={"images": 32}), dataset, parts)
    continued = tiny(tmp_path / "parts", dataset.path)
    run(continued, dataset, parts)
    assert sorted(whole.metrics) == [16, 32, 48, 64]
    assert whole.metrics == parts.metrics
    expected, found = whole_state(config), whole_state(continued)
    assert {name.split("/")[1] for name in expected} == {"model", "optimizer", "ema"}
    assert_equal(expected, found)


def test_two_sharded_workers_train_what_one_process_does(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    alone = run(tiny(tmp_path / "alone", dataset.path), dataset)
    together = run(tiny(tmp_path / "together", dataset.path, train={"workers": 2}), dataset)
    shards = [file.name for file in Path(together.path).glob("*.distcp")]
    assert sorted(shards) == ["__0_0.distcp", "__1_0.distcp"]
    # AdamW divides by the gradient's own size, so rounding in a sum shows at the size of the learning rate.
    assert_equal(weights(alone), weights(together), tolerance=1e-4)


def test_a_broken_newest_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    config = tiny(tmp_path, dataset.path)
    newest = run(config, dataset)
    shard = Path(newest.path) / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    older = newest_valid(config.directory)
    assert older is not None and older.images_seen == 32
    assert f"{newest.path}: __0_0.distcp differs" in caplog.text
    assert run(config, dataset).images_seen == 64


def test_an_interrupted_checkpoint_does_not_count(tmp_path: Path) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)
    config = tiny(tmp_path, dataset.path)
    (Path(run(config, dataset).path) / "COMPLETE.json").unlink()
    older = newest_valid(config.directory)
    assert older is not None and older.images_seen == 32


def test_latents_train_like_pixels(tmp_path: Path) -> None:
    dataset = write_moments(tmp_path / "data", 40, 4)
    model = {"input_size": 4, "channels": 2, "num_classes": 2}
    base = {"depths": [1, 1], "widths": [8, 8], "num_heads": 2}
    checkpoint = run(tiny(tmp_path, dataset.path, model=model | base, sampling={"vae": "a-vae"}), dataset)
    assert checkpoint.images_seen == 64


def test_a_training_worker_opens_no_parquet_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_numbered(tmp_path / "data", 50, 8)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a training worker opened a parquet file")

    # Here the worker is this process, and Ray Data's readers are others.
    monkeypatch.setattr(pq, "ParquetFile", refuse)
    monkeypatch.setattr(pq, "read_table", refuse)
    assert run(tiny(tmp_path, dataset.path), dataset).images_seen == 64
