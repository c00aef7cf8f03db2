"""Whatever lies in a source: it is stored or listed, once, and every stored image has its own label.

Sources are drawn from grammars of the oddities that people's files have.
"""

import math
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.sources.names import natural
from tests.unit.orchestrator.data.sources.making import (
    by_number,
    png,
    prepared,
    write_tar,
    write_tar_of_tars,
    write_zip,
)

EXAMPLES = 150
SYNSETS = ("n01440764", "n01443537", "n02", "n 03", "ä")
CLASSES = ("2", "10", "01", "a b", "ä", "train", "UPPER", "x.y", "caf\udce9")
FILES = ("image", "no ending", "odd ending", "deep", "broken", "empty", "text", "dot", "apple", "notebook",
         "link out", "link in", "link to nothing")  # fmt: skip
MEMBERS = ("image", "dots", "json", "txt", "hard link", "without label", "label alone", "hidden", "other",
           "double", "same name", "broken", "negative")  # fmt: skip
INNER = ("image", "no ending", "folder", "again", "hard link", "hidden", "other", "broken", "text")
ZIPPED = (
    "image",
    "no ending",
    "name",
    "without label",
    "label alone",
    "hidden",
    "other",
    "broken",
    "negative",
)
CELLS = ("image", "null", "path alone", "broken", "no label", "negative", "nan")


def draws(kinds: tuple[str, ...], most: int) -> Any:
    # There is at least one image, or the source is refused.
    return st.lists(st.sampled_from(kinds), max_size=most).map(lambda found: ["image", *found])


def write_file(folder: Path, kind: str, number: int, outside: Path) -> str | None:
    """Write one file; returns where a stored image would lie."""
    folder.mkdir(parents=True, exist_ok=True)
    content = png(number)
    place = {
        "image": f"{number}.png", "no ending": f"n{number}", "odd ending": f"{number}.photo",
        "deep": f"d/{number}.JPG", "broken": f"{number}.jpg", "empty": f"{number}.webp",
        "text": f"{number}.txt", "dot": f".{number}.png", "apple": f"._{number}.png",
        "notebook": f".ipynb_checkpoints/{number}.png",
    }.get(kind, f"link{number}.png")  # fmt: skip
    path = folder / place
    path.parent.mkdir(exist_ok=True)
    if kind == "link out":
        target = outside / f"{number}.png"
        target.write_bytes(content)
        path.symlink_to(target)
    elif kind == "link in":
        path.symlink_to(folder / "0.png")
    elif kind == "link to nothing":
        path.symlink_to(outside / "nothing")
    else:
        path.write_bytes({"broken": content[:40], "empty": b"", "text": b"words"}.get(kind, content))
    return place if kind in ("image", "no ending", "odd ending", "deep", "link out") else None


