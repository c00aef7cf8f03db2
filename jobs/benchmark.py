"""Measure speed and memory: ``python jobs/benchmark.py model``, ``data``, ``train``, ``sample`` or ``score``."""

from orchestrator.benchmarks.command import main

if __name__ == "__main__":
    main()
