"""DINOv2 and CLIP, the vision transformers of FD-DINOv2 and CMMD, as timm computes them.

Their files are the published ones, under the names of Meta or of transformers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.images import to_rgb
from orchestrator.scoring.weights import Published, read_tensors, require_tensors

IMAGES_AT_ONCE = 16

DINOV2_WEIGHTS = Published(
    name="DINOv2",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    setting="evaluation.dinov2_weights",
)
CLIP_WEIGHTS = Published(
    name="CLIP",
    url="https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/"
    "ce19dc912ca5cd21c8a653c79e251e808ccabcd1/pytorch_model.bin",
    sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    setting="evaluation.clip_weights",
)
POSITIONS_OFFSET = 0.1
"""Meta's code resamples DINOv2's positions as if the new grid were so much larger than it is."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a vision transformer, and how images are made ready for it."""

    image_size: int
    trained_size: int
    """The image size that the file's positions are for."""
    width: int
    depth: int
    heads: int
    projection: int | None
    """Dimensions of CLIP's embedding; None: DINOv2, whose features are those of the class token."""
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    patch_size: int = 14

    def network(self) -> Any:
        """The network, with weights that are still to be loaded."""
        from timm.layers import QuickGELU
        from timm.models.vision_transformer import VisionTransformer

        kind: dict[str, Any] = {"init_values": 1e-5, "num_classes": 0}
        if self.projection is not None:
            kind = {"pre_norm": True, "act_layer": QuickGELU, "num_classes": self.projection}
            kind["norm_layer"] = partial(nn.LayerNorm, eps=1e-5)
        network = VisionTransformer(
            img_size=self.image_size, patch_size=self.patch_size, embed_dim=self.width, depth=self.depth,
            num_heads=self.heads, global_pool="token", weight_init="skip", **kind,
        )  # fmt: skip
        if self.projection is not None:
            network.head = nn.Linear(self.width, self.projection, bias=False)
        return network


# ImageNet's mean and standard deviation, and those of CLIP's own images.
DINOV2 = Architecture(224, 518, 1024, 24, 16, None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Architecture(
    336, 336, 1024, 24, 16, 768,
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711),
)  # fmt: skip


class VisionTransformerExtractor:
    """The extractor on a device.

    Images are resized by antialiased bicubic interpolation, as edm2 does for DINOv2 and the authors of CMMD
    for CLIP. CLIP's features have length 1.

    Raises:
        UserError: the weights' file cannot be read, or is of another network.
    """

    def __init__(self, weights: Path, device: torch.device, architecture: Architecture) -> None:
        self._architecture, self._device = architecture, device
        with torch.device("meta"):
            network = architecture.network()
        tensors = check_tensors(weights, architecture)
        grid = architecture.image_size // architecture.patch_size
        tensors["pos_embed"] = resampled(tensors["pos_embed"], grid)
        network.load_state_dict(tensors, assign=True)
        self._network = network.float().to(device).eval()
        self._mean, self._deviation = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (architecture.mean, architecture.deviation)
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 ``[B, C, H, W]`` -> ``features [B, D]`` float32 on the CPU."""
        found = [self._features(few) for few in to_rgb(images).split(IMAGES_AT_ONCE)]
        return {"features": torch.cat(found)}

    def _features(self, images: Tensor) -> Tensor:
        size = (self._architecture.image_size, self._architecture.image_size)
        pixels = images.to(self._device).float()
        if images.shape[2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        features = self._network((pixels / 255 - self._mean) / self._deviation)
        if self._architecture.projection is not None:
            features = F.normalize(features, dim=1)
        return features.cpu()


def check_tensors(weights: Path, architecture: Architecture) -> dict[str, Tensor]:
    """A file's tensors under timm's names, those that the network has.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    published = DINOV2_WEIGHTS if architecture.projection is None else CLIP_WEIGHTS
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in architecture.network().state_dict().items()}
    patches = (architecture.trained_size // architecture.patch_size) ** 2
    shapes["pos_embed"] = torch.Size((1, patches + 1, architecture.width))
    return require_tensors(under_timms_names(read_tensors(weights, published)), shapes, weights, published)


def resampled(positions: Tensor, grid: int, offset: float = POSITIONS_OFFSET) -> Tensor:
    """Positions ``[1, 1 + n^2, D]`` for another grid ``[1, 1 + grid^2, D]``; the first is the token's.

    Args:
        offset: 0 for a resampling by the grid's size alone, as transformers does.
    """
    token, patches = positions[:, :1], positions[:, 1:]
    before = round(patches.shape[1] ** 0.5)
    if before == grid:
        return positions
    image = patches.float().unflatten(1, (before, before)).movedim(-1, 1)
    scale = (grid + offset) / before
    # Not by `size`: what the offset changes is where between the old positions the new ones lie.
    new = F.interpolate(image, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    return torch.cat([token.float(), new.flatten(2).mT], dim=1)


# Part of a name in transformers' files -> in timm's networks.
_RENAMED = {
    r"^(dinov2|vision_model)\.": "",
    r"^visual_projection\.": "head.",
    r"^embeddings\.(cls_token|class_embedding)$": "cls_token",
    r"^embeddings\.(position_embeddings|position_embedding\.weight)$": "pos_embed",
    r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.": "patch_embed.proj.",
    r"^pre_layrnorm\.": "norm_pre.",
    r"^(layernorm|post_layernorm)\.": "norm.",
    r"^encoder\.layers?\.": "blocks.",
    r"\.layer_norm(\d)\.": r".norm\1.",
    r"\.layer_scale(\d)\.lambda1$": r".ls\1.gamma",
    r"\.(attention\.output\.dense|self_attn\.out_proj)\.": ".attn.proj.",
    r"\.(attention\.attention\.|self_attn\.)(query|key|value|q_proj|k_proj|v_proj)\.": r".attn.\2.",
}
_JOINED = {"query": 0, "q_proj": 0, "key": 1, "k_proj": 1, "value": 2, "v_proj": 2}
"""What timm holds as one matrix, in its order."""


def under_timms_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by Meta or transformers under timm's names; Meta's are the same as timm's."""
    found: dict[str, Tensor] = {}
    joined: dict[str, dict[int, Tensor]] = {}
    for original, tensor in tensors.items():
        name = original
        for old, new in _RENAMED.items():
            name = re.sub(old, new, name)
        parts = name.split(".")
        if len(parts) > 2 and parts[-2] in _JOINED:
            whole = ".".join([*parts[:-2], "qkv", parts[-1]])
            joined.setdefault(whole, {})[_JOINED[parts[-2]]] = tensor
        else:
            found[name] = tensor
    for name, pieces in joined.items():
        found[name] = torch.cat([pieces[place] for place in sorted(pieces)])
    for name, dimensions in (("cls_token", 3), ("pos_embed", 3)):
        if name in found:
            found[name] = found[name].reshape((1,) * (dimensions - found[name].ndim) + found[name].shape)
    return found
