"""Datasets on S3: prepared there and trained from there, through a server that fails now and then.

No secret is written anywhere.
"""

import io
import json
import os
import subprocess
from pathlib import Path

import boto3
import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from orchestrator import logs, storage
from orchestrator.checkpoints.loading import load_ema
from orchestrator.checkpoints.selection import marked, newest_valid, problem_of
from orchestrator.checkpoints.weights import find_weights
from orchestrator.config.data import DataConfig
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import open_dataset, read_rows
from orchestrator.data.prepare import prepare_dataset
from orchestrator.data.sources.listing import list_source
from orchestrator.data.verify import verify
from orchestrator.errors import UserError
from orchestrator.run.experiment import run_experiment
from orchestrator.run.folder import open_run
from orchestrator.scoring.prerequisites import require_reference
from orchestrator.scoring.reference import load_references
from orchestrator.storage import connect_to_s3, filesystem_of, s3_objects
from orchestrator.tracking.journal import JOURNAL_FILE, Journal, RunFiles
from orchestrator.tracking.tracker import Tracker, tracking_uri
from orchestrator.training.entry import train
from orchestrator.training.shards import TrainJob
from orchestrator.training.worker import run_process
from tests.configs import no_hooks, tiny
from tests.datasets import write_numbered
from tests.flaky_s3 import Fault, flaky
from tests.integration.test_prepare_collection import config, contents, write_image_folder, write_tar
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.usefixtures("ray_session")


def forget_connections() -> None:
    connect_to_s3.cache_clear()
    s3_objects.cache_clear()


def upload(folder: Path, prefix: str) -> None:
    client = boto3.client("s3")
    for file in sorted(folder.rglob("*.png")):
        client.upload_file(str(file), "latents", f"{prefix}/{file.relative_to(folder)}")


def test_prepared_from_and_to_s3_it_is_the_same_dataset(tmp_path: Path, s3_server: str) -> None:
    images = write_image_folder(tmp_path / "images", 40)
    upload(images, "images")
    local = prepare_dataset(config(tmp_path, "image_folder", images))
    remote = prepare_dataset(
        tiny(tmp_path, f"{s3_server}/prepared", **{
            "data": {
                "path": f"{s3_server}/prepared", "source": "image_folder",
                "source_path": f"{s3_server}/images", "lanes": 4,
            },
            "model": {
                "input_size": 16, "channels": 3, "num_classes": 3, "depths": [1, 1], "widths": [8, 8],
                "num_heads": 2,
            },
            "prepare": {"use_gpu": False},
        })
    )  # fmt: skip
    assert remote.num_rows == local.num_rows == 40
    filesystem, root = filesystem_of(remote.path)
    assert remote.info.class_names == local.info.class_names
    with filesystem.open_input_stream(f"{root}/{remote.files[0].name}") as stream:
        assert len(stream.read()) == remote.files[0].size
    verify(remote.path)
    assert len(contents(local)) == len(remote.files)


def test_tar_shards_are_listed_alike_on_disk_and_on_s3(tmp_path: Path, s3_server: str) -> None:
    shards = write_tar(tmp_path / "shards")
    for file in sorted(shards.glob("*.tar")):
        boto3.client("s3").upload_file(str(file), "latents", f"shards/{file.name}")
    local, remote = (
        list_source(DataConfig(path="unused", source="tar", source_path=path)).rows
        for path in (str(shards), f"{s3_server}/shards")
    )
    assert local.num_rows == 30
    assert local.drop_columns(["path"]) == remote.drop_columns(["path"])


def test_logs_are_on_s3_at_a_checkpoint_and_at_the_end(s3_server: str) -> None:
    folder = f"{s3_server}/runs/logs-of-this"

    def kept() -> bytes:
        return b"".join(
            storage.read_bytes(f"{folder}/logs/{name}") for name in storage.sizes(f"{folder}/logs")
        )

    with logs.kept(folder, show=False):
        print("before the checkpoint")
        logs.send()
        wait_until(lambda: kept() == b"before the checkpoint\n", "the logs are copied")
        print("after it")
    assert kept() == b"before the checkpoint\nafter it\n"
    assert str(logs.newest()).startswith(f"{folder}/logs/")


def experiment(tmp_path: Path, path: str) -> ExperimentConfig:
    return tiny(tmp_path, path, model={"input_size": 2, "channels": 1, "num_classes": 3})


