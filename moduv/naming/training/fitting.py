"""What every training of naming ends with."""

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
    """`fit`, with its options, and the weights beside its state as `weights.pth`, whole on every process after."""
    fit(model, step, data, loop, out, label=out.name, **options)
    if distributed.is_main():
        checkpoint.save_weights(out / WEIGHTS, model.state_dict())
    distributed.barrier()
