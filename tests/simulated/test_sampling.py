"""On a simulated GPU every sampler gives the CPU's images, and the host waits for no step of it."""

from pathlib import Path

import pytest

from dimr_model.objective import DIFFUSION_SAMPLERS, FLOW_SAMPLERS
from tests.simulated import printed_by
from tests.simulated.sampling import STEPS

pytestmark = pytest.mark.long
ONCE = {
    "to the GPU, waiting (sampler.py:_solve)": 2,  # Noise and labels.
    "the host reads _local_scalar_dense (decoder.py:decode)": 1,  # Whether all is finite.
    "from the GPU, waiting (images.py:to_uint8)": 1,
}
"""What a batch waits for, whatever the number of steps."""
TABLE = {"to the GPU, waiting (diffusion.py:_alphas_cumprod_on)": 1}
"""A flow has none."""


def test_every_sampler_gives_the_cpu_s_images_and_waits_for_no_step(tmp_path: Path) -> None:
    found = printed_by("sampling", tmp_path)
    assert len(found) == 2 * len(DIFFUSION_SAMPLERS + FLOW_SAMPLERS)
    for one in found:
        assert one["apart"] == 0, one
        once = ONCE | (TABLE if one["process"] == "diffusion" else {})
        more = {name: count for name, count in one["events"].items() if name not in once}
        assert {name: one["events"][name] for name in once} == once
        if one["kind"] == "ddpm":
            assert more == {"to the GPU, waiting (sampling.py:sample)": STEPS}  # The noise of each step.
        elif one["kind"] == "unipc":  # Diffusers makes its small tables on the CPU.
            assert all("scheduling_unipc_multistep.py" in name for name in more)
            assert sum(more.values()) <= 5 * STEPS
        else:
            assert more == {}, one
