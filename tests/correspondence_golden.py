"""The golden vectors of dense correspondences, and a network filled with the weights that made them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv.correspondence.network import CorrespondenceNet


def golden(shared: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    return dict(np.load(shared / "golden" / "correspondence" / f"{name}.npz"))


def expected(shared: Path, name: str) -> Any:
    """The numbers of a case."""
    return json.loads((shared / "golden" / "correspondence" / f"{name}.json").read_text())


def filled_net(shared: Path) -> CorrespondenceNet:
    """The published network with weights that follow from its keys."""
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = CorrespondenceNet()
    net.load_state_dict(module.fill_state_dict(net.state_dict()))
    return net


def images_of(frames: np.ndarray) -> Tensor:
    """Frames (…, H, W, 3) uint8 as the network takes them, (…, 3, H, W) in [0, 1]."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 255
