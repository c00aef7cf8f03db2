"""Folders of images: which are classes, in which order, and what is left out and why."""

import json
import os
from pathlib import Path

import pytest

from orchestrator.data.sources import files, reasons
from orchestrator.data.sources.files import walk
from orchestrator.data.sources.listing import counts_of
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import by_number, listed, png, prepared


def write(root: Path, *names: str) -> Path:
    """Write images; the number of each is its place among the names. A name that ends in / is a folder."""
    for number, name in enumerate(names):
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(png(number))
    return root


def test_numbers_are_classes_in_the_order_of_their_values(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}/x.png" for number in range(11)))
    stored, _, _, listing = prepared("image_folder", tmp_path, num_classes=11)
    assert by_number(stored) == {number: number for number in range(11)}
    assert listing.class_names[2] == "2"
    assert "label 10 is 10" in listing.notes[0]


def test_other_names_are_sorted_as_texts_and_that_is_said(tmp_path: Path) -> None:
    listing = listed("image_folder", write(tmp_path, "c1/x.png", "c2/x.png", "c10/x.png"))
    assert listing.class_names == ("c1", "c10", "c2")
    assert "label 1 is c10 and not c2" in listing.notes[0]
    assert listed("image_folder", write(tmp_path / "plain", "a/x.png", "b/x.png")).notes == ()


def test_empty_class_folders_keep_their_number(tmp_path: Path) -> None:
    listing = listed("image_folder", write(tmp_path, "a/x.png", "b/", "c/x.png"))
    assert listing.class_names == ("a", "b", "c")
    assert listing.rows["label"].to_pylist() == [0, 2]
    assert "without an image: b" in listing.notes[0]


HIDDEN = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", ".cache")


@pytest.mark.parametrize("name", HIDDEN)
def test_folders_of_tools_are_no_classes_and_their_copies_no_images(name: str, tmp_path: Path) -> None:
    write(tmp_path, "a/x.png", f"a/{name}/x-copy.png", f"{name}/y.png", "b/x.png", "b/._x.png")
    (tmp_path / "b" / "Thumbs.db").write_bytes(b"x")
    listing = listed("image_folder", tmp_path)
    assert listing.class_names == ("a", "b")
    assert listing.rows.num_rows == 2
    assert counts_of(listing.omitted) == {reasons.HIDDEN: 4}
    assert listing.found == 6


def test_a_folder_of_splits_is_refused_with_the_command_that_reads_one(tmp_path: Path) -> None:
    for splits in (("train", "val"), ("train", "test", "meta"), ("Train",)):
        root = tmp_path / "-".join(splits)
        write(root, *(f"{split}/{name}/x.png" for split in splits for name in ("n1", "n2")))
        with pytest.raises(UserError, match=rf"--data.source_path {root}/{splits[0]}"):
            listed("image_folder", root)
    write(tmp_path / "deep", "Data/CLS-LOC/train/n1/x.png", "Data/CLS-LOC/val/x.png", "Annotations/x.png")
    with pytest.raises(UserError, match="deep/Data/CLS-LOC/train"):
        listed("image_folder", tmp_path / "deep")
    # A class may well be called so.
    assert listed("image_folder", write(tmp_path / "vehicles", "bus/x.png", "train/x.png")).rows.num_rows == 2


def test_images_are_known_by_content_where_their_name_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a/x.PNG", "a/none", "a/x.odd", "b/deep/down/x.JPEG")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "broken.jpg").write_bytes(b"no image")
    stored, account, lines, _ = prepared("image_folder", tmp_path, num_classes=2)
    assert by_number(stored) == {0: 0, 1: 0, 2: 0, 3: 1}
    assert account.listed == {reasons.NOT_AN_IMAGE: 1, reasons.UNDECODABLE: 1}
    assert any("broken.jpg: undecodable" in line for line in lines)


def test_names_that_are_not_utf8_are_names_like_others(tmp_path: Path) -> None:
    write(tmp_path, "a/x.png")
    for name in (b"a/caf\xe9.png", b"caf\xe9/y.png"):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png(len(name)))
    stored, account, _, listing = prepared("image_folder", tmp_path, num_classes=2)
    assert (account.found, account.stored) == (3, 3)
    assert listing.class_names == ("a", "caf\\xe9")
    json.dumps(listing.class_names).encode()
    assert by_number(stored)[len(b"caf\xe9/y.png")] == 1


