"""How every job begins and ends: read the command line, call one function, turn a user's mistake into a paragraph."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from jsonargparse import auto_cli
from rich.console import Console

from orchestrator.config import ExperimentConfig
from orchestrator.config_io import parse
from orchestrator.errors import UserError


def run_job(function: Callable[[ExperimentConfig], None], description: str, default: str) -> None:
    """Run ``function`` on the config that the command line describes; exit 2 with a paragraph on a user's mistake."""
    with mistakes_explained():
        function(parse(description, default))


def run_function(components: Any, arguments: Sequence[str] | None = None) -> None:
    """Run a function, or one of a dictionary of them by name, with its own arguments as the command line's."""
    with mistakes_explained():
        auto_cli(components, args=list(sys.argv[1:] if arguments is None else arguments))


def written_option(name: str, arguments: Sequence[str]) -> str | None:
    """An option's value where one is given, for what must be known before the command line can be read as a whole."""
    flag = f"--{name}"
    written = [a.partition("=")[2] for a in arguments if a.startswith(f"{flag}=")]
    written += [following for a, following in pairwise(arguments) if a == flag]
    return written[-1] if written else None


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """Turn a :class:`UserError` into a paragraph and exit code 2, and an interruption into 130."""
    console = Console(stderr=True)
    try:
        yield
    except UserError as error:
        console.print(f"Error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt as interruption:
        console.print(str(interruption) or "Interrupted. The same command continues from where it was.")
        sys.exit(130)
