"""Which anchors and proposals count in the losses, drawn for each image from its own seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import _utils as torchvision_utils


class ImageSampler(torchvision_utils.BalancedPositiveNegativeSampler):
    """Torchvision's balanced sampler, whose draw for an image does not depend on the rest of the batch.

    A batch that two processes share is therefore sampled as one process would.
    """

    seeds: Sequence[int] | None = None
    """One for each image of the next batch; None: torch's own random state is drawn from."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks (K,) uint8 of the positive and of the negative samples of each image.

        Args:
            matched_idxs: per image (K,): at least 1 for objects, 0 for background, -1 for neither.
        """
        if self.seeds is None:
            return super().__call__(matched_idxs)
        drawn = [
            self._draw(matched, torch.Generator(matched.device).manual_seed(seed))
            for matched, seed in zip(matched_idxs, self.seeds, strict=True)
        ]
        return [positive for positive, _ in drawn], [negative for _, negative in drawn]

    def _draw(self, matched: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def some(indices: Tensor, count: int) -> Tensor:
            order = torch.randperm(len(indices), generator=generator, device=indices.device)
            mask = torch.zeros_like(matched, dtype=torch.uint8)
            mask[indices[order[:count]]] = 1
            return mask

        positive, negative = torch.where(matched >= 1)[0], torch.where(matched == 0)[0]
        positives = min(int(self.batch_size_per_image * self.positive_fraction), len(positive))
        negatives = min(self.batch_size_per_image - positives, len(negative))
        return some(positive, positives), some(negative, negatives)
