"""ImageNet's validation images: in one folder or tar file, and their labels in a file of their own."""

import json
from pathlib import Path

import pytest

from orchestrator.data.look import look
from orchestrator.data.sources import reasons
from orchestrator.errors import UserError
from tests.unit.orchestrator.data.sources.making import by_number, listed, png, prepared, write_tar

SYNSETS = ("n01440764", "n01443537", "n01484850")
WANTED = {number: (number * 7) % 3 for number in range(12)}


def name_of(number: int) -> str:
    return f"ILSVRC2012_val_{number + 1:08d}.JPEG"


def write_images(root: Path, kind: str = "image_folder") -> Path:
    """The images as ImageNet has them; in the tar file in another order than that of their names."""
    root.mkdir(parents=True)
    if kind == "tar":
        write_tar(root / "ILSVRC2012_img_val.tar", [(name_of(n), png(n)) for n in reversed(range(12))])
    else:
        for number in range(12):
            (root / name_of(number)).write_bytes(png(number))
    return root


def lines() -> str:
    return "".join(f"{SYNSETS[WANTED[number]]}\n" for number in range(12))


def kaggle(numbers: list[int]) -> str:
    """As LOC_val_solution.csv: in any order, names without ending, and the boxes of each image."""
    rows = ["ImageId,PredictionString"]
    for number in numbers:
        synset = SYNSETS[WANTED[number]]
        boxes = f"{synset} 111 108 230 366 {synset} 1 2 3 4 " if number % 2 else f"{synset} 19 15 490 285 "
        rows.append(f"{name_of(number).removesuffix('.JPEG')},{boxes}")
    return "\n".join(rows) + "\n"


FORMS = {
    "synsets": lines(),
    "synsets of Windows": "\ufeff" + lines().replace("\n", "\r\n") + "\r\n",
    "synsets and words": lines().replace("0764\n", "0764 tench\n"),
    "kaggle": kaggle([3, 1, 2, 0, *range(4, 12)]),
    "names and synsets": "".join(f"{name_of(n)},{SYNSETS[WANTED[n]]}\n" for n in reversed(range(12))),
    "tiny-imagenet": "".join(f"{name_of(n)}\t{SYNSETS[WANTED[n]]}\t0\t32\t44\t62\n" for n in range(12)),
    "folders in names": "".join(f"val/{name_of(n)},{SYNSETS[WANTED[n]]}\n" for n in range(12)),
}


@pytest.mark.parametrize("kind", ["image_folder", "tar"])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "folders in names"])
def test_every_image_gets_its_own_label(kind: str, form: str, tmp_path: Path) -> None:
    root = write_images(tmp_path / "val", kind)
    truth = tmp_path / "truth.txt"
    truth.write_text(FORMS[form], newline="")
    stored, account, _, listing = prepared(kind, root, ground_truth=str(truth))
    assert by_number(stored) == WANTED
    assert listing.class_names == SYNSETS
    assert (account.found, account.listed) == (12, {})


@pytest.mark.parametrize("kind", ["image_folder", "tar"])
def test_the_order_is_imagenets(kind: str, tmp_path: Path) -> None:
    root = write_images(tmp_path / "val", kind)
    (tmp_path / "truth.txt").write_text(lines().replace(SYNSETS[2], "n15075141"))
    listing = listed(kind, root, ground_truth=str(tmp_path / "truth.txt"), classes="imagenet")
    assert len(listing.class_names) == 1000
    assert set(listing.rows["label"].to_pylist()) == {0, 1, 999}


@pytest.mark.parametrize("kind", ["image_folder", "tar"])
def test_what_has_no_partner_is_listed(kind: str, tmp_path: Path) -> None:
    root = write_images(tmp_path / "val", kind)
    (root / "readme.txt").write_text("words")
    (tmp_path / "truth.csv").write_text(kaggle(list(range(10))) + f"nowhere,{SYNSETS[0]} 1 2 3 4\n")
    stored, account, said, _ = prepared(kind, root, ground_truth=str(tmp_path / "truth.csv"))
    assert by_number(stored) == {number: WANTED[number] for number in range(10)}
    assert account.listed == {reasons.WITHOUT_LABEL: 2, reasons.WITHOUT_IMAGE: 1, reasons.NOT_AN_IMAGE: 1}
    assert account.found == 14
    assert any("truth.csv: nowhere: without image" in line for line in said)


def test_names_with_folders_are_found(tmp_path: Path) -> None:
    root = write_images(tmp_path / "root" / "val").parent
    (tmp_path / "truth.csv").write_text(FORMS["folders in names"])
    assert by_number(prepared("image_folder", root, ground_truth=str(tmp_path / "truth.csv"))[0]) == WANTED


