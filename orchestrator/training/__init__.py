"""The training loop, its state, and the Ray Train job around it."""
