"""What to tell someone whose processes were ended because memory ran out."""

import re

MOST_SHOWN = 4
_SIGNS = ("running low on memory", "memory pressure", "OutOfMemory", "OUT_OF_MEMORY", "out of memory")
_NODE = re.compile(r"Memory on the node \(IP: ([^,)]+).*?\) was ([\d.]+ ?[KMGT]B) used / ([\d.]+ ?[KMGT]B)")
_USER = re.compile(r"(?:^|\n)\s*(\d+)\t([\d.]+)\t([^\n]+)")


def memory_advice(reason: str) -> str | None:
    """Who used how much memory, and what to set, where Ray's reason for a death is that memory ran out.

    Args:
        reason: the text of Ray's error. Its memory monitor lists the largest processes in it.
    """
    if not any(sign in reason for sign in _SIGNS):
        return None
    text = reason.replace("\\n", "\n").replace("\\t", "\t")
    node, users = _NODE.search(text), _USER.findall(text.partition("memory users:")[2])
    where = f" on {node[1]}: {node[2]} of {node[3]} were in use" if node else ""
    largest = ", ".join(f"{' '.join(title.split()[:3])} {size} GB" for _, size, title in users[:MOST_SHOWN])
    return (
        f"Memory ran out{where}"
        + (f", most of it by {largest}" if largest else "")
        + ". Use less: fewer --train.workers, more --train.micro_batches, --train.recompute_branches, fewer "
        "--sampling.actors or --evaluation.extractor_actors, a smaller --sampling.batch_size; or more memory "
        "(jobs/plan.py says how much training needs). What is finished is kept, and the same command goes on "
        "from there."
    )
