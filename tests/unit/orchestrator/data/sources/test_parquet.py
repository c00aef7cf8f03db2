"""Parquet: columns of any type that writers make, labels of any kind, splits, and what no cell holds."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.sources import parquet, reasons
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import by_number, listed, png, prepared

IMAGES = [{"bytes": png(number), "path": f"{number}.png"} for number in range(6)]
BYTES = [image["bytes"] for image in IMAGES]
LABELS = [number % 3 for number in range(6)]


def write(
    folder: Path, name: str = "data.parquet", features: dict[str, Any] | None = None, **columns: Any
) -> Path:
    table = pa.table(columns)
    if features is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / name, row_group_size=4)
    return folder


@pytest.mark.parametrize(
    "column",
    [IMAGES, BYTES, pa.array(BYTES, pa.large_binary()), pa.array(BYTES).dictionary_encode(),
     pa.array([list(content) for content in BYTES], pa.list_(pa.uint8())),
     pa.array([list(content) for content in BYTES], pa.large_list(pa.uint8()))],
    ids=["structs", "bytes", "large", "dictionary", "lists", "large lists"],
)  # fmt: skip
@pytest.mark.parametrize(
    "labels",
    [LABELS, pa.array(LABELS, pa.uint8()), pa.array(LABELS).dictionary_encode(), [float(n) for n in LABELS],
     [[n] for n in LABELS]],
    ids=["int", "uint8", "dictionary", "float", "list"],
)  # fmt: skip
def test_all_types_of_columns_are_read(column: Any, labels: Any, tmp_path: Path) -> None:
    stored, account, _, _ = prepared("parquet", write(tmp_path, image=column, label=labels))
    assert by_number(stored) == {number: number % 3 for number in range(6)}
    assert account.listed == {}


def test_names_of_classes_come_from_the_metadata(tmp_path: Path) -> None:
    features = {"img": {"_type": "Image"}, "fine": {"_type": "ClassLabel", "names": ["x", "y", "z", "w"]}}
    listing = listed("parquet", write(tmp_path, features=features, img=IMAGES, fine=LABELS, note=LABELS))
    assert listing.class_names == ("x", "y", "z", "w")
    write(tmp_path, "other.parquet", {**features, "fine": {"_type": "ClassLabel", "names": ["y", "x"]}},
          img=IMAGES, fine=LABELS, note=LABELS)  # fmt: skip
    with pytest.raises(UserError, match=r"data.parquet and .*other.parquet have different names"):
        listed("parquet", tmp_path)


def test_texts_are_classes_in_order(tmp_path: Path) -> None:
    stored, _, _, listing = prepared(
        "parquet", write(tmp_path, image=IMAGES, label=["eel", "cat", "dog"] * 2)
    )
    assert listing.class_names == ("cat", "dog", "eel")
    assert by_number(stored) == {0: 2, 1: 0, 2: 1, 3: 2, 4: 0, 5: 1}
    write(tmp_path, image=IMAGES, label=["10", "9", "2"] * 2)
    assert listed("parquet", tmp_path).class_names == ("2", "9", "10")


def test_columns_are_named_by_the_user_where_they_are_not_clear(tmp_path: Path) -> None:
    write(tmp_path, front=IMAGES, back=IMAGES, kind=LABELS)
    with pytest.raises(
        UserError, match=r"front, back, kind; which of them holds the images.*--data.image_column"
    ):
        listed("parquet", tmp_path)
    with pytest.raises(UserError, match="--data.label_column"):
        listed("parquet", tmp_path, image_column="back")
    assert listed("parquet", tmp_path, image_column="back", label_column="kind").rows.num_rows == 6
    stored, _, _, _ = prepared("parquet", tmp_path, image_column="back", label_column="kind")
    assert len(by_number(stored)) == 6
    write(tmp_path, image=["a/0.png"] * 6, label=LABELS)
    with pytest.raises(UserError, match="is of the type string"):
        listed("parquet", tmp_path)


def test_empty_cells_are_listed(tmp_path: Path) -> None:
    cells = [
        *IMAGES[:3],
        None,
        {"bytes": None, "path": "/home/x/4.png"},
        {"bytes": b"no image", "path": None},
    ]
    _, account, lines, _ = prepared("parquet", write(tmp_path, image=cells, label=LABELS))
    assert account.listed == {reasons.UNDECODABLE: 1, reasons.WITHOUT_IMAGE: 2}
    assert any("/home/x/4.png" in line and "without its images" in line for line in lines)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3] * 2, r"labels 1\.\.3 and no label 0"),
        ([0, 1, 5_000_000_000] * 2, "the label 5000000000, which is no class number"),
        ([0, 1, 400_000_000] * 2, "the label 400000000, which is no class number"),
        ([0.0, 1.7] * 3, "has the label 1.7"),
        ([None] * 6, "None of the 6 images"),
        ([-1] * 6, "None of the 6 images"),
        ([[0, 1]] * 6, "no single label"),
        ([{"a": 1}] * 6, "no single label"),
    ],
)
def test_labels_that_are_none_are_refused(labels: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        listed("parquet", write(tmp_path, image=IMAGES, label=labels))


def test_some_missing_labels_are_listed(tmp_path: Path) -> None:
    labels = [0, 1, 2, None, -1, float("nan")]
    _, account, lines, _ = prepared("parquet", write(tmp_path, image=IMAGES, label=labels))
    assert account.listed == {reasons.WITHOUT_LABEL: 3}
    assert any("row 4: without label: the label -1" in line for line in lines)


def test_a_class_map_gives_numbers_to_labels(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({"1": 0, "2": 1, "3": 2}))
    root = write(tmp_path / "data", image=IMAGES, label=[1, 2, 3] * 2)
    stored, _, _, _ = prepared("parquet", root, classes=str(tmp_path / "map.json"))
    assert by_number(stored) == {number: number % 3 for number in range(6)}


def test_splits_side_by_side_are_never_mixed(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path, f"{split}-00000-of-00001.parquet", image=IMAGES, label=LABELS)
    with pytest.raises(UserError, match="--data.split test or --data.split train or --data.split validation"):
        listed("parquet", tmp_path)
    listing = listed("parquet", tmp_path, split="train")
    assert (listing.rows.num_rows, len(listing.omitted)) == (6, 2)


def test_damaged_files_and_huge_row_groups_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, image=IMAGES, label=LABELS)
    content = (tmp_path / "data.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-40])
    with pytest.raises(UserError, match=r"cut.parquet cannot be read"):
        listed("parquet", tmp_path)
    (tmp_path / "cut.parquet").unlink()
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 100)
    with pytest.raises(UserError, match=r"row group 0 take .*row_group_size"):
        listed("parquet", tmp_path)
