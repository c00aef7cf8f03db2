"""What Hugging Face's datasets and webdataset write themselves is read, and what `look` says of it."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import webdataset
from PIL import Image

from orchestrator.data.look import look
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import SIZE, by_number, listed, prepared, settings

NAMES = ("cat", "dog", "eel")
WANTED = {number: number % 3 for number in range(12)}


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (SIZE, SIZE), (number, 0, 7))


@pytest.fixture(scope="module")
def written() -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    columns = {"image": [picture(number) for number in range(12)], "label": [n % 3 for n in range(12)]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_datasets_save_to_disk(written: Any, tmp_path: Path) -> None:
    written.save_to_disk(tmp_path / "saved", num_shards=3)
    stored, account, _, listing = prepared("huggingface", tmp_path / "saved")
    assert listing.class_names == NAMES
    assert by_number(stored) == WANTED
    assert account.listed == {"not an image": 2}
    next((tmp_path / "saved").glob("data-00001*.arrow")).unlink()
    with pytest.raises(UserError, match=r"state.json names data-00001-of-00003.arrow, which is not there"):
        listed("huggingface", tmp_path / "saved")


def test_a_dictionary_of_splits(written: Any, tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": written, "test": written.select(range(3))})
    both.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="--data.split test or --data.split train"):
        listed("huggingface", tmp_path / "saved")
    assert listed("huggingface", tmp_path / "saved", split="train").rows.num_rows == 12


def test_datasets_parquet(written: Any, tmp_path: Path) -> None:
    written.to_parquet(tmp_path / "data.parquet")
    stored, _, _, listing = prepared("parquet", tmp_path)
    assert listing.class_names == NAMES
    assert by_number(stored) == WANTED


@pytest.mark.parametrize("label", ["cls", "json"])
def test_webdataset_shards(label: str, tmp_path: Path) -> None:
    with webdataset.ShardWriter(f"{tmp_path}/%04d.tar", maxcount=5, verbose=0) as shards:
        for number in range(12):
            answer = number % 3 if label == "cls" else {"label": number % 3}
            shards.write({"__key__": f"x{number:04d}", "png": picture(number), label: answer})
    stored, account, _, _ = prepared("tar", tmp_path)
    assert by_number(stored) == WANTED
    assert account.listed == {}


@pytest.mark.parametrize("kind", ["folder", "saved", "parquet", "shards"])
def test_look_says_what_is_there_and_how_to_prepare_it(
    kind: str, written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    if kind == "saved":
        written.save_to_disk(source)
    elif kind == "parquet":
        written.to_parquet(source / "data.parquet")
    elif kind == "shards":
        with webdataset.ShardWriter(f"{source}/%04d.tar", maxcount=5, verbose=0) as shards:
            for number in range(12):
                shards.write({"__key__": f"x{number:04d}", "png": picture(number), "cls": number % 3})
    else:
        for number in range(12):
            (source / NAMES[number % 3]).mkdir(exist_ok=True)
            picture(number).save(source / NAMES[number % 3] / f"{number}.png")
        (source / "cat" / "._0.png").write_bytes(b"x")
        (source / "cat" / "bad.png").write_bytes(b"x")
    look(str(source), sheet=str(tmp_path / "sheet.png"))
    said = capsys.readouterr().out
    images = 13 if kind == "folder" else 12
    assert f"{images} are images" in said
    assert "3 classes of 4 to" in said and f"shorter side {SIZE} to {SIZE}" in said and "12 PNG RGB" in said
    if kind == "folder":
        assert "1 hidden, for example" in said and "bad.png: no image of a known format" in said
    else:
        assert ("cat" in said) == (kind != "shards")
    command = said.split("Prepare it with\n  ")[1].split()
    kinds = {"folder": "image_folder", "saved": "huggingface", "parquet": "parquet", "shards": "tar"}
    config = settings(
        command[command.index("--data.source") + 1], command[command.index("--data.source_path") + 1]
    )
    assert config.data.source == kinds[kind] and config.data.source_path == str(source)
    assert command[command.index("--model.num_classes") + 1] == "3"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 8 * 96
