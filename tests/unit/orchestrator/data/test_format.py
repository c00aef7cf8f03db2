"""A dataset says what it is, and a broken one is refused before training."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.format import LatentDataset, exists, open_dataset, read_rows, to_arrays
from orchestrator.errors import UserError
from tests.datasets import write_moments, write_numbered


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return write_numbered(tmp_path / "data", rows=30, row_group_rows=4)


def test_what_was_written_is_read(dataset: LatentDataset) -> None:
    opened = open_dataset(dataset.path)
    assert opened == dataset
    assert opened.num_rows == 30
    assert [rows for _, _, rows in opened.row_groups] == [4, 4, 4, 4, 4, 4, 4, 2]
    arrays = np.concatenate([to_arrays(opened.info, table) for table in read_rows(opened, 7)])
    assert arrays[:, 0, 1, 1].tolist() == list(range(30))


def test_moments_keep_their_kind_and_scale(tmp_path: Path) -> None:
    info = write_moments(tmp_path / "data", rows=10, size=4).info
    assert (info.kind, info.diffusion_shape, info.scaling_factor) == ("moments", (2, 4, 4), 0.5)


def test_fingerprint_follows_the_content(dataset: LatentDataset, tmp_path: Path) -> None:
    assert write_numbered(tmp_path / "same", rows=30, row_group_rows=4).fingerprint == dataset.fingerprint
    assert write_numbered(tmp_path / "other", rows=31, row_group_rows=4).fingerprint != dataset.fingerprint


def test_an_unfinished_folder_is_no_dataset(dataset: LatentDataset) -> None:
    (Path(dataset.path) / "dataset.json").unlink()
    assert not exists(dataset.path)
    with pytest.raises(UserError, match="There is no dataset"):
        open_dataset(dataset.path)


def test_a_truncated_file_is_named(dataset: LatentDataset) -> None:
    file = Path(dataset.path) / "part-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="part-00001.parquet cannot be read"):
        open_dataset(dataset.path)


def test_a_file_of_another_dataset_is_named(dataset: LatentDataset, tmp_path: Path) -> None:
    other = write_moments(tmp_path / "other", rows=10, size=4)
    source = Path(other.path) / "part-00000.parquet"
    (Path(dataset.path) / "part-00001.parquet").write_bytes(source.read_bytes())
    with pytest.raises(UserError, match="part-00001.parquet belongs to another dataset"):
        open_dataset(dataset.path)


def test_a_file_with_other_rows_is_named(dataset: LatentDataset) -> None:
    folder = Path(dataset.path)
    (folder / "part-00001.parquet").write_bytes((folder / "part-00000.parquet").read_bytes())
    with pytest.raises(UserError, match="part-00001.parquet is not the file"):
        open_dataset(dataset.path)


def test_a_file_outside_of_the_folder_is_not_read(dataset: LatentDataset) -> None:
    description = Path(dataset.path) / "dataset.json"
    description.write_text(description.read_text().replace("part-00000", "../data/part-00000"))
    with pytest.raises(UserError, match="outside of the dataset"):
        open_dataset(dataset.path)
