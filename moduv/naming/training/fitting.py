"""The training loop of the networks of this package, and their final weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from moduv.engine import checkpoint, distributed
from moduv.engine.loop import LoopConfig, Sampled, Step, fit

WEIGHTS = "weights.pth"


def fit_and_save(
    model: nn.Module, step: Step, data: Sampled, loop: LoopConfig, out: Path, **options: Any
) -> None:
    """Call `fit` with its options, and write the weights to `weights.pth`, which all processes may read afterwards."""
    fit(model, step, data, loop, out, label=out.name, **options)
    if distributed.is_main():
        checkpoint.save_weights(out / WEIGHTS, model.state_dict())
    distributed.barrier()
