"""The multi-resolution network (paper, Section 4.1): branches joined by a feature cascade, coarse to fine."""

import dataclasses
from os import PathLike
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from dimr_model.blocks import ConvNeXtBlock, TransformerBlock
from dimr_model.config import DiMRConfig
from dimr_model.normalization import TimeDependentLayerNorm


class Upsample(nn.Module):
    """The bridge from one branch to the next: all features below, projected and pixel-shuffled to twice the size.

    ``features [B, H, W, in_width]`` -> ``[B, 2H, 2W, out_width]``. The paper's Eq. 2 upsamples the last block's
    output; the released model, followed here, upsamples the concatenation of the branch's input and all block outputs.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.in_norm = TimeDependentLayerNorm(in_width)
        self.projection = nn.Linear(in_width, 4 * out_width)
        self.out_norm = TimeDependentLayerNorm(out_width)

    def forward(self, features: Tensor, tau: Tensor) -> Tensor:
        """``features [B, H, W, in_width]``, ``tau [B]`` -> ``[B, 2H, 2W, out_width]``."""
        batch, height, width, _ = features.shape
        cells = self.projection(self.in_norm(features, tau)).view(batch, height, width, 2, 2, -1)
        pixels = cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)
        return self.out_norm(pixels, tau)


class Branch(nn.Module):
    """One resolution: reads the noisy input at its own patch size, adds what comes from below, refines, predicts."""

    def __init__(self, config: DiMRConfig, index: int) -> None:
        super().__init__()
        self.is_coarsest = index == 0
        self.is_finest = index == config.num_branches - 1
        width, patch_size, depth = config.widths[index], config.downsampling(index), config.built_depth(index)
        size = config.input_size // patch_size
        self.patchify = nn.Conv2d(config.channels, width, kernel_size=patch_size, stride=patch_size)
        self.positions = nn.Parameter(torch.empty(size * size, width))
        if self.is_coarsest:
            self.class_embedding = nn.Embedding(config.num_classes + 1, width)
            self.blocks = nn.ModuleList(
                TransformerBlock(width, config.num_heads, config.time_conditioning) for _ in range(depth)
            )
        else:
            self.upsample = Upsample(config.widths[index - 1] * (config.built_depth(index - 1) + 1), width)
            self.blocks = nn.ModuleList(ConvNeXtBlock(width, config.time_conditioning) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth // 2))
        self.out_norm = TimeDependentLayerNorm(width)
        self.out = nn.Conv2d(width, config.channels, kernel_size=3, padding=1)

    def forward(
        self, noisy: Tensor, below: Tensor | None, tau: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """``noisy [B, C, H, W]``, features ``below`` -> (prediction ``[B, C, h, w]``, features for the branch above).

        ``h = H / patch_size``. The features are ``[B, h, w, width * (depth + 1)]``, None from the finest branch.
        """
        state = self.patchify(noisy).permute(0, 2, 3, 1)
        batch, height, width, channels = state.shape
        state = state + self.positions.view(height, width, channels).to(state.dtype)
        if self.is_coarsest:
            class_token = self.class_embedding(labels)[:, None].to(state.dtype)
            state = torch.cat([class_token, state.reshape(batch, height * width, channels)], dim=1)
        else:
            assert below is not None
            state = state + self.upsample(below, tau)

        outputs = self._run_blocks(state, tau)
        if self.is_coarsest:
            outputs = [output[:, 1:].reshape(batch, height, width, channels) for output in outputs]
        prediction = self.out(self.out_norm(outputs[-1], tau).permute(0, 3, 1, 2))
        # Nothing reads the finest branch's features, so they are not gathered there.
        return prediction, None if self.is_finest else torch.cat(outputs, dim=-1)

    def _run_blocks(self, state: Tensor, tau: Tensor) -> list[Tensor]:
        """The branch's input and every block's output. Long skips join block i with block depth-1-i, as in U-ViT."""
        outputs, pending = [state], list[Tensor]()
        middle = len(self.blocks) // 2
        for i, block in enumerate(self.blocks):
            if i > middle:
                state = self.skips[i - middle - 1](torch.cat([state, pending.pop()], dim=-1))
            state = block(state, tau)
            outputs.append(state)
            if i < middle:
                pending.append(state)
        return outputs


class DiMR(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers ships no types
    """Multi-resolution diffusion network; ``DiMR(config)``, or ``DiMR(**fields of DiMRConfig)``.

    Saved and loaded like any diffusers model (``save_pretrained``, ``from_pretrained``: safetensors and config.json).
    """

    config_name = "config.json"

    def __init__(self, config: DiMRConfig | None = None, **fields: Any) -> None:
        super().__init__()
        config = config or DiMRConfig(**fields)
        self.register_to_config(**dataclasses.asdict(config))
        self.branches = nn.ModuleList(Branch(config, index) for index in range(config.num_branches))
        self.initialize()

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        # diffusers filters config.json by the constructor's signature; ours takes the dataclass's fields.
        return {"self"} | {field.name for field in dataclasses.fields(DiMRConfig)}

    @property
    def architecture(self) -> DiMRConfig:
        """The typed configuration of this network."""
        names = [field.name for field in dataclasses.fields(DiMRConfig)]
        return DiMRConfig(**{name: self.config[name] for name in names})

    @torch.no_grad()
    def initialize(self, linear_std: float | None = 0.02, embedding_std: float = 0.02) -> None:
        """Draw fresh weights from torch's global generator; seed it first.

        As released: Linear weights, class embeddings and positions normal with std 0.02, Linear biases 0; convolutions
        keep PyTorch's default. ``linear_std`` None is 1 / sqrt(inputs) for Linear weights, which suits narrow networks.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=linear_std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=embedding_std)
            elif isinstance(module, Branch):
                nn.init.trunc_normal_(module.positions, std=embedding_std)

    def forward(self, noisy: Tensor, noise_level: Tensor, labels: Tensor) -> list[Tensor]:
        """One prediction per branch, coarse to fine; the last has the input's size and is the one to sample with.

        Args:
            noisy: ``[B, C, H, W]`` latents or pixels with noise.
            noise_level: ``[B]``, n / 1000 * 8 - 4 for diffusion step n (see :func:`dimr_model.diffusion.noise_level`).
            labels: ``[B]`` int64 in 0..num_classes; ``num_classes`` is the null class.

        Raises:
            ValueError: the input has another shape than the network was built for.
        """
        expected = (self.config.channels, self.config.input_size, self.config.input_size)
        if tuple(noisy.shape[1:]) != expected:
            raise ValueError(
                f"noisy has shape {tuple(noisy.shape)}, this network takes [B, {', '.join(map(str, expected))}]"
            )
        tau = noise_level / 4
        features: Tensor | None = None
        predictions = []
        for branch in self.branches:
            prediction, features = branch(noisy, features, tau, labels)
            predictions.append(prediction)
        return predictions

    @classmethod
    def from_released(cls, source: "dict[str, Tensor] | str | PathLike[str]", num_heads: int = 16) -> "DiMR":
        """Build the network of a released checkpoint; see :func:`dimr_model.pretrained.from_released`."""
        from dimr_model.pretrained import from_released

        return from_released(source, num_heads=num_heads)
