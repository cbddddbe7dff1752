"""A small training of stage 1, for the tests that run it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from moduv.engine import checkpoint
from moduv.engine.loop import LoopConfig
from moduv.motion.phases import PHASES, MotionConfig
from moduv.motion.train import MotionTrainingConfig

LOSSES = MotionConfig(
    min_depth=0.5, flow_parametrisation="residual", flow_unit="depth", motion_input="warped"
)


def config(steps: int = 2, **changes: object) -> MotionTrainingConfig:
    loop = LoopConfig(steps=steps, batch_size=2, learning_rate=1e-3, save_every=1, log_every=1)
    loops = dict.fromkeys(PHASES, loop)
    plain = MotionTrainingConfig(
        loops, depth_model="street", height=64, width=96, losses=LOSSES, ramp=0.5
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.stem}.{key}": value
        for path in sorted((out / "weights").glob("*.pth"))
        for key, value in checkpoint.load(path).items()
        if torch.is_tensor(value)
    }
