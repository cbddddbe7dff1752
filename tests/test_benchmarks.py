"""What the benchmarks compare computes the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def motion() -> ModuleType:
    spec = importlib.util.spec_from_file_location("motion_benchmark", ROOT / "benchmarks/motion.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("phase", ["disp_init", "mask_init", "fine_tune"])
def test_both_modes_of_a_training_step_have_the_same_losses(motion: ModuleType, phase: str) -> None:
    terms = {
        mode: motion.Training("monodepthv2", (64, 96), 1, phase, mode).step()
        for mode in ("ours", "baseline")
    }
    assert terms["ours"].keys() == terms["baseline"].keys()
    for name, value in terms["ours"].items():
        if name not in {"loss", "above_ground"}:  # the ground is found by other random draws
            torch.testing.assert_close(value, terms["baseline"][name], rtol=1e-3, atol=1e-6)


def test_the_looped_ground_plane_is_the_same_plane(motion: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(2, 1, 400, generator=generator)
    points = torch.stack([x, 0.1 * x - 0.05 * z + 0.4, z], 1)  # (1, 3, 400)
    plane = motion.looped_plane(points, generator)
    torch.testing.assert_close(plane, torch.tensor([[0.1, -0.05, 0.4]]), atol=1e-3, rtol=0)
