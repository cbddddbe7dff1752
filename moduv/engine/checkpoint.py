"""Weights and training state on disk, without running pickles."""

from __future__ import annotations

import contextlib
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, reason_of

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


def load(path: str | Path, allowed: Sequence[Any] = ()) -> Any:
    """Read what `save` wrote, or a safetensors file, on the CPU, refusing pickles that run code.

    Args:
        path: the file.
        allowed: types that it may hold beside plain data, as `torch.serialization.safe_globals` takes them.

    Raises InputError when the file is missing, broken, or holds more than plain data.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file of weights in it.")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; check the path or train it first.")
    if path.suffix == SAFETENSORS:
        with _safetensors(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    try:
        _refuse_compressed(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(allowed)):
            warnings.simplefilter("ignore")  # of its own past forms
            return torch.load(path, map_location="cpu", weights_only=True)
    # A file from elsewhere can break the reader in any way.
    except Exception as error:
        raise InputError(
            f"{path}: not readable as a checkpoint of plain tensors ({reason_of(error)}); give another "
            "file, or move it away and download or train it again."
        ) from None


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError for a zip that would be larger in memory, which torch never writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("its records are compressed")


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write a flat state dict, atomically, with tensors on the CPU in contiguous form."""
    save(path, {key: value.detach().cpu().contiguous() for key, value in state_dict.items()})


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a flat state dict. Raises InputError when the file is something else."""
    return as_state(load(path), path)


def as_state(content: Any, source: str | Path) -> dict[str, Tensor]:
    """A flat state dict. Raises InputError when it is something else."""
    named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not named or not all(_is_dense(value) for value in content.values()):
        raise InputError(f"{source}: holds no flat state dict of tensors; give a weights file.")
    return content


def without_prefix(
    state: Mapping[str, Tensor], prefix: str, source: str | Path
) -> dict[str, Tensor]:
    """A state dict whose keys have lost a prefix. Raises InputError where two keys become one."""
    plain = {key.removeprefix(prefix): value for key, value in state.items()}
    if len(plain) < len(state):
        twice = next(key for key in state if f"{prefix}{key}" in state)
        raise InputError(
            f"{source}: holds both {twice!r:.80} and the same with {prefix!r}; give the weights of one network."
        )
    return plain


def _is_dense(value: Any) -> bool:
    """Whether a value is a tensor with a place in memory for every number."""
    return (
        torch.is_tensor(value)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


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
    Raises InputError naming missing, unexpected and mis-shaped keys, and those whose numbers are of another
    kind or not finite.
    """
    states = module.state_dict(), as_state(state_dict, source)
    own, given = (
        {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        for state in states
    )
    missing, unexpected = (
        [k for k in keys if k not in others] for keys, others in ((own, given), (given, own))
    )
    shared = [key for key in own if key in given]
    shapes = [key for key in shared if own[key].shape != given[key].shape]
    kinds = [key for key in shared if _kind(own[key]) != _kind(given[key])]
    if missing or unexpected or shapes or kinds:
        parts = [
            _summary("missing", missing),
            _summary("unexpected", unexpected),
            _summary(
                "of another shape",
                [f"{k} {tuple(given[k].shape)} for {tuple(own[k].shape)}" for k in shapes],
            ),
            _summary(
                "of another type", [f"{k} {given[k].dtype} for {own[k].dtype}" for k in kinds]
            ),
        ]
        raise InputError(
            f"{source}: the weights do not fit the network ({'; '.join(filter(None, parts))}); "
            "give the checkpoint of this network or choose the preset it was trained with."
        )
    broken = [key for key in shared if not given[key].to(own[key].dtype).isfinite().all()]
    broken += [key for key in shared if key.endswith("running_var") and (given[key] < 0).any()]
    if broken:
        raise InputError(
            f"{source}: holds numbers that are not finite, or variances below 0 "
            f"({_summary('tensors', broken)}); give another checkpoint or train it again."
        )
    counters = {
        key: value
        for key, value in states[1].items()
        if key not in given and key in states[0] and value.shape == states[0][key].shape
    }
    module.load_state_dict({**given, **counters}, strict=False)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Whether a tensor holds real numbers, and whether complex ones."""
    return tensor.is_floating_point(), tensor.is_complex()


def _summary(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(f"{key:.80}" for key in keys[:3]) + (", …" if len(keys) > 3 else "")
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
