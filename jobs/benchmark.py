"""Measure speed and memory: ``python jobs/benchmark.py model``.

The others: ``data``, ``prepare``, ``train``, ``sample``, ``score``, ``imports``, ``gpu`` and ``scale``.
"""

from orchestrator.benchmarks.command import main

if __name__ == "__main__":
    main()
