"""What is known of real images is whatever changes a pixel of them; their statistics are kept under it."""

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator.data.format import LatentDataset
from orchestrator.data.sources.decode import Decoding
from orchestrator.scoring.cache import cache_path
from orchestrator.scoring.real_images import dataset_images
from orchestrator.scoring.reference import about
from tests.configs import tiny
from tests.datasets import write_numbered


def test_how_a_dataset_was_decoded_is_part_of_its_facts_and_key(tmp_path: Path) -> None:
    older = write_numbered(tmp_path / "data", 60, 10, size=4)
    config = tiny(tmp_path, older.path, model={"input_size": 4})

    def facts(decoding: dict[str, Any] | None) -> dict[str, Any]:
        info = dataclasses.replace(older.info, decoding=decoding)
        dataset: LatentDataset = dataclasses.replace(older, info=info)
        return about(dataset_images(dataset, config), config)

    as_shown = Decoding().to_dict()
    as_stored = Decoding(exif_orientation=False, icc_profiles=False).to_dict()
    assert facts(as_stored)["decoding"] == {
        "exif_orientation": False, "icc_profiles": False, "transparency": "on white",
        "deep_colours": "scaled to 8 bits",
    }  # fmt: skip
    keys = {cache_path(config, facts(decoding), "inception") for decoding in (None, as_shown, as_stored)}
    assert len(keys) == 3
    # Where the metadata says nothing, the facts are what they always were.
    assert list(facts(None)) == ["version", "source", "kind", "fingerprint", "resolution"]
