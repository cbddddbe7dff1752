"""How well warped neighbours explain a frame, and how smooth its disparity is (Godard et al. 2019).

Every function takes one scale's fields and returns a scalar without weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from moduv import geometry


def photometric(
    warped: Tensor,
    images: Tensor,
    *,
    automask: bool = False,
    pyramid: tuple[int, ...] = (),
    tie_break: float = 0.0,
    generator: torch.Generator | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Photometric error of the better neighbour, averaged over pixels.

    Args:
        warped: (B, 2, 3, H, W), the neighbours warped to the centre.
        images: (B, 3, 3, H, W), frames -1, 0, +1.
        automask: ignore pixels that the unwarped neighbours explain better.
        pyramid: pooling factors whose errors are added.
        tie_break: standard deviation of the noise on the unwarped neighbours' errors.
        counted: (B, 1, H, W) bool, the pixels that count; None: all.
    """
    error = _pyramid_error(warped, images[:, 1], pyramid)
    if automask:
        still = _pyramid_error(images[:, ::2], images[:, 1], pyramid)
        if tie_break:
            noise = torch.randn(still.shape, generator=generator, device=still.device)
            still = still + tie_break * noise
        error = torch.cat([error, still], 1)
    error = error.amin(1)
    if counted is None:
        return error.mean()
    return (error * counted[:, 0]).sum() / counted.sum().clamp(min=1)


def _pyramid_error(neighbours: Tensor, centre: Tensor, pyramid: tuple[int, ...]) -> Tensor:
    """The error at full size plus those of the pooled images, (B, N, H, W)."""
    error = _error(neighbours, centre)
    for factor in pyramid:
        pooled = _error(_pool(neighbours, factor), F.avg_pool2d(centre, factor))
        error = error + geometry.resize(pooled, error.shape[-2:])
    return error


def _error(neighbours: Tensor, centre: Tensor) -> Tensor:
    """Photometric error of neighbours (B, N, 3, H, W) against the centre (B, 3, H, W): (B, N, H, W)."""
    target = repeat(centre, "b rgb h w -> (b n) rgb h w", n=neighbours.shape[1])
    folded = rearrange(neighbours, "b n rgb h w -> (b n) rgb h w")
    error = geometry.photometric_error(folded, target)
    return rearrange(error, "(b n) 1 h w -> b n h w", b=len(centre))


def _pool(images: Tensor, factor: int) -> Tensor:
    """Average over `factor` x `factor` pixels of (B, N, 3, H, W)."""
    pooled = F.avg_pool2d(rearrange(images, "b n rgb h w -> (b n) rgb h w"), factor)
    return rearrange(pooled, "(b n) rgb h w -> b n rgb h w", b=len(images))


def disparity_smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of the disparity (B, 1, h, w) divided by its mean; image (B, 3, H, W)."""
    normalised = disparity / (disparity.mean((2, 3), keepdim=True) + 1e-7)
    return edge_aware(normalised, image)


def edge_aware(field: Tensor, image: Tensor) -> Tensor:
    """Smoothness of a field (B, C, h, w) but where the image (B, 3, H, W) has edges at that size."""
    size = tuple(field.shape[-2:])
    if image.shape[-2:] != size:
        image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
    return geometry.smoothness(field, image)
