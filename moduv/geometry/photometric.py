"""How alike two images are, and how smooth a field is where the image is (Godard et al. 2017, 2019)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WEIGHT = 0.85
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural dissimilarity (1 - SSIM) / 2 over 3 x 3 windows, (B, C, H, W) in [0, 1], 0 where they agree.

    Images (B, C, H, W) are reflected at the border.
    """
    channels = first.shape[1]
    # Apart from each other, because usually only one of the two images wants a gradient.
    mean_1, square_1, product = _window_means(first, first * first, first * second).split(
        channels, 1
    )
    mean_2, square_2 = _window_means(second, second * second).split(channels, 1)
    squares, mixed = mean_1.square() + mean_2.square(), mean_1 * mean_2
    variances, covariance = square_1 + square_2 - squares, product - mixed
    similarity = ((2 * mixed + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (squares + SSIM_C1) * (variances + SSIM_C2)
    )
    return ((1 - similarity) / 2).clamp(0, 1)


def _window_means(*images: Tensor) -> Tensor:
    """Means over 3 x 3 windows, reflected at the border, of images (B, C, H, W) one after the other."""
    means: Tensor = _WindowMeans.apply(torch.cat(images, 1))
    return means


class _WindowMeans(torch.autograd.Function):
    """Sums of shifted views and, backwards, sums into shifted views.

    On a CPU several times as fast as average pooling, or as what autograd makes of the views.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        for axis in (-1, -2):
            size = x.shape[axis] - 2
            x = (x.narrow(axis, 0, size) + x.narrow(axis, 1, size)).add_(x.narrow(axis, 2, size))
        return x.div_(9)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        x = gradient / 9
        for axis in (-1, -2):
            size = x.shape[axis]
            # A pixel is in the windows before, at and after it; at the border also in reflected ones.
            spread = x.clone()
            spread.narrow(axis, 1, size - 1).add_(x.narrow(axis, 0, size - 1))
            spread.narrow(axis, 0, size - 1).add_(x.narrow(axis, 1, size - 1))
            spread.narrow(axis, 1, 1).add_(x.narrow(axis, 0, 1))
            spread.narrow(axis, size - 2, 1).add_(x.narrow(axis, size - 1, 1))
            x = spread
        return x


def photometric_error(prediction: Tensor, target: Tensor) -> Tensor:
    """0.85 structural dissimilarity + 0.15 absolute difference, averaged over channels: (B, 1, H, W)."""
    structure = ssim(prediction, target).mean(1, keepdim=True)
    difference = (prediction - target).abs().mean(1, keepdim=True)
    return SSIM_WEIGHT * structure + (1 - SSIM_WEIGHT) * difference


def smoothness(field: Tensor, image: Tensor) -> Tensor:
    """Mean absolute gradient of a field, in its units a pixel, discounted where the image has edges."""
    return sum(
        (field.diff(dim=axis).abs() * torch.exp(-_edges(image, axis))).mean() for axis in (2, 3)
    )  # type: ignore[return-value]


def _edges(image: Tensor, axis: int) -> Tensor:
    """Absolute gradient averaged over channels, (B, 1, H, W) less one along `axis`."""
    return image.diff(dim=axis).abs().mean(1, keepdim=True)
