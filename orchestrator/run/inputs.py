"""What a run takes from elsewhere, known by its content: a reference, a VAE, initial weights.

They may be moved, or come with another copy of a job's files, while a run goes on. What they hold may not
change. Their contents' hashes lie in the run's ``inputs.json``, with what tells whether to hash them anew.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from orchestrator import storage
from orchestrator.checkpoints.selection import MARKER, marked
from orchestrator.config.schema import ExperimentConfig

INPUTS_FILE = "inputs.json"
LISTED_FILES = ("dataset.json", MARKER)
"""Files that list all others of their folder with their hashes."""


@dataclass(frozen=True)
class Input:
    """One of them."""

    path: str | None
    """Its path or URI; a VAE may have a name on the hub. None: there is none."""
    content: str | None
    """A text that changes when its content does; None where there is none, or nothing lies at the path."""
    stamp: str = ""
    """Sizes and times of the files that were hashed; those of the same stamp are not hashed again."""


def inputs_of(config: ExperimentConfig, before: dict[str, Input]) -> dict[str, Input]:
    """Setting -> what it names, as it is now.

    Args:
        before: what was recorded when the run was started last; nothing for a new one.
    """
    paths = {
        "evaluation.reference": config.evaluation.reference,
        "sampling.vae": config.sampling.vae,
        "train.init_from": config.train.init_from,
    }
    found = {name: _describe(path, before.get(name)) for name, path in paths.items()}
    vae = found["sampling.vae"]
    if vae.path is not None and vae.content is None:  # It is a name on the hub.
        content = f"{vae.path}@{config.prepare.vae_revision or 'main'}"
        found["sampling.vae"] = Input(vae.path, content)
    # The weights are taken once. A run that they came from may have gone on since, or be gone.
    initial, now = before.get("train.init_from"), found["train.init_from"]
    if initial is not None and (initial.path, now.content) != (None, None) and initial.path == now.path:
        found["train.init_from"] = initial
    return found


def differences(before: dict[str, Input], now: dict[str, Input]) -> list[str]:
    """What has another content than before, in words."""
    return [
        f"{name} (was {before[name].path}, now {other.path}, which holds something else)"
        for name, other in now.items()
        if name in before and before[name].content != other.content
    ]


def read_inputs(directory: str) -> dict[str, Input]:
    """What a run recorded; nothing where it did not yet."""
    path = storage.join(directory, INPUTS_FILE)
    content = json.loads(storage.read_bytes(path)) if storage.is_file(path) else {}
    return {name: Input(**one) for name, one in content.items()}


def write_inputs(directory: str, inputs: dict[str, Input]) -> None:
    """Record a run's inputs in its folder."""
    content = json.dumps({name: asdict(one) for name, one in inputs.items()}, indent=1)
    storage.write_bytes(storage.join(directory, INPUTS_FILE), content.encode())


def _describe(path: str | None, before: Input | None) -> Input:
    if path is None:
        return Input(None, None)
    files = _files_that_tell(path)
    stamp = "; ".join(f"{name} {storage.stamp_of(file)}" for name, file in files)
    if before is not None and before.path == path and before.stamp == stamp and stamp:
        return before
    if files:
        hashes = [(name, storage.sha256_of(file)) for name, file in files]
        return Input(path, _hash(hashes), stamp)
    listed = storage.tree(path)
    return Input(path, _hash(sorted(listed.items())) if listed else None)


def _files_that_tell(path: str) -> list[tuple[str, str]]:
    """Name and path of the files whose contents are the content of what lies at ``path``.

    A folder of images has none: it is known by its listing.
    """
    if storage.is_file(path):
        return [("", path)]
    names = storage.sizes(path)
    if "checkpoints" in names:
        return _files_that_tell(marked(path)[-1].path) if marked(path) else []
    told = [name for name in names if name in LISTED_FILES]
    told = told or sorted(name for name in names if name.endswith((".safetensors", ".bin")))
    return [(name, storage.join(path, name)) for name in told]


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
