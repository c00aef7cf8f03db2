"""Measure speed and memory: ``python jobs/benchmark.py model`` or ``data``."""

from orchestrator.benchmarks.command import main

if __name__ == "__main__":
    main()
