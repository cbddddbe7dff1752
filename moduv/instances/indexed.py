"""Object indices of frames as indexed PNG files, the form in which DAVIS and YouTube-VOS keep masks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_bytes

VOID = 255
"""The index of pixels that do not count."""
DAVIS_FRAMES, DAVIS_MASKS, DAVIS_LISTS = "JPEGImages/480p", "Annotations/480p", "ImageSets/2017"
"""Where DAVIS 2017 keeps frames, masks, and a text file with the sequences of each subset."""
INDEXED = ("P", "L", "1")
"""Kinds of PNG whose values are indices: with a palette, grey, black and white."""


def palette() -> np.ndarray:
    """The palette (256, 3) uint8 of DAVIS, which is Pascal VOC's: bits of an index, the lowest first, are the
    highest bits of red, green, blue, red, …"""
    index = np.arange(256)[:, None]
    channel = np.arange(3)
    bits = [(index >> (3 * place + channel) & 1) << (7 - place) for place in range(3)]
    return (bits[0] | bits[1] | bits[2]).astype(np.uint8)


def read_indices(path: str | Path) -> np.ndarray:
    """Read object indices (H, W) uint8 from a PNG with a palette or of grey values.

    Raises InputError when the file is missing, broken, or a picture in colours.
    """
    kind, values = read_png(path)
    if kind not in INDEXED:
        raise InputError(
            f"{path}: is a picture of kind {kind}, and object indices are needed; save it as an indexed PNG "
            "(with a palette), or as grey values 0, 1, 2, …"
        )
    return values.astype(np.uint8, copy=False)


def read_png(path: str | Path) -> tuple[str, np.ndarray]:
    """The kind of a picture, in PIL's words, and its values (H, W) or (H, W, C) as they are stored.

    Raises InputError when the file is missing or broken.
    """
    path = Path(path)
    try:
        content = read_bytes(path, "replace the file")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such mask; check the path.") from None
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.mode, np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: is not readable as a PNG ({error!s:.80}); replace the file."
        ) from None


def write_indices(path: str | Path, indices: np.ndarray) -> None:
    """Write object indices (H, W) uint8 as a PNG with the palette of DAVIS, atomically."""
    picture = Image.fromarray(indices)
    picture.putpalette(palette().tobytes())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
