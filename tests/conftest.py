"""What tests share: one Ray, one S3 server, an empty MLflow store to copy, and two datasets."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

import orchestrator  # noqa: F401  (sets what Ray reads when it is imported)
from orchestrator.config.command_line import parse
from orchestrator.data.format import LatentDataset
from orchestrator.data.prepare import prepare_dataset
from orchestrator.embedded_ray import start_embedded
from tests.datasets import write_numbered

# A slow machine is not a failure.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


class IntegrationInOneProcess(LoadScopeScheduling):  # type: ignore[misc]
    """Has one process run all tests that start Ray and servers, one after another."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith("tests/unit/") else "integration"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=45, help="how many processes tests/faults/test_chaos.py kills"
    )
    parser.addoption("--chaos-seed", default="0", help="which processes it kills, and when")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> IntegrationInOneProcess:
    return IntegrationInOneProcess(config, log)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without a run; MLflow takes seconds to make one."""
    import mlflow

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_store(tmp_path: Path, empty_store: Path) -> None:
    """A store for the runs in ``tmp_path``."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    """Sixty images of 8x8 pixels, in three classes."""
    return write_numbered(tmp_path_factory.mktemp("datasets") / "numbered", 60, 10, size=8)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 server on loopback, with an empty bucket; yields the bucket's URI.

    Ray's workers inherit how to reach it.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-7f3a",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="latents")
    yield "s3://latents"
    server.stop()


@pytest.fixture(scope="session")
def ray_session(s3_server: str) -> Iterator[None]:
    """An embedded Ray that all tests share."""
    import ray

    # The dashboard, seconds of every start, is for those who collect its metrics.
    start_embedded(
        num_cpus=4, object_store_memory=1 << 29, include_dashboard=shutil.which("prometheus") is not None
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    """The quickstart's dataset."""
    path = tmp_path_factory.mktemp("datasets") / "mnist5k"
    return prepare_dataset(parse("Test.", "quickstart", ["--data.path", str(path)]))
