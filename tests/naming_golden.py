"""The golden vectors of naming, and networks filled with the weights that made them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moduv.engine.files import read_json
from moduv.naming.encoders import CLIP_MEAN, CLIP_STD
from moduv.naming.videomae import MEAN, STD

Network = TypeVar("Network", bound=nn.Module)


class Golden:
    """The folder of the cases."""

    def __init__(self, shared: Path) -> None:
        self.root = shared / "golden/naming"
        self.inputs = load_file(self.root / "inputs.py")
        self.filling = load_file(shared / "golden/fill.py")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        return dict(np.load(self.root / f"{name}.npz"))

    def numbers(self, name: str) -> Any:
        return read_json(self.root / f"{name}.json")

    def fill(self, model: Network) -> Network:
        """Weights that follow from their keys."""
        model.load_state_dict(self.filling.fill_state_dict(model.state_dict()))
        return model.eval()

    def keys(self, name: str) -> dict[str, list[int]]:
        return self.numbers(f"{name}_state_dict")

    def clip(self, names: Sequence[str], *size: int) -> Tensor:
        """(B, 3, T, H, W), normalised by ImageNet's numbers."""
        clips = [self.frames(name, *size, norms=(MEAN, STD)) for name in names]
        return torch.stack(clips).transpose(1, 2)

    def frames(self, name: str, *size: int, norms: Any = (CLIP_MEAN, CLIP_STD)) -> Tensor:
        """(T, 3, H, W), normalised."""
        pixels = torch.from_numpy(self.inputs.draw_clip(name, *size)).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in norms)
        return (pixels - mean) / std

    def normal(self, name: str, *shape: int) -> Tensor:
        return torch.from_numpy(self.inputs.draw_normal(name, shape))


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(found: Tensor, expected: np.ndarray, relative: float = 1e-4) -> None:
    """Equal but for the order of sums, in shares of the largest value."""
    assert found.shape == expected.shape
    error = np.abs(found.detach().numpy() - expected).max()
    assert error <= relative * np.abs(expected).max(), error


def gradients_agree(model: nn.Module, norms: dict[str, float]) -> None:
    """The norm of every gradient, 1e-3 of itself or of a thousandth of the largest."""
    found = {k: p.grad.norm().item() for k, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == norms.keys()
    slack = 1e-6 * max(norms.values())
    assert found == {key: pytest.approx(value, rel=1e-3, abs=slack) for key, value in norms.items()}


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in model.state_dict().items()}
