"""Features of regions, read with one table look-up: RoIAlign where torchvision's operator is slow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import MultiScaleRoIAlign

FIRST_STRIDE = 4


class TableRoIAlign(MultiScaleRoIAlign):
    """RoIAlign (He et al. 2017) over all levels at once.

    The levels of all images form one table of feature vectors; a bin is a weighted sum of its rows,
    four for each bilinear sample. On CPUs this is several times as fast as torchvision's operator, whose
    backward pass is one thread that adds single numbers.

    Levels lie at strides 4, 8, 16, … With `half_pixels`, pixel centres lie at half-integer coordinates and the
    border is repeated. Otherwise values are those of torchvision's `MultiScaleRoIAlign`, whose operator is used
    on GPUs.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int,
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        half_pixels: bool = False,
    ) -> None:
        super().__init__(
            list(featmap_names), output_size, sampling_ratio, canonical_scale=canonical_scale
        )
        self.half_pixels = half_pixels

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pool the regions (K_n, 4) XYXY of every image from levels (N, C, H_l, W_l): (sum of K_n, C, R, R)."""
        levels = [x[name] for name in self.featmap_names]
        if levels[0].is_cuda and not self.half_pixels:
            return super().forward(x, boxes, image_shapes)
        channels = levels[0].shape[1]
        table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in levels])
        rows, weights = self._look_up([level.shape for level in levels], boxes)
        # Under autocast the levels have half precision, sums and weights do not.
        bins = functional.embedding_bag(
            rows, table.to(weights.dtype), per_sample_weights=weights, mode="sum"
        )
        side = self.output_size[0]
        pooled = bins.view(-1, side, side, channels).permute(0, 3, 1, 2).contiguous()
        return pooled.to(levels[0].dtype)

    def _look_up(self, shapes: list[torch.Size], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows of the table and their weights, (bins, 4 samples²) each, for every region in turn."""
        regions = torch.cat(boxes)  # (K, 4)
        device = regions.device
        image = torch.cat([torch.full((len(b),), n, device=device) for n, b in enumerate(boxes)])
        level = levels_of(regions, self.canonical_scale, len(shapes)).long()  # (K,)
        cells = [shape[0] * shape[2] * shape[3] for shape in shapes]
        sizes = torch.tensor([(*s[2:], sum(cells[:n])) for n, s in enumerate(shapes)])
        heights, widths, starts = sizes.to(device, non_blocking=True)[level].unbind(1)  # (K,) each
        scaled = regions / (FIRST_STRIDE * 2**level)[:, None]
        x_pair, x_weight = self._axis(scaled[:, 0], scaled[:, 2], widths)  # (K, R, 2 samples)
        y_pair, y_weight = self._axis(scaled[:, 1], scaled[:, 3], heights)
        first = (starts + image * heights * widths)[:, None, None]
        line = (first + y_pair * widths[:, None, None])[:, :, None, :, None]
        rows = line + x_pair[:, None, :, None, :]  # (K, R, R, 2 samples, 2 samples)
        weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        width = (2 * self.sampling_ratio) ** 2
        return rows.reshape(-1, width), weights.reshape(-1, width)

    def _axis(self, start: Tensor, end: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """The cells that regions read along one axis, and their weights: (K, R, 2 samples) each.

        Regions reach from `start` to `end` (K,) on axes of `count` (K,) cells.
        """
        extent = end - start if self.half_pixels else (end - start).clamp(min=1)
        points = self.output_size[0] * self.sampling_ratio
        steps = (torch.arange(points, device=start.device) + 0.5) / points
        position = start[:, None] + steps * extent[:, None]  # (K, points)
        if self.half_pixels:
            position = position - 0.5
        pair, weight = _neighbours(position, count)
        if not self.half_pixels:
            weight = weight * (position <= count[:, None])[..., None]
        shape = (len(start), self.output_size[0], 2 * self.sampling_ratio)
        return pair.reshape(shape), weight.reshape(shape) / self.sampling_ratio


def levels_of(regions: Tensor, canonical_scale: float, count: int) -> Tensor:
    """The pyramid level of regions (K, 4) by their size (Lin et al. 2017, equation 1)."""
    size = (regions[:, 2:] - regions[:, :2]).clamp(min=1e-3).prod(dim=1).sqrt()
    # Torchvision adds 1e-6, too, before it rounds a level down.
    level = torch.floor(4 + torch.log2(size / canonical_scale) + 1e-6) - 2
    return level.clamp(0, count - 1)


def _neighbours(position: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells beside positions (K, P) on axes of `count` (K,) cells, and their weights."""
    last = (count - 1)[:, None]
    position = position.clamp(min=0).minimum(last.to(position.dtype))
    lower = position.floor().long()
    fraction = position - lower
    pair = torch.stack([lower, (lower + 1).minimum(last)], dim=-1)
    return pair, torch.stack([1 - fraction, fraction], dim=-1)
