"""CUDA without a GPU: tensors there have a shape, a type and a device, but no values."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

import moduv

CUDA = torch.device("cuda:0")
FOUND = 3
"""How many there are of whatever only the GPU can count."""
PACKAGES = tuple(str(Path(package.__file__ or "").parent) for package in (moduv, torchvision))


class FakeCuda(FakeTensorMode):
    """Tensors on the CPU are real, those on CUDA fake; an operation on both is an error, as on a GPU.

    What the host can only learn by waiting for the GPU is made up, and who asks for it is noted.

    Attributes:
        waits: functions that wait for what the GPU computes; `torchvision` for any of its own.
        copies: functions that copy to the GPU and wait until it has finished what it did before.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits: set[str] = set()
        self.copies: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        target = next((leaf.type for leaf in leaves if isinstance(leaf, torch.device)), None)
        if not fake and target != "cuda":
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and func.namespace == "aten":
            with self:  # there, composed operations arrive as they are
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if not fake and tensors and not kwargs.get("non_blocking"):
            self.copies.add(_asking())
        if fake and target == "cpu":
            self.waits.add(_asking())
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func in UNKNOWN:
            self.waits.add(_asking())
            return UNKNOWN[func](*args)
        return super().__torch_dispatch__(func, types, args, kwargs)


def _rows(like: Tensor, *size: int) -> Tensor:
    return like.new_zeros(size, dtype=torch.int64)


UNKNOWN: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._local_scalar_dense.default: lambda x: int(x.dtype != torch.bool),
    torch.ops.aten.nonzero.default: lambda x: _rows(x, min(FOUND, x.numel()), x.ndim),
    torch.ops.torchvision.nms.default: lambda boxes, *_: _rows(boxes, min(FOUND, len(boxes))),
}
"""Results whose value or size only the GPU knows."""


def _asking() -> str:
    """The innermost running function of ours, if torchvision does not run inside it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_name
        if frame.f_code.co_filename.startswith(PACKAGES) and not name.startswith("<"):
            module = frame.f_globals["__name__"]
            return f"{module}.{name}" if module.startswith("moduv") else "torchvision"
        frame = frame.f_back
    return "the test"


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """CUDA tensors are fake inside, whether or not torch was built for CUDA and finds a GPU."""
    available = patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    bf16 = patch("torch.cuda.is_bf16_supported", lambda *_: True)
    # Autocast switches itself off where there is no GPU.
    with _device_guard(), available, bf16, FakeCuda() as mode:
        yield mode


@contextmanager
def _device_guard() -> Iterator[None]:
    """Lend CUDA the guard of `meta` where torch was built without CUDA.

    Indexing asks for a guard even of tensors without values, and torch replaces only a guard it has.
    """
    if torch.backends.cuda.is_built():
        yield
        return
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libc10.*"))))
    cuda, meta = 1, 14  # of c10::DeviceType
    guards = (ctypes.c_void_p * (meta + 1)).in_dll(
        library, "_ZN3c104impl26device_guard_impl_registryE"
    )
    guards[cuda] = guards[meta]
    try:
        yield
    finally:
        guards[cuda] = None


def to_cuda(model: nn.Module) -> None:
    """Move a model, channels last; `nn.Module.to` meets layers that have two names twice, and fails."""

    def moved(tensor: Tensor) -> Tensor:
        there = tensor.detach().to(CUDA, non_blocking=True)
        return there.to(memory_format=torch.channels_last) if there.ndim == 4 else there

    for part in model.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                gradient = parameter.requires_grad
                part._parameters[name] = nn.Parameter(moved(parameter), gradient)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else moved(buffer)
