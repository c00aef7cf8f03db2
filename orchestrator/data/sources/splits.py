"""Sources that hold several splits side by side: training, validation and test images are never mixed."""

import re
from collections import defaultdict
from pathlib import PurePosixPath

from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import File, Omitted, Tree
from orchestrator.data.sources.names import printable
from orchestrator.errors import UserError

_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "dev": "validation", "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_IN_FILE = re.compile(
    r"(?:^|[^A-Za-z])(" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")(?=[^A-Za-z]|$)"
)
DEEPEST = 3
"""How far below the source folders of splits are looked for."""


def split_of_name(name: str) -> str | None:
    """The split of a file by its relative name, such as ``data/train-00000-of-00001.parquet``."""
    parts = PurePosixPath(name.lower()).parts
    for part in parts[:-1]:
        if part in _WORDS:
            return _WORDS[part]
    match = _IN_FILE.search(PurePosixPath(parts[-1]).stem)
    return _WORDS[match[1]] if match else None


def files_of_split(files: list[File], split: str | None, tree: Tree) -> list[File]:
    """The files of the split that ``data.split`` names; the others are listed.

    Raises:
        UserError: there are several splits and none was chosen, or the chosen one is not there.
    """
    by_split: dict[str | None, list[File]] = defaultdict(list)
    for file in files:
        by_split[split_of_name(file.name)].append(file)
    there = sorted(name for name in by_split if name is not None)
    if split is None:
        if len(there) <= 1:
            return files
        examples = "; ".join(f"{name}: {printable(by_split[name][0].name)}" for name in by_split if name)
        raise UserError(
            f"{printable(tree.root)} holds several splits ({examples}). Say which to read, "
            f"{' or '.join(f'--data.split {name}' for name in there)}, or name a folder that holds only one."
        )
    wanted = _WORDS.get(split.lower(), split.lower())
    if wanted not in by_split:
        raise UserError(
            f"{printable(tree.root)} holds no split {split}; it has "
            f"{', '.join(there) or 'none by their names'}."
        )
    for name, others in by_split.items():
        if name != wanted:
            tree.omitted += [Omitted(printable(file.path), reasons.OTHER_SPLIT) for file in others]
    return by_split[wanted]


def refuse_folder_of_splits(tree: Tree, command: str) -> None:
    """Refuse a folder whose folders are not classes but splits, with the command that reads one.

    Raises:
        UserError: it is one.
    """
    children: dict[str, set[str]] = defaultdict(set)
    for folder in tree.folders:
        parent, _, name = folder.rpartition("/")
        children[parent].add(name)
    for parent in sorted(children, key=lambda name: (name.count("/"), name)):
        names = children[parent]
        depth = parent.count("/") + 1 if parent else 0
        splits = sorted(name for name in names if name.lower() in _WORDS)
        nested = [name for name in splits if children.get(f"{parent}/{name}".lstrip("/"))]
        if depth > DEEPEST or not nested or (len(splits) < 2 and splits != sorted(names)):
            continue
        where = f"{tree.root}/{parent}".rstrip("/")
        raise UserError(
            f"{printable(where)} holds splits and not classes: {', '.join(splits)}. Name one of them: "
            f"{' or '.join(f'{command} --data.source_path {printable(where)}/{name}' for name in nested)}."
        )
