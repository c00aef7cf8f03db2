"""One run from beginning to end, its folder, and what the terminal shows of it."""
