"""ImageNet's training archive: a tar file per class in a tar file, which is read where it lies."""

import gzip
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.look import look
from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import ForwardReader, walk_source
from orchestrator.data.sources.tar import archive_members, members_of
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import (
    by_number,
    encoded,
    listed,
    png,
    prepared,
    write_tar,
    write_tar_of_tars,
)

SYNSETS = ("n01440764", "n01443537", "n01484850")
NAME = "ILSVRC2012_img_train.tar"


def members(number: int, count: int = 3) -> list[tuple[str, bytes | str]]:
    return [
        (f"{SYNSETS[number]}_{image}.JPEG", png(10 * number + image)) for image in range(count)
    ]  # fmt: skip


def write(path: Path, order: tuple[int, ...] = (2, 0, 1)) -> Path:
    return write_tar_of_tars(path, {SYNSETS[number]: members(number) for number in order})


WANTED = {10 * number + image: number for number in range(3) for image in range(3)}


@pytest.mark.parametrize("names_the_file", [False, True])
def test_classes_are_the_inner_names_in_order(names_the_file: bool, tmp_path: Path) -> None:
    archive = write(tmp_path / NAME)
    stored, account, _, listing = prepared("tar", archive if names_the_file else tmp_path)
    assert listing.class_names == SYNSETS
    assert by_number(stored) == WANTED
    assert (account.found, account.listed, listing.notes) == (9, {}, ())


