"""What file names tell: which are hidden, which are images, how they are sorted and printed."""

import re
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".jp2", ".avif",
})  # fmt: skip
"""Files with these endings are images, or broken ones. Others are looked into."""
_SYSTEM = frozenset({
    "__macosx", "__pycache__", "@eadir", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin",
    "system volume information", "lost+found", "icon\r",
})  # fmt: skip
SNIFFED_BYTES = 512
_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51",
)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to a system or a tool: dot files, ``__MACOSX``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _SYSTEM


def is_below_hidden(path: str) -> bool:
    """Whether a relative path goes through something hidden. ``./`` and ``../`` hide nothing."""
    return any(is_hidden(part) for part in PurePosixPath(path).parts if part not in (".", ".."))


def is_image_name(name: str) -> bool:
    """Whether a name has an image's ending, in whatever case."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def looks_like_image(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is an image, whatever it is called."""
    return (
        start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis"))
        or re.match(rb"P[1-6]\s", start) is not None
    )


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts the numbers in names by their value: x2 before x10."""
    return [
        (1, int(part), part) if part.isdecimal() else (0, 0, part)
        for part in re.split(r"(\d{1,18})", name)
    ]  # fmt: skip


def is_number(name: str) -> bool:
    """Whether a name is a plain number."""
    return re.fullmatch(r"[0-9]{1,18}", name) is not None


def printable(name: str) -> str:
    """A name as it can be shown and stored; bytes that are not UTF-8 become ``\\xe9``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