def test_trains_from_s3_and_keeps_no_secret(tmp_path: Path, s3_server: str) -> None:
    write_numbered(f"{s3_server}/numbered", rows=101, row_group_rows=7)
    config_ = experiment(tmp_path, f"{s3_server}/numbered")
    dataset = open_dataset(config_.data.path)
    run = open_run(config_, dataset.fingerprint)
    train(TrainJob(config_, dataset, make_hooks=no_hooks), data_cpus=1)
    assert (Path(run.directory) / "checkpoints" / "64" / "COMPLETE.json").exists()
    found = subprocess.run(["grep", "-rl", "test-secret-7f3a", str(tmp_path)], capture_output=True, text=True)
    assert found.stdout == ""


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.long
def test_a_whole_run_lives_on_s3_and_goes_on_there(
    tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_numbered(f"{s3_server}/numbered", rows=101, row_group_rows=7)
    monkeypatch.chdir(tmp_path)
    settings = {
        "run": {"name": "whole", "root": f"{s3_server}/runs"},
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    }
    shorter = tiny(tmp_path, f"{s3_server}/numbered", train={"images": 32}, **settings)
    longer = tiny(tmp_path, f"{s3_server}/numbered", train={"export_every_images": 32}, **settings)
    open_run(shorter, open_dataset(shorter.data.path).fingerprint)
    run_process(TrainJob(shorter, open_dataset(shorter.data.path), no_hooks))
    run_experiment(longer)
    directory = longer.directory
    assert directory == f"{s3_server}/runs/whole"
    newest = newest_valid(directory)
    assert newest is not None and newest.images_seen == 64
    assert json.loads(storage.read_bytes(f"{directory}/metrics.json"))["images_seen"] == 64
    assert storage.is_file(f"{directory}/samples.png")
    assert storage.sizes(f"{directory}/logs")
    # What was exported there is what the checkpoint holds.
    for exported in ("export", "exports/64"):
        for name, parameter in (
            find_weights(f"{directory}/{exported}").load(longer.model.num_heads).named_parameters()
        ):
            assert torch.equal(parameter, dict(load_ema(newest).named_parameters())[name])
    (run,) = mlflow.MlflowClient(longer.tracking.uri or "").search_runs(["1"])
    history = mlflow.MlflowClient(longer.tracking.uri or "").get_metric_history(run.info.run_id, "loss/total")
    assert [point.step for point in history] == [48, 64]
    assert not list(tmp_path.rglob("*.distcp"))


@pytest.mark.usefixtures("mlflow_store")
def test_the_journal_on_s3_outlives_its_writer(tmp_path: Path, s3_server: str) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for step in (1, 2):
        writer = Tracker(f"{s3_server}/runs/journal", "journal", "experiment", store)
        writer.log_metrics({"loss": 1 / step}, step)
        writer.keep()
        assert writer.close(PATIENCE) is None
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs(["1"])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]


