"""The losses of dense correspondences (Araslanov et al., NeurIPS 2021, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from moduv.engine import distributed


@dataclass(frozen=True)
class LossConfig:
    """Grids, temperature and weights of the losses; the defaults are the published values."""

    anchors: int = 8
    """Number of anchors along each side of a video's first frame."""
    contrastive: int = 4
    """Number of positions along each side that the contrastive loss compares."""
    temperature: float = 0.05
    """Divisor of the cosines in both losses."""
    contrastive_weight: float = 0.1
    """Weight of the contrastive loss beside the self-training loss."""
    all_processes: bool = True
    """Compare with the anchors of the videos of all processes, so that the result does not depend on their number."""


def correspondence_losses(
    main: Tensor,
    second: Tensor,
    affine: Tensor,
    draws: Tensor,
    config: LossConfig | None = None,
) -> dict[str, Tensor]:
    """The losses of a batch of clips in two views.

    Args:
        main: key features (B, T, C, h, w) of the main view, of unit length.
        second: key features (B, T, C, h, w) of the second view; only the first frame needs gradients.
        affine: (B, 2, 3), as for `affine_grid`: from positions of the second view to positions of the main view.
        draws: (B, 4) in [0, 1): offsets of the columns and rows of the anchors, then of the positions of
            the contrastive loss.
        config: grids, temperature and weights.

    Returns:
        Scalars: `loss`, the sum; `temp`, the self-training loss over frames 1 to T - 1; `cross_key`, the
        contrastive loss of the first frames, unweighted.
    """
    config = config or LossConfig()
    gather = _all_videos if config.all_processes else _own_videos
    height, width = main.shape[-2:]
    own = sample(main[:, 0], grid(height, width, config.anchors, draws[:, :2]))  # (B, A, C)
    anchors, first = gather(own)
    aligned = align(main, affine)
    labels = pseudo_labels(second[:, 1:], own) + _first_anchor(own, first)  # (B, T - 1, h, w)
    temp = self_training_loss(aligned[:, 1:], anchors, labels, config.temperature)
    cells = grid(height, width, config.contrastive, draws[:, 2:])
    ours, theirs = (sample(view, cells) for view in (aligned[:, 0], second[:, 0]))
    cross = contrastive_loss(ours, *gather(theirs), config.temperature)
    return {"loss": temp + config.contrastive_weight * cross, "temp": temp, "cross_key": cross}


def grid(height: int, width: int, count: int, draws: Tensor) -> Tensor:
    """Flat indices (B, n) of a regular grid with n <= `count`², shifted by one offset per video and axis.

    Where a side is no multiple of `count`, the spacing varies by one cell.

    Args:
        height: rows of the feature map.
        width: columns of the feature map.
        count: positions along each side.
        draws: (B, 2) in [0, 1): offsets of columns and rows, as shares of the spacing.
    """
    columns, rows = (
        _positions(side, count, draws[:, axis]) for axis, side in enumerate((width, height))
    )
    return (rows[:, :, None] * width + columns[:, None]).flatten(1)


def _positions(side: int, count: int, draws: Tensor) -> Tensor:
    """(B, n) positions along a side."""
    count = min(count, side)
    starts = torch.arange(count, device=draws.device) * side // count
    return starts + (draws * (side // count)).long()[:, None]


def sample(features: Tensor, indices: Tensor) -> Tensor:
    """The features (B, n, C) of a map (B, C, h, w) at flat indices (B, n)."""
    columns = features.flatten(2).transpose(1, 2)  # (B, h w, C)
    return columns.gather(1, indices[..., None].expand(-1, -1, columns.shape[2]))


def align(features: Tensor, affine: Tensor) -> Tensor:
    """Resample maps (B, T, C, h, w) by the similarity (B, 2, 3) of each video: nearest neighbour, 0 outside.

    The paper resamples the affinities to the anchors; with nearest neighbours, resampling the features is the same.
    """
    frames, channels, height, width = features.shape[1:]
    where = F.affine_grid(affine, [len(affine), 1, height, width], align_corners=False)
    merged = features.flatten(1, 2)
    seen = F.grid_sample(merged, where.to(merged), mode="nearest", align_corners=False)
    return seen.unflatten(1, (frames, channels))


@torch.no_grad()
def pseudo_labels(second: Tensor, anchors: Tensor) -> Tensor:
    """The index (B, T, h, w) of the most similar anchor (B, A, C) of the same video, for each position of the second view."""
    return torch.einsum("btchw,bac->bathw", second, anchors).argmax(1)


def self_training_loss(
    aligned: Tensor, anchors: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy between pseudo-labels and the affinities of the main view to the anchors of all videos.

    Args:
        aligned: features (B, T, C, h, w) of the main view, aligned to the second view.
        anchors: (N, C), of all videos.
        labels: (B, T, h, w), indices of anchors.
        temperature: divisor of the affinities.
    """
    logits = aligned.movedim(2, -1).flatten(0, 3) @ anchors.t() / temperature
    return F.cross_entropy(logits, labels.flatten())


def contrastive_loss(features: Tensor, others: Tensor, first: int, temperature: float) -> Tensor:
    """Cross-entropy of finding each position of one view among the positions of the other view.

    Args:
        features: (B, n, C), of one view.
        others: (N, C), of the other view, of all videos.
        first: index in `others` of the first position of this process.
        temperature: divisor of the affinities.
    """
    features = features.flatten(0, 1)
    targets = torch.arange(len(features), device=features.device) + first
    return F.cross_entropy(features @ others.t() / temperature, targets)


def _first_anchor(own: Tensor, first: int) -> Tensor:
    """Index (B, 1, 1, 1) of each video's first anchor among those of all processes."""
    videos, count = own.shape[:2]
    return (first + count * torch.arange(videos, device=own.device))[:, None, None, None]


def _own_videos(features: Tensor) -> tuple[Tensor, int]:
    """(B, n, C) as (B n, C), and 0."""
    return features.flatten(0, 1), 0


def _all_videos(features: Tensor) -> tuple[Tensor, int]:
    """(B, n, C) of all processes as (N, C), and the index of this one's first. All must have the same number."""
    features = features.flatten(0, 1)
    if distributed.world_size() == 1:
        return features, 0
    return _Gathered.apply(features), distributed.rank() * len(features)


class _Gathered(torch.autograd.Function):
    """Rows of all ranks; the gradient of a row is the sum of its gradients over all ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = len(own)
        every = [torch.empty_like(own) for _ in range(distributed.world_size())]
        dist.all_gather(every, own.contiguous())
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[distributed.rank() * ctx.rows :][: ctx.rows]
