"""A world of coloured rectangles, and an encoder that knows colours and their words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moduv.instances import rle
from moduv.instances.rle import Rle
from moduv.naming.encoders import unit

COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 230, 20),
    "blue": (20, 20, 230),
    "yellow": (230, 230, 20),
    "cyan": (20, 230, 230),
    "grey": (128, 128, 128),
}
HEIGHT, WIDTH = 60, 80


def direction(colour: Sequence[float]) -> np.ndarray:
    """A colour as a unit vector; grey is a direction of its own."""
    centred = (np.asarray(colour, float) - 128) / 128
    return unit(np.array([*centred, 0.6 if np.abs(centred).max() < 0.3 else -0.6]))


class ColourEncoder:
    """Knows an image by the colour of its middle, and a sentence by its last word that is a colour."""

    size = 16

    def __init__(self) -> None:
        self.identity = {"architecture": "colours", "weights_sha256": "0"}
        self.seen = 0

    def images(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        self.seen += len(crops)
        middles = [direction(crop[6:10, 6:10].reshape(-1, 3).mean(0)) for crop in crops]
        return np.array(middles).reshape(-1, 4)

    def text(self, prompts: Sequence[str]) -> np.ndarray:
        words = [[word for word in prompt.split() if word in COLOURS][-1] for prompt in prompts]
        return np.array([direction(COLOURS[word]) for word in words]).reshape(-1, 4)


def draw(objects: Sequence[tuple[str, int, int]]) -> tuple[np.ndarray, list[Rle]]:
    """A grey image with squares of 12 pixels at (left, top), and their masks."""
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    masks = []
    for colour, left, top in objects:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + 12, left : left + 12] = True
        image[mask] = COLOURS[colour]
        masks.append(rle.encode(mask))
    return image, masks
