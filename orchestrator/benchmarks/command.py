"""The command line of jobs/benchmark.py: one subcommand per thing that is measured."""

import sys

from jsonargparse import auto_cli
from rich.console import Console

from orchestrator.errors import UserError


def model(variant: str = "small", batch_size: int = 16, repeats: int = 5) -> None:
    """Forward pass and training step of the network, against the released code's way to compute the same.

    Args:
        variant: small, or one of the paper's: M/3R-64, L/3R-64, XL/2R-256, XL/3R-512, G/2R-256.
        batch_size: images per step.
        repeats: measurements per case, taken in turns; the median counts.
    """
    from orchestrator.benchmarks.model import compare

    compare(variant, batch_size, repeats, Console(width=160))


def main() -> None:
    """Run the subcommand; exit 2 with a paragraph on a user's mistake."""
    try:
        auto_cli({"model": model})
    except UserError as error:
        Console(stderr=True).print(f"Error: {error}", style="red", soft_wrap=True, markup=False)
        sys.exit(2)