def test_links_lead_to_images_once(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "n/x.png", "n/y.png") / "n"
    root = write(tmp_path / "root", "a/own.png")
    (root / "b").symlink_to(outside)  # a class elsewhere: read
    (root / "c").symlink_to(root / "a")  # a class that is here already
    (root / "a" / "again.png").symlink_to(root / "a" / "own.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (root / "a" / "annexed.png").symlink_to(write(root, ".store/x.png") / ".store" / "x.png")
    listing = listed("image_folder", root, num_classes=2)
    assert listing.class_names == ("a", "b")
    assert listing.rows["label"].to_pylist() == [0, 0, 1, 1]
    assert counts_of(listing.omitted) == {reasons.DUPLICATE: 3, reasons.UNREADABLE: 1, reasons.HIDDEN: 1}


def test_images_outside_of_class_folders_have_no_label(tmp_path: Path) -> None:
    write(tmp_path, "a/x.png", "b/x.png", "logo.png")
    assert counts_of(listed("image_folder", tmp_path).omitted) == {reasons.WITHOUT_LABEL: 1}
    with pytest.raises(UserError, match="outside of class folders"):
        listed("image_folder", write(tmp_path / "flat", "x.png", "y.png"))


def test_a_class_map_fixes_the_order(tmp_path: Path) -> None:
    root = write(tmp_path / "images", "cat/x.png", "dog/x.png")
    names, mapped, described = (tmp_path / name for name in ("names.txt", "map.json", "index.json"))
    names.write_text("eel\ndog\ncat\n\n")
    mapped.write_text(json.dumps({"dog": 0, "cat": 1}))
    described.write_text(json.dumps({"1": ["dog", "a dog"], "0": ["cat", "a cat"]}))
    for file, classes, labels in (
        (names, ("eel", "dog", "cat"), [2, 1]), (mapped, ("dog", "cat"), [1, 0]),
        (described, ("cat", "dog"), [0, 1]),
    ):  # fmt: skip
        listing = listed("image_folder", root, classes=str(file))
        assert (listing.class_names, listing.rows["label"].to_pylist()) == (classes, labels)
    names.write_text("cat\neel\n")
    with pytest.raises(UserError, match="has classes that data.classes does not: dog"):
        listed("image_folder", root, classes=str(names))
    names.write_text("cat\ncat\n")
    with pytest.raises(UserError, match="cat is there twice"):
        listed("image_folder", root, classes=str(names))
    with pytest.raises(UserError, match="There is no class map"):
        listed("image_folder", root, classes=str(tmp_path / "nothing.txt"))


def test_imagenets_order_is_known_for_a_few_of_its_classes(tmp_path: Path) -> None:
    root = write(tmp_path, "n15075141/x.png", "n01443537/x.png")
    listing = listed("image_folder", root, classes="imagenet")
    assert len(listing.class_names) == 1000
    assert listing.rows["label"].to_pylist() == [1, 999]


def test_the_fingerprint_changes_with_the_images_and_not_with_the_place(tmp_path: Path) -> None:
    one, other = (write(tmp_path / name, "a/x.png", "b/x.png") for name in ("one", "other"))
    first = listed("image_folder", one)
    assert first.fingerprint == listed("image_folder", other).fingerprint
    write(other, "a/y.png")
    assert first.fingerprint != listed("image_folder", other).fingerprint
    (one / "a" / "x.png").write_bytes(png(77, size=9))
    again = listed("image_folder", one)
    assert first.fingerprint == again.fingerprint
    assert first.stamps.to_pylist()[0] != again.stamps.to_pylist()[0]


class TestReading:
    """A disk that fails is asked again, and an image is never blamed for it."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "WAIT_SECONDS", 0.0)

    def test_a_short_outage_costs_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, "a/x.png", "b/x.png", "c/x.png")
        tried: list[str] = []
        real = files.open_file

        def failing(source_path: str, path: str) -> object:
            tried.append(path)
            if tried.count(path) < 3:
                raise OSError(5, "Input/output error")
            return real(source_path, path)

        monkeypatch.setattr(files, "open_file", failing)
        stored, account, _, _ = prepared("image_folder", tmp_path)
        assert (len(stored), account.listed) == (3, {})
        assert len(tried) == 9

    def test_a_long_one_ends_the_preparation(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, "a/x.png", "b/x.png", "c/x.png")

        def failing(source_path: str, path: str) -> object:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(files, "open_file", failing)
        with pytest.raises(
            UserError, match=r"(?s)a/x.png could not be read in 4 tries.*no fault of the image"
        ):
            prepared("image_folder", tmp_path)

    def test_an_image_that_vanished_is_a_changed_source(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a/x.png") / "a" / "x.png"
        file.unlink()
        with pytest.raises(UserError, match=r"x.png is gone: the source has changed"):
            files.read_part(str(tmp_path), str(file))

    def test_what_this_user_may_not_read_is_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path, "a/x.png", "b/x.png", "c/x.png")
        real = files.open_file

        def refusing(source_path: str, path: str) -> object:
            if "/b/" in path:
                raise PermissionError(13, "Permission denied")
            return real(source_path, path)

        monkeypatch.setattr(files, "open_file", refusing)
        _, account, lines, _ = prepared("image_folder", tmp_path)
        assert account.listed == {reasons.UNREADABLE: 1}
        assert lines[0].endswith("b/x.png: unreadable: Permission denied")

    def test_a_huge_file_is_not_read(self, tmp_path: Path) -> None:
        write(tmp_path, "a/x.png", "b/x.png", "c/x.png")
        with (tmp_path / "a" / "huge.png").open("wb") as file:
            file.truncate(40 << 30)  # without a byte on the disk
        _, account, _, _ = prepared("image_folder", tmp_path)
        assert account.listed == {reasons.UNREADABLE: 1}


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("nothing", "file"):
        with pytest.raises(UserError, match="There is no folder"):
            walk(str(tmp_path / place))
