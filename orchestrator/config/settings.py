"""What settings of all sections share."""

import re
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, Literal

Precision = Literal["fp32", "bf16"]


def may_change(default: Any = MISSING) -> Any:
    """A setting that may differ when a run goes on.

    Such settings say where things are, how a dataset that is there was made, how many processes work, how
    long a run is, and how often it does something. What things hold may not change where they are used:
    orchestrator/run/inputs.py.
    """
    return field(default=default, metadata={"may_change": True})


def keys_that_may_change(kind: Any, prefix: str = "") -> set[str]:
    """The dotted keys of the settings that may differ when a run goes on."""
    found: set[str] = set()
    for setting in fields(kind):
        if is_dataclass(setting.type):
            found |= keys_that_may_change(setting.type, f"{prefix}{setting.name}.")
        elif setting.metadata.get("may_change"):
            found.add(f"{prefix}{setting.name}")
    return found


def holds_credentials(setting: object) -> bool:
    """Whether something set is a URI with a user's name or password in it."""
    return isinstance(setting, str) and re.search(r"://[^/?#]*@", setting) is not None
