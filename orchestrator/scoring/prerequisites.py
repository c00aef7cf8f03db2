"""What an evaluation needs to find, checked before hours of training rather than after.

Importing this does not import torch.
"""

from orchestrator import storage
from orchestrator.config.evaluation import FEWEST_IMAGES
from orchestrator.config.mistakes import did_you_mean_path
from orchestrator.config.schema import ExperimentConfig
from orchestrator.data.format import LatentDataset
from orchestrator.errors import UserError
from orchestrator.scoring.held_out import HELD_OUT_FRACTION
from orchestrator.scoring.reference_files import check_reference

NEED_NO_CHECK = {"efficientnet_lite0"}
"""Extractors whose weights come with a package; torch is not loaded to look at them."""


def require_reference(path: str, config: ExperimentConfig) -> None:
    """Check that what ``evaluation.reference`` names is there and can be compared with.

    Raises:
        UserError: there is nothing, and the message says where references come from; or it is damaged, or of
            another kind, extractor or resolution.
    """
    if not storage.is_file(path) and not storage.sizes(path):
        raise UserError(
            f"There is no reference at {path}. {did_you_mean_path(path)}Make one with "
            f"`python jobs/evaluate.py reference --out {path} ...`, fetch ADM's "
            "(VIRTUAL_imagenet256_labeled.npz and its like, from openai/guided-diffusion's evaluations), or "
            "set --evaluation.reference to a dataset, a folder of images, or null."
        )
    check_reference(path, config)


def require_enough_images(config: ExperimentConfig) -> None:
    """Check that as many images are to be sampled as a score needs.

    Raises:
        UserError: they are fewer.
    """
    if config.evaluation.images < FEWEST_IMAGES:
        raise UserError(
            f"evaluation.images {config.evaluation.images} are too few for a score, which takes at least "
            f"{FEWEST_IMAGES}. Set --evaluation.images, or only sample: jobs/evaluate.py sample."
        )


def require_real_images(config: ExperimentConfig, dataset: LatentDataset) -> None:
    """Check that the dataset can be compared with where no reference is named.

    Raises:
        UserError: it is too small to hold a fifth of it out.
    """
    if config.evaluation.reference is None and int(dataset.info.num_images * HELD_OUT_FRACTION) < 2:
        raise UserError(
            f"{dataset.path} has {dataset.info.num_images} images. A score holds a fifth of them out, which "
            "must be 2 at least. Use a dataset of 10 images or more, or name real images with "
            "--evaluation.reference."
        )


def require_classes(config: ExperimentConfig, dataset: LatentDataset) -> None:
    """Check that the dataset has classes where its classifier is an extractor.

    Raises:
        UserError: it has one alone.
    """
    if "dataset_classifier" in config.evaluation.extractors and len(dataset.info.class_names) < 2:
        raise UserError(
            f"The extractor dataset_classifier learns to tell a dataset's classes apart, and {dataset.path} "
            "has only one. Take it out of --evaluation.extractors."
        )


def require_all(config: ExperimentConfig) -> None:
    """Find, or fetch, the extractors' weights and the reference, and see that they are what they must be.

    Raises:
        UserError: one of them is not there, or of another kind, or there are to be too few samples.
    """
    require_enough_images(config)
    if config.evaluation.reference is not None:
        require_reference(config.evaluation.reference, config)
    if NEED_NO_CHECK.issuperset(config.evaluation.extractors):
        return
    from orchestrator.scoring.extractors import check_weights

    check_weights(config.evaluation)
