"""WebDataset shards: every member is stored, the label of one that is, or listed."""

import gzip
import io
import json
from pathlib import Path

import pytest

from orchestrator.data.sources import reasons
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import by_number, listed, png, prepared, write_tar


def sample(number: int, key: str | None = None) -> list[tuple[str, bytes | str]]:
    key = key or f"{number:04d}"
    return [(f"{key}.png", png(number)), (f"{key}.cls", str(number % 3).encode())]


def samples(count: int) -> list[tuple[str, bytes | str]]:
    return [member for number in range(count) for member in sample(number)]


def test_dots_belong_to_names(tmp_path: Path) -> None:
    members = [m for n in range(3) for m in sample(n, f"photo.v{n}")]
    members += [("0100.input.png", png(100)), ("0100.cls", b"1")]
    write_tar(tmp_path / "0.tar", members)
    stored, account, _, _ = prepared("tar", tmp_path)
    assert by_number(stored) == {0: 0, 1: 1, 2: 2, 100: 1}
    assert account.listed == {}


def test_labels_are_numbers_texts_or_in_json(tmp_path: Path) -> None:
    members = [("a.png", png(1)), ("a.json", json.dumps({"label": 2, "caption": "x"}).encode()),
               ("b.png", png(2)), ("b.txt", b"1\n"), ("c.png", png(3)), ("c.cls", b" 0 "),
               ("c.txt", b"a caption"), ("c.json", b"{}"), ("d.png", png(4)), ("d.cls", b"-1")]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    stored, account, _, _ = prepared("tar", tmp_path)
    assert by_number(stored) == {1: 2, 2: 1, 3: 0}
    assert account.listed == {reasons.WITHOUT_LABEL: 1}
    write_tar(
        tmp_path / "0.tar", [("a.png", png(1)), ("a.cls", b"dog"), ("b.png", png(2)), ("b.cls", b"cat")]
    )
    stored, _, _, listing = prepared("tar", tmp_path)
    assert listing.class_names == ("cat", "dog") and by_number(stored) == {1: 1, 2: 0}


def test_several_images_of_a_sample_are_stored_and_said(tmp_path: Path) -> None:
    members = [("a.left.png", png(1)), ("a.right.png", png(2)), ("a.cls", b"0"), *sample(4)]
    write_tar(tmp_path / "0.tar", members)
    stored, _, _, listing = prepared("tar", tmp_path)
    assert by_number(stored) == {1: 0, 2: 0, 4: 1}
    assert "1 .left.png, 1 .right.png" in listing.notes[0]
    stored, account, _, _ = prepared("tar", tmp_path, image_column="left.png")
    assert by_number(stored) == {1: 0} and account.listed == {reasons.NOT_AN_IMAGE: 2}


def test_equal_names_are_images_of_their_own_or_duplicates(tmp_path: Path) -> None:
    own = [("a.png", png(1)), ("a.cls", b"1"), ("a.png", png(2)), ("a.cls", b"2")]
    same = [("b.png", png(3)), ("b.cls", b"0"), ("b.png", png(3)), ("b.cls", b"0")]
    replaced = [("c.png", png(4)), ("c.png", png(5)), ("c.cls", b"1")]
    write_tar(tmp_path / "0.tar", own + same + replaced)
    stored, account, _, _ = prepared("tar", tmp_path)
    assert by_number(stored) == {1: 1, 2: 2, 3: 0, 5: 1}
    assert len(stored) == 4 and account.listed == {reasons.DUPLICATE: 2}


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    members = [*samples(3), ("x.png", png(9)), ("y.cls", b"1"), ("readme.md", b"words"),
               ("._0000.png", b"\0\5\x16\7"), ("__MACOSX/0000.png", b"x"), ("z.png", "0001.png"),
               ("z.cls", b"1"),
               ("lost.png", "nowhere.png"), ("noname", png(8)), ("noname.cls", b"2")]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    write_tar(tmp_path / "empty.tar", [])
    (tmp_path / "sizes.json").write_text("{}")
    stored, account, lines, _ = prepared("tar", tmp_path)
    assert by_number(stored) == {0: 0, 1: 1, 2: 2, 8: 2}
    assert len(stored) == 5  # the hard link is an image
    assert account.listed == {
        reasons.WITHOUT_LABEL: 1, reasons.WITHOUT_IMAGE: 1, reasons.NOT_AN_IMAGE: 2, reasons.HIDDEN: 2,
        reasons.UNREADABLE: 1,
    }  # fmt: skip
    assert any("0.tar: x.png: without label" in line for line in lines)


def test_archives_one_after_another_are_read_whole(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a" / "0.tar", samples(4)).read_bytes()
    second = write_tar(tmp_path / "b" / "0.tar", sample(7)).read_bytes()
    (tmp_path / "0.tar").write_bytes(first + second)
    for name in "ab":
        (tmp_path / name / "0.tar").unlink()
    assert set(by_number(prepared("tar", tmp_path)[0])) == {0, 1, 2, 3, 7}


def damaged(kind: str, content: bytes) -> bytes:
    if kind == "damaged header":
        place = content.find(b"0003.png")
        return content[:place] + b"X" + content[place + 1 :]
    if kind == "cut in an image":
        return content[: content.find(b"0005.png") + 600]
    if kind == "cut between members":
        return content[: content.find(b"0005.png")]
    if kind == "compressed":
        return gzip.compress(content)
    if kind == "garbage behind":
        return content + b"x" * 512
    return {"empty": b"", "no tar": b"hello" * 300}[kind]


@pytest.mark.parametrize(
    "kind",
    ["damaged header", "cut in an image", "cut between members", "compressed", "empty", "no tar",
     "garbage behind"],
)  # fmt: skip
def test_a_shard_that_hides_images_ends_the_preparation(kind: str, tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", samples(9))
    (tmp_path / "bad.tar").write_bytes(damaged(kind, good.read_bytes()))
    with pytest.raises(UserError, match=r"(?s)1 of 2 tar shards cannot be read to their end.*bad\.tar: "):
        listed("tar", tmp_path)


@pytest.mark.parametrize("name", ["1.tar.gz", "1.tgz", "1.TAR", "1.tar.zst"])
def test_compressed_shards_are_not_left_out_in_silence(name: str, tmp_path: Path) -> None:
    good = write_tar(tmp_path / "0.tar", samples(3))
    start = b"\x28\xb5\x2f\xfd" if name.endswith("zst") else b""
    (tmp_path / name).write_bytes(start or gzip.compress(good.read_bytes()))
    with pytest.raises(UserError, match=rf"{name}: it is compressed.*unpack it first"):
        listed("tar", tmp_path)


def test_a_header_that_claims_a_huge_name_is_not_believed(tmp_path: Path) -> None:
    import tarfile

    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 6 << 30
    whole = io.BytesIO(write_tar(tmp_path / "0.tar", samples(2)).read_bytes()[:-10240])
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + whole.getvalue())
        file.truncate(8 << 30)
    with pytest.raises(UserError, match="claims a name of"):
        listed("tar", tmp_path)


def test_splits_side_by_side_are_never_mixed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tar(tmp_path / f"imagenet-{split}-000000.tar", samples(3))
    with pytest.raises(UserError, match="--data.split train or --data.split validation"):
        listed("tar", tmp_path)
    listing = listed("tar", tmp_path, split="val")
    assert listing.rows.num_rows == 3
    assert [omitted.reason for omitted in listing.omitted] == [reasons.OTHER_SPLIT]
    with pytest.raises(UserError, match="holds no split test"):
        listed("tar", tmp_path, split="test")
