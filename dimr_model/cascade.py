"""The feature cascade (paper, Section 4.1, Eq. 2): how a branch hands its features to the next, finer one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.config import DiMRConfig
from dimr_model.functional import at_least_float32, scaled_linear, without_autocast
from dimr_model.normalization import LAYER_NORM_EPSILON, Condition, branch_norm


class Upsample(nn.Module):
    """Features of the branch below, normed together, projected and pixel-shuffled to twice the size.

    The paper upsamples the last block's output (Section 4.1). The released model, followed by default,
    upsamples the concatenation of the branch's input and all block outputs: 66,816 channels in G/2R. That
    concatenation is never made here. Each feature map is projected by its own columns of the weight. The
    norm's mean and variance are sums over the maps; they are applied to the sum of the projections.
    """

    as_released = False

    def __init__(self, config: DiMRConfig, branch: int) -> None:
        super().__init__()
        maps = config.built_depth(branch - 1) + 1 if config.cascade == "all_blocks" else 1
        in_width, out_width = config.widths[branch - 1] * maps, config.widths[branch]
        self.maps = maps
        self.in_norm = branch_norm(config.time_conditioning, in_width)
        self.projection = nn.Linear(in_width, 4 * out_width)
        self.out_norm = branch_norm(config.time_conditioning, out_width)
        self.add_map = _AddMap()

    def forward(self, features: list[Tensor], condition: Condition) -> Tensor:
        """Upsample(y_{r-1}) of Eq. 2, ``[B, 2H, 2W, width]``.

        ``features`` are the input and all block outputs of the branch below, each ``[B, H, W, in_width]``.
        """
        features = features[-self.maps :]
        if self.as_released:
            cells = self.projection(self.in_norm(torch.cat(features, dim=-1), condition))
        else:
            cells = self._project(features, condition)
        batch, height, width, _ = cells.shape
        cells = cells.view(batch, height, width, 2, 2, -1)
        # Eq. 2: pixel shuffling. As released, a cell's channels are ordered by row, column and width.
        pixels = cells.permute(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)
        return self.out_norm(pixels, condition)  # type: ignore[no-any-return]

    def _project(self, features: list[Tensor], condition: Condition) -> Tensor:
        """``projection(in_norm(concatenation))`` of maps ``[B, H, W, C]`` without the concatenation.

        With z = (x - mean) / deviation it is
        W (gain z + shift) = (W gain x - mean W gain) / deviation + W shift.
        """
        gain, shift = self.in_norm.affine(condition)
        weight, share = self.projection.weight, features[0].shape[-1]
        # Cut once: each slice of its own would add a gradient as large as the whole weight.
        parts = zip(features, gain.split(share, dim=-1), weight.split(share, dim=1), strict=True)
        sums: tuple[Tensor, Tensor, Tensor] | None = None
        for feature, its_gain, its_weight in parts:
            sums = self.add_map(sums, feature, its_gain, its_weight)
        assert sums is not None
        projected, total, squares = sums
        count = share * len(features)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        with without_autocast(weight):
            mean_part, shift_part = F.linear(gain, weight), F.linear(shift, weight, self.projection.bias)
        if mean_part.dim() == 2:
            mean_part, shift_part = mean_part[:, None, None], shift_part[:, None, None]
        centered = projected - mean * mean_part
        return (centered * torch.rsqrt(variance + LAYER_NORM_EPSILON) + shift_part).to(features[0].dtype)

    def compile(self, *arguments: Any, **keywords: Any) -> None:
        """Compile what is done for each feature map.

        The compiler would write out the loop over them. With 58 maps, as in G/2R, that takes minutes.
        """
        self.add_map.compile(*arguments, **keywords)


class _AddMap(nn.Module):
    """Adds a feature map to the sums of an upsampling; has no weights of its own."""

    def forward(
        self, sums: tuple[Tensor, Tensor, Tensor] | None, feature: Tensor, gain: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of projections ``[B, H, W, out]``, features and their squares, both ``[B, H, W, 1]``."""
        wide = at_least_float32(feature)
        own = (
            at_least_float32(scaled_linear(feature, gain, weight)),
            wide.sum(-1, keepdim=True),
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square(),
        )
        return own if sums is None else (sums[0] + own[0], sums[1] + own[1], sums[2] + own[2])


class BlockSkips(nn.Module):
    """Skip connections between branches, for ``branch_skips`` (paper, Table 3c).

    Each block of a branch receives the output of the block at the same relative depth in the branch below.
    """

    def __init__(self, config: DiMRConfig, branch: int) -> None:
        super().__init__()
        depth, depth_below = config.built_depth(branch), config.built_depth(branch - 1)
        self.sources = [place * depth_below // depth for place in range(depth)]
        widths = config.widths[branch - 1], config.widths[branch]
        self.projections = nn.ModuleList(nn.Linear(*widths) for _ in range(depth))

    def forward(self, place: int, features: list[Tensor]) -> Tensor:
        """What to add before block ``place``, ``[B, 2H, 2W, width]``.

        ``features`` are the same as those that :class:`Upsample` takes.
        """
        projected = self.projections[place](features[1 + self.sources[place]])
        return projected.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)  # type: ignore[no-any-return]
