"""Indexed PNGs: a pixel's value is its object's number, drawn in the colours of the DAVIS challenge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path


def _palette() -> np.ndarray:
    """Colours (256, 3) uint8: the bits of an index, three at a time, are the highest of red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), int)
    for level in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * level + channel) & 1) << (7 - level)
    return colours.astype(np.uint8)


PALETTE = _palette()
"""Of DAVIS' annotations and of its evaluation, which PASCAL VOC had introduced."""


def write_indexed(path: str | Path, indices: np.ndarray) -> None:
    """Write object indices (H, W) uint8 as an indexed PNG, atomically."""
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(PALETTE.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG")


def read_indexed(path: str | Path) -> np.ndarray:
    """Read object indices (H, W) uint8 of an indexed or grey PNG.

    Raises InputError when the file is missing, damaged, or holds colours instead of indices.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            mode, indices = image.mode, np.array(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such mask; check the path.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: is not readable as a mask ({error!s:.80}); replace it."
        ) from None
    if mode not in {"P", "L", "1"}:
        raise InputError(
            f"{path}: is a PNG of mode {mode}, whose pixels are no object indices; save it as an indexed "
            "(palette) or grey PNG with one value for each object."
        )
    return indices.astype(np.uint8)
