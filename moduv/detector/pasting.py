"""A mask head's small masks in the image, each pasted into its box's rectangle only."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from moduv.instances.crops import Crop


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Crop]:
    """Scale masks (N, M, M) to their boxes (N, 4) XYXY in an image of `size` (H, W).

    The numbers are those of torchvision's `paste_masks_in_image`. Masks are cut at the image's border, and
    have no pixels where the box lies beside the image.
    """
    padded, scale = expand_masks(masks.detach().float().cpu()[:, None], padding=1)
    whole = expand_boxes(boxes.detach().float().cpu(), scale).long().tolist()
    return [_paste(mask[None], box, size) for mask, box in zip(padded, whole, strict=True)]


def _paste(mask: Tensor, box: list[int], size: tuple[int, int]) -> Crop:
    """One mask (1, 1, m, m) in its box, whose corners are pixels that belong to it."""
    left, top, right, bottom = box
    shape = max(bottom - top + 1, 1), max(right - left + 1, 1)
    pixels = functional.interpolate(mask, size=shape, mode="bilinear", align_corners=False)[0, 0]
    y0, x0 = min(max(top, 0), size[0]), min(max(left, 0), size[1])
    y1, x1 = max(min(bottom + 1, size[0]), y0), max(min(right + 1, size[1]), x0)
    inside = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
    return Crop(y0, x0, np.ascontiguousarray(inside.numpy()))