def test_a_long_journal_is_not_sent_again_for_a_new_line(
    tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"{s3_server}/runs/long"
    files, whole = RunFiles(folder, tmp_path), []
    real = storage.write_bytes
    monkeypatch.setattr(
        storage, "write_bytes", lambda path, content: (whole.append(path), real(path, content))
    )
    journal = Journal(tmp_path / JOURNAL_FILE)
    journal.append("tags", values={"long": "x" * storage.S3_LEAST_PART})
    files.send(JOURNAL_FILE)
    assert len(whole) == 1
    for status in ("RUNNING", "FAILED", "RUNNING"):
        journal.append("status", status=status)
        files.send(JOURNAL_FILE)
    assert len(whole) == 1
    assert storage.read_bytes(f"{folder}/{JOURNAL_FILE}") == journal.path.read_bytes()
    # Where somebody else has written it, all of it is sent.
    real(f"{folder}/{JOURNAL_FILE}", b"other")
    journal.append("status", status="FINISHED")
    files.send(JOURNAL_FILE)
    assert len(whole) == 2
    assert storage.read_bytes(f"{folder}/{JOURNAL_FILE}") == journal.path.read_bytes()
    assert files.safe_bytes(JOURNAL_FILE) == journal.path.stat().st_size


@pytest.mark.usefixtures("mlflow_store")
def test_mlflow_has_nothing_that_the_journal_on_s3_could_lose(tmp_path: Path, s3_server: str) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    # The journal cannot be sent: the bucket is not there. With this machine it would be lost, and its steps
    # repeated.
    writer = Tracker("s3://not-there/runs/journal", "journal", "experiment", store)
    writer.log_metrics({"loss": 1.0}, 1)
    writer.close(PATIENCE)
    assert mlflow.MlflowClient(store).get_experiment_by_name("experiment") is None


def test_an_object_store_needs_a_tracking_server(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config_ = tiny(Path("unused"), "unused", run={"name": "a", "root": f"{s3_server}/runs"})
    with pytest.raises(UserError, match="tracking server with --tracking.uri"):
        tracking_uri(config_)


def test_a_broken_checkpoint_on_s3_is_passed_over(
    tmp_path: Path, s3_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_numbered(tmp_path / "numbered", rows=50, row_group_rows=8)
    config_ = tiny(tmp_path, dataset.path, run={"name": "broken", "root": f"{s3_server}/runs"})
    run_process(TrainJob(config_, dataset, no_hooks))
    shard = f"{config_.directory}/checkpoints/64/__0_0.distcp"
    storage.write_bytes(shard, storage.read_bytes(shard)[:-1])
    older = newest_valid(config_.directory)
    assert older is not None and older.images_seen == 32
    assert f"{config_.directory}/checkpoints/64: __0_0.distcp has" in caplog.text


@pytest.mark.faults
def test_a_store_that_fails_now_and_then_gets_every_checkpoint(
    tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_numbered(tmp_path / "numbered", rows=50, row_group_rows=8)
    config_ = tiny(tmp_path, dataset.path, run={"name": "flaky", "root": f"{s3_server}/runs"})
    with flaky(os.environ["AWS_ENDPOINT_URL"], lambda n: "503" if n % 4 == 1 else "") as (endpoint, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_connections()
        run_process(TrainJob(config_, dataset, no_hooks))
        found = [checkpoint for checkpoint in marked(config_.directory) if problem_of(checkpoint) is None]
    forget_connections()
    assert [checkpoint.images_seen for checkpoint in found] == [32, 64]
    assert faults.count("503") >= 3


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("busy", lambda number: "503" if number % 3 == 1 else ""),
        ("gone", lambda number: "drop" if 4 <= number < 8 else ""),
    ],
)
@pytest.mark.long
def test_a_server_that_fails_loses_nothing(
    name: str, fault: Fault, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky(os.environ["AWS_ENDPOINT_URL"], fault) as (endpoint, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_connections()
        written = write_numbered(f"{s3_server}/{name}", rows=60, row_group_rows=7)
        verify(written.path)
        rows = [index for table in read_rows(written, 16) for index in table["index"].to_pylist()]
    forget_connections()
    assert rows == list(range(60))
    assert sum(bool(kind) for kind in faults) >= 3


def test_a_missing_dataset_on_s3_is_said(s3_server: str) -> None:
    with pytest.raises(UserError, match="There is no dataset at s3://latents/nothing"):
        open_dataset(f"{s3_server}/nothing")


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_reference_is_read_from_s3(kind: str, tmp_path: Path, s3_server: str) -> None:
    images = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3) * 20
    config_ = experiment(tmp_path, str(tmp_path / "none"))
    client = boto3.client("s3")
    if kind == "npz":
        content = io.BytesIO()
        np.savez(content, arr_0=images)
        client.put_object(Bucket="latents", Key="reference.npz", Body=content.getvalue())
        place = f"{s3_server}/reference.npz"
    else:
        (tmp_path / "images").mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        upload(tmp_path / "images", "reference")
        place = f"{s3_server}/reference"
    require_reference(place, config_)
    (reference,) = load_references(place, config_, Console(quiet=True))
    assert reference.about["images"] == 8
    np.savez(tmp_path / "images.npz", arr_0=images)
    (local,) = load_references(str(tmp_path / "images.npz"), config_, Console(quiet=True))
    np.testing.assert_allclose(reference.target.gaussian.mean, local.target.gaussian.mean, rtol=1e-6)
    client.put_object(Bucket="latents", Key="cut.npz", Body=b"PK half of it")
    with pytest.raises(UserError, match=r"cut.npz cannot be read"):
        require_reference(f"{s3_server}/cut.npz", config_)
