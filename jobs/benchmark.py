"""Measure speed and memory: ``python jobs/benchmark.py model``.

The other benchmarks are ``data``, ``train``, ``sample``, ``score`` and ``imports``.
"""

from orchestrator.benchmarks.command import main

if __name__ == "__main__":
    main()
