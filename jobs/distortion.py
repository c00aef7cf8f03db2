"""Count distorted images: ``python jobs/distortion.py runs/ONE [runs/OTHER …]``.

``python jobs/distortion.py rates votes/*.json`` reads raters' votes.
"""

from orchestrator.distortion.command import main

if __name__ == "__main__":
    main()
