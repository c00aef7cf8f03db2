"""The archives and folders of StyleGAN and edm2: labels stand in dataset.json, and folders are no classes."""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.look import look
from orchestrator.data.sources import reasons
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import by_number, listed, png, prepared, write_tar, write_zip


def name_of(number: int) -> str:
    return f"{number // 4:05d}/img{number:08d}.png"


MEMBERS = [(name_of(number), png(number)) for number in range(10)]
LABELS = [[name_of(number), (number * 7) % 3] for number in range(10)]
WANTED = {number: (number * 7) % 3 for number in range(10)}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_labels_are_those_of_dataset_json(compression: int, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "img.zip", MEMBERS, LABELS, compression)
    for place in (archive, tmp_path):
        stored, account, _, listing = prepared("zip", place)
        assert by_number(stored) == WANTED
        assert listing.class_names == ("0", "1", "2")
        assert (account.found, account.listed) == (11, {reasons.NOT_AN_IMAGE: 1})


def test_the_unpacked_folder_means_the_same(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "img.zip", MEMBERS, LABELS)
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "folder")
    stored, account, _, listing = prepared("image_folder", tmp_path / "folder")
    assert by_number(stored) == WANTED
    assert listing.class_names == ("0", "1", "2")
    assert account.listed == {reasons.NOT_AN_IMAGE: 1}
    # Another file of this name says nothing of labels.
    (tmp_path / "folder" / "dataset.json").write_text('{"info": {}}')
    assert listed("image_folder", tmp_path / "folder").class_names == ("00000", "00001", "00002")
    (tmp_path / "folder" / "dataset.json").write_text('{"labels": [["0000')
    with pytest.raises(UserError, match=r"folder/dataset.json cannot be read"):
        listed("image_folder", tmp_path / "folder")


def test_an_archive_that_was_written_to_a_stream_is_read(tmp_path: Path) -> None:
    """Sizes and checksums stand behind the members then."""

    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, content: bytes) -> int:
            return self.file.write(content)

        def flush(self) -> None:
            self.file.flush()

    pipe: Any = Pipe(tmp_path / "img.zip")
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS:
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": LABELS}))
    pipe.file.close()
    assert by_number(prepared("zip", tmp_path)[0]) == WANTED


def test_oddities_are_listed(tmp_path: Path) -> None:
    members = [
        *MEMBERS, ("notes.md", b"words"), ("__MACOSX/._x.png", b"x"), ("00009/alone.png", png(50)),
        ("00009/none", png(51)), ("00009/twice.png", png(52)), ("00009/twice.png", png(53)),
        ("00009/cut.png", png(54)[:40]), ("00009/unlabelled.png", png(55)), ("00009/negative.png", png(56)),
    ]  # fmt: skip
    labels: list[Any] = [
        *LABELS, ["00009\\none", 1], ["00009/twice.png", [2]], ["00009/cut.png", 0], ["00009/gone.png", 0],
        ["00009/unlabelled.png", None], ["00009/negative.png", -1],
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the name that comes twice.
        write_zip(tmp_path / "img.zip", members, labels)
    (tmp_path / "readme.txt").write_text("words")
    stored, account, lines, _ = prepared("zip", tmp_path)
    assert by_number(stored) == WANTED | {51: 1, 53: 2}
    assert account.listed == {
        reasons.NOT_AN_IMAGE: 3, reasons.HIDDEN: 1, reasons.WITHOUT_LABEL: 3, reasons.DUPLICATE: 1,
        reasons.UNDECODABLE: 1, reasons.WITHOUT_IMAGE: 1,
    }  # fmt: skip
    # Members, dataset.json, the file beside the archive, and the label alone.
    assert account.found == len(members) + 3
    assert any("img.zip: 00009/gone.png: without image" in line for line in lines)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_members_are_listed(compression: int, tmp_path: Path) -> None:
    members, labels = [*MEMBERS, ("00009/none", png(50))], [*LABELS, ["00009/none", 1]]
    archive = write_zip(tmp_path / "img.zip", members, labels, compression)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        first, second = (opened.getinfo(name_of(number)).header_offset for number in range(2))
        content[opened.getinfo("00009/none").header_offset] ^= 0xFF
    content[first + 30 + len(name_of(0)) + 20] ^= 0xFF  # a byte of the image
    content[second] ^= 0xFF  # a byte of its header
    archive.write_bytes(content)
    stored, account, _, _ = prepared("zip", tmp_path)
    assert set(by_number(stored)) == set(WANTED) - {0, 1}
    assert account.listed == {reasons.NOT_AN_IMAGE: 1, reasons.UNREADABLE: 3}


def test_json_of_any_depth_is_no_traceback(tmp_path: Path) -> None:
    deep = b"[" * 200_000
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "dataset.json").write_bytes(deep)
    with pytest.raises(UserError, match=r"dataset.json cannot be read"):
        listed("image_folder", tmp_path / "folder")
    with pytest.raises(UserError, match=r"The class map .* cannot be read"):
        listed("image_folder", tmp_path, classes=str(tmp_path / "folder" / "dataset.json"))
    members = [("a.png", png(1)), ("a.cls", b"1"), ("b.png", png(0)), ("b.cls", b"0")]
    write_tar(tmp_path / "shards" / "0.tar", [*members, ("c.png", png(2)), ("c.json", deep)])
    _, account, _, _ = prepared("tar", tmp_path / "shards")
    assert account.listed == {reasons.WITHOUT_LABEL: 1}


