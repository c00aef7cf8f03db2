"""CUDA tensors on a machine without a GPU: their numbers lie on the CPU, and torch takes them for CUDA's.

An operator that is given tensors of both devices raises, as on a GPU. What would make the host wait for the
GPU, or copy between them, is noted. Speed, memory, kernels' rounding and NCCL are not simulated.

:func:`pretend` changes torch for the whole process, so these tests run in processes of their own.
"""

import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
READ_BY_THE_HOST = (
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten.equal, aten.is_nonzero,
    aten._unique2, aten.unique_dim,
)  # fmt: skip
BETWEEN_DEVICES = (aten.copy_, aten._to_copy)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
ROOMS = ("/dimr_model/", "/orchestrator/", "/diffusers/")


class OnGPU(torch.Tensor):
    """A tensor that says it is on the GPU; ``numbers`` are on the CPU."""

    numbers: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "OnGPU":
        """Wrap a tensor of the CPU."""
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, layout=numbers.layout, device=GPU,
        )  # type: ignore[attr-defined]  # fmt: skip
        made.numbers = numbers.detach()
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator outside of :class:`SimulatedGPU`."""
        return _run(func, args, kwargs or {}, Counter())


class SimulatedGPU(TorchDispatchMode):
    """Inside, ``device="cuda"`` works; ``events`` counts what a GPU would be waited for, and the copies."""

    def __init__(self) -> None:
        super().__init__()
        self.events: Counter[str] = Counter()

    def __enter__(self) -> "SimulatedGPU":
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._before)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note what it would wait for."""
        return _run(func, args, kwargs or {}, self.events)


def pretend() -> None:
    """Have torch take it that a GPU is there and ready."""
    torch.cuda._lazy_init = lambda: None  # type: ignore[assignment]
    torch._C._ensureCUDADeviceGuardSet()
    torch.cuda.is_available = lambda: True  # type: ignore[assignment]
    torch.cuda.device_count = lambda: 1  # type: ignore[assignment]
    torch.cuda.current_device = lambda: 0  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *device: None  # type: ignore[assignment]
    torch.cuda.is_bf16_supported = lambda *how: True  # type: ignore[assignment]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.backends.cudnn.enabled = False  # Its operators are not the CPU's.


def _run(func: Any, args: Any, kwargs: dict[str, Any], events: Counter[str]) -> Any:
    if func is torch.ops.prim.device.default:
        return GPU if isinstance(args[0], OnGPU) else args[0].device
    kind, device = func._overloadpacket, kwargs.get("device")
    if kind is aten._fused_sdp_choice:
        return 0  # Attention by plain products, which the CPU has too.
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, OnGPU)]
    # A tensor with no dimension is a number to CUDA's operators, wherever it is.
    on_host = [tensor for tensor in tensors if not isinstance(tensor, OnGPU) and tensor.dim()]
    _refuse_mixed(kind, args, on_gpu, on_host)
    # A mask is counted before it can index.
    is_masked = kind in INDEXING and any(one.dtype == torch.bool for one in on_gpu)
    if is_masked or (on_gpu and kind in READ_BY_THE_HOST):
        events[f"the host reads {kind.__name__} ({_place()})"] += 1
    if on_gpu and on_host and kind in INDEXING:
        events[f"an index is copied to the GPU ({_place()})"] += 1
    goes_to_gpu = _goes_to_gpu(kind, device, args, bool(on_gpu))
    if kind in BETWEEN_DEVICES:
        source = args[1] if kind is aten.copy_ else args[0]
        if isinstance(source, OnGPU) != goes_to_gpu:
            waits = "" if kwargs.get("non_blocking") else ", waiting"
            events[f"{'to' if goes_to_gpu else 'from'} the GPU{waits} ({_place()})"] += 1
    plain_args, plain_kwargs = tree_map_only(OnGPU, lambda one: one.numbers, (args, kwargs))
    if device is not None:
        plain_kwargs = {**plain_kwargs, "device": torch.device("cpu")}
    plain_kwargs.pop("pin_memory", None)
    result = func(*plain_args, **plain_kwargs)
    if not goes_to_gpu or kind is aten._local_scalar_dense:
        return result
    wrapped = tree_map_only(torch.Tensor, OnGPU, result)
    is_new = device is not None or func is aten.detach.default or kind is aten._to_copy
    return wrapped if is_new else return_and_correct_aliasing(func, args, kwargs, wrapped)


def _refuse_mixed(kind: Any, args: Any, on_gpu: list[Any], on_host: list[Any]) -> None:
    if kind in INDEXING:
        if on_gpu and not isinstance(args[0], OnGPU):
            raise RuntimeError(f"{kind.__name__}: indices on the GPU into a tensor on the CPU")
    elif on_gpu and on_host and kind not in BETWEEN_DEVICES:
        shapes = [tuple(tensor.shape) for tensor in on_host]
        raise RuntimeError(f"{kind.__name__}: all tensors must be on one device; {shapes} are on the CPU")


def _goes_to_gpu(kind: Any, device: Any, args: Any, has_gpu: bool) -> bool:
    if kind is aten.copy_:
        return isinstance(args[0], OnGPU)
    return has_gpu if device is None else torch.device(device).type == GPU.type


def _place() -> str:
    """The function of ours, or of diffusers, that is running."""
    frames = [frame for frame in traceback.extract_stack() if any(room in frame.filename for room in ROOMS)]
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].name}" if frames else "elsewhere"
