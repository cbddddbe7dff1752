"""A small street world and a small training of stage 1, for the tests that run it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moduv.engine import checkpoint
from moduv.engine.loop import LoopConfig
from moduv.motion.phases import PHASES, MotionConfig
from moduv.motion.train import MotionTrainingConfig
from moduv.street.dataset import StreetConfig, render_dataset

LOSSES = MotionConfig(
    min_depth=0.5, flow_parametrisation="residual", flow_unit="depth", motion_input="warped"
)
_RENDERED: list[Path] = []


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of six frames each to train on and to look at; eight triplets each."""
    if not _RENDERED:  # every module that imports the fixture has its own
        root = tmp_path_factory.mktemp("street")
        render_dataset(root, StreetConfig(train_clips=2, val_clips=2, frames_per_clip=6, workers=1))
        _RENDERED.append(root)
    return _RENDERED[0]


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


def launch(processes: int, *arguments: object) -> str:
    """Run Python under torchrun; returns what it printed."""
    torchrun = [f"--nproc_per_node={processes}", "--standalone"]
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
