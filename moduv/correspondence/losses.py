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
    """The published values."""

    anchors: int = 8
    """Anchors along a side of a video's first frame."""
    contrastive: int = 4
    """Positions along a side that the contrastive loss compares."""
    temperature: float = 0.05
    contrastive_weight: float = 0.1
    all_processes: bool = True
    """Compare with the anchors of all processes' videos, so that they train what one would."""


def correspondence_losses(
    main: Tensor,
    second: Tensor,
    affine: Tensor,
    draws: Tensor,
    config: LossConfig | None = None,
) -> dict[str, Tensor]:
    """All losses of a batch of clips, each seen in two views.

    Args:
        main: key features (B, T, C, h, w) of the main view, of unit length.
        second: those of the second view; of its frames only the first needs gradients.
        affine: (B, 2, 3), for `affine_grid`: where the second view's positions lie in the main one.
        draws: (B, 4) in [0, 1): offsets of the columns and rows of the anchors, then of the positions of
            the contrastive loss.
        config: grids, temperature and weights.

    Returns:
        Scalars: `loss`, the sum; `temp`, the self-training loss over frames 1 to T - 1; `cross_key`, the
        contrastive loss of the first frames, not weighted.
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
    """Flat indices (B, n) of a regular grid, n at most `count`², moved by one offset a video and axis.

    Where the sides are no multiples of `count` the distances vary by one cell.

    Args:
        draws: (B, 2) in [0, 1): offsets of columns and rows, in shares of the distance.
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
    """Features (B, n, C) of a map (B, C, h, w) at flat indices (B, n)."""
    columns = features.flatten(2).transpose(1, 2)  # (B, h w, C)
    return columns.gather(1, indices[..., None].expand(-1, -1, columns.shape[2]))


def align(features: Tensor, affine: Tensor) -> Tensor:
    """Resample maps (B, T, C, h, w) by a similarity a video, nearest neighbour, 0 outside.

    The paper resamples affinities to anchors; of nearest neighbours, those of resampled features are the same.
    """
    frames, channels, height, width = features.shape[1:]
    where = F.affine_grid(affine, [len(affine), 1, height, width], align_corners=False)
    merged = features.flatten(1, 2)
    seen = F.grid_sample(merged, where.to(merged), mode="nearest", align_corners=False)
    return seen.unflatten(1, (frames, channels))


@torch.no_grad()
def pseudo_labels(second: Tensor, anchors: Tensor) -> Tensor:
    """For each position (B, T, h, w) of the second view the most similar of its own video's anchors (B, A, C)."""
    return torch.einsum("btchw,bac->bathw", second, anchors).argmax(1)


def self_training_loss(
    aligned: Tensor, anchors: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Cross-entropy of the main view's affinities to all videos' anchors with the pseudo-labels.

    Args:
        aligned: the main view's features (B, T, C, h, w) in the second view's frame.
        anchors: (N, C), of all videos.
        labels: (B, T, h, w), indices of anchors.
    """
    logits = aligned.movedim(2, -1).flatten(0, 3) @ anchors.t() / temperature
    return F.cross_entropy(logits, labels.flatten())


def contrastive_loss(features: Tensor, others: Tensor, first: int, temperature: float) -> Tensor:
    """Cross-entropy that finds a position (B, n, C) of one view among those of the other view.

    Args:
        others: (N, C), of all videos.
        first: where this process's own begin among them.
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
    """(B, n, C) of all processes as (N, C), and where this one's begin. All must have as many."""
    features = features.flatten(0, 1)
    if distributed.world_size() == 1:
        return features, 0
    return _Gathered.apply(features), distributed.rank() * len(features)


class _Gathered(torch.autograd.Function):
    """Rows of all ranks; a row's gradient is the sum of what all ranks ask of it."""

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
