"""A frame of a Waymo Open drive, from v1 or v2: camera, lidar points, annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from moduv.datasets.prepare import MOVING_SPEED
from moduv.datasets.truth import Box
from moduv.frames.layouts import BACKGROUND, MOVING, STATIC, UNLABELLED

FRONT, TOP = 1, 1
"""Numbers of the front camera and of the roof's lidar."""
UNKNOWN, VEHICLE, PEDESTRIAN, SIGN, CYCLIST = range(5)
"""Kinds of boxes."""
WIDEST = 1.5
"""Largest slope of a ray to the side; the lens model does not hold beyond."""


def check_motion(matrix: np.ndarray, what: str) -> None:
    """Raise ValueError unless a matrix is a rigid motion (4, 4)."""
    turn = matrix[:3, :3]
    rigid = (
        matrix.shape == (4, 4)
        and np.isfinite(matrix).all()
        and np.allclose(turn @ turn.T, np.eye(3), atol=0.01)
        and np.linalg.det(turn) > 0
        and np.allclose(matrix[3], [0, 0, 0, 1])
    )
    if not rigid:
        raise ValueError(f"{what} is no rigid motion")


@dataclass(frozen=True)
class Camera:
    """A camera on the vehicle. Its axes are x ahead, y left, z up."""

    intrinsic: np.ndarray
    """(9,): f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3, in pixels."""
    vehicle_from_camera: np.ndarray
    width: int
    height: int

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that no camera has."""
        usable = self.intrinsic.shape == (9,) and np.isfinite(self.intrinsic).all()
        if not usable or (self.intrinsic[:2] <= 0).any() or min(self.width, self.height) < 1:
            raise ValueError("the front camera's calibration is no camera's")
        check_motion(self.vehicle_from_camera, "the front camera's place")

    def fits(self, other: Camera) -> bool:
        """Whether another is calibrated as this one is."""
        return (
            (self.width, self.height) == (other.width, other.height)
            and np.array_equal(self.intrinsic, other.intrinsic)
            and np.array_equal(self.vehicle_from_camera, other.vehicle_from_camera)
        )

    def matrix(self) -> np.ndarray:
        """Return K, (3, 3)."""
        f_u, f_v, c_u, c_v = self.intrinsic[:4]
        return np.array([[f_u, 0, c_u], [0, f_v, c_v], [0, 0, 1]])

    def depths(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project the visible ones of points (N, 3) in the vehicle's coordinates, metres.

        Returns:
            (M, 3) as column, row, metres along the optical axis, and the points' indices, (M,).
        """
        camera_from_vehicle = np.linalg.inv(self.vehicle_from_camera)
        ahead, left, up = camera_from_vehicle[:3, :3] @ points.T + camera_from_vehicle[:3, 3:]
        seen = (ahead > 1) & (np.abs(left) < WIDEST * ahead) & (np.abs(up) < WIDEST * ahead)
        if not seen.any():
            return np.empty((0, 3)), np.empty(0, int)
        rays = np.stack([-left[seen], -up[seen], ahead[seen]], 1)
        pixels, _ = cv2.projectPoints(
            rays, np.zeros(3), np.zeros(3), self.matrix(), self.intrinsic[4:9]
        )
        columns, rows = pixels[:, 0].T
        inside = (columns >= 0) & (columns < self.width) & (rows >= 0) & (rows < self.height)
        found = np.stack([columns, rows, rays[:, 2]], 1)[inside]
        return found, np.flatnonzero(seen)[inside]


@dataclass(frozen=True)
class SolidBox:
    """An upright box around lidar points, in the vehicle's coordinates, metres."""

    kind: int
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    """Length along its heading, width, height."""
    heading: float
    """Radians from the vehicle's x axis towards its y axis."""
    speed: float | None
    """Metres a second over ground; None where it is not known."""

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Test which points (N, 3) are inside, (N,) bool."""
        cosine, sine = np.cos(self.heading), np.sin(self.heading)
        x, y, z = (points - np.array(self.centre)).T
        local = np.stack([cosine * x + sine * y, cosine * y - sine * x, z], 1)
        return (np.abs(local) <= np.array(self.size) / 2).all(1)


@dataclass(frozen=True)
class DriveFrame:
    """One frame of the front camera; what was not asked for or is not annotated is None."""

    index: int
    """Its number in the drive."""
    camera: Camera
    world_from_vehicle: np.ndarray
    image: bytes | None = None
    """JPEG."""
    points: np.ndarray | None = None
    """(N, 3) in the vehicle's coordinates, metres."""
    solids: tuple[SolidBox, ...] | None = None
    boxes: tuple[tuple[int, Box], ...] | None = None
    """Kinds and boxes in the image."""
    panoptic: bytes | None = None
    """PNG of 16 bits: class x divisor + instance, 0 where there is no instance."""
    divisor: int = 1000

    def __post_init__(self) -> None:
        """Raise ValueError for a pose that is none, and for boxes without a place."""
        check_motion(self.world_from_vehicle, "the vehicle's pose")
        placed: list[tuple[float, ...]] = [box for _, box in self.boxes or ()]
        placed += [(*solid.centre, *solid.size, solid.heading) for solid in self.solids or ()]
        if not all(np.isfinite(numbers).all() for numbers in placed):
            raise ValueError("a box is not finite")


