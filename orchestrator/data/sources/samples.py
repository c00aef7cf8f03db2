"""Samples of a WebDataset shard: which member is the label of which image."""

import hashlib
import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from orchestrator.data.sources import reasons
from orchestrator.data.sources.files import File, Omitted, read_part
from orchestrator.data.sources.names import is_below_hidden, is_image_name, looks_like_image, printable
from orchestrator.data.sources.rows import Row
from orchestrator.errors import UserError

LABEL_SUFFIXES = ("cls", "json", "txt")
"""Where a sample has several, the first of these counts."""
JSON_KEYS = ("label", "cls", "class", "class_id", "class_label", "target")
MOST_LABEL_BYTES = 1 << 20
_Label = int | float | str | None


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file."""

    name: str
    start: int
    size: int
    content: bytes = b""
    """A label's bytes; of others only the first."""
    link: str = ""
    """The name of another member that holds the bytes."""
    is_symbolic: bool = False
    members: tuple["Member", ...] | None = None
    """What is in it, where it is a tar file itself."""


@dataclass
class Shard:
    """What one shard holds."""

    rows: list[Row] = field(default_factory=list)
    omitted: list[Omitted] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    """How often samples with several images have each ending."""
    broken: str = ""
    """Why it cannot be read to its end."""
    classes: set[str] = field(default_factory=set)
    """Names of the tar files in it, each of which is a class."""

    def omit(self, file: File, member: Member, reason: str, detail: str = "") -> None:
        """Note that a member is not stored."""
        self.omitted.append(Omitted(f"{printable(file.path)}: {printable(member.name)}", reason, detail))


def samples_of(source_path: str, file: File, members: list[Member], image_ending: str | None) -> Shard:
    """Put images and labels of a shard together: they share their name up to its last dot, or to its first.

    Where a name comes several times and each time with a label, these are images of their own, unless they
    are the same bytes. Otherwise the last one counts, as for tar.
    """
    shard = Shard()
    images, labels, others = sorted_out(file, members, shard)
    several: dict[str, list[str]] = defaultdict(list)
    owners: set[str] = set()
    for name, group in images.items():
        key = label_key_of(name, labels)
        owners.add(key or "")
        doubles = _doubles(source_path, file, group)
        for place, member in enumerate(group):
            if image_ending is not None and not has_ending(name, image_ending):
                shard.omit(file, member, reasons.NOT_AN_IMAGE, "another ending than asked for")
            elif key is None:
                shard.omit(file, member, reasons.WITHOUT_LABEL, "no .cls, .json or .txt beside it")
            elif place in doubles or (place < len(group) - 1 and not _has_one_each(labels[key], len(group))):
                shard.omit(file, member, reasons.DUPLICATE, "its name comes again in the shard")
            else:
                label = _label_of(labels[key], place if _has_one_each(labels[key], len(group)) else -1)
                shard.rows.append(Row(label, file.path, member.start, member.size, file.stamp, name))
                several[f"{key} {place}"].append(name[len(_first_dot(name)) + 1 :])
    shard.endings = Counter(ending for group in several.values() if len(group) > 1 for ending in group)
    alone = {key: found for key, found in labels.items() if key not in owners}
    for member in [*others, *(m for found in alone.values() for group in found.values() for m in group)]:
        is_class = _ending(member.name) == "cls"
        shard.omit(file, member, reasons.WITHOUT_IMAGE if is_class else reasons.NOT_AN_IMAGE)
    return shard


def unlabelled_images(
    source_path: str, file: File, members: list[Member], image_ending: str | None, label: _Label, advice: str
) -> Shard:
    """All images of a tar file without labels, under one label; of equal names the last counts, as for tar.

    Raises:
        UserError: it has labels.
    """
    shard = Shard()
    images, labels, others = sorted_out(file, members, shard)
    labelled = next((name for name in images if label_key_of(name, labels) is not None), None)
    if labelled is not None:
        raise UserError(
            f"{printable(file.path)}: {printable(labelled)} has a label of its own, in a .cls, .json or .txt "
            f"beside it. {advice}."
        )
    for name, group in images.items():
        for place, member in enumerate(group):
            if image_ending is not None and not has_ending(name, image_ending):
                shard.omit(file, member, reasons.NOT_AN_IMAGE, "another ending than asked for")
            elif place < len(group) - 1:
                shard.omit(file, member, reasons.DUPLICATE, "its name comes again in the tar file")
            else:
                shard.rows.append(Row(label, file.path, member.start, member.size, file.stamp, name))
    for member in [*others, *(m for found in labels.values() for group in found.values() for m in group)]:
        shard.omit(file, member, reasons.NOT_AN_IMAGE)
    return shard


