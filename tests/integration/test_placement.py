"""Places that a dead actor held for its workers are free again; others stay."""

from typing import Any

import pytest
import ray

from orchestrator.training.placement import free_places
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("ray_session")


@ray.remote(num_cpus=0)
class Holder:
    """As a controller of Ray Train does, it holds places for others."""

    def hold(self) -> str:
        group = ray.util.placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return str(group.id.hex())


def states() -> dict[str, str]:
    return {name: str(group["state"]) for name, group in ray.util.placement_group_table().items()}


def test_places_of_the_dead_alone_are_freed() -> None:
    holders: list[Any] = [Holder.remote() for _ in range(2)]  # type: ignore[attr-defined]
    left, held = ray.get([holder.hold.remote() for holder in holders])
    ours = ray.util.placement_group([{"CPU": 1}])
    ray.get(ours.ready())
    ray.kill(holders[0])
    wait_until(lambda: free_places() == 1, "the dead one's places are freed")
    wait_until(lambda: states()[left] == "REMOVED", "its places are gone")
    assert states()[held] == states()[ours.id.hex()] == "CREATED"
    assert free_places() == 0
    ray.kill(holders[1])
    wait_until(lambda: free_places() == 1, "the dead one's places are freed")
    ray.util.remove_placement_group(ours)
