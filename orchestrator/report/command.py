"""The command line of jobs/report.py."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from orchestrator import storage
from orchestrator.config.plain import absolute
from orchestrator.exits import mistakes_explained
from orchestrator.logs import terminal


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write the page that it describes."""
    parser = ArgumentParser(description="Write one self-contained HTML page of runs, or of a sweep.")
    parser.add_argument("folders", nargs="+", help="Folders of runs or sweeps, local or s3://.")
    parser.add_argument("--out", default="report.html", help="File to write; a path or s3://.")
    options = parser.parse_args(arguments)
    with mistakes_explained():
        report(options.folders, options.out)


def report(folders: Sequence[str], out: str) -> None:
    """Write the page of ``folders`` to ``out``.

    Raises:
        UserError: a folder holds neither a run nor a sweep.
    """
    from orchestrator.report.page import render
    from orchestrator.report.reading import is_sweep, read_run, read_sweep

    sweeps = [read_sweep(folder) for folder in folders if is_sweep(folder)]
    runs = [read_run(folder) for folder in folders if not is_sweep(folder)]
    out = absolute(out) or out  # Shells leave ~ as it is behind a =.
    storage.write_bytes(out, render(runs, sweeps).encode())
    terminal().print(f"Written to {out}", soft_wrap=True, highlight=False)
