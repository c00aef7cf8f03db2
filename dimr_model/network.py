"""The multi-resolution network (paper, Section 4.1): branches joined by a feature cascade, coarse to fine."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from dimr_model.adaln import Modulation
from dimr_model.branch import Branch
from dimr_model.cascade import Upsample
from dimr_model.config import DiMRConfig
from dimr_model.hub import HubModule
from dimr_model.pretrained import check_fit, read_released


class DiMR(HubModule, library_name="dimr-ray", license="apache-2.0"):
    """The multi-resolution diffusion network: ``DiMR(config)``, or ``DiMR(**fields of DiMRConfig)``.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` work as for any model of the hub
    (:mod:`dimr_model.hub`).
    """

    def __init__(self, config: DiMRConfig | None = None, **fields: Any) -> None:
        super().__init__()
        self.architecture = config = config or DiMRConfig(**fields)
        self.branches = nn.ModuleList(Branch(config, index) for index in range(config.num_branches))
        self.initialize()

    @property
    def units(self) -> list[nn.Module]:
        """The upsamplings and blocks in the order of the forward pass.

        They are compiled and sharded one by one.
        """
        branches: list[Any] = list(self.branches)
        return [unit for branch in branches for unit in branch.units]

    @property
    def bf16_parameters(self) -> list[nn.Parameter]:
        """The parameters of linear layers and convolutions, of which bf16 autocast uses bf16 copies alone.

        Projections of upsamplings are left out, because the upsampling's norm uses them in float32, too.
        """
        wide = {id(m.projection) for m in self.modules() if isinstance(m, Upsample)}
        used = [m for m in self.modules() if isinstance(m, nn.Linear | nn.Conv2d) and id(m) not in wide]
        return [parameter for module in used for parameter in module.parameters()]

    def compile_units(self, backend: str = "inductor", dynamic: bool | None = None) -> "DiMR":
        """Compile every unit on its own; units alike share what is compiled.

        Args:
            backend: torch's compiler.
            dynamic: False compiles for each size anew. With None the second size that is met gets a graph
                for all sizes, which is slower. Two branches' widths count as two sizes.
        """
        for unit in self.units:
            unit.compile(fullgraph=True, backend=backend, dynamic=dynamic)
        return self

    @torch.no_grad()
    def initialize(self, linear_std: float | None = 0.02, embedding_std: float = 0.02) -> None:
        """Draw fresh weights from torch's global generator, which you must seed first.

        As in the released code, Linear weights, class embeddings and positions are normal with std 0.02, and
        Linear biases are 0. Convolutions keep PyTorch's default. With ``linear_std`` None the std of Linear
        weights is 1 / sqrt(inputs), which suits narrow networks.
        """
        for module in self.modules():
            # As in the released code, truncated at -2 and 2, a hundred times the default std.
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=linear_std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=embedding_std)
            elif isinstance(module, Branch):
                nn.init.trunc_normal_(module.positions, std=embedding_std)
        for module in self.modules():
            if isinstance(module, Modulation):
                # Section 4.2: AdaLN-Zero starts every block as the identity.
                nn.init.zeros_(module.out.weight)

    def recompute(self, branches: Sequence[bool] | bool) -> "DiMR":
        """Choose the branches, coarse to fine, whose blocks compute activations again in the backward pass.

        The forward pass does not keep them then. This takes less memory and a third more work.
        """
        chosen = [branches] * len(self.branches) if isinstance(branches, bool) else list(branches)
        if len(chosen) != len(self.branches):
            raise ValueError(
                f"recompute {chosen} must name the {len(self.branches)} branches, coarse to fine"
            )
        for branch, value in zip(self.branches, chosen, strict=True):
            branch.recompute = value  # type: ignore[assignment]
        return self

    def compute_as_released(self, as_released: bool = True) -> "DiMR":
        """Compute the same function with the released code's operators, as a baseline of measurements.

        They are attention in float32, and concatenations before the long skips and the upsampling. Every
        activation is kept. This is slower and takes more memory.
        """
        for module in self.modules():
            if hasattr(module, "as_released"):
                module.as_released = as_released  # type: ignore[assignment]
        return self

    def forward(self, noisy: Tensor, noise_level: Tensor, labels: Tensor) -> list[Tensor]:
        """Make one prediction per branch, coarse to fine.

        The last one has the input's size, and is the one to sample with.

        Args:
            noisy: ``[B, C, H, W]`` latents or pixels with noise.
            noise_level: ``[B]``, n / 1000 * 8 - 4 for diffusion step n (see
                :func:`dimr_model.diffusion.noise_level`).
            labels: ``[B]`` int64 in 0..num_classes; ``num_classes`` is the null class.

        Raises:
            ValueError: the network was built for inputs of another shape, or a label has no embedding. Labels
                are looked at on the CPU only, because on a GPU every call would have to wait for it.
        """
        config = self.architecture
        expected = (config.channels, config.input_size, config.input_size)
        if tuple(noisy.shape[1:]) != expected:
            shape = ", ".join(map(str, expected))
            raise ValueError(f"noisy has shape {tuple(noisy.shape)}, this network takes [B, {shape}]")
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            self.check_labels(labels)
        tau = noise_level / 4  # n / 500 - 1, as in the released code
        features: list[Tensor] = []  # y_0 (Section 4.1)
        predictions = []
        for branch in self.branches:
            # Eq. 1: from x_t and y_{r-1} to branch r's prediction and y_r.
            prediction, features = branch(noisy, features, tau, labels)
            predictions.append(prediction)
        return predictions

    def check_labels(self, labels: Tensor) -> None:
        """Raise a ValueError for ``labels [B]`` that there is no embedding for."""
        config = self.architecture
        if config.class_conditioning == "none" or not labels.numel():
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= config.num_embeddings:
            null = (
                f" ({config.null_class} is the null class)"
                if config.has_null_class
                else ", without null class"
            )
            raise ValueError(f"labels {low}..{high} must be in 0..{config.num_embeddings - 1}{null}")

    @classmethod
    def from_released(cls, source: dict[str, Tensor] | str | PathLike[str], num_heads: int = 16) -> "DiMR":
        """Build the network of a released checkpoint (``DiMR-G_2R_800epochs.pth``) and load its weights.

        Args:
            source: the state dict, or the path of the file that holds it; read without unpickling code.
            num_heads: heads of the Transformer branch, 16 in both released models; no shape depends on them.

        Raises:
            ValueError: a key or a shape does not fit; the message lists them.
        """
        config, weights = read_released(source, num_heads)
        with torch.device("meta"):
            model = cls(config)
        check_fit(weights, {name: tuple(p.shape) for name, p in model.named_parameters()})
        model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
        return model.requires_grad_(True)
