"""A detector's convolutions in half precision, for inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

PARTS = ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.mask_head")
"""Nearly all of the arithmetic. What holds coordinates is not among them: a position of 1,000 pixels is
off by as much as 4 in bfloat16."""


def run_in_half(model: GeneralizedRCNN, dtype: torch.dtype) -> None:
    """From now on run the heavy parts of a detector in a 16-bit type; they give float32 as before."""
    kind = next(model.parameters()).device.type
    for name in PARTS:
        part = model.get_submodule(name)
        part.forward = _in_half(part.forward, kind, dtype)


def _in_half(forward: Callable[..., Any], kind: str, dtype: torch.dtype) -> Callable[..., Any]:
    def halved(*inputs: Any) -> Any:
        with torch.autocast(kind, dtype):
            result = forward(*inputs)
        return tree_map(torch.Tensor.float, result)

    return halved
