"""The golden vectors of depth in moving regions."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def arrays(shared: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    return dict(np.load(shared / "golden" / "dynamic_depth" / f"{name}.npz"))


def expected(shared: Path, name: str) -> Any:
    """The numbers of a case."""
    return json.loads((shared / "golden" / "dynamic_depth" / f"{name}.json").read_text())


def tensors(shared: Path, name: str) -> dict[str, Tensor]:
    """The arrays of a case as tensors; images as networks take them, (B, 3, H, W) in [0, 1]."""
    found = {key: torch.from_numpy(value) for key, value in arrays(shared, name).items()}
    if "images" in found:
        found["images"] = found["images"].movedim(-1, 1).float() / 255
    return found


def fill(shared: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with values that follow from its keys."""
    spec = importlib.util.spec_from_file_location("fill", shared / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    filled: dict[str, Tensor] = module.fill_state_dict(state)
    return filled


def filled(shared: Path, network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with weights that follow from its keys."""
    network.load_state_dict(fill(shared, network.state_dict()))
    return network.eval()
