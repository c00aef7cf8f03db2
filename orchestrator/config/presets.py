"""Names that ``--config`` takes beside paths: presets, and protocols to be given after one of them."""

from pathlib import Path

from orchestrator.config.mistakes import did_you_mean
from orchestrator.errors import UserError

PRESETS = Path(__file__).resolve().parents[2] / "jobs" / "configs"


def preset_names() -> list[str]:
    """Names of whole experiments."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def protocol_names() -> list[str]:
    """Names of settings for sampling and evaluation alone, to be given after a preset."""
    return sorted(path.stem for path in (PRESETS / "protocols").glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset or protocol, or the one at the path ``name``.

    Raises:
        UserError: there is none; the message names the nearest one.
    """
    for candidate in (PRESETS / f"{name}.yaml", PRESETS / "protocols" / f"{name}.yaml", Path(name)):
        if candidate.is_file():
            return candidate
    names = [*preset_names(), *protocol_names()]
    hint = did_you_mean(name, names)
    raise UserError(f"There is no preset or file {name!r}. {hint}Presets: {', '.join(names)}.")
