"""The distortion study (the paper's Section 5.3): how many samples a classifier doubts, and how many people call distorted."""
