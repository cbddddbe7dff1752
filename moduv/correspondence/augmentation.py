"""Two views of a clip: one scale, crop and flip for both, and one similarity between them (section 3.3).

No colour is changed. All frames of a clip are treated alike, so that what moves in them moves by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from moduv.engine.errors import InputError
from moduv.frames.images import resize_image


@dataclass(frozen=True)
class ViewConfig:
    """The published values, of YouTube-VOS."""

    smallest: tuple[int, int] = (256, 320)
    """Pixels of the shorter side that frames are scaled to: from the first number to below the second."""
    crop: int = 256
    """Pixels of the square that is cut out."""
    random_crop: bool = True
    """Cut it out anywhere; otherwise around the centre."""
    flip: float = 0.5
    """Probability of a flip: of both views, and once more of the second one."""
    zoom: float = 0.5
    """Smallest share of a side that the second view shows."""

    def __post_init__(self) -> None:
        low, high = self.smallest
        if not 0 < self.crop <= low <= high or not 0 < self.zoom <= 1 or not 0 <= self.flip <= 1:
            raise InputError(
                f"views: smallest is {list(self.smallest)}, crop {self.crop}, zoom {self.zoom}, flip {self.flip}; "
                "scale to no less than the crop, and use shares of at most 1."
            )


@dataclass(frozen=True)
class Similarity:
    """How the second view is made of the main one: flipped, then cut to a window that is resized back."""

    top: int
    left: int
    scale: float
    """Share of both sides that the window has."""
    flip: bool

    @classmethod
    def draw(
        cls, height: int, width: int, config: ViewConfig, rng: np.random.Generator
    ) -> Similarity:
        """A random one for views of `height` x `width` pixels."""
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
        """(2, 3) float32 for `affine_grid`: from the second view's positions to the main view's.

        Shares of the sides are exact in it, although the window has whole pixels, as in the reference.
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
    """Scale, cut out and flip all frames of a clip alike: (T, crop, crop, 3) uint8.

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
    """Fill a view (crop, crop, 3) with a window of an image as if that were resized to `size`, bilinear.

    Args:
        corner: row and column of the window in the resized image.
        flip: whether the window is mirrored.
    """
    down, across = (side / target for side, target in zip(image.shape[:2], size, strict=True))
    # Pixels are squares whose centres lie at half numbers, before and after.
    row, column = (place + 0.5 for place in corner)
    first = column + view.shape[1] - 1 if flip else column
    step = -across if flip else across
    matrix = np.array([[step, 0, across * first - 0.5], [0, down, down * row - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, matrix, view.shape[:2], view, flags, cv2.BORDER_REPLICATE)


def scaled_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width whose shorter one is `side`."""
    shorter = min(height, width)
    return max(side, round(height * side / shorter)), max(side, round(width * side / shorter))
