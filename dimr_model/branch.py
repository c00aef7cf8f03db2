"""One branch f of the network (paper, Section 4.1, Eqs. 1 and 2).

It reads the noisy input at its own patch size, adds what comes from the branch below, refines and predicts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dimr_model.adaln import AdaptiveOutput, TimeEmbedding, sinusoids
from dimr_model.blocks import make_block
from dimr_model.cascade import BlockSkips, Upsample
from dimr_model.config import DiMRConfig
from dimr_model.normalization import Condition, branch_norm


class Skip(nn.Linear):
    """A long skip connection, as in U-ViT (paper, Section 4.1).

    It is one linear layer of two feature maps side by side, computed without putting them side by side.
    """

    as_released = False

    def __init__(self, width: int) -> None:
        super().__init__(2 * width, width)

    def forward(self, state: Tensor, earlier: Tensor) -> Tensor:  # type: ignore[override]
        """Two maps ``[..., width]`` -> one of the same shape."""
        if self.as_released:
            return F.linear(torch.cat([state, earlier], dim=-1), self.weight, self.bias)
        for_state, for_earlier = self.weight.chunk(2, dim=1)
        width = state.shape[-1]
        joined = F.linear(state, for_state, self.bias).view(-1, width)
        return torch.addmm(joined, earlier.reshape(-1, width), for_earlier.t()).view(state.shape)


class Branch(nn.Module):
    """Branch ``index`` of ``config``, counted from 0, the coarsest; the paper's r is ``index + 1``."""

    def __init__(self, config: DiMRConfig, index: int) -> None:
        super().__init__()
        self.is_coarsest, self.is_finest = index == 0, index == config.num_branches - 1
        self.recompute = False
        self.patch_size = config.patch_size
        width, patch, depth = config.widths[index], config.downsampling(index), config.built_depth(index)
        # Patchify of Eq. 2: kernel and stride 2^(R - r).
        self.patchify = nn.Conv2d(config.channels, width, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(torch.empty((config.input_size // patch) ** 2, width))
        self._add_conditioning(config, width)
        if not self.is_coarsest:
            self.upsample = Upsample(config, index)
            # Variants of the cascade: concatenation (Table 3b), skips between branches (Table 3c).
            self.join = nn.Linear(2 * width, width) if config.cascade_join == "concatenate" else None
            self.block_skips = BlockSkips(config, index) if config.branch_skips else None
        # Section 4.1: Transformer blocks where r = 1, else ConvNeXt blocks; Table 3a: ConvNeXt blocks only.
        kind = config.coarsest_blocks if self.is_coarsest else "convnext"
        self.is_sequence = kind == "transformer"
        self.blocks = nn.ModuleList(make_block(config, width, kind) for _ in range(depth))
        self.skips = nn.ModuleList(Skip(width) for _ in range(depth // 2))
        adaln = config.time_conditioning == "adaln_zero"
        self.out_norm = AdaptiveOutput(width) if adaln else branch_norm(config.time_conditioning, width)
        # A patch is predicted by one layer and smoothed by a convolution, as in U-ViT.
        pixels = config.channels * config.patch_size**2
        self.unpatchify = nn.Linear(width, pixels) if config.patch_size > 1 else None
        out_width = config.channels if self.unpatchify is not None else width
        # The 3x3 convolution of Eq. 2.
        self.out = nn.Conv2d(out_width, config.channels, kernel_size=3, padding=1)

    def _add_conditioning(self, config: DiMRConfig, width: int) -> None:
        self.class_conditioning, self.time_token = config.class_conditioning, False
        everywhere = config.class_conditioning == "adaln_zero"
        if everywhere or (self.is_coarsest and config.class_conditioning != "none"):
            self.class_embedding = nn.Embedding(config.num_embeddings, width)
        self.time_embedding: TimeEmbedding | None = None
        self.has_embedding = config.time_conditioning == "adaln_zero"
        if self.has_embedding and config.num_branches > 1:
            self.time_embedding = TimeEmbedding(width)
        self.time_token = config.time_conditioning == "token"

    def forward(
        self, noisy: Tensor, below: list[Tensor], tau: Tensor, labels: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """``noisy [B, C, H, W]``, features ``below`` -> (prediction ``[B, C, h, w]``, features).

        The features, for the next branch, are the input of this one and the outputs of its blocks. Each is
        ``[B, H / p, W / p, width]`` for this branch's patch size p.
        """
        # Patchify(x_t) of Eq. 2. Laid out channels last, so that neither the linear layers nor the
        # convolutions copy their inputs.
        state = self.patchify(noisy).permute(0, 2, 3, 1).contiguous()
        batch, height, width, channels = state.shape
        condition = self.condition(tau, labels)
        state = state + self.positions.view(height, width, channels).to(state.dtype)
        if not self.is_coarsest:
            # Eq. 2; the first branch adds nothing, because y_0 = 0.
            state = self._take_in(state, self.upsample(below, condition))
        elif self.class_conditioning == "added":
            state = state + self.class_embedding(labels)[:, None, None].to(state.dtype)
        extra = 0
        if self.is_sequence:
            tokens = self._tokens(tau, labels, state)
            extra = len(tokens)
            state = torch.cat([*tokens, state.reshape(batch, height * width, channels)], dim=1)

        outputs = self._run_blocks(state, condition, below)
        if self.is_sequence:
            outputs = [output[:, extra:].reshape(batch, height, width, channels) for output in outputs]
        prediction = self._predict(self.out_norm(outputs[-1], condition))
        # Eq. 1; nothing reads the finest branch's features.
        return prediction, [] if self.is_finest else outputs

    def condition(self, tau: Tensor, labels: Tensor) -> Condition:
        """From ``tau [B]`` and ``labels [B]``: the time, and the embedding that AdaLN-Zero needs."""
        if not self.has_embedding:
            return Condition(tau)
        time = (
            self.time_embedding(tau)
            if self.time_embedding is not None
            else sinusoids(tau, self.positions.shape[1])
        )
        if self.class_conditioning == "adaln_zero":
            # Embed(t) + Embed(c), Eq. 3.
            time = time + self.class_embedding(labels)
        return Condition(tau, embedding=time)

    def _tokens(self, tau: Tensor, labels: Tensor, state: Tensor) -> list[Tensor]:
        """Time and class tokens, each ``[B, 1, width]``, where the config asks for them."""
        # Section 4.2: U-ViT's time token; c as an input token of the Transformer blocks.
        tokens = [sinusoids(tau, state.shape[-1])] if self.time_token else []
        if self.class_conditioning == "token":
            tokens.append(self.class_embedding(labels))
        return [token[:, None].to(state.dtype) for token in tokens]

    @property
    def units(self) -> list[nn.Module]:
        """The upsampling, if there is one, and the blocks."""
        return [*([] if self.is_coarsest else [self.upsample]), *self.blocks]

    def _take_in(self, state: Tensor, upsampled: Tensor) -> Tensor:
        if self.join is None:
            # Patchify(x_t) + Upsample(y_{r-1}), Eq. 2.
            return state + upsampled
        joined: Tensor = self.join(torch.cat([state, upsampled], dim=-1))
        return joined

    def _run_blocks(self, state: Tensor, condition: Condition, below: list[Tensor]) -> list[Tensor]:
        """The branch's input and every block's output: g of Eq. 2.

        Long skips join block i with block depth-1-i, as in U-ViT.
        """
        outputs, pending = [state], list[Tensor]()
        middle = len(self.blocks) // 2
        for i, block in enumerate(self.blocks):
            if i > middle:
                state = self.skips[i - middle - 1](state, pending.pop())
            if not self.is_coarsest and self.block_skips is not None:
                state = state + self.block_skips(i, below)
            recompute = self.recompute and torch.is_grad_enabled()
            state = (
                checkpoint(block, state, condition, use_reentrant=False)
                if recompute
                else block(state, condition)
            )
            outputs.append(state)
            if i < middle:
                pending.append(state)
        return outputs

    def _predict(self, features: Tensor) -> Tensor:
        """``[B, h, w, width]`` -> ``[B, C, h * patch_size, w * patch_size]``."""
        if self.unpatchify is None:
            prediction: Tensor = self.out(features.permute(0, 3, 1, 2))
        else:
            prediction = self.out(
                F.pixel_shuffle(self.unpatchify(features).permute(0, 3, 1, 2), self.patch_size)
            )
        return prediction
