"""Pickled data of others: members of enumerations are read as any Python writes them, and nothing is run."""

import enum
import io
import pickle
from typing import Any

import pytest

from orchestrator.storage.unpickling import RestrictedUnpickler


class Colour(enum.Enum):
    RED = 1


class Plain:
    secret = 1


class Asks:
    """Is pickled as a call of ``getattr``, as Python 3.11.2 writes a member of an enumeration."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return getattr, self.arguments


def read(value: object, *allowed: type) -> Any:
    names = {(kind.__module__, kind.__qualname__) for kind in allowed}
    return RestrictedUnpickler(io.BytesIO(pickle.dumps(value)), names).load()


def test_a_member_is_read_by_value_and_by_name() -> None:
    assert read(Colour.RED, Colour) is Colour.RED
    assert read(Asks(Colour, "RED"), Colour) is Colour.RED


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (Asks(Plain, "secret"), [Plain]),
        (Asks(Colour, "RED"), []),
        (Asks(Colour, "__class__"), [Colour]),
        (Asks(Asks(Colour, "RED"), "value"), [Colour]),
    ],
)
def test_getattr_of_anything_else_is_refused(value: object, allowed: list[type]) -> None:
    with pytest.raises(pickle.UnpicklingError):
        read(value, *allowed)
