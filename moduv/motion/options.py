"""What can be switched on where the hardware has it: batch statistics of all processes, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from moduv.engine.log import say
from moduv.motion.phases import MODULES

Result = TypeVar("Result")


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Let every batch normalisation use the batches of all processes; on CPUs, say that it cannot."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        say("  sync_batch_norm: torch has none for CPUs; each process normalises by its own batch")


def compile_networks(model: nn.Module) -> None:
    """Have the networks compiled when they first run; names and forms of their weights stay."""
    for name in MODULES:
        getattr(model, name).compile()


def or_uncompiled(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Do `work`; where compiling the networks fails, say so and do it again with the plain ones."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and rarely needed

    try:
        return work()
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        say(f"  compile: torch.compile failed ({reason}); the networks run as they are")
        for name in MODULES:
            getattr(model, name)._compiled_call_impl = None
        return work()
