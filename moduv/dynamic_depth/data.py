"""Triplets with the pseudo-depth of their centre frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv.depth.triplets import Triplets
from moduv.dynamic_depth.pseudo import read_pseudo_depth
from moduv.frames.clip import FrameRef


class MinedTriplets(Triplets):
    """`Triplets` whose samples also hold `pseudo_depth` (1, H, W), 0 where nothing moves.

    Args:
        pseudo: folder of the pseudo-depths; a frame without has nothing that moves.
    """

    def __init__(
        self, root: Path, frames: list[FrameRef], height: int, width: int, pseudo: Path, **more: Any
    ) -> None:
        super().__init__(root, frames, height, width, **more)
        self.pseudo = pseudo

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        index, seed = item
        depth = self._pseudo_depth(self.frames[index])
        # A sample's first draw decides whether it is mirrored.
        if np.random.default_rng(seed).random() < self.flip:
            depth = np.ascontiguousarray(depth[:, ::-1])
        return {**super().__getitem__(item), "pseudo_depth": torch.from_numpy(depth)[None]}

    def _pseudo_depth(self, frame: FrameRef) -> np.ndarray:
        path, size = frame.file(self.pseudo, ".npz"), (self.height, self.width)
        if not path.is_file():
            return np.zeros(size, np.float32)
        # By the nearest pixel: between an object and what is behind it, there is nothing.
        return _nearest(read_pseudo_depth(path).rendered(), size)


def _nearest(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.minimum((np.arange(to) + 0.5) * side / to, side - 1).astype(int)
        for to, side in zip(size, field.shape, strict=True)
    )
    return field[rows[:, None], columns]
