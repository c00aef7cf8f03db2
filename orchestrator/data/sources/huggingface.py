"""What Hugging Face's ``datasets`` writes with ``save_to_disk``: Arrow files, and JSON that names them."""

import json
import posixpath
from functools import lru_cache

import pyarrow as pa

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import File, Omitted, Tree, patiently, read_part
from orchestrator.data.sources.names import printable
from orchestrator.data.sources.parquet import class_names_of, columns_of, image_bytes, one_label
from orchestrator.data.sources.rows import Found, Row
from orchestrator.data.sources.splits import files_of_split
from orchestrator.errors import UserError
from orchestrator.storage import is_local

ARROW_SUFFIX = ".arrow"
STATE = "state.json"


def list_saved(config: DataConfig, tree: Tree) -> Found:
    """List the rows of a dataset, or of one split of it, that ``save_to_disk`` wrote.

    Raises:
        UserError: a file is missing or damaged, or it is no such folder.
    """
    if not is_local(tree.root):
        raise UserError(
            f"{tree.root}: what save_to_disk wrote is read from a disk alone. Copy it, or write parquet with "
            "to_parquet, which is read from anywhere."
        )
    found = Found()
    arrows = [file for file in tree.files if file.name.endswith(ARROW_SUFFIX)]
    wanted = files_of_split(arrows, config.split, tree)
    found.omitted += [
        Omitted(printable(file.path), reasons.NOT_AN_IMAGE, "it describes the dataset")
        for file in tree.files
        if not file.name.endswith(ARROW_SUFFIX)
    ]
    ordered, unused = _in_order(wanted, tree)
    found.omitted += [
        Omitted(printable(f.path), reasons.NOT_AN_IMAGE, f"not named in {STATE}") for f in unused
    ]
    for file in ordered:
        try:
            table = patiently(lambda path=file.path: _table(path), file.path)  # type: ignore[misc]
        except pa.ArrowException as error:
            raise UserError(
                f"{printable(file.path)} cannot be read ({error}). Save the dataset again."
            ) from error
        image, label = columns_of(table.schema, config, file.path)
        del image
        found.class_names = class_names_of(table.schema, label)
        labels = table[label].to_pylist()
        found.rows += [
            Row(one_label(value, printable(file.path)), file.path, row, stamp=file.stamp)
            for row, value in enumerate(labels)
        ]
    return found


def _in_order(files: list[File], tree: Tree) -> tuple[list[File], list[File]]:
    """The files in the order in which their ``state.json`` names them, and those that none names.

    Raises:
        UserError: a file that is named is not there.
    """
    by_name = {file.name: file for file in files}
    ordered = []
    for folder in sorted({posixpath.dirname(file.name) for file in files}):
        state = posixpath.join(folder, STATE)
        described = next((file for file in tree.files if file.name == state), None)
        if described is None:
            raise UserError(
                f"{printable(tree.root)}/{folder} has Arrow files and no {STATE}: it is no dataset that "
                "save_to_disk "
                "wrote. Load it with datasets and save it, or write parquet with to_parquet."
            )
        for entry in json.loads(read_part(tree.root, described.path))["_data_files"]:
            name = posixpath.join(folder, entry["filename"])
            if name not in by_name:
                raise UserError(
                    f"{printable(tree.root)}: {state} names {name}, which is not there. Copy it again."
                )
            ordered.append(by_name.pop(name))
    return ordered, list(by_name.values())


@lru_cache(maxsize=8)
def _table(path: str) -> pa.Table:
    with pa.memory_map(path) as source:
        return pa.ipc.open_stream(source).read_all()  # Its columns stay in the file.


def read_saved(config: DataConfig, path: str, row: int) -> bytes:
    """The encoded image in a row of an Arrow file.

    Raises:
        LookupError: the cell is empty, or holds a path alone.
    """
    table = patiently(lambda: _table(path), path)
    return image_bytes(table[columns_of(table.schema, config, path)[0]][row].as_py())
