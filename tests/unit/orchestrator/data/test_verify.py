"""Verifying a dataset finds what is wrong with it and names the file."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from orchestrator.data.format import DatasetInfo, LatentDataset, to_table, write_dataset
from orchestrator.data.verify import verify
from orchestrator.errors import UserError
from tests.datasets import write_moments, write_numbered


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return write_numbered(tmp_path / "data", rows=50, row_group_rows=7)


def test_a_whole_dataset_is_summed_up_and_shown(
    dataset: LatentDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(dataset.path, sheet=str(tmp_path / "sheet.png"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "is whole: 50 rows of 50 images" in printed
    assert "16 to 17" in printed
    assert Image.open(tmp_path / "sheet.png").size == (8 * 4 + 2, 4 * 4 + 2)


def test_a_changed_byte_is_found(dataset: LatentDataset) -> None:
    file = Path(dataset.path) / dataset.files[1].name
    content = bytearray(file.read_bytes())
    content[40] ^= 1  # among the first rows
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name}: its checksum"):
        verify(dataset.path)


def test_a_truncated_file_is_found(dataset: LatentDataset) -> None:
    file = Path(dataset.path) / dataset.files[0].name
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=file.name):
        verify(dataset.path)


def test_a_file_of_another_dataset_is_found(dataset: LatentDataset, tmp_path: Path) -> None:
    other = write_moments(tmp_path / "other", 30, 2)
    shutil.copy(Path(other.path) / other.files[0].name, Path(dataset.path) / dataset.files[0].name)
    with pytest.raises(UserError, match="belongs to another dataset"):
        verify(dataset.path)


def info(**changes: object) -> DatasetInfo:
    fields = {
        "kind": "moments", "shape": (2, 1, 1), "source": "s", "num_images": 3, "class_names": ("a", "b"),
        "scaling_factor": 1.0,
    }  # fmt: skip
    return DatasetInfo(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "labels", "indices", "message"),
    [
        ([0, np.nan, 1], [0, 1, 0], [0, 1, 2], "1 rows hold NaN"),
        ([0, 1e4, 1], [0, 1, 0], [0, 1, 2], "no plausible latent"),
        ([0, 1, 1], [0, 1, 0], [0, 1, 1], "image 1 .* is stored twice"),
    ],
)
def test_wrong_rows_are_found(
    values: list[float], labels: list[int], indices: list[int], message: str, tmp_path: Path
) -> None:
    arrays = np.zeros((3, 2, 1, 1), np.float16)
    arrays[:, 0, 0, 0] = values
    tables: list[pa.Table] = [to_table(info(), arrays, labels, indices)]
    write_dataset(str(tmp_path / "data"), info(), tables, 8)
    with pytest.raises(UserError, match=message):
        verify(str(tmp_path / "data"))


def test_a_sheet_of_latents_needs_the_vae(tmp_path: Path) -> None:
    dataset = write_moments(tmp_path / "data", 30, 2)
    with pytest.raises(UserError, match="--vae a-vae"):
        verify(dataset.path, sheet=str(tmp_path / "sheet.png"))


def test_labels_without_a_class_are_found_when_a_dataset_is_opened(tmp_path: Path) -> None:
    tables = [to_table(info(), np.zeros((3, 2, 1, 1), np.float16), [0, 2, 0], [0, 1, 2])]
    with pytest.raises(UserError, match=r"part-00000.parquet holds labels 0\.\.2, outside of 0\.\.1"):
        write_dataset(str(tmp_path / "data"), info(), tables, 8)
