"""A diffusers pipeline that turns class labels into images in one call."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines import pipeline_loading_utils
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from dimr_model.config import Guidance, Prediction, ProcessKind, Sampler, Schedule
from dimr_model.diffusion import make_process
from dimr_model.network import DiMR
from dimr_model.objective import check_prediction
from dimr_model.sampling import initial_noise, sample, step_noise

# diffusers stores the components whose classes stand here, and leaves out others without a word.
_METHODS = {"DiMR": ["save_pretrained", "from_pretrained"]}
pipeline_loading_utils.LOADABLE_CLASSES["dimr_model"] = _METHODS
pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(_METHODS)


class DiMRPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers ships no types
    """Samples images of given classes.

    ``save_pretrained`` and ``from_pretrained`` work as for any diffusers pipeline.

    Args:
        model: the network.
        vae: an ``AutoencoderKL`` that decodes latents; None where the network samples pixels.
        schedule: the noise schedule that the network was trained with; a flow has none.
        prediction: what the network was trained to predict.
        process: diffusion or flow.
        time_shift: the flow's shift for its resolution.
    """

    _optional_components: ClassVar[list[str]] = ["vae"]

    def __init__(
        self,
        model: DiMR,
        vae: Any = None,
        schedule: Schedule = "scaled_linear",
        prediction: Prediction = "epsilon",
        process: ProcessKind = "diffusion",
        time_shift: float = 1.0,
    ) -> None:
        super().__init__()
        check_prediction(process, prediction)
        self.register_modules(model=model, vae=vae)
        self.register_to_config(
            schedule=schedule, prediction=prediction, process=process, time_shift=time_shift
        )

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        sampler: Sampler | str | None = None,
        steps: int = 50,
        guidance: Guidance | float = 1.4,
        seed: int = 0,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Sample one image per label; image i starts from noise that is a function of (``seed``, i).

        Args:
            class_labels: classes to sample, in 0..num_classes - 1 (``num_classes`` samples without a class).
            sampler: a name with ``steps``, or a :class:`dimr_model.config.Sampler`; None: ``released``, and
                for a flow ``dpm_solver_multistep``.
            guidance: a constant scale (s of Section 3; 1 is none), or a :class:`dimr_model.config.Guidance`.
            output_type: ``pil``, ``np`` (``[B, H, W, C]`` in [0, 1]) or ``pt`` (``[B, C, H, W]`` in [0, 1]).

        Raises:
            ValueError: a label is out of range, guidance is asked of a network without null class, or the
                sampler is made for the other process.
        """
        architecture, labels = self.model.architecture, torch.tensor(list(class_labels), dtype=torch.int64)
        self.model.check_labels(labels)
        if isinstance(guidance, int | float):
            guidance = Guidance(kind="none") if guidance == 1 else Guidance(scale=float(guidance))
        if guidance.kind != "none" and not architecture.has_null_class:
            raise ValueError("this network has no null class, which guidance needs; use guidance=1")
        if sampler is None:
            sampler = "dpm_solver_multistep" if self.config.process == "flow" else "released"
        if isinstance(sampler, str):
            sampler = Sampler(kind=sampler, steps=steps)  # type: ignore[arg-type]
        shape = (architecture.channels, architecture.input_size, architecture.input_size)
        parameter = next(self.model.parameters())
        clean = sample(
            self.model.eval(),
            noise=initial_noise(seed, list(range(len(labels))), shape).to(parameter),
            labels=labels.to(parameter.device),
            schedule=make_process(self.config.process, self.config.schedule, self.config.time_shift),
            prediction=self.config.prediction,
            sampler=sampler,
            guidance=guidance,
            clip=self.vae is None,
            fresh_noise=step_noise(seed, list(range(len(labels))), shape),
        )
        return ImagePipelineOutput(images=self._images(clean, output_type))

    def _images(self, clean: Tensor, output_type: str) -> Any:
        if self.vae is not None:
            latents = clean.to(self.vae.dtype) / self.vae.config.scaling_factor
            clean = torch.cat([self.vae.decode(one[None]).sample for one in latents])
        images = ((clean.float() + 1) / 2).clamp(0, 1).cpu()
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(arrays) if output_type == "pil" else arrays
