"""The account of a preparation: what is not stored and why, part by part and for the whole dataset."""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from orchestrator import storage
from orchestrator.data.format import Account
from orchestrator.data.sources.files import Omitted
from orchestrator.data.sources.listing import Listing, counts_of
from orchestrator.data.sources.reasons import EXPECTED
from orchestrator.errors import UserError

SKIPPED_FILE = "skipped.json"
MOST_SHOWN = 5


@dataclass(frozen=True)
class PartAccount:
    """What became of the images of one part."""

    stamp: str
    """What its images' files were when it was made."""
    skipped: tuple[Omitted, ...] = ()
    remarks: dict[str, int] = field(default_factory=dict)
    """What was done to images -> to how many."""


def stamp_of(stamps: pa.Array) -> str:
    """16 hexadecimal digits that change when one of the files is replaced."""
    digest = hashlib.sha256()
    for stamp in stamps.to_pylist():
        digest.update(f"{stamp}\n".encode())
    return digest.hexdigest()[:16]


def read_part_account(path: str, name: str) -> PartAccount | None:
    """The account that was written with a finished part; None where there is none."""
    file = _file_of(path, name)
    if not storage.is_file(file):
        return None
    plain = json.loads(storage.read_bytes(file))
    return PartAccount(plain["stamp"], tuple(Omitted(**each) for each in plain["skipped"]), plain["remarks"])


def write_part_account(path: str, name: str, account: PartAccount) -> None:
    """Write a part's account beside it, after it: a part counts only with its account."""
    content = json.dumps(dataclasses.asdict(account), indent=1).encode()
    storage.write_bytes(_file_of(path, name), content)


def _file_of(path: str, name: str) -> str:
    return storage.join(path, name.replace(".parquet", ".account.json"))


def refuse_too_many(skipped: Sequence[Omitted], found: int, allowed: float) -> None:
    """Refuse a source of which more than the fraction ``allowed`` of ``found`` images cannot be stored.

    Raises:
        UserError: they are more; the message names some of the latest.
    """
    defects = [each for each in skipped if each.reason not in EXPECTED]
    count = sum(each.count for each in defects)
    if count <= allowed * found:
        return
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts_of(defects).items())
    few = "\n  ".join(map(in_words, defects[-MOST_SHOWN:]))
    raise UserError(
        f"{count} of {found} images cannot be stored ({reasons}), more than prepare.max_skipped "
        f"{allowed:.2%} allows. The latest:\n  {few}\n"
        "Mend the source, or raise --prepare.max_skipped, and start again: finished files are kept."
    )


def in_words(omitted: Omitted) -> str:
    """A line about what is not stored."""
    detail = f": {omitted.detail}" if omitted.detail else ""
    return f"{omitted.place}: {omitted.reason}{detail}" + (
        f" ({omitted.count} of them)" if omitted.count > 1 else ""
    )


def count_in(line: str) -> int:
    """How many files, members or rows a line of :func:`in_words` is about."""
    match = re.search(r" \((\d+) of them\)$", line)
    return int(match[1]) if match else 1


def whole_account(listing: Listing, parts: Iterable[PartAccount]) -> tuple[Account, list[str]]:
    """The account of the whole dataset, and a line about everything that is not stored."""
    remarks: Counter[str] = Counter()
    omitted = list(listing.omitted)
    images = listing.rows.num_rows
    for part in parts:
        remarks.update(part.remarks)
        omitted += part.skipped
        images -= sum(each.count for each in part.skipped)
    account = Account(listing.found, images, counts_of(omitted), dict(sorted(remarks.items())))
    return account, [in_words(each) for each in omitted]


def write_skipped(path: str, lines: list[str]) -> None:
    """Write the list of everything that is not stored."""
    storage.write_bytes(storage.join(path, SKIPPED_FILE), json.dumps(lines, indent=1).encode())


def account_in_words(account: Account) -> str:
    """The account as a sentence."""
    listed = ", ".join(f"{count} {reason}" for reason, count in account.listed.items())
    remarks = ", ".join(f"{count} {remark}" for remark, count in account.remarks.items())
    return (
        f"Source: {account.found} found = {account.stored} stored + {sum(account.listed.values())} listed"
        + (f" ({listed}; {SKIPPED_FILE} names them)" if listed else "")
        + "."
        + (f" Of the images: {remarks}." if remarks else "")
    )
