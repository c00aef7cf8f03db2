"""Run a suite of ablations as a sweep: ``python jobs/ablate.py``.

Another one at the paper's settings is ``python jobs/ablate.py --suite conditioning --scale paper``.
"""

from orchestrator.sweeps.command import main

if __name__ == "__main__":
    main()
