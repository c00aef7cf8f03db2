"""DiMR's blocks (paper, Section 4.1, Figure 2): Transformer for the coarsest branch, ConvNeXt for the others.

Some modules have a switch ``as_released``. With it they compute the same in the released code's way, which
keeps more for the backward pass; see :meth:`dimr_model.network.DiMR.compute_as_released`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.adaln import AdaLNZero, gated
from dimr_model.config import BlockKind, DiMRConfig, MlpKind
from dimr_model.functional import gated_linear, without_autocast
from dimr_model.normalization import Condition, ModulatedLayerNorm, RMSNorm, block_norm


class GEGLU(nn.Module):
    """The gated MLP, of hidden size ``2 * width`` (paper, Section 4.3; Shazeer, 2020)."""

    as_released = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., width]`` -> same shape."""
        gate, value = self.gate(features), self.value(features)
        # GeGLU (Section 4.3): out(GELU(gate) * value), with exact GELU.
        if self.as_released:
            return self.out(F.gelu(gate) * value)
        return gated_linear(gate, value, self.out.weight, self.out.bias)


class MLP(nn.Module):
    """Two layers with exact GELU between them, of hidden size ``4 * width`` (paper, Section 4.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., width]`` -> same shape."""
        return self.out(F.gelu(self.hidden(features)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens ``[B, N, width]``.

    As released, the projections in have no bias, and the projection out has one. With ``qk_norm`` each head's
    queries and keys are normed, with two scales as long as a head is wide.
    """

    as_released = False

    def __init__(self, width: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_norm = RMSNorm(width // num_heads) if qk_norm else None
        self.key_norm = RMSNorm(width // num_heads) if qk_norm else None
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, width]`` -> same shape."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.as_released:
            with without_autocast(tokens):
                attended = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).reshape(batch, count, width))


def _mlp(kind: MlpKind, width: int) -> nn.Module:
    return GEGLU(width) if kind == "geglu" else MLP(width)


def _adaln(config: DiMRConfig, width: int) -> AdaLNZero | None:
    if config.time_conditioning != "adaln_zero":
        return None
    return AdaLNZero(width, hidden=config.num_branches == 1)


class TransformerBlock(nn.Module):
    """Attention, then an MLP; each has a norm before it and its own residual connection."""

    def __init__(self, config: DiMRConfig, width: int) -> None:
        super().__init__()
        self.adaln = _adaln(config, width)
        self.attention_norm = block_norm(config.time_conditioning, width)
        self.attention = SelfAttention(width, config.num_heads, config.qk_norm)
        self.mlp_norm = block_norm(config.time_conditioning, width)
        self.mlp = _mlp(config.mlp, width)

    def forward(self, tokens: Tensor, condition: Condition) -> Tensor:
        """``tokens [B, N, width]`` -> same shape."""
        # Section 4.2: the norms carry the time; AdaLN-Zero has a modulation for each sub-layer (Figure 4).
        attention, mlp = (condition, condition) if self.adaln is None else self.adaln(condition)
        tokens = tokens + gated(self.attention(self.attention_norm(tokens, attention)), attention)
        return tokens + gated(self.mlp(self.mlp_norm(tokens, mlp)), mlp)


class ConvNeXtBlock(nn.Module):
    """A 7x7 depthwise convolution without norm, then an MLP with one; each has its own residual connection.

    This is the released order. The original block (Liu et al., 2022) has one residual connection around both,
    and its norm between them. AdaLN-Zero modulates two sub-layers, so there the convolution has a norm too.
    """

    def __init__(self, config: DiMRConfig, width: int) -> None:
        super().__init__()
        self.adaln = _adaln(config, width)
        self.depthwise_norm = None if self.adaln is None else ModulatedLayerNorm()
        self.depthwise = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.mlp_norm = block_norm(config.time_conditioning, width)
        self.mlp = _mlp(config.mlp, width)

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        """``features [B, H, W, width]`` -> same shape."""
        depthwise, mlp = (condition, condition) if self.adaln is None else self.adaln(condition)
        normed = features if self.depthwise_norm is None else self.depthwise_norm(features, depthwise)
        update = self.depthwise(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        features = features + gated(update, depthwise)
        return features + gated(self.mlp(self.mlp_norm(features, mlp)), mlp)


def make_block(config: DiMRConfig, width: int, kind: BlockKind) -> TransformerBlock | ConvNeXtBlock:
    """A block of the given kind and width."""
    return TransformerBlock(config, width) if kind == "transformer" else ConvNeXtBlock(config, width)
