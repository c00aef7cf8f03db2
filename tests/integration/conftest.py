"""What integration tests share: one small finished run."""

import shutil
from pathlib import Path

import pytest

from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.run.experiment import run_experiment
from tests.configs import tiny


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, numbered: LatentDataset, empty_store: Path, ray_session: None
) -> ExperimentConfig:
    """A small run that is finished, with previews and an export of its checkpoints."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_store, root / "mlflow.db")
    config = tiny(
        root, numbered.path, model={"input_size": 8},
        train={"preview_every_images": 32, "export_every_images": 64},
        evaluation={
            "images": 12,
            "extractors": ["efficientnet_lite0", "dataset_classifier"],
            "class_agreement": True,
        },
    )  # fmt: skip
    run_experiment(config)
    return config