@given(st.dictionaries(st.sampled_from(CLASSES), st.lists(st.sampled_from(FILES), max_size=6), min_size=1))
@settings(max_examples=EXAMPLES, deadline=None)
def test_folders(tree: dict[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root, outside = Path(place) / "root", Path(place) / "outside"
        root.mkdir()
        outside.mkdir()
        wanted: dict[int, str] = {}
        number = 1
        for name, kinds in tree.items():
            (root / name).mkdir()
            for kind in kinds:
                if write_file(root / name, kind, number, outside) is not None:
                    wanted[number] = name
                number += 1
        (root / "first").mkdir()
        (root / "first" / "0.png").write_bytes(png(0))
        wanted[0] = "first"
        stored, account, _, _ = prepared("image_folder", root)
        names = sorted([*tree, "first"])
        if all(name.isdigit() for name in names):
            names = sorted(names, key=natural)
        assert by_number(stored) == {number: names.index(name) for number, name in wanted.items()}
        assert len(stored) == len(wanted)
        assert account.found == sum(len(files) for _, _, files in os.walk(root))


@given(draws(MEMBERS, 12))
@settings(max_examples=EXAMPLES, deadline=None)
def test_shards(kinds: list[str]) -> None:
    members: list[tuple[str, bytes | str]] = [("zero.png", png(0)), ("zero.cls", b"0")]
    wanted, doubles, labels = {0: 0}, 0, 1
    for number, kind in enumerate(kinds, start=1):
        label = str(number % 3).encode()
        key = f"k/{number}.v1" if kind == "dots" else f"{number:03d}"
        image = (f"{key}.png", png(number))
        pair: dict[str, list[tuple[str, bytes | str]]] = {
            "json": [image, (f"{key}.json", b'{"label": ' + label + b"}")],
            "txt": [(f"{key}.txt", label), image],
            "hard link": [(f"{key}.png", "zero.png"), (f"{key}.cls", label)],
            "without label": [image],
            "label alone": [(f"{key}.cls", label)],
            "hidden": [(f"._{key}.png", b"x")],
            "other": [(f"{key}.md", b"words")],
            "double": [image, (f"{key}.cls", label), image, (f"{key}.cls", label)],
            "same name": [
                image,
                (f"{key}.cls", label),
                (f"{key}.png", png(500 + number)),
                (f"{key}.cls", b"2"),
            ],
            "broken": [(f"{key}.jpg", b"broken"), (f"{key}.cls", label)],
            "negative": [image, (f"{key}.cls", b"-1")],
        }
        members += pair.get(kind, [image, (f"{key}.cls", label)])
        labels += {
            "without label": 0,
            "label alone": 0,
            "hidden": 0,
            "other": 0,
            "double": 2,
            "same name": 2,
        }.get(kind, 1)
        doubles += kind == "hard link"
        if kind in ("image", "dots", "json", "txt", "double", "same name"):
            wanted[number] = number % 3
        if kind == "same name":
            wanted[500 + number] = 2
    folder = Path(tempfile.mkdtemp())
    try:
        write_tar(folder / "0.tar", members)
        stored, account, _, _ = prepared("tar", folder)
        # Hard links show image 0 again, under another label.
        assert len(stored) == len(wanted) + doubles
        found = by_number(stored)
        assert {n: label for n, label in found.items() if n} == {n: label for n, label in wanted.items() if n}
        assert account.found == len(members) - labels
    finally:
        shutil.rmtree(folder)


@given(st.lists(draws(CELLS, 8), min_size=1, max_size=3), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_tables(files: list[list[str]], is_struct: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        wanted, number = {}, 0
        for place, kinds in enumerate(files):
            cells: list[Any] = []
            labels: list[float | None] = []
            for kind in kinds:
                content = {"null": None, "path alone": None, "broken": b"broken"}.get(kind, png(number))
                cells.append({"bytes": content, "path": "x.png"} if is_struct and kind != "null" else content)
                labels.append(
                    {"no label": None, "negative": -1.0, "nan": math.nan}.get(kind, float(number % 3))
                )
                if kind == "image":
                    wanted[number] = number % 3
                number += 1
            table = pa.table(
                {
                    "image": pa.array(cells, None if is_struct else pa.binary()),
                    "label": pa.array(labels, pa.float64()),
                }
            )
            pq.write_table(table, folder / f"{place}.parquet", row_group_size=3)
        # All three classes are there, so that the labels do not seem to begin at 1.
        pq.write_table(
            pa.table({"image": [png(900 + n) for n in range(3)], "label": [0.0, 1.0, 2.0]}),
            folder / "z.parquet",
        )
        stored, account, _, _ = prepared("parquet", folder)
        assert by_number(stored) == wanted | {900: 0, 901: 1, 902: 2}
        assert account.found == number + 3
    finally:
        shutil.rmtree(folder)


@given(st.dictionaries(st.sampled_from(SYNSETS), st.lists(st.sampled_from(INNER), max_size=6), min_size=1))
@settings(max_examples=EXAMPLES, deadline=None)
def test_tars_of_tars(tree: dict[str, list[str]]) -> None:
    classes: dict[str, list[tuple[str, bytes | str]]] = {"n00": [("zero.JPEG", png(0))]}
    wanted, number, links = {0: "n00"}, 1, 0
    for name, kinds in tree.items():
        classes[name] = []
        for kind in kinds:
            image = (f"{name}_{number}.JPEG", png(number))
            members: dict[str, list[tuple[str, bytes | str]]] = {
                "no ending": [(f"{number}", png(number))],
                "folder": [(f"./{name}/{number}.JPEG", png(number))],
                "again": [(image[0], png(500 + number)), image],
                "hard link": [image, (f"link{number}.JPEG", image[0])],
                "hidden": [(f"._{number}.JPEG", b"x")],
                "other": [(f"{number}.md", b"words")],
                "text": [(f"{number}.txt", b"words")],
                "broken": [(f"{number}.JPEG", b"broken")],
            }
            classes[name] += members.get(kind, [image])
            if kind in ("image", "no ending", "folder", "again", "hard link"):
                wanted[number] = name
            links += kind == "hard link"
            number += 1
    with tempfile.TemporaryDirectory() as place:
        write_tar_of_tars(Path(place) / "train.tar", classes)
        stored, account, _, listing = prepared("tar", place)
        names = sorted(classes)
        assert listing.class_names == tuple(names)
        assert by_number(stored) == {number: names.index(name) for number, name in wanted.items()}
        assert len(stored) == len(wanted) + links
        assert account.found == sum(map(len, classes.values()))


@given(draws(ZIPPED, 12), st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_archives_with_dataset_json(kinds: list[str], compression: int) -> None:
    members, labels = [("0.png", png(0))], [["0.png", 0]]
    wanted, alone = {0: 0}, 0
    for number, kind in enumerate(kinds, start=1):
        name = {"no ending": f"{number}", "name": f"d/ä b/{number}.JPG", "hidden": f".d/{number}.png",
                "other": f"{number}.md"}.get(kind, f"00000/{number}.png")  # fmt: skip
        content = {"broken": b"broken", "other": b"words"}.get(kind, png(number))
        if kind != "label alone":
            members.append((name, content))
        if kind != "without label":
            labels.append([name, -1 if kind == "negative" else number % 3])
        alone += kind == "label alone"
        if kind in ("image", "no ending", "name"):
            wanted[number] = number % 3
    with tempfile.TemporaryDirectory() as place:
        archive = write_zip(Path(place) / "img.zip", members, labels, compression)
        stored, account, _, _ = prepared("zip", archive)
        assert by_number(stored) == wanted
        assert account.found == len(members) + alone + 1
