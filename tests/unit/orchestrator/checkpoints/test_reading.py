"""A checkpoint from somebody else is data: nothing in it is run, and nothing outside of it is read."""

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from orchestrator.checkpoints.files import CheckpointFiles, failures_as_errors, writer
from orchestrator.checkpoints.reading import METADATA_FILE, CheckpointReader, DataLoadPlanner
from orchestrator.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class MakesFolder:
    """An object that calls os.mkdir when it is unpickled as usual."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def write(folder: Path, number: Any = 8) -> Path:
    folder.mkdir()
    state = {"weights": torch.arange(6.0), "position": {"images_seen": number}}
    dcp.save(state, storage_writer=writer(str(folder), CheckpointFiles()), no_dist=True)
    return folder


def read(folder: Path) -> dict[str, Any]:
    state = {"weights": torch.zeros(6), "position": {"images_seen": 0}}
    with failures_as_errors():
        dcp.load(state, storage_reader=CheckpointReader(str(folder)), planner=DataLoadPlanner(), no_dist=True)
    return state


def test_tensors_and_numbers_are_read(tmp_path: Path) -> None:
    found = read(write(tmp_path / "8"))
    assert found["weights"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["position"] == {"images_seen": 8}


def test_a_table_of_contents_that_calls_something_is_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "8")
    (checkpoint / METADATA_FILE).write_bytes(pickle.dumps(MakesFolder(tmp_path / "made")))
    with pytest.raises(UserError, match=r"wants to run posix\.mkdir"):
        read(checkpoint)
    assert not (tmp_path / "made").exists()
    # The attack is real: what reads it as torch does runs it.
    pickle.loads((checkpoint / METADATA_FILE).read_bytes())
    assert (tmp_path / "made").exists()


def test_a_number_that_calls_something_is_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "8", MakesFolder(tmp_path / "made"))
    with pytest.raises(UserError, match=r"position\.images_seen in the checkpoint is no plain value"):
        read(checkpoint)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content", [b"", b"torn", pickle.dumps(3), pickle.dumps({"state_dict_metadata": {}})]
)
def test_a_broken_table_of_contents_is_named(tmp_path: Path, content: bytes) -> None:
    checkpoint = write(tmp_path / "8")
    (checkpoint / METADATA_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"\.metadata is not a checkpoint's table of contents"):
        read(checkpoint)


def test_files_outside_of_the_checkpoint_are_not_read(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "8")
    metadata = pickle.loads((checkpoint / METADATA_FILE).read_bytes())
    metadata.storage_data = {
        index: dataclasses.replace(info, relative_path=f"../elsewhere/{info.relative_path}")
        for index, info in metadata.storage_data.items()
    }
    (checkpoint / METADATA_FILE).write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="points outside of the checkpoint"):
        read(checkpoint)
