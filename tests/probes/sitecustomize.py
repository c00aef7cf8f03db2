"""Python runs this at the start of every process that has this folder on its PYTHONPATH.

Each process notes what it is called and which modules it has loaded, again and again, in a file of its own in
``$MODULES_FOLDER``; the last note is what it had loaded after its work.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

SECONDS_BETWEEN_NOTES = 0.25


def watch(folder: Path) -> None:
    """Write notes until the process ends."""
    titles: list[str] = []
    target, aside = folder / f"{os.getpid()}.json", folder / f".{os.getpid()}"
    while True:
        title = (
            Path("/proc/self/cmdline").read_bytes().decode(errors="replace").strip("\0").replace("\0", " ")
        )
        if title not in titles:
            titles.append(title)
        aside.write_text(json.dumps({"titles": titles, "modules": sorted(sys.modules)}))
        aside.replace(target)
        time.sleep(SECONDS_BETWEEN_NOTES)


if "MODULES_FOLDER" in os.environ:
    threading.Thread(target=watch, args=[Path(os.environ["MODULES_FOLDER"])], daemon=True).start()
