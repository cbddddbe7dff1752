"""Pinhole intrinsics that follow their image through resizing and flipping."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json

SQUARE, IMPOSSIBLE = 1.12, 1.5
"""Ratios of the focal lengths in pixels: up to the first, pixels are square; no camera exceeds the second."""
CENTRED = 0.08
"""Of the image, how far the principal point may be off its middle where pixels are not square."""
LONGEST = 20.0
"""Largest focal length in widths of the image, a field of view of 3 degrees: beyond it are pixels."""


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point in pixels of an image of `width` x `height`.

    Pixel centres lie at integer coordinates: the image spans -0.5 to width - 0.5. On disk the matrix
    is normalised, its rows divided by width and height, as the Dynamo-Depth preparation writes it;
    there no half-pixel shift is applied, so none is applied here when an image is resized.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def matrix(self) -> np.ndarray:
        """The camera matrix K, (3, 3) float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def matrix4(self) -> np.ndarray:
        """K in homogeneous form, (4, 4) float64."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.matrix()
        return matrix

    def inverse4(self) -> np.ndarray:
        """The inverse of K in homogeneous form, (4, 4) float64."""
        return np.linalg.inv(self.matrix4())

    def resized(self, width: int, height: int) -> Intrinsics:
        """The intrinsics of the image resized to `width` x `height` pixels."""
        x, y = width / self.width, height / self.height
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y, width, height)

    def cropped(self, left: int, top: int, width: int, height: int) -> Intrinsics:
        """The intrinsics of a part of the image, pixels."""
        return replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)

    def zoomed(self, factor: float) -> Intrinsics:
        """The same camera with a longer focal length."""
        return replace(self, fx=self.fx * factor, fy=self.fy * factor)

    def flipped(self) -> Intrinsics:
        """The intrinsics of the horizontally mirrored image."""
        return replace(self, cx=self.width - 1 - self.cx)

    @classmethod
    def from_cam_json(cls, path: str | Path, width: int, height: int) -> Intrinsics:
        """Read `cam.json` (key `intrinsic_mat`, rows divided by width and height).

        Raises InputError when the file is missing or its matrix is not a pinhole camera's, is one in pixels,
        or has its principal point beside the image.
        """
        content = read_json(path)
        if not isinstance(content, dict) or "intrinsic_mat" not in content:
            raise InputError(
                f"{path}: lacks the key 'intrinsic_mat'; write the normalised 3 x 3 matrix there."
            )
        source, remedy = (
            f"{path}: 'intrinsic_mat'",
            "write K by rows, divided by the image's width and height",
        )
        matrix = _checked(content["intrinsic_mat"], source, remedy)
        (fx, cx), (fy, cy) = matrix[0, [0, 2]], matrix[1, [1, 2]]
        centred = ((matrix[:2, 2] >= -1) & (matrix[:2, 2] <= 2)).all()
        if max(fx * width, fy * height) > LONGEST * width or not centred:
            raise InputError(
                f"{source} is not normalised, its focal length would be {fx:g} times the width and its "
                f"centre at ({cx:g}, {cy:g}) of the image; divide the first row by the image's width and "
                "the second by its height."
            )
        return cls.from_matrix(matrix * [[width], [height], [1]], width, height, source, remedy)

    @classmethod
    def from_matrix(
        cls, matrix: Any, width: int, height: int, source: str, remedy: str
    ) -> Intrinsics:
        """The camera of K (3, 3) in pixels of an image of `width` x `height`.

        Raises InputError that begins with `source` and ends with `remedy` when K is no pinhole camera's, or
        its principal point lies beside the image.
        """
        matrix = _checked(matrix, source, remedy)
        fx, fy, cx, cy = (float(matrix[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        if not (-0.5 <= cx <= width and -0.5 <= cy <= height):
            raise InputError(
                f"{source} has its principal point at ({cx:g}, {cy:g}), outside of the image of "
                f"{width} x {height} pixels; {remedy}."
            )
        return cls(fx, fy, cx, cy, width, height)

    def check_pixels(self, source: str) -> str | None:
        """A sentence about pixels that are not square, in an image as it was taken; None where they are.

        Raises InputError that begins with `source` when the focal lengths are of an image of other sides.
        """
        ratio = max(self.fx / self.fy, self.fy / self.fx)
        off = max(abs(self.cx / self.width - 0.5), abs(self.cy / self.height - 0.5))
        told = f"{source} gives {self.width} x {self.height} pixels focal lengths of {self.fx:.0f} and {self.fy:.0f}"
        if ratio > IMPOSSIBLE or (ratio > SQUARE and off > CENTRED):
            raise InputError(
                f"{told} pixels, as of an image of other sides; divide the first row of K by the width of "
                "its image and the second by the height."
            )
        return f"{told}: its pixels are not square" if ratio > SQUARE else None

    @classmethod
    def from_field_of_view(cls, degrees: float, width: int, height: int) -> Intrinsics:
        """A camera with square pixels, a centred principal point and a horizontal field of view."""
        if not 3 <= degrees <= 179:
            raise InputError(
                f"field of view {degrees} is not between 3 and 179 degrees; mend the value."
            )
        focal = width / (2 * math.tan(math.radians(degrees) / 2))
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)

    def to_cam_json(self, path: str | Path, *, assumed: bool = False) -> None:
        """Write the normalised matrix as `cam.json`, and whether it is only a guess."""
        scale = np.array([[self.width], [self.height], [1.0]])
        content: dict[str, object] = {"intrinsic_mat": (self.matrix() / scale).tolist()}
        write_json(path, content | ({"assumed": True} if assumed else {}), indent=1)


def _checked(content: Any, source: str, remedy: str) -> np.ndarray:
    """K as (3, 3) float64. Raises InputError when it is no pinhole camera's."""
    try:
        matrix = np.asarray(content, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape == (4, 4) and np.array_equal(matrix[3], [0, 0, 0, 1]):
        matrix = matrix[:3]
    matrix = matrix[:, :3] if matrix.shape == (3, 4) else matrix
    usable = matrix.shape == (3, 3) and np.isfinite(matrix).all()
    if not usable or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InputError(
            f"{source} is not a 3 x 3 camera matrix with positive focal lengths; {remedy}."
        )
    skew = abs(matrix[0, 1]) > 0.01 * matrix[0, 0]
    if skew or np.abs([matrix[1, 0], *(matrix[2] - [0, 0, 1])]).max() > 1e-3:
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in matrix)
        raise InputError(
            f"{source} is ({rows}), not (fx 0 cx; 0 fy cy; 0 0 1), as if written by columns; {remedy}."
        )
    return matrix
