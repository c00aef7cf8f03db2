"""The two blocks of DiMR (paper, Figure 4): Transformer for the coarsest branch, ConvNeXt for the others.

Where a module has ``as_released``, setting it makes the module compute the same in the released code's way, which keeps
more for the backward pass; see :meth:`dimr_model.network.DiMR.compute_as_released`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.adaln import AdaLNZero, gated
from dimr_model.config import BlockKind, DiMRConfig, MlpKind
from dimr_model.functional import gated_linear, without_autocast
from dimr_model.normalization import Condition, ModulatedLayerNorm, block_norm


class GEGLU(nn.Module):
    """Gated MLP of hidden size ``2 * width`` (paper, Section 4.3): ``out(GELU(gate(x)) * value(x))``, exact GELU."""

    as_released = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., width]`` -> same shape."""
        gate, value = self.gate(features), self.value(features)
        if self.as_released:
            return self.out(F.gelu(gate) * value)
        return gated_linear(gate, value, self.out.weight, self.out.bias)


class MLP(nn.Module):
    """Two layers of hidden size ``4 * width`` with exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., width]`` -> same shape."""
        return self.out(F.gelu(self.hidden(features)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens ``[B, N, width]``; bias-free projections in, biased projection out."""

    as_released = False

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, width]`` -> same shape."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
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
    """Attention and MLP, each normed and residual."""

    def __init__(self, config: DiMRConfig, width: int) -> None:
        super().__init__()
        self.adaln = _adaln(config, width)
        self.attention_norm = block_norm(config.time_conditioning, width)
        self.attention = SelfAttention(width, config.num_heads)
        self.mlp_norm = block_norm(config.time_conditioning, width)
        self.mlp = _mlp(config.mlp, width)

    def forward(self, tokens: Tensor, condition: Condition) -> Tensor:
        """``tokens [B, N, width]`` -> same shape."""
        attention, mlp = (condition, condition) if self.adaln is None else self.adaln(condition)
        tokens = tokens + gated(self.attention(self.attention_norm(tokens, attention)), attention)
        return tokens + gated(self.mlp(self.mlp_norm(tokens, mlp)), mlp)


class ConvNeXtBlock(nn.Module):
    """A 7x7 depthwise convolution without norm, then a normed MLP; both residual on their own, as released.

    AdaLN-Zero modulates two sub-layers, so there the convolution has a norm too.
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
