"""What a controller of Ray Train that died leaves behind: the places that it held for its workers."""

import ray


def free_places() -> int:
    """Remove the placement groups of this job whose maker, an actor, is dead; returns how many.

    Ray keeps them for as long as the job lives, so the next workers might never find room. Ray Train has a
    cleaner for this (``placement_group_cleaner.py``). It fails where several Rays run on one machine, and it
    may be killed itself.
    """
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    this_job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    freed = 0
    for described in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(described)
        is_left = group.creator_actor_dead and set(group.creator_actor_id) != {0xFF}
        if group.creator_job_id == this_job and is_left and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed
