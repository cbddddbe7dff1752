"""The benchmark of depth compares what is the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from moduv import geometry

PATH = Path(__file__).resolve().parent.parent / "benchmarks/depth.py"


def test_a_forward_warp_equals_the_loop_that_it_is_timed_against() -> None:
    spec = importlib.util.spec_from_file_location("depth_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    depth = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = depth
    spec.loader.exec_module(depth)
    batch = depth.road_batch(2, 192, 256)
    (image, warped), (other_image, other) = geometry.forward_warp(*batch), depth.looped(*batch)
    # Coordinates on the border of two pixels may fall on either side.
    assert ((warped - other).abs() < 1e-3).float().mean() > 0.999
    assert ((image - other_image).abs() < 1e-2).float().mean() > 0.99
