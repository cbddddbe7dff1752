"""The loss terms of depth in moving regions (Nguyen et al. 2024, section 3; the first three of Li et al. 2020).

Unless stated otherwise, functions take the fields of one scale and return an unweighted scalar.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from moduv import geometry

SSIM_WEIGHT, L1_WEIGHT = 3.0, 2.0
SSIM_C2 = 9e-6
"""SSIM's constant of contrast and structure; luminance is left out, as if its constant were infinite."""
WEIGHT_EPSILON = 0.01
HUBER = 0.005
FARTHEST = 0.9
"""Pixels beyond this quantile of the predicted depths do not determine the scale."""


def dissimilarity(first: Tensor, second: Tensor) -> Tensor:
    """3.0 dissimilarity of structure + 2.0 absolute difference of images (B, 3, H, W), as (B, 1, H, W)."""
    structure = _structure(first, second).mean(1, keepdim=True)
    return SSIM_WEIGHT * structure + L1_WEIGHT * (first - second).abs().mean(1, keepdim=True)


def _structure(first: Tensor, second: Tensor) -> Tensor:
    """(1 - SSIM without luminance) / 2 over 3 x 3 pixels; the border is reflected."""
    mean_1, mean_2 = _mean(first), _mean(second)
    variance_1 = _mean(first.square()) - mean_1.square()
    variance_2 = _mean(second.square()) - mean_2.square()
    covariance = _mean(first * second) - mean_1 * mean_2
    similarity = (2 * covariance + SSIM_C2) / (variance_1 + variance_2 + SSIM_C2)
    return ((1 - F.pad(similarity, (1, 1, 1, 1), mode="reflect")) / 2).clamp(0, 1)


def _mean(images: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels, multiplied by a weight and divided by it again.

    Where an image is saturated, the rounding is as large as SSIM's constant, so it is part of the published loss.
    """
    weight = 1 + WEIGHT_EPSILON
    return F.avg_pool2d(images * weight, 3, 1) * (1 / weight)


def photometric_error(warped: Tensor, neighbours: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """The error of the better neighbour, and whether warping has reduced it.

    Args:
        warped: (B, 2, 3, H, W), the neighbours warped to the centre.
        neighbours: (B, 2, 3, H, W), the neighbours themselves.
        centre: (B, 3, H, W).

    Returns:
        The error (B, 1, H, W), and where it is smaller than without warping, (B, 1, H, W) bool.
    """
    error, still = (_better(images, centre) for images in (warped, neighbours))
    return error, error.detach() < still


def _better(neighbours: Tensor, centre: Tensor) -> Tensor:
    target = repeat(centre, "b rgb h w -> (b n) rgb h w", n=neighbours.shape[1])
    error = dissimilarity(rearrange(neighbours, "b n rgb h w -> (b n) rgb h w"), target)
    return rearrange(error, "(b n) 1 h w -> b n h w", b=len(centre)).amin(1, keepdim=True)


def photometric(warped: Tensor, neighbours: Tensor, centre: Tensor) -> Tensor:
    """The mean photometric error over the pixels whose error warping has reduced (auto-masking)."""
    error, kept = photometric_error(warped, neighbours, centre)
    return masked_mean(error, kept)


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of a mean-normalised disparity (B, 1, h, w); image (B, 3, h, w)."""
    return geometry.smoothness(disparity / disparity.mean((2, 3), keepdim=True), image)


def object_smoothness(disparity: Tensor, mask: Tensor) -> Tensor:
    """Mean gradient of a mean-normalised disparity (B, 1, h, w) between pixels of a mask (B, 1, h, w)."""
    # The mean is 0 for an image without an object, which must not produce NaN gradients.
    relative = disparity / disparity.mean((2, 3), keepdim=True).clamp(min=1e-7)
    total = torch.zeros((), device=disparity.device)
    for axis in (2, 3):
        size = mask.shape[axis] - 1
        inside = (mask.narrow(axis, 0, size) == 1) & (mask.narrow(axis, 1, size) == 1)
        total = total + masked_mean(relative.diff(dim=axis).abs(), inside)
    return total


def sparsity(residual: Tensor) -> Tensor:
    """Sparsity of a residual flow r (B, 2, H, W): linear in |r| where it is small, and its root where it is large."""
    size = residual.abs()
    mean = size.mean((2, 3), keepdim=True).detach()
    return (2 * mean * (size / (mean + 1e-24) + 1).sqrt()).mean()


def align_to_prediction(prediction: Tensor, pseudo_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Scale pseudo-depths (B, 1, H, W) to predicted depths (B, 1, H, W).

    The scale of an image is the median ratio over its valid pixels: those whose pseudo-depth, after a first rough scaling,
    is not below the smallest predicted depth and not beyond the 0.9 quantile of the predicted depths.

    Returns:
        The scaled pseudo-depths, and the valid pixels, (B, 1, H, W) bool; without gradients.
    """
    with torch.no_grad():
        ratio = (prediction / pseudo_depth).flatten(1)
        rough = pseudo_depth * ratio.median(1).values[:, None, None, None]
        depths = prediction.flatten(1)
        farthest = depths.float().quantile(FARTHEST, 1)[:, None, None, None]
        valid = (rough >= depths.amin(1)[:, None, None, None]) & (rough <= farthest)
        chosen = ratio.where(valid.flatten(1), torch.nan)
        scale = chosen.nanmedian(1).values[:, None, None, None]
        return pseudo_depth * torch.nan_to_num(scale, nan=1.0), valid


def pseudo_depth(
    prediction: Tensor, pseudo: Tensor, mask: Tensor, *, relative: bool = False
) -> Tensor:
    """Mean absolute difference to scaled pseudo-depths, over the valid pixels of a mask (see `align_to_prediction`).

    Args:
        prediction: (B, 1, H, W).
        pseudo: (B, 1, H, W), up to scale.
        mask: (B, 1, H, W), not 0 where pixels count.
        relative: compare logarithms, so that far objects weigh no more than near ones; the paper compares depths.
    """
    target, valid = align_to_prediction(prediction, pseudo)
    if relative:
        prediction, target = prediction.log(), target.log()
    return masked_mean((prediction - target).abs(), valid & (mask > 0))


def scale_alignment(object_depth: Tensor, scene_depth: Tensor, mask: Tensor) -> Tensor:
    """Huber loss between the scaled depth of static objects and the scene's, mean over each mask, then over the batch.

    All are (B, 1, H, W).
    """
    error = F.huber_loss(object_depth, scene_depth, reduction="none", delta=HUBER)
    inside = (mask > 0).to(error.dtype)
    return ((error * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3)).clamp(min=1)).mean()


def difference_of_probabilities(found: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy between probabilities and targets 0 or 1 of the same shape, in single precision."""
    with torch.autocast(found.device.type, enabled=False):
        # Rounding may bring a sum of probabilities slightly above 1.
        return F.binary_cross_entropy(found.float().clamp(0, 1), target.float())


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values over a mask of the same shape; 0 for an empty mask."""
    return torch.where(mask > 0, values, 0.0).sum() / mask.sum().clamp(min=1)
