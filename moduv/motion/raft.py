"""RAFT (Teed and Deng 2020) as measured flow, for machines with a GPU and its weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torchvision.models.optical_flow import raft_large, raft_small

from moduv.engine import distributed
from moduv.engine.checkpoint import load_strict, load_weights
from moduv.engine.errors import InputError
from moduv.frames.flow import ENLARGE
from moduv.frames.images import resize_image

STEM = {"feature_encoder.convnormrelu.0.weight": {64: raft_large, 32: raft_small}}
"""A tensor that tells the two published networks apart, by its first size."""
MULTIPLE, LEAST = 8, 128
"""Of the sides of its input, pixels."""


class Raft:
    """Measures flow by a trained RAFT.

    Args:
        weights: state dict of torchvision's `raft_large` or `raft_small`.

    Raises:
        InputError: when the file is missing or fits neither.
    """

    def __init__(self, weights: Path) -> None:
        state = load_weights(weights)
        (key, builders), *_ = STEM.items()
        build = builders.get(len(state[key])) if key in state else None
        if build is None:
            raise InputError(
                f"{weights}: fits neither raft_large nor raft_small; give the weights of torchvision."
            )
        self.device = distributed.device()
        self.network = build(weights=None, progress=False)
        load_strict(self.network, state, weights)
        self.network.eval().to(self.device)

    def prepare(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """A frame (H, W, 3) uint8 RGB as flow of (height, width) is measured on: enlarged."""
        return resize_image(image, ENLARGE * height, ENLARGE * width)

    @torch.inference_mode()
    def measure(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Optical flow (h, w, 2) float32 in pixels of the size that was wanted, between prepared frames."""
        height, width = before.shape[:2]
        below, right = (max(LEAST, -(-side // MULTIPLE) * MULTIPLE) for side in (height, width))
        frames = torch.from_numpy(np.stack([before, after])).to(self.device)
        frames = rearrange(frames, "n h w rgb -> n rgb h w").float() / 127.5 - 1
        frames = F.pad(frames, (0, right - width, 0, below - height), mode="replicate")
        found = self.network(frames[:1], frames[1:])[-1][0, :, :height, :width]
        flow = rearrange(found.float(), "xy h w -> h w xy").cpu().numpy()
        return resize_image(flow, height // ENLARGE, width // ENLARGE) / ENLARGE


@lru_cache(maxsize=1)
def load_raft(weights: Path) -> Raft:
    """A RAFT that is read once a process."""
    return Raft(weights)
