"""A Ray that knows this machine's GPUs."""

from collections.abc import Iterator

import pytest

from orchestrator.embedded_ray import start_embedded


@pytest.fixture(scope="session")
def ray_with_gpus() -> Iterator[None]:
    """An embedded Ray for all tests here."""
    import ray

    start_embedded()
    yield
    ray.shutdown()