def test_what_gnu_tar_packs_is_read_in_place(tmp_path: Path) -> None:
    """As ImageNet was made: tar of each folder, then tar of these; the bytes are those of the files."""
    for number, synset in enumerate(SYNSETS):
        (tmp_path / synset).mkdir()
        for name, content in members(number):
            assert isinstance(content, bytes)
            (tmp_path / synset / name).write_bytes(content)
        packed = ["tar", "-C", tmp_path / synset, "-cf", tmp_path / f"{synset}.tar"]
        subprocess.run([*packed, *(name for name, _ in members(number))], check=True)
    (tmp_path / "source").mkdir()
    inner = [f"{synset}.tar" for synset in SYNSETS]
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "source" / NAME, *inner], check=True)
    rows = listed("tar", tmp_path / "source").rows.to_pylist()
    content = (tmp_path / "source" / NAME).read_bytes()
    files = [path.read_bytes() for path in sorted(tmp_path.glob("n*/*.JPEG"))]
    assert [content[row["start"] : row["start"] + row["size"]] for row in rows] == files
    assert [row["label"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_one_long_read_over_a_network_finds_the_same(tmp_path: Path) -> None:
    archive = write(tmp_path / NAME)
    content = archive.read_bytes()
    stream: Any = ForwardReader(io.BytesIO(content))
    file = walk_source(str(archive)).files[0]
    read = list(archive_members(stream, len(content), 0))
    assert read == list(members_of(str(archive), file))
    assert [len(member.members or ()) for member in read] == [3, 3, 3]


def test_classes_imagenet_numbers_some_of_them_as_all(tmp_path: Path) -> None:
    write_tar_of_tars(tmp_path / NAME, {"n15075141": members(0), "n01443537": members(1)})
    listing = listed("tar", tmp_path, classes="imagenet")
    assert len(listing.class_names) == 1000
    assert set(listing.rows["label"].to_pylist()) == {1, 999}
    write_tar_of_tars(tmp_path / NAME, {"n00000001": members(0)})
    with pytest.raises(UserError, match="has classes that data.classes does not: n00000001"):
        listed("tar", tmp_path, classes="imagenet")


def test_oddities_are_listed_and_an_empty_class_keeps_its_number(tmp_path: Path) -> None:
    odd: list[tuple[str, bytes | str]] = [
        *members(2), ("readme.md", b"words"), ("LICENSE.txt", b"words"), ("._x.JPEG", b"\0\5\x16\7"),
        ("again.png", png(90)), ("again.png", png(90)), ("again.png", png(91)), ("cut.jpg", png(1)[:40]),
        (f"{SYNSETS[2]}_gone.JPEG", "nowhere"), ("linked.JPEG", f"{SYNSETS[2]}_0.JPEG"), ("noname", png(92)),
        ("zipped.JPEG", gzip.compress(png(93))),
    ]  # fmt: skip
    archive = write_tar_of_tars(tmp_path / NAME, {SYNSETS[0]: members(0), SYNSETS[1]: [], SYNSETS[2]: odd})
    outer = [("._n01440764.tar", b"\0\5\x16\7"), ("notes.txt", b"words"), ("alone.png", png(5))]
    with archive.open("r+b") as file:
        file.seek(0, 2)
        file.write(write_tar(tmp_path / "more" / "more.tar", outer).read_bytes())
    shutil.rmtree(tmp_path / "more")
    stored, account, lines, listing = prepared("tar", tmp_path)
    assert listing.class_names == SYNSETS
    wanted = {0: 0, 1: 0, 2: 0, 20: 2, 21: 2, 22: 2, 91: 2, 92: 2, 93: 2}
    assert by_number(stored) == wanted
    assert len(stored) == len(wanted) + 1  # the hard link
    assert account.listed == {
        reasons.NOT_AN_IMAGE: 3, reasons.HIDDEN: 2, reasons.DUPLICATE: 2, reasons.UNDECODABLE: 1,
        reasons.UNREADABLE: 1, reasons.WITHOUT_LABEL: 1,
    }  # fmt: skip
    assert f"without an image: {SYNSETS[1]}" in listing.notes[0]
    assert any(f"{NAME}: {SYNSETS[2]}.tar/readme.md: not an image" in line for line in lines)


def damaged(kind: str, content: bytes) -> bytes:
    inner = content.find(SYNSETS[0].encode() + b".tar")
    if kind == "damaged inner header":
        place = content.find(SYNSETS[0].encode() + b"_1.JPEG")
        return content[:place] + b"X" + content[place + 1 :]
    if kind == "cut in a class":
        return content[: inner + 2000]
    if kind == "cut between classes":
        return content[:inner]
    return content


@pytest.mark.parametrize("kind", ["damaged inner header", "cut in a class", "cut between classes"])
def test_a_damaged_archive_is_named(kind: str, tmp_path: Path) -> None:
    archive = write(tmp_path / NAME)
    archive.write_bytes(damaged(kind, archive.read_bytes()))
    inner = "" if kind == "cut between classes" else rf"({SYNSETS[0]}.tar in it: )?"
    message = rf"(?s)1 of 1 tar shards cannot be read to their end.*{NAME}: {inner}(it is cut|the header)"
    with pytest.raises(UserError, match=message):
        listed("tar", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("n02.tar", b"", "it is empty"),
        ("n02.tar", b"x" * 2000, "the header at byte"),
        ("n02.tar", "cut", "it is cut short"),
        ("n02.tar.gz", "compressed", "it is compressed"),
        ("n02.tar", "deep", "a tar file in a tar file in a tar file"),
    ],
)
def test_an_inner_archive_that_hides_images_is_named(
    name: str, content: bytes | str, reason: str, tmp_path: Path
) -> None:
    if content == "compressed":
        content = gzip.compress(b"x" * 2000)
    whole = write_tar(tmp_path / "made" / "whole.tar", members(0)).read_bytes()
    if content == "cut":
        content = whole[:2000]
    if content == "deep":
        content = write_tar(tmp_path / "made" / "deep.tar", [("n03.tar", whole)]).read_bytes()
    assert isinstance(content, bytes)
    archive = write_tar(tmp_path / "source" / NAME, [("n01.tar", whole), (name, content)])
    with pytest.raises(UserError, match=rf"{NAME}: {name} in it: .*{reason}"):
        listed("tar", archive.parent)


def test_what_are_no_classes_is_refused(tmp_path: Path) -> None:
    shard: list[tuple[str, bytes | str]] = [("0.png", png(0)), ("0.cls", b"1")]
    write_tar_of_tars(tmp_path / "0.tar", {"shard-0000": shard})
    with pytest.raises(UserError, match=r"0.tar: shard-0000.tar/0.png has a label of its own"):
        listed("tar", tmp_path)
    inner = write_tar_of_tars(tmp_path / "0.tar", {"a": members(0)}).read_bytes()
    write_tar(tmp_path / "0.tar", [*shard, ("a.tar", inner)])
    with pytest.raises(UserError, match=r"a.tar in it: it is a tar file in a tar file in a tar file"):
        listed("tar", tmp_path)
    inner = write_tar(tmp_path / "0.tar", members(0)).read_bytes()
    write_tar(tmp_path / "0.tar", [*shard, ("a.tar", inner)])
    with pytest.raises(UserError, match=r"images with labels and also tar files, such as a.tar"):
        listed("tar", tmp_path)
    write_tar(tmp_path / "0.tar", [("train/a.tar", inner), ("val/a.tar", inner)])
    with pytest.raises(UserError, match=r"2 tar files that are called a.tar"):
        listed("tar", tmp_path)


def test_the_ending_says_what_to_take(tmp_path: Path) -> None:
    write_tar_of_tars(
        tmp_path / NAME, {"a": [("x.png", png(1)), ("x.jpg", png(2))], "b": [("y.png", png(3))]}
    )
    stored, account, _, _ = prepared("tar", tmp_path, image_column="png")
    assert by_number(stored) == {1: 0, 3: 1}
    assert account.listed == {reasons.NOT_AN_IMAGE: 1}


def test_look_knows_it_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    picture = encoded(Image.new("RGB", (9, 8)), "JPEG")
    archive = write_tar_of_tars(tmp_path / NAME, {name: [(f"{name}_1.JPEG", picture)] for name in SYNSETS})
    look(str(archive))
    said = capsys.readouterr().out
    assert "3 found, of which 3 are images" in said and "3 JPEG RGB" in said
    assert f"--data.source tar --data.source_path {archive} --model.num_classes 3" in said
    assert "--data.path datasets/ILSVRC2012_img_train\n" in said
