"""Networks on disk: one `.pth` a module in the official form, and what encoders start from.

The official form is Monodepth2's: encoders, whose names end in `_enc`, hold the `height` and `width` they
were trained at. Published encoders start from ImageNet (ResNet) or Lite-Mono's own pre-training.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from moduv.depth.networks.litemono import LiteMonoEncoder
from moduv.depth.networks.resnet import ResNetEncoder, stacked
from moduv.engine import checkpoint
from moduv.engine.errors import InputError

RESNET_SOURCE = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
LITEMONO_SOURCE = "the repository of its authors, github.com/noahzn/Lite-Mono"
SIZE = ("height", "width")
LARGEST = 1 << 13
"""Pixels that a side of the networks' input may have."""
CLASSIFIER = ("norm.", "head.", "head_dist.")
"""Modules of Lite-Mono's pre-training that its depth encoder does not have."""


def load_modules(model: nn.Module, names: Iterable[str], folder: Path) -> tuple[int, int] | None:
    """Load a model's modules from a folder of one `.pth` each.

    Returns:
        The height and width the first module was trained at, where its file tells.

    Raises:
        InputError: naming the file that is missing or the keys that do not fit.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder; check the path or train it first.")
    contents = {name: read_module(folder / f"{name}.pth") for name in names}
    for name, (state, _) in contents.items():
        checkpoint.load_strict(model.get_submodule(name), state, folder / f"{name}.pth")
    return next(iter(contents.values()))[1]


def save_modules(
    model: nn.Module, names: Iterable[str], folder: Path, height: int, width: int
) -> None:
    """Write one `.pth` a module; the encoders' files also say at which size they were trained."""
    for name in names:
        state = model.get_submodule(name).state_dict()
        content = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        size = {"height": height, "width": width} if name.endswith("_enc") else {}
        checkpoint.save(folder / f"{name}.pth", {**content, **size})


def read_module(path: Path) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """State dict and, where the file tells it, training size of one module."""
    content = checkpoint.load(path)
    told = [content.pop(key, None) for key in SIZE] if isinstance(content, dict) else []
    state = checkpoint.as_state(content, path)
    if any(side is None for side in told):
        return state, None
    try:
        height, width = (int(side) for side in told)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        height, width = 0, 0
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise InputError(
            f"{path}: 'height' and 'width' are no sizes in pixels; give an official checkpoint folder."
        )
    return state, (height, width)


def load_initial_weights(
    model: nn.Module, resnet: str | Path = "", litemono: str | Path = ""
) -> list[str]:
    """Give a model's encoders, the children whose names end in `_enc`, their initial weights.

    Args:
        model: fresh networks; the `street` model has no initial weights.
        resnet: torchvision's ResNet-18 state dict, for every ResNet encoder; "": from scratch.
        litemono: Lite-Mono-8M's pre-training checkpoint, for its encoder; "": from scratch.

    Returns:
        Names of the encoders that start from scratch.

    Raises:
        InputError: when a file is missing (saying where to get it) or does not fit.
    """
    scratch = []
    for name, encoder in model.named_children():
        if not name.endswith("_enc"):
            continue
        if isinstance(encoder, ResNetEncoder) and resnet:
            load_resnet(encoder, resnet)
        elif isinstance(encoder, LiteMonoEncoder) and litemono:
            _load_litemono(encoder, existing_weights(litemono, "litemono_weights", LITEMONO_SOURCE))
        else:
            scratch.append(name)
    return scratch


def existing_weights(path: str | Path, option: str, source: str) -> Path:
    """A file of initial weights. Raises InputError saying where to get it when it is missing."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such initial weights; run moduv checkpoints fetch (from {source}) or train from "
            f"scratch with --config.{option} ''."
        )
    return path


def load_resnet(encoder: ResNetEncoder, path: str | Path) -> None:
    """Give an encoder ImageNet weights; the first layer is repeated for every stacked frame, divided by their number.

    Raises InputError when the file is missing (saying where to get it) or does not fit.
    """
    path = existing_weights(path, "resnet_weights", RESNET_SOURCE)
    state = checkpoint.load_weights(path)
    first = state.get("conv1.weight")
    if first is not None and first.ndim == 4 and first.is_floating_point():
        frames = encoder.encoder.conv1.in_channels // 3
        state["conv1.weight"] = stacked(first, frames)
    checkpoint.load_strict(encoder.encoder, state, path)


def _load_litemono(encoder: LiteMonoEncoder, path: Path) -> None:
    """Lite-Mono's weights, without the classifier of its pre-training."""
    content = checkpoint.load(path)
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds no state dict; give Lite-Mono-8M's pre-training file.")
    tensors = checkpoint.as_state({k: v for k, v in state.items() if torch.is_tensor(v)}, path)
    own = {key: value for key, value in tensors.items() if not key.startswith(CLASSIFIER)}
    checkpoint.load_strict(encoder, own, path)
