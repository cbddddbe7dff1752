"""The ground plane under the camera and the disparity it would have (Dynamo-Depth, section 3.4).

A plane is (a, b, c) with Y = aX + bZ + c: the camera's y axis points down, so the ground lies at
positive Y, and points with a larger Y than the plane's are under it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moduv.geometry.projection import depth_to_disparity, rays


def ground_points(points: Tensor, share: float = 0.4) -> Tensor:
    """The points (B, 3, H, W) in the lowest `share` of the rows, as (B, 3, N)."""
    height = points.shape[-2]
    return points[:, :, height - round(share * height) :].flatten(2)


@torch.no_grad()
def ransac_plane(
    points: Tensor,
    generator: torch.Generator | None = None,
    *,
    samples: int = 5,
    tries: int = 100,
    tolerance: float = 0.005,
) -> Tensor:
    """The plane (B, 3) that most points (B, 3, N) lie on, of `tries` planes fitted to a few `samples` each.

    A point on a plane differs from it in Y by less than `tolerance`. Not differentiable.
    """
    batch, _, count = points.shape
    chosen = torch.randint(
        count, (batch, 1, tries * samples), generator=generator, device=points.device
    )
    drawn = points.gather(2, chosen.expand(-1, 3, -1)).unflatten(2, (tries, samples))
    planes = _fit_planes(drawn)  # (B, tries, 3)
    x, y, z = points.unbind(1)
    terms = torch.stack([x, z, torch.ones_like(x)], 1)  # (B, 3, N)
    distances = torch.baddbmm(y[:, None], planes, terms, beta=-1)  # (B, tries, N)
    inliers = (distances.abs() < tolerance).sum(-1)
    best = inliers.argmax(1)[:, None, None].expand(-1, 1, 3)
    return planes.gather(1, best)[:, 0]


def _fit_planes(points: Tensor) -> Tensor:
    """Least-squares planes through (B, 3, tries, samples) points, (B, tries, 3).

    Centring leaves a 2 x 2 system in closed form; where it is degenerate the plane is level.
    """
    mean = points.mean(-1, keepdim=True)
    x, y, z = (points - mean).unbind(1)  # (B, tries, samples)
    xx, xz, zz = (x * x).sum(-1), (x * z).sum(-1), (z * z).sum(-1)
    xy, zy = (x * y).sum(-1), (z * y).sum(-1)
    determinant = xx * zz - xz * xz
    usable = determinant > 1e-6 * xx * zz
    inverse = torch.where(usable, 1 / determinant.where(usable, torch.ones_like(xx)), 0.0)
    a, b = (zz * xy - xz * zy) * inverse, (xx * zy - xz * xy) * inverse
    mean_x, mean_y, mean_z = mean.squeeze(-1).unbind(1)
    return torch.stack([a, b, mean_y - a * mean_x - b * mean_z], -1)


def ground_disparity(
    plane: Tensor, inv_K: Tensor, size: tuple[int, int], min_depth: float, max_depth: float
) -> tuple[Tensor, Tensor]:
    """The disparity of a plane (B, 3) behind every pixel of an image of `size` (H, W).

    Returns:
        Disparity (B, 1, H, W) and where it is real, (B, 1, H, W) bool: rays that meet the plane
        behind the camera or beyond `max_depth` see none, and have disparity 0. Very near ground may
        exceed disparity 1.
    """
    a, b, c = plane[..., None, None, None].unbind(1)  # each (B, 1, 1, 1)
    x, y, z = rays(inv_K, *size).split(1, 1)
    inverse_depth = (y - a * x - b * z) / c
    seen = inverse_depth > 1 / max_depth
    depth = 1 / inverse_depth.where(seen, torch.full_like(inverse_depth, 1 / max_depth))
    return depth_to_disparity(depth, min_depth, max_depth), seen
