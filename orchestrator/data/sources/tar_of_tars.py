"""ImageNet's training archive and its like: a tar file of tar files, each of which is a class by its name."""

from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath

from orchestrator.data.sources.files import File
from orchestrator.data.sources.names import printable
from orchestrator.data.sources.samples import Member, Shard, unlabelled_images
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
    members = [_as_seen(tar, member) for member in tar.members or ()]
    shard = unlabelled_images(source_path, file, members, image_ending, class_of(tar), UNPACK)
    shard.classes = {class_of(tar)}
    return shard


def _as_seen(tar: Member, member: Member) -> Member:
    """The member of an inner tar file under the name that people know it by."""
    # Symbolic links are relative to the member, hard links to the tar file.
    link = f"{tar.name}/{member.link}" if member.link and not member.is_symbolic else member.link
    return replace(member, name=f"{tar.name}/{member.name}", link=link)