def test_other_compression_and_encryption_are_listed(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "img.zip", MEMBERS, LABELS)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_BZIP2) as more:
        more.writestr("x.png", png(80))
        more.writestr("y.png", png(81))
    content = bytearray(archive.read_bytes())
    content[content.rfind(b"PK\1\2") + 8] |= 1  # y.png claims to be encrypted.
    archive.write_bytes(content)
    _, account, lines, _ = prepared("zip", tmp_path)
    assert account.listed == {reasons.NOT_AN_IMAGE: 1, reasons.UNREADABLE: 2}
    assert any("x.png: unreadable: it is compressed by another method" in line for line in lines)
    assert any("y.png: unreadable: it is encrypted" in line for line in lines)


@pytest.mark.parametrize("kind", ["cut short", "cut in front", "empty", "no ZIP"])
def test_a_damaged_archive_is_named(kind: str, tmp_path: Path) -> None:
    content = write_zip(tmp_path / "img.zip", MEMBERS, LABELS).read_bytes()
    damaged = {"cut short": content[:-200], "cut in front": content[700:], "empty": b"", "no ZIP": b"x" * 999}
    (tmp_path / "img.zip").write_bytes(damaged[kind])
    with pytest.raises(UserError, match=r"img.zip cannot be read as a ZIP archive"):
        listed("zip", tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"img.zip: dataset.json says that its images have no labels \(null\)"),
        ({"x.png": 1}, 'has no list under "labels"'),
        ([[name_of(0), [0.0, 1.0]]], r"holds \[.*\], and not an image's name with one label"),
        ([*LABELS, [name_of(0), 2]], r"gives 00000/img00000000.png two labels, 0 and 2"),
        ([["00000/img-mean-std-00000000.npy", 0]], "is of latents"),
        ([[name_of(number), number % 3 + 1] for number in range(10)], "the labels 1..3 and no label 0"),
        ([[name_of(0), 5_000_000_000]], "which is no class number"),
        ([], "holds no images for data.source zip: 1 not an image, 10 without label"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels: Any, message: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "img.zip", MEMBERS, labels)
    with pytest.raises(UserError, match=message):
        listed("zip", tmp_path)


def test_an_archive_without_labels_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "img.zip", "w") as archive:
        archive.writestr("cat/0.png", png(0))
    with pytest.raises(UserError, match=r"holds no dataset.json with labels"):
        listed("zip", tmp_path)


def test_names_are_labels_and_a_class_map_orders_them(tmp_path: Path) -> None:
    names = ["n15075141", "n01443537"]
    write_zip(tmp_path / "img.zip", MEMBERS, [[name_of(n), names[n % 2]] for n in range(10)])
    assert listed("zip", tmp_path).class_names == ("n01443537", "n15075141")
    assert set(listed("zip", tmp_path, classes="imagenet").rows["label"].to_pylist()) == {1, 999}


def test_look_knows_it_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_zip(tmp_path / "edm2.zip", MEMBERS, LABELS)
    look(str(archive))
    said = capsys.readouterr().out
    assert "11 found, of which 10 are images" in said and "10 PNG RGB" in said
    assert f"--data.source zip --data.source_path {archive} --model.num_classes 3" in said
    assert "--data.path datasets/edm2\n" in said
    # An archive beside images does not make these one.
    for number in range(3):
        (tmp_path / "folder" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / "ab"[number % 2] / f"{number}.png").write_bytes(png(number))
    archive.rename(tmp_path / "folder" / "edm2.zip")
    look(str(tmp_path / "folder"))
    assert "--data.source image_folder" in capsys.readouterr().out
