"""The commands of jobs/README.md label the emoji of the package, and the preset prepares them on white."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.config.command_line import parse
from orchestrator.data.encode import decode_chunk, plan_encoding
from orchestrator.data.prepare import collection_info
from orchestrator.data.sources.listing import list_source

ROOT = Path(__file__).resolve().parents[5]

EMOJI = [
    {"image": "1f600.png", "category": "Smileys & Emotion"},
    {
        "image": "1f44b.png",
        "category": "People & Body",
        "skin_variations": {"1F3FB": {"image": "1f44b-1f3fb.png"}, "1F3FF": {"image": "1f44b-1f3ff.png"}},
    },
]


def test_its_commands_and_its_preset_fit_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "datasets" / "package"
    pictures = package / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    (package / "emoji.json").write_text(json.dumps(EMOJI))
    for name in ("1f600", "1f44b", "1f44b-1f3fb", "1f44b-1f3ff"):
        picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        picture.paste((255, 0, 0, 255), (0, 0, 64, 32))
        picture.save(pictures / f"{name}.png")
    script = re.search(
        r"<<'END'\n(import json\nemoji = .*?)END\n", (ROOT / "jobs" / "README.md").read_text(), re.DOTALL
    )
    assert script is not None
    monkeypatch.chdir(tmp_path)
    exec(script[1])
    config = parse("Test.", "emoji", [])
    listing = list_source(config.data)
    assert listing.class_names == ("People & Body", "Smileys & Emotion")
    plan = plan_encoding(config, collection_info(config, listing), listing)
    rows = decode_chunk(plan, listing.rows).to_pylist()
    assert sorted(row["label"] for row in rows) == [0, 0, 0, 1]
    for row in rows:
        pixels = np.frombuffer(row["image"], np.uint8).reshape(3, 32, 32)
        assert pixels[:, 0, 0].tolist() == [255, 0, 0]
        assert pixels[:, 31, 31].tolist() == [255, 255, 255]  # Was transparent.
