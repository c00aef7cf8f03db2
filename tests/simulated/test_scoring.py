"""On a simulated GPU, extractors and the VAE give what the CPU does, and a batch is copied there and back."""

from pathlib import Path

import pytest

from tests.simulated import printed_by

pytestmark = pytest.mark.long


def there_and_back(place: str, results: int = 1) -> dict[str, int]:
    return {f"to the GPU, waiting ({place})": 1, f"from the GPU, waiting ({place})": results}


WAITS = {
    "efficientnet_lite0": there_and_back("efficientnet.py:__call__"),
    "inception": there_and_back("inception.py:__call__", 2)  # Features and logits.
    | {"from the GPU, waiting (inception.py:_keep_spatial)": 1},
    "dinov2": there_and_back("vision_transformers.py:_features"),
    "clip": there_and_back("vision_transformers.py:_features"),
    "vae": {
        "the host reads _local_scalar_dense (decoder.py:decode)": 1,  # Whether all is finite.
        "from the GPU, waiting (images.py:to_uint8)": 1,
    },
}


def test_networks_give_the_cpu_s_numbers_and_wait_for_a_batch_alone(tmp_path: Path) -> None:
    found = {one["network"]: one for one in printed_by("scoring", tmp_path)}
    assert {name: one["events"] for name, one in found.items()} == WAITS
    assert all(one["apart"] < 1e-5 for one in found.values()), found
