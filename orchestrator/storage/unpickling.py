"""Reading pickled data that came from elsewhere, without running what it names."""

import enum
import pickle
from collections.abc import Collection
from typing import Any, BinaryIO

GETATTR = ("builtins", "getattr")


class RestrictedUnpickler(pickle.Unpickler):
    """Rebuilds the named classes and calls the named functions, and nothing else.

    A member of a named enumeration is rebuilt however Python writes it: 3.11.2, Debian's, writes a call of
    ``getattr``.

    Args:
        allowed: (module, name) of each class and function.
    """

    def __init__(self, stream: BinaryIO, allowed: Collection[tuple[str, str]]) -> None:
        super().__init__(stream)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """Find a class or function.

        Raises:
            pickle.UnpicklingError: it is not allowed.
        """
        if (module, name) == GETATTR:
            return _member
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> Any:
    if not isinstance(kind, enum.EnumMeta) or name not in kind.__members__:
        raise pickle.UnpicklingError("it wants to run builtins.getattr")
    return kind[name]
