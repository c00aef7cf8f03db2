"""How grids of samples are laid out; importing this costs no torch."""

from orchestrator.config.schema import ExperimentConfig

GRID_IMAGES = 100
PREVIEW_ROWS = 3
MAX_GRID_COLUMNS = 10


def grid_columns(config: ExperimentConfig) -> int:
    """Columns of a grid of all classes: with few, one for each."""
    return min(config.model.num_classes, MAX_GRID_COLUMNS)
