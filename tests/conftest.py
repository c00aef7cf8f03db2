"""One Ray for the whole session, and the digits as a dataset."""

import os
from collections.abc import Iterator

import pytest

import orchestrator  # noqa: F401  (sets what Ray reads when it is imported)
from orchestrator.config_io import parse
from orchestrator.latents.format import LatentDataset
from orchestrator.latents.prepare import prepare_dataset

os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """An embedded Ray that all tests share."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=1 << 29,
        include_dashboard=True,
        logging_level="warning",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    """The quickstart's dataset."""
    path = tmp_path_factory.mktemp("datasets") / "mnist5k"
    return prepare_dataset(parse("Test.", "quickstart", ["--data.path", str(path)]))
