"""ImageNet's training archive and its like: a tar file of tar files, each of which is a class by its name."""

from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath

from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import File
from orchestrator.data.sources.names import printable
from orchestrator.data.sources.rows import Row
from orchestrator.data.sources.samples import (
    Member,
    Shard,
    doubles_of,
    has_ending,
    label_key_of,
    sorted_out,
)
from orchestrator.errors import UserError

UNPACK = "Unpack the outer one, and name the folder with the inner ones"


def class_of(tar: Member) -> str:
    """The class that a tar file inside of another one is: ``n01440764`` for ``train/n01440764.tar``."""
    return PurePosixPath(tar.name).stem


def classes_of(source_path: str, file: File, tars: list[Member], image_ending: str | None) -> list[Shard]:
    """What each tar file inside of ``file`` holds; its images' label is its name.

    Raises:
        UserError: they are shards with labels of their own, or two of them are called the same.
    """
    counts = Counter(map(class_of, tars))
    double = next((tar for tar in tars if counts[class_of(tar)] > 1), None)
    if double is not None:
        raise UserError(
            f"{printable(file.path)} holds {counts[class_of(double)]} tar files that are called "
            f"{printable(class_of(double))}.tar. They may be of several splits or versions. {UNPACK}."
        )
    return [_class(source_path, file, tar, image_ending) for tar in tars]


def _class(source_path: str, file: File, tar: Member, image_ending: str | None) -> Shard:
    shard = Shard(classes={class_of(tar)})
    images, labels, others = sorted_out(file, [_as_seen(tar, member) for member in tar.members or ()], shard)
    labelled = next((name for name in images if label_key_of(name, labels) is not None), None)
    if labelled is not None:
        raise UserError(
            f"{printable(file.path)} holds tar files with labels of their own, such as that of "
            f"{printable(labelled)}, so their names are no classes. {UNPACK}."
        )
    for name, group in images.items():
        doubles = doubles_of(source_path, file, group)
        for place, member in enumerate(group):
            if image_ending is not None and not has_ending(name, image_ending):
                shard.omit(file, member, reasons.NOT_AN_IMAGE, "another ending than asked for")
            elif place in doubles or place < len(group) - 1:
                shard.omit(file, member, reasons.DUPLICATE, "its name comes again in the tar file")
            else:
                row = Row(class_of(tar), file.path, member.start, member.size, file.stamp, name)
                shard.rows.append(row)
    for member in [*others, *(m for found in labels.values() for group in found.values() for m in group)]:
        shard.omit(file, member, reasons.NOT_AN_IMAGE)
    return shard


def _as_seen(tar: Member, member: Member) -> Member:
    """The member of an inner tar file under the name that people know it by."""
    # Symbolic links are relative to the member, hard links to the tar file.
    link = f"{tar.name}/{member.link}" if member.link and not member.is_symbolic else member.link
    return replace(member, name=f"{tar.name}/{member.name}", link=link)
