"""How every job begins and ends: read the config, call one function, turn a user's mistake into a paragraph."""

import sys
from collections.abc import Callable

from rich.console import Console

from orchestrator.config import ExperimentConfig
from orchestrator.config_io import parse
from orchestrator.errors import UserError


def run_job(function: Callable[[ExperimentConfig], None], description: str, default: str) -> None:
    """Run ``function`` on the config that the command line describes; exit 2 with a paragraph on a user's mistake."""
    console = Console(stderr=True)
    try:
        function(parse(description, default))
    except UserError as error:
        console.print(f"Error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted. The same command continues from the last checkpoint.")
        sys.exit(130)
