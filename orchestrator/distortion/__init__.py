"""The distortion study (the paper's Section 5.3).

It tells the low-fidelity rate of a model's samples, and how many of the low-fidelity images people call
distorted.
"""
