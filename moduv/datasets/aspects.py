"""Aspects, width to height: clips of several cameras are cropped to one."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from moduv.instances.instances import ASPECT_TOLERANCE

OTHER_ASPECT = ASPECT_TOLERANCE / 6
"""Relative difference of another aspect ratio. The rest of the tolerance is for the size of stage 1's input, which
has the aspect ratio of one frame in steps of 32 pixels."""


class Window(NamedTuple):
    """A part of an image, pixels."""

    left: int
    top: int
    width: int
    height: int


def differs(width: int, height: int, aspect: Fraction) -> bool:
    """Test whether an image has another aspect ratio, see `OTHER_ASPECT`."""
    return abs(Fraction(width, height) / aspect - 1) > OTHER_ASPECT


def usual_aspect(frames: Mapping[Fraction, int]) -> Fraction:
    """Return the aspect ratio of most frames, given their number for each; similar ones count together."""

    def votes(aspect: Fraction) -> tuple[int, int]:
        near = sum(
            count
            for other, count in frames.items()
            if not differs(other.numerator, other.denominator, aspect)
        )
        return near, frames[aspect]

    return max(frames, key=votes)


def centre_window(width: int, height: int, aspect: Fraction) -> Window:
    """Return the largest centred part of an image with an aspect ratio; the whole image if it has that one."""
    if not differs(width, height, aspect):
        return Window(0, 0, width, height)
    if Fraction(width, height) > aspect:
        kept = round(height * aspect)
        return Window((width - kept) // 2, 0, kept, height)
    kept = round(width / aspect)
    return Window(0, (height - kept) // 2, width, kept)
