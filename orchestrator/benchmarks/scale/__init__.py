"""What grows faster than the work on the way to a thousand ranks; ``SCALE.md`` says what is simulated how.

Each plane's module has a function ``measure`` that yields rows of a table; ``growth.py`` says how they grow.
"""
