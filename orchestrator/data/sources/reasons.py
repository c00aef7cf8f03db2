"""Why something in a source is not stored; the words stand in ``dataset.json`` and ``skipped.json``."""

UNDECODABLE = "undecodable"
TOO_LARGE = "too large"
NOT_FINITE = "not finite"
UNREADABLE = "unreadable"
WITHOUT_LABEL = "without label"
WITHOUT_IMAGE = "without image"
DUPLICATE = "duplicate"
NOT_AN_IMAGE = "not an image"
OTHER_SPLIT = "other split"
HIDDEN = "hidden"

EXPECTED = frozenset({NOT_AN_IMAGE, OTHER_SPLIT, HIDDEN})
"""What is no image to train on in the first place; ``prepare.max_skipped`` limits all the others."""
