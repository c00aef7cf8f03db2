"""Features that others have made with a VAE, an ``.npy`` file each: the released code's, and fast-DiT's."""

import posixpath
from collections import defaultdict

from orchestrator.config.data import DataConfig
from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import Omitted, Tree
from orchestrator.data.sources.names import natural, printable
from orchestrator.data.sources.rows import Found, Row, shown
from orchestrator.errors import UserError

FEATURES_SUFFIX, LABELS_SUFFIX = "_features", "_labels"


def list_released(config: DataConfig, tree: Tree) -> Found:
    """List the released code's features: ``0.npy``, ``1.npy``, ... with latents and label, in any folders.

    Several processes may have written files of the same name into folders of their own. The label is read
    later, with the latents.
    """
    found = Found()
    files = [file for file in tree.files if file.name.lower().endswith(".npy")]
    kept = {file.name for file in files}
    found.omitted = [
        Omitted(printable(file.path), reasons.NOT_AN_IMAGE, "no .npy file")
        for file in tree.files
        if file.name not in kept
    ]
    ordered = sorted(files, key=lambda file: (natural(posixpath.basename(file.name)), file.name))
    found.rows = [Row(0, file.path, stamp=file.stamp) for file in ordered]
    return found


def labels_beside(path: str) -> str:
    """Where fast-DiT keeps the label of a feature file: ``x_labels/5.npy`` beside ``x_features/5.npy``."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder.removesuffix(FEATURES_SUFFIX) + LABELS_SUFFIX, name)


def list_fast_dit(config: DataConfig, tree: Tree) -> Found:
    """List fast-DiT's features: ``x_features/0.npy`` with latents, ``x_labels/0.npy`` with labels.

    Raises:
        UserError: there are no such folders.
    """
    found = Found()
    folders: dict[str, int] = defaultdict(int)
    there = {file.name: file for file in tree.files}
    for file in sorted(tree.files, key=lambda file: natural(file.name)):
        folder = posixpath.dirname(file.name)
        folders[folder] += 1
        if not file.name.endswith(".npy") or not folder.endswith((FEATURES_SUFFIX, LABELS_SUFFIX)):
            found.omitted.append(Omitted(printable(file.path), reasons.NOT_AN_IMAGE, "no feature file"))
        elif folder.endswith(LABELS_SUFFIX):
            features = posixpath.join(
                folder.removesuffix(LABELS_SUFFIX) + FEATURES_SUFFIX, posixpath.basename(file.name)
            )
            if features not in there:
                found.omitted.append(Omitted(printable(file.path), reasons.WITHOUT_IMAGE, "a label alone"))
        elif labels_beside(file.name) not in there:
            found.omitted.append(Omitted(printable(file.path), reasons.WITHOUT_LABEL))
        else:
            label = there[labels_beside(file.name)]
            found.rows.append(Row(0, file.path, stamp=f"{file.stamp} {label.stamp}"))
    if not found.rows:
        raise UserError(
            f"{printable(tree.root)} holds no fast-DiT features: a folder that ends in "
            f"{FEATURES_SUFFIX} and one that ends "
            f"in {LABELS_SUFFIX}, with the same .npy files. It has the folders "
            f"{shown(sorted(folders)) or 'none'}."
        )
    return found
