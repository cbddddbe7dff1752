"""Published weights: the only place that knows how their files are wrapped."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.naming.encoders import WRAPPER
from moduv.naming.patch_clip import PatchClip
from moduv.naming.slots import Grouping
from moduv.naming.videomae import Pretraining

KEYS = ("model", "state_dict")
"""Under which files of trainings hold the weights."""
POSITIONS = "decoder.pos_embed"


def load_pretraining(model: Pretraining, path: str | Path) -> None:
    """Load a VideoMAE training's file. Raises InputError when it is of another network."""
    checkpoint.load_strict(model, read_state(path), path)


def load_encoder_weights(model: Grouping, path: str | Path) -> None:
    """Load the encoder of a VideoMAE training's file into a grouping network.

    Its classification head stays. Raises InputError when the file is of another network.
    """
    state = read_state(path)
    start = "encoder."
    own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not own:
        raise InputError(f"{path}: holds no encoder of a VideoMAE training; give its file.")
    head = {f"head.{key}": value for key, value in model.model.head.state_dict().items()}
    checkpoint.load_strict(model.model, {**head, **own}, path)


def load_grouping(model: Grouping, path: str | Path) -> None:
    """Load a grouping training's file, also of those whose positions are flat.

    Raises InputError when it is of another network.
    """
    state = read_state(path)
    positions = state.get(POSITIONS)
    shape = model.decoder.pos_embed.shape
    if positions is not None and positions.numel() == shape.numel():
        state[POSITIONS] = positions.reshape(shape)
    checkpoint.load_strict(model, state, path)


def load_patch_clip(model: PatchClip, path: str | Path) -> None:
    """Load a patch-CLIP training's file. Raises InputError when it is of another network."""
    checkpoint.load_strict(model, read_state(path), path)


def load_tower(model: PatchClip, path: str | Path) -> None:
    """Load the image tower of a CLIP model of open_clip. Raises InputError when it is of another network."""
    state = read_state(path)
    start = "visual."
    own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if not own:
        raise InputError(f"{path}: holds no image tower of open_clip; give a CLIP model's file.")
    checkpoint.load_strict(model.model, own, path)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, without what trainings wrap around them.

    Raises InputError when it is missing or holds no tensors.
    """
    content = checkpoint.load(path, _known())
    for key in KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return checkpoint.without_prefix(checkpoint.as_state(content, path), WRAPPER, path)


def _known() -> list[type]:
    """What VideoMAE's trainer saves beside tensors: its options."""
    from argparse import Namespace

    return [Namespace]
