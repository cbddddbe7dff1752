"""Weights and training state on disk, without running pickles."""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path

SAFETENSORS = ".safetensors"
"""Suffix of files of named tensors, which many libraries read."""


def save(path: str | Path, content: Any) -> None:
    """Write tensors, numbers and containers of them, atomically."""
    # The same content is to be the same file. Given a path, torch writes its name into the archive.
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(_interned(content), stream)


def _interned(content: Any) -> Any:
    """The content with equal strings as one object: pickle writes an object once, and equal ones each.

    Keys of a state that was loaded are other objects than those that torch adds later.
    """
    if isinstance(content, dict):
        return {_interned(key): _interned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_interned(value) for value in content]
    return sys.intern(content) if type(content) is str else content


def load(path: str | Path) -> Any:
    """Read what `save` wrote, or a safetensors file, on the CPU, refusing pickles that run code.

    Raises InputError when the file is missing, broken, or holds more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; check the path or train it first.")
    if path.suffix == SAFETENSORS:
        with _safetensors(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path}: not readable as a checkpoint of plain tensors ({reason}); download or train it again."
        ) from None


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write a flat state dict, atomically, with tensors on the CPU in contiguous form."""
    save(path, {key: value.detach().cpu().contiguous() for key, value in state_dict.items()})


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a flat state dict. Raises InputError when the file is something else."""
    content = load(path)
    if not isinstance(content, dict) or not all(torch.is_tensor(v) for v in content.values()):
        raise InputError(f"{path}: holds no flat state dict of tensors; give a weights file.")
    return content


def metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors; nothing for other files."""
    path = Path(path)
    if path.suffix != SAFETENSORS or not path.is_file():
        return {}
    with _safetensors(path) as file:
        return file.metadata() or {}


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights into a module, or leave it untouched and say what differs.

    Batch counters (`num_batches_tracked`) do not count: frozen normalisation has none.
    Raises InputError naming missing, unexpected and mis-shaped keys.
    """
    own = module.state_dict()
    missing, unexpected = (
        [k for k in keys if k not in others and not k.endswith("num_batches_tracked")]
        for keys, others in ((own, state_dict), (state_dict, own))
    )
    shapes = [k for k in own if k in state_dict and own[k].shape != state_dict[k].shape]
    if missing or unexpected or shapes:
        parts = [
            _summary("missing", missing),
            _summary("unexpected", unexpected),
            _summary(
                "of another shape",
                [f"{k} {tuple(state_dict[k].shape)} for {tuple(own[k].shape)}" for k in shapes],
            ),
        ]
        raise InputError(
            f"{source}: the weights do not fit the network ({'; '.join(filter(None, parts))}); "
            "give the checkpoint of this network or choose the preset it was trained with."
        )
    module.load_state_dict(dict(state_dict), strict=False)


def _summary(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"{len(keys)} {what}: {shown}"


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    """An open safetensors file. Raises InputError when it is broken or the package is missing."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: reading it needs the package 'safetensors'; install it with "
            "pip install -e '.[export]'."
        ) from None
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not readable as safetensors ({error}); download or export it again."
        ) from None