@pytest.mark.parametrize("form", ["{0}\n", "{1},{0}\n"])
def test_numbers_are_taken_only_where_a_class_map_says_what_they_mean(form: str, tmp_path: Path) -> None:
    root, truth = write_images(tmp_path / "val"), tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(form.format(WANTED[number] + 1, name_of(number)) for number in range(12)))
    message = r"holds numbers, such as \d, and does not say of which classes.*its 1 is n02119789"
    for classes in (None, "imagenet"):
        with pytest.raises(UserError, match=message):
            listed("image_folder", root, ground_truth=str(truth), classes=classes)
    (tmp_path / "map.json").write_text(json.dumps({"1": 2, "2": 0, "3": 1}))
    stored, _, _, _ = prepared(
        "image_folder", root, ground_truth=str(truth), classes=str(tmp_path / "map.json")
    )
    assert by_number(stored) == {number: (label + 2) % 3 for number, label in WANTED.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines() + "n01440764\n", "has 13 labels without names, and the source 12 images"),
        (lines()[:-10], "has 11 labels without names, and the source 12 images"),
        (lines().replace("n01443537\n", "\n", 1), "has no label in its line 2"),
        ("", "has no label in its line 1"),
        (kaggle([0, 1]) + "alone\n", r"Row 4 of .* is no name and label: \['alone'\]"),
        (kaggle([0]) + f"{name_of(0)[:-5]},n15075141 1 2 3 4\n", "two labels, n01440764 and n15075141"),
        ("a,b\n" * 12, "None of the 12 images of .* has a label"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content: str, message: str, tmp_path: Path) -> None:
    root, truth = write_images(tmp_path / "val"), tmp_path / "truth.txt"
    truth.write_text(content)
    with pytest.raises(UserError, match=message):
        listed("image_folder", root, ground_truth=str(truth))


def test_labels_without_names_need_a_certain_order(tmp_path: Path) -> None:
    truth = tmp_path / "truth.txt"
    truth.write_text("cat\ndog\neel\n")
    for names in (("1.png", "2.png", "10.png"), ("a/1.png", "a/2.png", "b/0.png")):
        root = tmp_path / names[0].replace("/", "-")
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(png(number))
        with pytest.raises(UserError, match=r"their order is not certain. Give NAME,LABEL a line"):
            listed("image_folder", root, ground_truth=str(truth))
    truth.write_text("1.png,cat\n2.png,dog\n10.png,eel\n")
    stored, _, _, _ = prepared("image_folder", tmp_path / "1.png", ground_truth=str(truth))
    assert by_number(stored) == {0: 0, 1: 1, 2: 2}


def test_two_answers_are_refused(tmp_path: Path) -> None:
    truth = str(tmp_path / "truth.txt")
    with pytest.raises(UserError, match=r"There is no file .*truth.txt, which data.ground_truth names"):
        listed("image_folder", write_images(tmp_path / "val"), ground_truth=truth)
    Path(truth).write_text(lines())
    (tmp_path / "val" / "dataset.json").write_text(json.dumps({"labels": [[name_of(0), 1]]}))
    with pytest.raises(UserError, match="Take one of the two away"):
        listed("image_folder", tmp_path / "val", ground_truth=truth)
    write_tar(tmp_path / "shards" / "0.tar", [("a.png", png(0)), ("a.cls", b"1")])
    with pytest.raises(UserError, match=r"0.tar: a.png has a label of its own"):
        listed("tar", tmp_path / "shards", ground_truth=truth)
    inner = write_tar(tmp_path / "shards" / "0.tar", [("a.png", png(0))]).read_bytes()
    write_tar(tmp_path / "shards" / "0.tar", [("n01440764.tar", inner)])
    with pytest.raises(UserError, match=r"labels are in data.ground_truth and also tar files"):
        listed("tar", tmp_path / "shards", ground_truth=truth)
    with pytest.raises(UserError, match=r"data.ground_truth is for image_folder and tar"):
        listed("zip", tmp_path / "shards", ground_truth=truth)


def test_look_takes_it_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, truth = write_images(tmp_path / "val"), tmp_path / "truth.txt"
    with pytest.raises(UserError, match="--data.ground_truth FILE"):
        look(str(root))
    truth.write_text(lines())
    look(str(root), ground_truth=str(truth))
    said = capsys.readouterr().out
    assert "12 found, of which 12 are images" in said and "3 classes of 4 to 4 images" in said
    assert f"--data.source image_folder --data.source_path {root} --data.ground_truth {truth}" in said
