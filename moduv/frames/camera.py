"""Pinhole intrinsics that follow their image through resizing and flipping."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json

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

        Raises InputError when the file is missing or its matrix is not a pinhole camera's, or is one in
        pixels.
        """
        content = read_json(path)
        if not isinstance(content, dict) or "intrinsic_mat" not in content:
            raise InputError(
                f"{path}: lacks the key 'intrinsic_mat'; write the normalised 3 x 3 matrix there."
            )
        try:
            matrix = np.asarray(content["intrinsic_mat"], np.float64)[:3, :3]
        except (ValueError, IndexError, TypeError):
            matrix = np.empty(0)
        usable = matrix.shape == (3, 3) and np.isfinite(matrix).all()
        if not usable or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise InputError(
                f"{path}: 'intrinsic_mat' is not a 3 x 3 camera matrix with positive focal lengths; "
                "write K with its rows divided by the image's width and height."
            )
        fx, cx = matrix[0, 0] * width, matrix[0, 2] * width
        fy, cy = matrix[1, 1] * height, matrix[1, 2] * height
        centred = ((matrix[:2, 2] >= -1) & (matrix[:2, 2] <= 2)).all()
        if max(fx, fy) > LONGEST * width or not centred:
            raise InputError(
                f"{path}: 'intrinsic_mat' is not normalised, its focal length would be {fx / width:g} times "
                f"the width and its centre at ({matrix[0, 2]:g}, {matrix[1, 2]:g}) of the image; divide "
                "the first row by the image's width and the second by its height."
            )
        return cls(float(fx), float(fy), float(cx), float(cy), width, height)

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
