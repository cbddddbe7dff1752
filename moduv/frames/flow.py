"""Measured optical flow: dense, to subpixels, and how well it finds its way back."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from moduv.frames.images import resize_image

ENLARGE = 2
"""Factor by which frames are larger than the flow that is wanted: small objects need it."""
PATCH, STRIDE, DESCENT, REFINEMENT = 8, 4, 25, 5
"""Pixels of an enlarged frame, and steps, of Kroeger et al. 2016; medians are flat around them."""
LOST = 100.0
"""Pixels beyond which a way back counts as none."""


class FlowMethod(Protocol):
    """A way to measure optical flow."""

    def prepare(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """A frame (H, W, 3) uint8 RGB as flow of (height, width) is measured on."""

    def measure(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Optical flow (height, width, 2) float32 in pixels of that size, between prepared frames."""


class InverseSearch:
    """Dense inverse search on enlarged grey frames (Kroeger et al. 2016): milliseconds on a CPU."""

    def prepare(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """The frame in grey, enlarged, (ENLARGE height, ENLARGE width) uint8."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return resize_image(grey, ENLARGE * height, ENLARGE * width)

    def measure(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Optical flow (h, w, 2) float32 in pixels of the size that was wanted, between prepared frames."""
        method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        method.setFinestScale(0)
        method.setPatchSize(PATCH)
        method.setPatchStride(STRIDE)
        method.setGradientDescentIterations(DESCENT)
        method.setVariationalRefinementIterations(REFINEMENT)
        flow = method.calc(before, after, None)  # type: ignore[call-overload]
        height, width = before.shape
        return resize_image(flow, height // ENLARGE, width // ENLARGE) / ENLARGE


def follow(values: np.ndarray, flow: np.ndarray, outside: float | None = None) -> np.ndarray:
    """A neighbour's field (H, W) or (H, W, C) float32 where flow (H, W, 2) leads each pixel, bilinear.

    Beyond the image's rim lies `outside`; None: the rim's own values.
    """
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return cv2.remap(
        np.asarray(values, np.float32),
        columns + flow[..., 0],
        rows + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT,
        borderValue=(outside or 0.0,) * 4,
    )


def round_trip_error(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """How far flow there and back (H, W, 2) ends from its start, (H, W) pixels; infinite where it is lost."""
    back = follow(backward, forward, outside=2 * LOST)
    error = np.linalg.norm(forward + back, axis=2)
    return np.where(error < LOST, error, np.inf).astype(np.float32)