def motion_of_points(points: np.ndarray, boxes: Sequence[SolidBox]) -> np.ndarray:
    """Label points (N, 3), (N,) uint8: 0 background, 1 moving, 2 static, 3 speed unknown."""
    labels = np.full(len(points), BACKGROUND, np.uint8)
    for box in boxes:
        if box.kind == SIGN:  # signs never move
            continue
        moves = UNLABELLED if box.speed is None else STATIC
        if box.speed is not None and box.speed > MOVING_SPEED:
            moves = MOVING
        labels[box.holds(points)] = moves
    return labels


@dataclass(frozen=True)
class Lidar:
    """The roof's lidar."""

    vehicle_from_lidar: np.ndarray
    inclinations: np.ndarray
    """Of the rows from the lowest up, radians; empty: evenly spread over `limits`."""
    limits: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Raise ValueError for a place or rows that no lidar has."""
        check_motion(self.vehicle_from_lidar, "the lidar's place")
        if not np.isfinite([*self.inclinations, *self.limits]).all():
            raise ValueError("the lidar's rows are not finite")

    def points(
        self, image: np.ndarray, poses: np.ndarray | None, world_from_vehicle: np.ndarray
    ) -> np.ndarray:
        """Convert a range image to points (N, 3) in the vehicle's coordinates at the frame's time, metres.

        Args:
            image: (H, W, C), range first; not above 0 where nothing returned.
            poses: (H, W, 6), roll, pitch, yaw, x, y, z of the vehicle in the world when each pixel was
                measured; None: the vehicle stood still.
            world_from_vehicle: (4, 4) at the frame's time.

        Raises ValueError when the shapes do not fit, or a number is not finite.
        """
        rows = len(self.inclinations)
        if image.ndim != 3 or rows not in {0, len(image)}:
            raise ValueError(f"the range image is {image.shape}, and the lidar has {rows} rows")
        if poses is not None and poses.shape != (*image.shape[:2], 6):
            raise ValueError(f"poses are {poses.shape} and the range image {image.shape}")
        if not all(np.isfinite(part).all() for part in (image[..., 0], poses) if part is not None):
            raise ValueError("a range or a pose is not finite")
        distance = image[..., 0].astype(np.float64)
        hit = distance > 0
        points = self._directions(*distance.shape)[hit] * distance[hit][:, None]
        points = points @ self.vehicle_from_lidar[:3, :3].T + self.vehicle_from_lidar[:3, 3]
        if poses is None:
            return points
        pose = poses[hit].astype(np.float64)
        world = np.einsum("nij,nj->ni", _rotations(*pose[:, :3].T), points) + pose[:, 3:]
        back = np.linalg.inv(world_from_vehicle)
        return world @ back[:3, :3].T + back[:3, 3]

    def _directions(self, height: int, width: int) -> np.ndarray:
        """Unit vectors (H, W, 3) of the pixels in the lidar's coordinates.

        Rows run from the highest beam down, columns against the clock from behind the vehicle.
        """
        inclinations = self.inclinations
        if not len(inclinations):
            lowest, highest = self.limits
            inclinations = lowest + (np.arange(height) + 0.5) / height * (highest - lowest)
        up = inclinations[::-1][:, None]  # (H, 1)
        turned = np.arctan2(self.vehicle_from_lidar[1, 0], self.vehicle_from_lidar[0, 0])
        share = (width - np.arange(width) - 0.5) / width
        azimuth = (2 * share - 1) * np.pi - turned  # (W,)
        x, y = np.cos(azimuth) * np.cos(up), np.sin(azimuth) * np.cos(up)
        return np.stack([x, y, np.sin(up) * np.ones(width)], -1)


def _rotations(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) about z, then y, then x, by angles (N,) in radians.

    scipy's `Rotation` takes eight times as long for the pixels of a range image.
    """
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
