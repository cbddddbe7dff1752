"""Whether a JPEG holds all of its picture. Decoders fill what is missing with grey, and say nothing."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

START = b"\xff\xd8"
CODED, PROGRESSIVE, TABLES, END, SCAN, INTERVAL = 0x00, 0xC2, 0xC4, 0xD9, 0xDA, 0xDD
FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of the picture's size."""
BLOCK = 8
AFTER_CODED = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
RESTART = re.compile(rb"(?=\xff[\xd0-\xd7])")
RESTARTED = re.compile(rb"\xff([\xd0-\xd7])")
FILLER = bytes(range(1, 65))
"""Behind data that are whole it is skipped; where some are missing it is decoded."""
HOLE = bytes(64)
LUMINANCE_AC = 0x10
END_OF_BLOCK = 0x00
Segments = list[tuple[int, int, int]]
"""Marker, begin and end of what follows it, in order; CODED: the data behind a SCAN."""


def read_segments(content: bytes) -> Segments | None:
    """The segments up to the picture's end marker; None where it has none. Other data may follow it."""
    at, found = len(START), Segments()
    while (at := content.find(b"\xff", at)) >= 0 and at + 1 < len(content):
        marker = content[at + 1]
        if marker == END:
            return found
        if marker in (0x00, 0xFF):  # between segments: padding
            at += 1
            continue
        begin = at + 4
        at += 2 + int.from_bytes(content[at + 2 : begin], "big")
        found.append((marker, begin, at))
        if marker == SCAN:
            end = AFTER_CODED.search(content, at)
            if end is None:
                return None
            found.append((CODED, at, end.start()))
            at = end.start()
    return None


def lacks_data(content: bytes, segments: Segments, image: np.ndarray) -> bool:
    """Whether some of the picture's data are missing or zeroed, although it has its end marker.

    Args:
        content: the file.
        segments: of `content`.
        image: (H, W, 3) uint8, what a decoder made of it.
    """
    if _lacks_restarts(content, segments):
        return True
    hole = any(kind == CODED and content.find(HOLE, b, e) >= 0 for kind, b, e in segments)
    progressive = any(kind == PROGRESSIVE for kind, _, _ in segments)
    if hole and not progressive and not _zeros_are_flat(content, segments):
        return True
    if not (hole or progressive or _has_grey_block(image)):
        return False
    try:
        return not np.array_equal(_decoded(content), _decoded(_filled(content, segments)))
    except OSError:
        return True


def _lacks_restarts(content: bytes, segments: Segments) -> bool:
    """Whether restart markers, which divide the data, are out of turn or fewer than the picture's size asks for."""
    interval, frame, units = 0, b"", 0
    for kind, begin, end in segments:
        if kind == INTERVAL:
            interval = int.from_bytes(content[begin : begin + 2], "big")
        elif kind in FRAMES:
            frame = content[begin:end]
        elif kind == SCAN:
            units = _units(frame, content[begin:end])
        elif kind == CODED and interval:
            turns = [byte[0] & 7 for byte in RESTARTED.findall(content, begin, end)]
            in_turn = all(turn == number % 8 for number, turn in enumerate(turns))
            if not in_turn or (len(turns) + 1) * interval < units:
                return True
    return False


def _units(frame: bytes, scan: bytes) -> int:
    """How many units a scan has by the picture's size: blocks of one component, or groups of all; 0: unknown."""
    sizes = {
        frame[at]: (frame[at + 1] >> 4, frame[at + 1] & 15) for at in range(6, len(frame) - 2, 3)
    }
    if not scan or not sizes or not all(map(all, sizes.values())):
        return 0
    height, width = (int.from_bytes(frame[at : at + 2], "big") for at in (1, 3))
    widest, highest = (max(sides) for sides in zip(*sizes.values(), strict=True))
    across, down = sizes.get(scan[1], (1, 1)) if scan[0] == 1 else (1, 1)
    return -(-width * across // (BLOCK * widest)) * -(-height * down // (BLOCK * highest))


def _has_grey_block(image: np.ndarray) -> bool:
    """Whether some block may be one without data, which is exactly of medium grey."""
    blue, green, red = np.moveaxis(image[::4, ::4] == 128, -1, 0)
    grey = blue & green & red
    return bool((grey[:, 1:] & grey[:, :-1]).any() or grey.size == 1)


def _zeros_are_flat(content: bytes, segments: Segments) -> bool:
    """Whether zeros in the data are blocks without detail, as tables made for flat pictures code them."""
    for kind, at, end in segments:
        while kind == TABLES and at + 17 < end:
            if content[at] == LUMINANCE_AC and content[at + 17] == END_OF_BLOCK:
                return True
            at += 17 + sum(content[at + 1 : at + 17])
    return False


def _filled(content: bytes, segments: Segments) -> bytes:
    """The file with a filler behind all coded data."""
    pieces, at = [], 0
    for kind, begin, end in segments:
        if kind == CODED:
            pieces += [content[at:begin], RESTART.sub(FILLER, content[begin:end]), FILLER]
            at = end
    return b"".join([*pieces, content[at:]])


def _decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))  # OpenCV would print that there is a filler
