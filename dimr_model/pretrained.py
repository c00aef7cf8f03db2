"""Reading the released checkpoints: their key names, and the architecture that their shapes imply."""

import re
from os import PathLike

import torch
from torch import Tensor

from dimr_model.config import DiMRConfig, TimeConditioning

# Released code's name -> name here; all are applied to every key, in this order.
_RENAMES = (
    (r"^stages\.", "branches."),
    (r"\.input_layer\.1\.", ".patchify."),
    (r"\.input_layer\.3\.position_embeddings\.weight$", ".positions"),
    (r"\.class_embeds\.", ".class_embedding."),
    (r"\.block1\.norm\.", ".attention_norm."),
    (r"\.block1\.query_key_value\.", ".attention.qkv."),
    (r"\.block1\.dense\.", ".attention.out."),
    (r"\.block1\.1\.", ".depthwise."),
    (r"\.block2\.norm\.", ".mlp_norm."),
    (r"\.block2\.w0\.", ".mlp.gate."),
    (r"\.block2\.w1\.", ".mlp.value."),
    (r"\.block2\.w2\.", ".mlp.out."),
    (r"\.skip_denses\.", ".skips."),
    (r"\.output_layer\.0\.", ".out_norm."),
    (r"\.output_layer\.2\.", ".out."),
    (r"\.upsample\.0\.", ".upsample.in_norm."),
    (r"\.upsample\.1\.kernel\.", ".upsample.projection."),
    (r"\.upsample\.2\.", ".upsample.out_norm."),
    (r"\.nodecay_weight$", ".time_weight"),
    (r"\.nodecay_bias$", ".time_bias"),
)


def rename_released(key: str) -> str:
    """The name in this package of a parameter of the released model."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def infer_config(released: dict[str, Tensor], num_heads: int) -> DiMRConfig:
    """Work out a network's configuration from the names and shapes of a released state dict.

    The number of heads leaves no trace in the shapes and must be given.

    Raises:
        ValueError: the keys are not those of a released DiMR.
    """
    try:
        num_branches = 1 + max(int(key.split(".")[1]) for key in released)
        depths = [
            1 + max(int(key.split(".")[3]) for key in released if key.startswith(f"stages.{r}.blocks."))
            for r in range(num_branches)
        ]
        patchify = [released[f"stages.{r}.input_layer.1.weight"] for r in range(num_branches)]
        positions = released[f"stages.{num_branches - 1}.input_layer.3.position_embeddings.weight"].shape[0]
        classes = released["stages.0.class_embeds.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"not a released DiMR state dict: {error!r} while reading its keys") from error
    norm = "stages.0.blocks.0.block1.norm."
    time_conditioning: TimeConditioning = "td_rmsnorm"
    if f"{norm}weight.param0" in released:
        time_conditioning = "td_layernorm"
    elif f"{norm}scale" in released:
        time_conditioning = "rmsnorm"
    return DiMRConfig(
        input_size=round(positions**0.5),
        channels=patchify[0].shape[1],
        num_classes=classes - 1,
        depths=tuple(depths),
        widths=tuple(weight.shape[0] for weight in patchify),
        num_heads=num_heads,
        time_conditioning=time_conditioning,
    )


def read_released(
    source: dict[str, Tensor] | str | PathLike[str], num_heads: int
) -> tuple[DiMRConfig, dict[str, Tensor]]:
    """The architecture of a released checkpoint, and its weights under the names of this package.

    Args:
        source: the state dict, or the path of the file that holds it; read without unpickling code.
        num_heads: heads of the Transformer branch.

    Raises:
        ValueError: the keys are not those of a released DiMR.
    """
    released = (
        source if isinstance(source, dict) else torch.load(source, map_location="cpu", weights_only=True)
    )
    weights = {rename_released(key): tensor for key, tensor in released.items()}
    return infer_config(released, num_heads), weights


def check_fit(weights: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights whose names or shapes are not the ``expected`` ones.

    Raises:
        ValueError: the message lists them.
    """
    problems = [f"missing: {name}" for name in expected if name not in weights]
    problems += [f"unknown: {name}" for name in weights if name not in expected]
    problems += [
        f"{name}: shape {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        raise ValueError(f"the released checkpoint does not fit, {len(problems)} problems:\n  {shown}")
