"""The two blocks of DiMR (paper, Figure 4): Transformer for the coarsest branch, ConvNeXt for the others."""

import torch.nn.functional as F
from torch import Tensor, nn

from dimr_model.config import TimeConditioning
from dimr_model.normalization import block_norm


class GEGLU(nn.Module):
    """Gated MLP of hidden size ``2 * width`` (paper, Section 4.3): ``out(GELU(gate(x)) * value(x))``, exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., width]`` -> same shape."""
        return self.out(F.gelu(self.gate(features)) * self.value(features))


class SelfAttention(nn.Module):
    """Multi-head self-attention over tokens ``[B, N, width]``; bias-free projections in, biased projection out."""

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
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).reshape(batch, count, width))


class TransformerBlock(nn.Module):
    """``tokens [B, N, width]`` -> same shape: attention and GEGLU, each normed and residual."""

    def __init__(self, width: int, num_heads: int, time_conditioning: TimeConditioning) -> None:
        super().__init__()
        self.attention_norm = block_norm(time_conditioning, width)
        self.attention = SelfAttention(width, num_heads)
        self.mlp_norm = block_norm(time_conditioning, width)
        self.mlp = GEGLU(width)

    def forward(self, tokens: Tensor, tau: Tensor) -> Tensor:
        """``tokens [B, N, width]``, ``tau [B]`` -> tokens."""
        tokens = tokens + self.attention(self.attention_norm(tokens, tau))
        return tokens + self.mlp(self.mlp_norm(tokens, tau))


class ConvNeXtBlock(nn.Module):
    """``features [B, H, W, width]`` -> same shape: a 7x7 depthwise convolution without norm, then a normed GEGLU.

    Both are residual on their own, unlike the original ConvNeXt (as the released model does).
    """

    def __init__(self, width: int, time_conditioning: TimeConditioning) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.mlp_norm = block_norm(time_conditioning, width)
        self.mlp = GEGLU(width)

    def forward(self, features: Tensor, tau: Tensor) -> Tensor:
        """``features [B, H, W, width]``, ``tau [B]`` -> features."""
        features = features + self.depthwise(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return features + self.mlp(self.mlp_norm(features, tau))
