from pathlib import Path

import pytest
import torch

from orchestrator.config.schema import ExperimentConfig
from orchestrator.distortion.classifiers import EMBEDDED, VISION_TRANSFORMER, default_name, load_judge
from orchestrator.errors import UserError
from tests.configs import tiny


def imagenet(tmp_path: Path, num_classes: int = 1000) -> ExperimentConfig:
    return tiny(tmp_path, "/nowhere", model={"num_classes": num_classes, "input_size": 32, "channels": 3})


def test_the_embedded_classifier_tells_a_thousand_classes_apart(tmp_path: Path) -> None:
    judge = load_judge(EMBEDDED, None, imagenet(tmp_path), None)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    probabilities = judge.classifier.load(use_gpu=False)(images)
    assert probabilities.shape == (2, 1000)
    assert torch.allclose(probabilities.sum(1), torch.ones(2))
    assert len(judge.about["sha256"]) == 64


def test_a_timm_model_is_loaded_from_a_file(tmp_path: Path) -> None:
    import timm

    weights = tmp_path / "vit.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), weights)
    judge = load_judge("vit_tiny_patch16_224", str(weights), imagenet(tmp_path), None)
    assert judge.classifier.load(False)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 1000)
    other = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save({name: tensor + 1 for name, tensor in other.state_dict().items()}, weights)
    with pytest.raises(UserError, match="are not those that the study began with"):
        judge.classifier.load(False)


def test_what_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded .*--classifier_weights"):
        load_judge("no_such_model", None, imagenet(tmp_path), None)
    with pytest.raises(UserError, match="tells 1000 classes apart and the checkpoint samples 10"):
        load_judge(EMBEDDED, None, imagenet(tmp_path, 10), None)
    with pytest.raises(UserError, match="is no file"):
        load_judge("vit_tiny_patch16_224", str(tmp_path / "none"), imagenet(tmp_path), None)
    with pytest.raises(UserError, match="there is no dataset at /nowhere"):
        load_judge("dataset", None, imagenet(tmp_path), None)


def test_imagenet_is_judged_by_a_vision_transformer_and_others_by_their_own(tmp_path: Path) -> None:
    assert default_name(imagenet(tmp_path)) == VISION_TRANSFORMER
    assert default_name(imagenet(tmp_path, 10)) == "dataset"
