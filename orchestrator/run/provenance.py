"""Which code and which packages made a run."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "ray", "diffusers", "timm", "mlflow", "pyarrow", "s3fs", "torch-fidelity", "numpy")


def provenance() -> dict[str, str]:
    """The tags of a run: git revision (with ``-dirty`` where files differ from it) and versions."""
    versions = {f"version.{name}": metadata.version(name) for name in PACKAGES}
    return {"git.revision": git_revision(), "version.python": platform.python_version(), **versions}


def git_revision() -> str:
    """The git revision of the checkout that this code runs from.

    Where there is no history, as in an image, it is what DIMR_REVISION says.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("DIMR_REVISION", "unknown")
    return found.stdout.strip()
