"""How grids of samples are laid out. Importing this module imports no torch."""

from orchestrator.config.schema import ExperimentConfig

GRID_IMAGES = 100
PREVIEW_ROWS = 3
MAX_GRID_COLUMNS = 10


def grid_columns(config: ExperimentConfig) -> int:
    """The number of columns of a grid of all classes; where there are few, each class has one."""
    return min(config.model.num_classes, MAX_GRID_COLUMNS)
