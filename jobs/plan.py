"""Say what a run will need, before it is started.

``python jobs/plan.py --config imagenet256_g2r --gpu H100 --price 2.5``
"""

from orchestrator.planning.command import main

if __name__ == "__main__":
    main()
