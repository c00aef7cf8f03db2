"""Write one HTML page about runs or a sweep.

``python jobs/report.py runs/ONE [runs/OTHER …] [--out report.html]``
"""

from orchestrator.report.command import main

if __name__ == "__main__":
    main()
