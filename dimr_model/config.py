"""Settings as frozen dataclasses, and the paper's named variants; importing this does not import torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TimeConditioning = Literal["td_rmsnorm", "td_layernorm", "rmsnorm", "adaln_zero", "token"]
ClassConditioning = Literal["token", "adaln_zero", "added", "none"]
BlockKind = Literal["transformer", "convnext"]
MlpKind = Literal["geglu", "mlp"]
Cascade = Literal["all_blocks", "last_block"]
CascadeJoin = Literal["add", "concatenate"]
ProcessKind = Literal["diffusion", "flow"]
Prediction = Literal["epsilon", "v", "x", "velocity"]
Schedule = Literal["scaled_linear", "vp_linear", "cosine"]
TimeKind = Literal["uniform", "logit_normal", "lognormal"]
LossWeight = Literal["none", "min_snr", "edm"]
GuidanceKind = Literal["none", "constant", "power_cosine"]
SamplerKind = Literal[
    "released",
    "dpm_solver_multistep",
    "unipc",
    "ddim",
    "ddpm",
    "heun",
    "euler",
    "flow_match_euler",
    "flow_match_heun",
]

NUM_STEPS = 1000
"""Diffusion steps n = 1..1000; x_1000 is almost pure noise. A flow's time is t = n / 1000 in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class DiMRConfig:
    """Everything that decides the parameters' names and shapes, and nothing else.

    Branches are listed coarse to fine, from r = 0. Of R branches, branch r works at the resolution
    ``input_size / (patch_size * 2^(R-1-r))``. The first is made of Transformer blocks, the others of ConvNeXt
    blocks (paper, Section 4.1). The defaults are the released model; the other values are the rows of the
    paper's ablations (Tables 2 and 3). One branch with a patch size is U-ViT.
    """

    input_size: int
    """Height and width of the input, in latent cells or pixels."""
    channels: int
    """Channels of the input: 4 for Stable Diffusion latents, 3 or 1 for pixels."""
    num_classes: int
    """Real classes, without the null class; the null class has index ``num_classes``."""
    depths: tuple[int, ...]
    """Blocks per branch. An even number is built as the next odd one (long skips need a middle block)."""
    widths: tuple[int, ...]
    """Channels per branch."""
    num_heads: int = 16
    """Attention heads of the Transformer branch."""
    patch_size: int = 1
    """Patch size of the finest branch: 1 in DiMR, 2 or 4 in U-ViT."""
    time_conditioning: TimeConditioning = "td_rmsnorm"
    """``td_rmsnorm``, ``td_layernorm``: time-dependent norms (Section 4.2). ``rmsnorm``: plain ones in the
    blocks, time enters by the norms around them (as the released code can). ``adaln_zero``: DiT's (Eqs. 3
    and 4). ``token``: U-ViT's."""
    class_conditioning: ClassConditioning = "token"
    """``token`` (Section 4.2) and ``added`` (to every position) enter the coarsest branch. ``adaln_zero``
    adds Embed(c) to Embed(t) in every branch (Eq. 3). ``none`` ignores labels."""
    has_null_class: bool = True
    """Whether there is an embedding for "no class", for classifier-free guidance."""
    qk_norm: bool = False
    """Queries and keys of each attention head go through an RMSNorm, with a scale that all heads share (as in
    Stable Diffusion 3). It keeps attention's logits small, which overflow in bf16 else."""
    mlp: MlpKind = "geglu"
    """``geglu`` with hidden size 2 * width, or ``mlp`` with 4 * width (Section 4.3)."""
    coarsest_blocks: BlockKind = "transformer"
    """``convnext`` makes the network purely convolutional (Table 3a)."""
    cascade: Cascade = "all_blocks"
    """What the next branch receives: the last block's output (y_r of the paper's Eq. 1), or the branch's
    input and all its blocks' outputs (the released model)."""
    cascade_join: CascadeJoin = "add"
    """How the next branch takes in the features of the branch below (Table 3b)."""
    branch_skips: bool = False
    """Also add to each block of a finer branch the output of the block at the same relative depth one branch
    below (Table 3c; the paper does not say which outputs it joins)."""

    def __post_init__(self) -> None:
        # Lists come from JSON and YAML; a frozen config must hash and compare by value.
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "widths", tuple(self.widths))
        self._check_sizes()
        for name, values in _CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(values)}")
        self._check_conditioning()

    def _check_sizes(self) -> None:
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths {self.depths} and widths {self.widths} must list the same branches, coarse to fine, "
                "at least one"
            )
        sizes = (
            self.input_size,
            self.channels,
            self.num_classes,
            self.patch_size,
            *self.depths,
            *self.widths,
        )
        if min(sizes) < 1:
            raise ValueError(
                "input_size, channels, num_classes, patch_size, depths and widths must be positive"
            )
        if self.input_size % self.downsampling(0):
            raise ValueError(
                f"input_size {self.input_size} is not divisible by {self.downsampling(0)}, the coarsest of "
                f"{self.num_branches} branches; use fewer branches or another size"
            )
        if self.num_heads < 1 or self.widths[0] % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide the first branch's width {self.widths[0]}"
            )

    def _check_conditioning(self) -> None:
        tokens = [name for name in ("time", "class") if getattr(self, f"{name}_conditioning") == "token"]
        if "time" in tokens and self.num_branches > 1:
            raise ValueError(
                "time_conditioning token cannot reach ConvNeXt branches; "
                "use one branch, or another time_conditioning"
            )
        if tokens and self.coarsest_blocks == "convnext":
            raise ValueError(
                f"{tokens[0]}_conditioning token needs coarsest_blocks transformer; "
                "convolutions have no tokens"
                + (" (class_conditioning added works)" if tokens == ["class"] else "")
            )
        if self.qk_norm and self.coarsest_blocks == "convnext":
            raise ValueError(
                "qk_norm needs coarsest_blocks transformer; convolutions have no queries and keys"
            )
        if self.class_conditioning == "adaln_zero" and self.time_conditioning != "adaln_zero":
            raise ValueError("class_conditioning adaln_zero needs time_conditioning adaln_zero")

    @property
    def num_branches(self) -> int:
        """The number of branches, R in the paper."""
        return len(self.depths)

    @property
    def null_class(self) -> int:
        """The label that means "no class", for classifier-free guidance."""
        return self.num_classes

    @property
    def num_embeddings(self) -> int:
        """The number of labels that have an embedding."""
        return self.num_classes + int(self.has_null_class)

    def downsampling(self, branch: int) -> int:
        """The patch size of a branch's input layer: the input is that many times larger than its features."""
        # 2^(R - r) in Section 4.1, whose r counts from 1.
        return int(self.patch_size * 2 ** (self.num_branches - 1 - branch))

    def built_depth(self, branch: int) -> int:
        """The number of blocks that branch ``branch`` really has: ``depths[branch]`` rounded up to odd."""
        return 2 * (self.depths[branch] // 2) + 1


_CHOICES = {
    "time_conditioning": get_args(TimeConditioning),
    "class_conditioning": get_args(ClassConditioning),
    "mlp": get_args(MlpKind),
    "coarsest_blocks": get_args(BlockKind),
    "cascade": get_args(Cascade),
    "cascade_join": get_args(CascadeJoin),
}


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """The weight w(n) in ``unconditional + w(n) * (conditional - unconditional)``; 1 is no guidance.

    It is the paper's s (Section 3). The released code's ``scale: 0.4`` is the increment, w = 1.4 here.
    """

    kind: GuidanceKind = "constant"
    """``constant`` is ``scale`` at every step; ``power_cosine`` rises from 1 at full noise to ``scale`` at
    the clean end; ``none`` is 1."""
    scale: float = 1.4
    """The weight; for ``power_cosine`` its value at the clean end."""
    power: float = 2.0
    """Exponent of ``power_cosine``; a larger one starts the guidance later."""
    interval: tuple[float, float] = (0.0, float(NUM_STEPS))
    """Diffusion steps n between which there is guidance, ends included. Elsewhere the weight is 1 and the
    unconditional pass is skipped (Kynkäänniemi et al., 2024, who state it in noise-to-signal ratios)."""

    def __post_init__(self) -> None:
        if self.kind not in ("none", "constant", "power_cosine"):
            raise ValueError(f"guidance kind {self.kind!r} is unknown; use none, constant or power_cosine")
        if self.kind != "none" and not (math.isfinite(self.scale) and self.scale >= 1):
            raise ValueError(
                f"guidance scale {self.scale} must be at least 1 "
                "(1 is no guidance; the released code's 0.4 is 1.4)"
            )
        if self.power <= 0:
            raise ValueError(f"guidance power {self.power} must be positive")
        object.__setattr__(self, "interval", tuple(self.interval))
        if len(self.interval) != 2 or not 0 <= self.interval[0] < self.interval[1] <= NUM_STEPS:
            raise ValueError(
                f"guidance interval {self.interval} must be two diffusion steps, "
                f"0 <= low < high <= {NUM_STEPS}"
            )

    def weight(self, step: float) -> float:
        """w(n) at diffusion step n in 0..1000."""
        if self.kind == "none" or not self.interval[0] <= step <= self.interval[1]:
            return 1.0
        if self.kind == "constant":
            return self.scale
        # The released code's power-cosine guidance.
        ramp = (1 - math.cos(math.pi * (1 - step / NUM_STEPS) ** self.power)) / 2
        return 1 + (self.scale - 1) * ramp


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How noise becomes images, apart from the network itself."""

    kind: SamplerKind = "dpm_solver_multistep"
    """``released``: singlestep DPM-Solver++ of order 3, as the released evaluation samples.
    ``dpm_solver_multistep``: DPM-Solver++ 2M (Lu et al., 2022). ``unipc`` (Zhao et al., 2023) and
    ``heun`` (Karras et al., 2022): diffusers' own. ``ddim`` (Song et al., 2021). ``ddpm``: ancestral sampling
    (Ho et al., 2020), which adds fresh noise at every step. For flows ``euler`` and ``heun`` solve the
    ordinary differential equation on times that are even from 1 to 0. ``flow_match_euler`` and
    ``flow_match_heun`` are diffusers', whose last time is 0.001. ``dpm_solver_multistep`` and ``unipc``
    sample both processes."""
    steps: int = 50
    """Solver steps. Each is one network evaluation (two in those of Heun), of twice the batch under
    guidance."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplerKind):
            raise ValueError(
                f"sampler {self.kind!r} is unknown; use one of {', '.join(get_args(SamplerKind))}"
            )
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"sampler steps {self.steps} must be in 1..1000")


VARIANTS: dict[str, DiMRConfig] = {
    "M/3R-64": DiMRConfig(
        input_size=64,
        channels=3,
        num_classes=1000,
        depths=(15, 8, 8),
        widths=(768, 384, 192),
        num_heads=12,
        has_null_class=False,
    ),
    "L/3R-64": DiMRConfig(
        input_size=64,
        channels=3,
        num_classes=1000,
        depths=(33, 17, 17),
        widths=(768, 384, 192),
        num_heads=12,
        has_null_class=False,
    ),
    "XL/2R-256": DiMRConfig(input_size=32, channels=4, num_classes=1000, depths=(39, 20), widths=(960, 480)),
    "XL/3R-512": DiMRConfig(
        input_size=64, channels=4, num_classes=1000, depths=(39, 20, 20), widths=(960, 480, 240)
    ),
    "G/2R-256": DiMRConfig(input_size=32, channels=4, num_classes=1000, depths=(57, 29), widths=(1152, 576)),
}
"""The paper's models (Section 4.4, Table 4).

At 64 they work on pixels and have no null class. At 256 and 512 they work on latents of an 8x VAE
(Section 5.1).
"""
