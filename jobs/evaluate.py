"""Sample images with a checkpoint and score them: ``python jobs/evaluate.py --checkpoint runs/quickstart``.

``sample`` only samples, ``branches`` draws what each branch predicts, ``reference`` makes statistics of real
images, ``sweep`` finds the best guidance.
"""

from orchestrator.scoring.command import main

if __name__ == "__main__":
    main()
