"""What a saved state of a training must hold for the training to go on."""

from __future__ import annotations

import math
from typing import Any

import torch

from moduv.engine import checkpoint

ADAM = {"step", "exp_avg", "exp_avg_sq"}
MOMENTS = {"adam": ADAM, "adamw": ADAM, "sgd": {"momentum_buffer"}}
"""What the optimisers keep of every parameter."""


def state_problem(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, kind: str, steps: int
) -> str | None:
    """Why a training of so many steps cannot go on from a state, in words; None where it can.

    Args:
        state: what was saved.
        optimizer: of the networks.
        kind: its name, one of `MOMENTS`.
        steps: of the training.
    """
    missing = sorted({"step", "modules", "optimizer", "sums"} - state.keys())
    if missing:
        return f"it lacks {missing[0]!r}"
    step, sums = state["step"], state["sums"]
    if type(step) is not int or not 0 < step <= steps:
        return f"its step is {step!r:.80} of {steps}"
    if not isinstance(sums, dict) or not all(
        isinstance(name, str) and isinstance(value, float) and math.isfinite(value)
        for name, value in sums.items()
    ):
        return "its 'sums' are no finite numbers"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    content = state["optimizer"]
    moments = content.get("state") if isinstance(content, dict) else None
    if not moments or not isinstance(moments, dict):
        return "its 'optimizer' is empty"
    for number, tensors in moments.items():
        known = type(number) is int and 0 <= number < len(parameters) and isinstance(tensors, dict)
        if not known or tensors.keys() != MOMENTS[kind]:
            return "its 'optimizer' is another one's"
        for name, value in checkpoint.as_state(tensors, "the optimizer").items():
            shape = torch.Size() if name == "step" else parameters[number].shape
            if value.shape != shape or not value.is_floating_point() or not value.isfinite().all():
                return f"{name!r} in its 'optimizer' is another network's or not finite"
    return None