_Labels = dict[str, list[Member]]
"""Ending -> the labels with this ending that belong to one name, in the order in which they come."""


def label_key_of(name: str, labels: dict[str, _Labels]) -> str | None:
    """Under which of the labels' names an image's label is; None where it has none."""
    return next((key for key in (_stem(name), _first_dot(name)) if key in labels), None)


def sorted_out(
    file: File, members: list[Member], shard: Shard
) -> tuple[dict[str, list[Member]], dict[str, _Labels], list[Member]]:
    """Images by name, labels by name without ending, and the rest; links become what they lead to."""
    by_name = {_normal(member.name): member for member in members if not member.link}
    images: dict[str, list[Member]] = defaultdict(list)
    labels: dict[str, _Labels] = defaultdict(lambda: defaultdict(list))
    others = []
    for member in members:
        target = by_name.get(_target_of(member)) if member.link else member
        if is_below_hidden(member.name):
            shard.omit(file, member, reasons.HIDDEN)
        elif target is None:
            shard.omit(file, member, reasons.UNREADABLE, "a link to nothing in the shard")
        elif _ending(member.name) in LABEL_SUFFIXES:
            labels[_stem(member.name)][_ending(member.name)].append(target)
        elif is_image_name(member.name) or looks_like_image(target.content):
            images[member.name].append(replace(target, name=member.name))
        else:
            others.append(member)
    return images, labels, others


def _has_one_each(labels: _Labels, count: int) -> bool:
    return all(len(group) == count for group in labels.values())


def _doubles(source_path: str, file: File, group: list[Member]) -> set[int]:
    """The places of those in a group of equal names whose bytes come again."""
    if len(group) == 1:
        return set()
    contents = [read_part(source_path, file.path, member.start, member.size) for member in group]
    hashes = [hashlib.sha256(content).digest() for content in contents]
    return {place for place, value in enumerate(hashes) if value in hashes[place + 1 :]}


def _label_of(labels: _Labels, place: int) -> _Label:
    readers: dict[str, Callable[[bytes], _Label]] = {
        "cls": _number_or_text, "json": _from_json, "txt": _number_or_text,
    }  # fmt: skip
    for suffix in LABEL_SUFFIXES:
        if suffix in labels and labels[suffix][place].size <= MOST_LABEL_BYTES:
            label = readers[suffix](labels[suffix][place].content)
            if label is not None:
                return label
    return None


def _number_or_text(content: bytes) -> _Label:
    text = content.decode("utf-8", "replace").strip()
    for kind in (int, float):
        try:
            return kind(text)
        except (ValueError, OverflowError):
            continue
    return text or None


def _from_json(content: bytes) -> _Label:
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(whole, dict):
        whole = next((whole[key] for key in JSON_KEYS if key in whole), None)
    if isinstance(whole, list) and len(whole) == 1:
        whole = whole[0]
    return whole if isinstance(whole, int | float | str) else None


def _normal(name: str) -> str:
    return posixpath.normpath(name)


def _target_of(member: Member) -> str:
    beside = posixpath.dirname(member.name) if member.is_symbolic else ""
    return _normal(posixpath.join(beside, member.link))


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix[1:].lower()


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _first_dot(name: str) -> str:
    place = PurePosixPath(name)
    return str(place.parent / place.name.partition(".")[0])


def has_ending(name: str, ending: str) -> bool:
    """Whether a name ends as ``data.image_column`` says, in whatever case."""
    return name.lower().endswith(f".{ending.lower().lstrip('.')}")
