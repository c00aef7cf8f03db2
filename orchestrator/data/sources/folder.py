"""A folder per class, with images at any depth in it; or any folders, and labels in ``dataset.json``."""

from concurrent.futures import ThreadPoolExecutor

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import dataset_json, reasons
from orchestrator.data.sources.classes import name_classes
from orchestrator.data.sources.files import (
    File,
    Omitted,
    Tree,
    UnreadableError,
    open_file,
    patiently,
    read_part,
)
from orchestrator.data.sources.ground_truth import label_rows
from orchestrator.data.sources.names import SNIFFED_BYTES, is_image_name, looks_like_image, printable
from orchestrator.data.sources.rows import Found, Row
from orchestrator.data.sources.splits import refuse_folder_of_splits
from orchestrator.errors import UserError

READ_AT_ONCE = 16


def list_folder(config: DataConfig, tree: Tree) -> Found:
    """List one folder per class; an empty one keeps its number.

    Raises:
        UserError: the folders are splits, or the images lie outside of class folders.
    """
    labels = _labels_of(tree)
    if labels is not None and config.ground_truth is not None:
        raise UserError(
            f"{printable(tree.root)} has labels in its {dataset_json.NAME}, and data.ground_truth names "
            "others. Take one of the two away."
        )
    if labels is None:
        refuse_folder_of_splits(tree, "--data.source image_folder")
    images, others = images_of(tree.root, tree)
    found = Found(omitted=others)
    if config.ground_truth is not None:
        found.rows = [Row(None, file.path, stamp=file.stamp) for file in images]
        label_rows(found, [file.name for file in images], config)
        return found
    if labels is not None:
        _label(found, images, labels, tree)
        return found
    folders = {name.partition("/")[0] for name in tree.folders}
    flat = [file for file in images if "/" not in file.name]
    if flat and (len(flat) == len(images) or not folders):
        raise UserError(
            f"{printable(tree.root)} holds images outside of class folders ({printable(flat[0].name)} and "
            f"{len(flat) - 1} more). An image folder has one folder per class; sort them into folders "
            "first, or name a file with their labels, --data.ground_truth FILE."
        )
    found.omitted += [
        Omitted(printable(file.path), reasons.WITHOUT_LABEL, "it lies outside of class folders")
        for file in flat
    ]
    classed = [(file.name.partition("/")[0], file) for file in images if "/" in file.name]
    found.rows = [Row(label, file.path, stamp=file.stamp) for label, file in classed]
    name_classes(found, folders, "folders", config)
    return found


def _labels_of(tree: Tree) -> dict[str, int | float | str | None] | None:
    described = next((file for file in tree.files if file.name == dataset_json.NAME), None)
    if described is None:
        return None
    return dataset_json.read_labels(read_part(tree.root, described.path), described.path)


def _label(found: Found, images: list[File], labels: dict[str, int | float | str | None], tree: Tree) -> None:
    """Take labels from ``dataset.json``; the folders are no classes then."""
    for file in images:
        if file.name in labels:
            found.rows.append(Row(labels[file.name], file.path, stamp=file.stamp))
        else:
            detail = f"{dataset_json.NAME} does not name it"
            found.omitted.append(Omitted(printable(file.path), reasons.WITHOUT_LABEL, detail))
    found.omitted += dataset_json.without_image(labels, {file.name for file in tree.files}, tree.root)


def images_of(source_path: str, tree: Tree) -> tuple[list[File], list[Omitted]]:
    """The files that are images by their ending, or else by their content; and the others."""
    unsure = [file for file in tree.files if not is_image_name(file.name)]

    def look(file: File) -> Omitted | None:
        def start() -> bytes:
            with open_file(source_path, file.path) as stream:
                return bytes(stream.read(SNIFFED_BYTES))

        try:
            if looks_like_image(patiently(start, file.path)):
                return None
        except UnreadableError as error:
            return Omitted(printable(file.path), reasons.UNREADABLE, str(error))
        return Omitted(printable(file.path), reasons.NOT_AN_IMAGE)

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        seen = dict(zip((file.name for file in unsure), pool.map(look, unsure), strict=True))
    images = [file for file in tree.files if seen.get(file.name) is None]
    return images, [omitted for omitted in seen.values() if omitted is not None]
