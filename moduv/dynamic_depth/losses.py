"""The loss terms of depth in moving regions (Nguyen et al. 2024, section 3; the first three of Li et al. 2020).

Every function takes one scale's fields and returns a scalar without weight, if nothing else is said.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from moduv import geometry

SSIM_WEIGHT, L1_WEIGHT = 3.0, 2.0
SSIM_C2 = 9e-6
"""Contrast and structure alone: the constant of the luminance is infinite."""
WEIGHT_EPSILON = 0.01
HUBER = 0.005
FARTHEST = 0.9
"""Quantile of the predicted depths beyond which a pixel does not decide about the scale."""


def dissimilarity(first: Tensor, second: Tensor) -> Tensor:
    """3.0 dissimilarity of structure + 2.0 absolute difference of images (B, 3, H, W), (B, 1, H, W)."""
    structure = _structure(first, second).mean(1, keepdim=True)
    return SSIM_WEIGHT * structure + L1_WEIGHT * (first - second).abs().mean(1, keepdim=True)


def _structure(first: Tensor, second: Tensor) -> Tensor:
    """(1 - contrast and structure) / 2 over 3 x 3 pixels; the border repeats what is next to it."""
    mean_1, mean_2 = _mean(first), _mean(second)
    variance_1 = _mean(first.square()) - mean_1.square()
    variance_2 = _mean(second.square()) - mean_2.square()
    covariance = _mean(first * second) - mean_1 * mean_2
    similarity = (2 * covariance + SSIM_C2) / (variance_1 + variance_2 + SSIM_C2)
    return ((1 - F.pad(similarity, (1, 1, 1, 1), mode="reflect")) / 2).clamp(0, 1)


def _mean(images: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels, multiplied by a weight that is divided away again.

    What that rounds is as large as the constant where an image is saturated, and so is part of the loss.
    """
    weight = 1 + WEIGHT_EPSILON
    return F.avg_pool2d(images * weight, 3, 1) * (1 / weight)


def photometric_error(warped: Tensor, neighbours: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Error of the better neighbour, and where it is better than that of the unwarped ones.

    Args:
        warped: (B, 2, 3, H, W), the neighbours warped to the centre.
        neighbours: (B, 2, 3, H, W), as they are.
        centre: (B, 3, H, W).

    Returns:
        (B, 1, H, W), and the same shape in bool.
    """
    error, still = (_better(images, centre) for images in (warped, neighbours))
    return error, error.detach() < still


def _better(neighbours: Tensor, centre: Tensor) -> Tensor:
    target = repeat(centre, "b rgb h w -> (b n) rgb h w", n=neighbours.shape[1])
    error = dissimilarity(rearrange(neighbours, "b n rgb h w -> (b n) rgb h w"), target)
    return rearrange(error, "(b n) 1 h w -> b n h w", b=len(centre)).amin(1, keepdim=True)


def photometric(warped: Tensor, neighbours: Tensor, centre: Tensor) -> Tensor:
    """The mean photometric error over pixels that do not look as if they stood still."""
    error, kept = photometric_error(warped, neighbours, centre)
    return masked_mean(error, kept)


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of a disparity (B, 1, h, w) over its mean; image (B, 3, h, w)."""
    return geometry.smoothness(disparity / disparity.mean((2, 3), keepdim=True), image)


def object_smoothness(disparity: Tensor, mask: Tensor) -> Tensor:
    """Mean gradient of a disparity (B, 1, h, w) over its mean, between pixels of the mask (B, 1, h, w)."""
    # An image without object has none, and is to have no gradient either.
    relative = disparity / disparity.mean((2, 3), keepdim=True).clamp(min=1e-7)
    total = torch.zeros((), device=disparity.device)
    for axis in (2, 3):
        size = mask.shape[axis] - 1
        inside = (mask.narrow(axis, 0, size) == 1) & (mask.narrow(axis, 1, size) == 1)
        total = total + masked_mean(relative.diff(dim=axis).abs(), inside)
    return total


def sparsity(residual: Tensor) -> Tensor:
    """Of a residual flow (B, 2, H, W): like |r| where it is small, and like its root where it is large."""
    size = residual.abs()
    mean = size.mean((2, 3), keepdim=True).detach()
    return (2 * mean * (size / (mean + 1e-24) + 1).sqrt()).mean()


def align_to_prediction(prediction: Tensor, pseudo_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Bring pseudo-depths (B, 1, H, W) to the scale of predicted ones.

    The scale of an image is the median ratio over its pixels whose pseudo-depth is neither nearer than all
    that is predicted, nor among the farthest tenth.

    Returns:
        The scaled pseudo-depths, and those pixels, (B, 1, H, W) bool; neither has a gradient.
    """
    with torch.no_grad():
        ratio = (prediction / pseudo_depth).flatten(1)
        rough = pseudo_depth * ratio.median(1).values[:, None, None, None]
        depths = prediction.flatten(1)
        # As text on percentiles has it: linear between the two values beside it.
        farthest = depths.float().quantile(FARTHEST, 1)[:, None, None, None]
        valid = (rough >= depths.amin(1)[:, None, None, None]) & (rough <= farthest)
        chosen = ratio.where(valid.flatten(1), torch.nan)
        scale = chosen.nanmedian(1).values[:, None, None, None]
        return pseudo_depth * torch.nan_to_num(scale, nan=1.0), valid


def pseudo_depth(
    prediction: Tensor, pseudo: Tensor, mask: Tensor, *, relative: bool = False
) -> Tensor:
    """Mean absolute difference to pseudo-depths brought to the prediction's scale, where `mask` is set.

    All are (B, 1, H, W); pixels that are no part of that scale do not count (see `align_to_prediction`).

    Args:
        relative: of the logarithms, so that far objects weigh no more than near ones; published is of depths.
    """
    target, valid = align_to_prediction(prediction, pseudo)
    if relative:
        prediction, target = prediction.log(), target.log()
    return masked_mean((prediction - target).abs(), valid & (mask > 0))


def scale_alignment(object_depth: Tensor, scene_depth: Tensor, mask: Tensor) -> Tensor:
    """Huber difference of a static object's scaled depth to the scene's, mean over each mask, then the batch.

    All are (B, 1, H, W).
    """
    error = F.huber_loss(object_depth, scene_depth, reduction="none", delta=HUBER)
    inside = (mask > 0).to(error.dtype)
    return ((error * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)).mean()


def difference_of_probabilities(found: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of probabilities to what is, 0 or 1, of the same shape, in single precision."""
    with torch.autocast(found.device.type, enabled=False):
        # Of a sum that rounding takes a hair beyond 1 there is no logarithm.
        return F.binary_cross_entropy(found.float().clamp(0, 1), target.float())


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean where a mask of the same shape is set, 0 where it is nowhere."""
    return torch.where(mask > 0, values, 0.0).sum() / mask.sum().clamp(min=1)
