"""Two views of a clip, related by a similarity transform (Araslanov et al., NeurIPS 2021, section 3.3).

All frames of a clip are scaled, cropped and flipped in the same way, so that the motion between them is that of the video.
Colours are not changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.images import resize_image


@dataclass(frozen=True)
class ViewConfig:
    """How views are made; the defaults are the published values for YouTube-VOS."""

    smallest: tuple[int, int] = (256, 320)
    """Range of the shorter side in pixels to which frames are scaled; the second number is exclusive."""
    crop: int = 256
    """Side of the square crop in pixels."""
    random_crop: bool = True
    """Crop at a random place; otherwise at the centre."""
    flip: float = 0.5
    """Probability of a horizontal flip of both views, and of a further one of the second view alone."""
    zoom: float = 0.5
    """Smallest share of each side of the main view that the second view shows."""

    def __post_init__(self) -> None:
        low, high = self.smallest
        if not 0 < self.crop <= low <= high or not 0 < self.zoom <= 1 or not 0 <= self.flip <= 1:
            raise InputError(
                f"views: smallest is {list(self.smallest)}, crop {self.crop}, zoom {self.zoom}, flip {self.flip}; "
                "scale to no less than the crop, and use shares of at most 1."
            )


@dataclass(frozen=True)
class Similarity:
    """How the second view is made from the main view: a flip, then a window that is resized to the size of the view."""

    top: int
    left: int
    scale: float
    """Sides of the window, as a share of those of the view."""
    flip: bool

    @classmethod
    def draw(
        cls, height: int, width: int, config: ViewConfig, rng: np.random.Generator
    ) -> Similarity:
        """Draw a random similarity for views of `height` x `width` pixels."""
        flip, scale = bool(rng.random() < config.flip), float(rng.uniform(config.zoom, 1))
        top, left = (int(rng.integers(side - int(scale * side) + 1)) for side in (height, width))
        return cls(top, left, scale, flip)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The second view of an image (H, W, 3), of the same size."""
        height, width = image.shape[:2]
        image = image[:, ::-1] if self.flip else image
        window = image[self.top :, self.left :][
            : int(self.scale * height), : int(self.scale * width)
        ]
        return cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR)

    def matrix(self, height: int, width: int) -> np.ndarray:
        """The (2, 3) float32 matrix for `affine_grid`, from positions of the second view to those of the main view.

        As in the reference, it uses the exact scale, although the window is rounded to whole pixels.
        """
        down = self.top + int(self.scale * height) / 2 - height / 2
        across = self.left + int(self.scale * width) / 2 - width / 2
        sign = -1 if self.flip else 1
        rows = [
            [sign * self.scale, 0, sign * across / (width // 2)],
            [0, self.scale, down / (height // 2)],
        ]
        return np.array(rows, np.float32)


def main_view(frames: list[np.ndarray], config: ViewConfig, rng: np.random.Generator) -> np.ndarray:
    """Scale, crop and flip all frames of a clip in the same way: (T, crop, crop, 3) uint8.

    Args:
        frames: (H, W, 3) uint8, of one size.
    """
    low, high = config.smallest
    side, crop = int(rng.integers(low, max(high, low + 1))), config.crop
    height, width = frames[0].shape[:2]
    size = scaled_size(height, width, side)
    shares = rng.random(2) if config.random_crop else np.full(2, 0.5)
    top, left = (int(share * (s - crop + 1)) for share, s in zip(shares, size, strict=True))
    flip = rng.random() < config.flip
    views = np.empty((len(frames), crop, crop, 3), np.uint8)
    for view, frame in zip(views, frames, strict=True):
        if height >= 2 * size[0]:  # bilinear sampling alone would leave pixels out
            frame = resize_image(frame, *size)
        _cut_out(frame, size, (top, left), flip, view)
    return views


def _cut_out(
    image: np.ndarray, size: tuple[int, int], corner: tuple[int, int], flip: bool, view: np.ndarray
) -> None:
    """Fill a view (crop, crop, 3) with a window of an image that is resized bilinearly to `size`.

    Args:
        corner: row and column of the window in the resized image.
        flip: whether the window is mirrored.
    """
    down, across = (side / target for side, target in zip(image.shape[:2], size, strict=True))
    # Pixel centres lie at half-integers, both before and after resizing.
    row, column = (place + 0.5 for place in corner)
    first = column + view.shape[1] - 1 if flip else column
    step = -across if flip else across
    matrix = np.array([[step, 0, across * first - 0.5], [0, down, down * row - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, matrix, view.shape[:2], view, flags, cv2.BORDER_REPLICATE)


def scaled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side is scaled to `side` pixels."""
    shorter = min(height, width)
    return max(side, round(height * side / shorter)), max(side, round(width * side / shorter))
