"""Files of correspondence networks: the official form, which this library extends.

A file is a dictionary. `model` holds the state dict, whose keys may start with `module.`. This library adds the `feature`
that did best, the `network` (width and stride), `score` and `step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from moduv.engine import checkpoint
from moduv.engine.config import build
from moduv.engine.errors import InputError

WEIGHTS = "weights.pth"
"""Name of the weights in the folder of a training."""
FEATURES = ("res3", "res4", "key")
PUBLISHED_FEATURE = "res4"
"""The feature that did best on all four data sets."""
STRIDES = (8, 4)
"""Strides that the network can have; 8 is the published one."""
NARROWEST, WIDEST = 8, 1024
"""Channels of the first stage. With AVX2, convolutions of torch 2.14 (oneDNN 3.12) write beyond the gradient of fewer."""
NETWORK = "fast_net."
"""Prefix of all keys of the network."""
WRAPPER = "module."
"""Prefix of all keys after parallel training."""
NUMPY_SCALAR = (
    *(
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")
    ),
    np.dtype,
    type(np.dtype(np.float64)),
)
"""Types in the official `score`, under their names in NumPy 1 and 2, which may be unpickled."""


@dataclass(frozen=True)
class NetworkConfig:
    """Width and stride of the network; the defaults are the published ones."""

    width: int = 64
    """Channels of the first stage."""
    stride: int = 8
    """Stride of the features in pixels: 8, or 4 for small frames, at four times the cost."""

    def __post_init__(self) -> None:
        if not NARROWEST <= self.width <= WIDEST or self.stride not in STRIDES:
            raise InputError(
                f"the correspondence network has width {self.width} and stride {self.stride}; use a width of "
                f"{NARROWEST} to {WIDEST} and one of the strides {STRIDES}."
            )


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file."""

    state: Mapping[str, Tensor]
    network: NetworkConfig
    """The published network where the file does not say, as official ones."""
    feature: str = PUBLISHED_FEATURE
    """The feature that propagates best."""
    score: float = 0.0
    """Mean J&F of this feature on held-out videos, 0 to 1; 0 without held-out videos."""
    step: int = 0
    """Training step of the measurement."""


def weights_file(path: str | Path) -> Path:
    """The file of weights that a path names: the file itself, or the folder of a training."""
    path = Path(path)
    return path / WEIGHTS if path.is_dir() else path


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file, or the one in the folder of a training.

    Raises InputError when it is missing, broken, or no checkpoint of a correspondence network.
    """
    path = weights_file(path)
    content = checkpoint.load(path, NUMPY_SCALAR)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: is no checkpoint of a correspondence network; give another file."
        )
    state = checkpoint.as_state(content.get("model", content), path)
    network = build(NetworkConfig, content.get("network", {}), f"{path}: network")
    feature = content.get("feature", PUBLISHED_FEATURE)
    if feature not in FEATURES:
        raise InputError(f"{path}: 'feature' is {feature!r:.80}; use one of {', '.join(FEATURES)}.")
    plain = checkpoint.without_prefix(state, WRAPPER, path)
    if not any(key.startswith(NETWORK) for key in plain):
        raise InputError(
            f"{path}: holds another network than one of correspondences; give what moduv correspondence train wrote, "
            "or an official file."
        )
    return Checkpoint(plain, network, feature, *_record(content))


def _record(content: dict) -> tuple[float, int]:
    """Score and step of this library's files; those of official files have other units."""
    score, step = content.get("score"), content.get("step")
    return (score, step) if type(score) is float and type(step) is int else (0.0, 0)


def write_checkpoint(path: Path, content: Checkpoint) -> None:
    """Write a file, atomically, with tensors on the CPU in contiguous form."""
    model = {key: value.detach().cpu().contiguous() for key, value in content.state.items()}
    beside = {"feature": content.feature, "network": asdict(content.network)}
    score = {"score": float(content.score), "step": content.step}
    checkpoint.save(path, {"model": model, **beside, **score})
