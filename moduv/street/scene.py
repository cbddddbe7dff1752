"""What stands and moves in a street: buildings, parked and driving cars, pedestrians, the camera.

World axes are the first camera's: x right, y down, z forward, in metres; the road is the plane y = 0
and the camera hangs 2 m above it, on the roof. Parked cars are drawn from the same distribution of shapes and
paints as driving ones: a single image does not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np

from moduv.street import textures

CAMERA_HEIGHT = 2.0
LANE = 1.85
KERB = 4.95
ROAD_HALF_WIDTH = 12.0
CARS = {"car": (1.8, 1.45, 4.2), "van": (1.95, 2.1, 4.9), "truck": (2.3, 2.9, 6.5)}
"""Width, height, length."""
HUES = ("red", "yellow", "green", "cyan", "blue", "purple")
"""Names of the hues, each a sixth of the wheel, red around 0."""
ROAD_START, ROAD_LENGTH, ROAD_TILE = -14.0, 192.0, 12.0


@dataclass(frozen=True)
class Block:
    """An upright box of an object, in the object's own frame (metres), and its face textures.

    `x`, `z`: centre; `bottom`: height of its underside; `faces`: rear, front, sides, top.
    """

    x: float
    z: float
    width: float
    height: float
    length: float
    bottom: float
    faces: tuple[int, int, int, int]


@dataclass(frozen=True)
class SceneObject:
    """A car or a pedestrian: position at frame 0, heading (radians), velocity (metres a frame)."""

    x: float
    z: float
    yaw: float
    velocity: tuple[float, float]
    width: float
    length: float
    blocks: tuple[Block, ...]
    kind: str
    """`car`, `van`, `truck` or `pedestrian`."""
    paint: str = ""
    """Name of a vehicle's colour."""

    @property
    def name(self) -> str:
        """What it is called: "red van", "pedestrian"."""
        return f"{self.paint} {self.kind}".strip()

    @property
    def moving(self) -> bool:
        return self.velocity != (0.0, 0.0)

    def at(self, frame: int) -> np.ndarray:
        """Position (3,) on the road at a frame."""
        return np.array([self.x + frame * self.velocity[0], 0.0, self.z + frame * self.velocity[1]])

    def clearance(self) -> tuple[float, float]:
        """Half extents along x and z that nothing else should stand in."""
        along, across = abs(np.cos(self.yaw)), abs(np.sin(self.yaw))
        width = along * self.width + across * self.length
        length = along * self.length + across * self.width
        return width / 2, length / 2


class Quad(NamedTuple):
    """A textured parallelogram seen with `corner` at its top left; its front is towards right x down, negated."""

    corner: np.ndarray
    right: np.ndarray
    down: np.ndarray
    texture: int
    identity: int = 0
    """0: the static world."""
    tiling: tuple[float, float] = (1, 1)


class Scene:
    """A street drawn from a seed: static quads, objects, and the camera's way through it.

    Args:
        seed: everything about the scene follows from it.
        frames: number of frames of the clip.
    """

    def __init__(self, seed: int, frames: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.frames = frames
        self.textures: list[np.ndarray] = []
        self.objects: list[SceneObject] = []
        self.static: list[Quad] = []
        self._drive()
        self._build_street()
        self._park()
        self._drive_traffic()
        self._walk()
        self.shade = self._texture(np.full((textures.SIZE, textures.SIZE, 3), 42.0))

    def atlas(self) -> np.ndarray:
        """All textures with their mip levels, (N, 2 * SIZE, SIZE, 3) uint8."""
        return np.stack(self.textures)

    def camera(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Camera-to-world rotation (3, 3) and position (3,) in metres."""
        sway = 0.02 * np.sin(0.7 * frame)
        bounce = 0.008 * np.sin(1.7 * frame)
        position = np.array([LANE + sway, bounce - CAMERA_HEIGHT, self.speed[:frame].sum()])
        return turn(self.yaw_rate * frame), position

    def quads(self, frame: int) -> list[Quad]:
        """Everything to be drawn at a frame."""
        quads = list(self.static)
        for identity, item in enumerate(self.objects, 1):
            for block in item.blocks:
                quads += _faces(item, block, frame, identity)
            quads.append(self._shadow(item, frame))
        return quads

    def _texture(self, texture: np.ndarray) -> int:
        self.textures.append(textures.pyramid(texture))
        return len(self.textures) - 1

    def _drive(self) -> None:
        """Ego-motion: 0.28 to 0.48 m a frame with slow changes, some yaw; three clips in ten stand.

        While the camera waits, whatever changes moves by itself, so that motion can be told there from
        the errors of depth.
        """
        rng = self.rng
        drift = np.cumsum(rng.normal(0, 0.008, self.frames))
        wave = 0.03 * np.sin(np.arange(self.frames) * rng.uniform(0.2, 0.6))
        stands = rng.random() < 0.3
        speed = rng.uniform(0.28, 0.48) + drift + wave
        self.speed = np.zeros(self.frames) if stands else np.clip(speed, 0.05, 0.6)
        self.yaw_rate = 0.0 if stands else rng.normal() * 0.004

    def _build_street(self) -> None:
        rng = self.rng
        road = self._texture(textures.road(rng))
        corner = np.array([-ROAD_HALF_WIDTH, 0, ROAD_START + ROAD_LENGTH])
        right, down = np.array([2 * ROAD_HALF_WIDTH, 0, 0]), np.array([0, 0, -ROAD_LENGTH])
        tiling = (1, ROAD_LENGTH / ROAD_TILE)
        self.static.append(Quad(corner, right, down, road, tiling=tiling))
        fronts = [self._texture(textures.facade(rng)) for _ in range(6)]
        for side in (-1, 1):
            self._build_side(side, fronts)
        corner, right = np.array([-30.0, -12.0, 112.0]), np.array([60.0, 0, 0])
        self.static.append(Quad(corner, right, np.array([0, 12.0, 0]), fronts[0], tiling=(5, 1)))

    def _build_side(self, side: int, fronts: list[int]) -> None:
        """Houses along one side: a front towards the road, a gable towards the camera."""
        rng = self.rng
        near = ROAD_START
        while near < 110:
            width, height = rng.uniform(9, 18), rng.uniform(7, 15)
            x, front = side * rng.uniform(9.2, 11.5), fronts[rng.integers(6)]
            down = np.array([0, height, 0])
            tiling = (max(1, round(width / 9)), max(1, round(height / 9)))
            first, along = (near, width) if side < 0 else (near + width, -width)
            wall = np.array([x, -height, first]), np.array([0, 0, along])
            left = x if side > 0 else x - 6
            gable = np.array([left, -height, near]), np.array([6.0, 0, 0])
            self.static.append(Quad(*wall, down, front, 0, tiling))
            self.static.append(Quad(*gable, down, front, 0, (1, tiling[1])))
            near += width + (rng.uniform(2, 5) if rng.random() < 0.3 else 0)

    def _park(self) -> None:
        """Cars at both kerbs, one in seven at an angle."""
        rng = self.rng
        for side in (-1, 1):
            z, density = rng.uniform(2, 7), rng.uniform(0.35, 0.8)
            while z < 60:
                angle = rng.normal() * 0.04 if rng.random() < 0.85 else rng.choice([-0.5, 0.5])
                if rng.random() < density:
                    x = side * (KERB + rng.uniform(-0.2, 0.2))
                    self._add_car(x, z, (0 if side > 0 else np.pi) + angle, (0.0, 0.0))
                z += rng.uniform(5.5, 10)

    def _drive_traffic(self) -> None:
        """Cars oncoming, ahead, crossing and turning."""
        self._drive_oncoming()
        self._drive_ahead()
        rng = self.rng
        for chance in (0.8, 0.6, 0.4):
            if rng.random() < chance:
                side, speed = rng.choice([-1, 1]), rng.uniform(0.15, 0.42)
                x = -side * speed * self.frames * rng.uniform(0.2, 0.8) + rng.uniform(-3, 3)
                z = rng.uniform(6, 24) + self.speed.mean() * self.frames / 2
                self._add_car(x, z, side * np.pi / 2, (side * speed, 0))
        for chance in (0.7, 0.5):
            if rng.random() < chance:
                yaw, speed = rng.choice([-1, 1]) * rng.uniform(0.4, 2.6), rng.uniform(0.12, 0.35)
                velocity = (speed * np.sin(yaw), speed * np.cos(yaw))
                self._add_car(rng.uniform(-5, 5), rng.uniform(7, 20), yaw, velocity)

    def _drive_oncoming(self) -> None:
        """The oncoming lane: each car drives or waits by itself, some change lanes.

        A car that comes straight towards the camera looks just like a nearer one that stands. Only
        because cars at the same place stand as often can depth be learnt without that error.
        """
        rng = self.rng
        density, z = rng.choice([0.0, 0.5, 0.85]), rng.uniform(4, 14)
        while z < 75:
            if rng.random() < density:
                drives = rng.random() < 0.45
                speed = rng.uniform(0.12, 0.45) if drives else 0.0
                drift = rng.uniform(-0.3, 0.3) * speed if rng.random() < 0.4 else 0.0
                yaw = np.arctan2(drift, -speed) if drives else np.pi
                start = z + 0.8 * speed * self.frames
                self._add_car(rng.uniform(-3.2, -1.5), start, yaw, (drift, -speed))
            z += rng.uniform(7, 14)

    def _drive_ahead(self) -> None:
        """A car ahead that is clearly slower or faster than the camera; half of them drift aside."""
        rng = self.rng
        if rng.random() < 0.7:
            speed = self.speed.mean() + rng.choice([-1, 1]) * rng.uniform(0.15, 0.35)
            speed = max(0.0, speed)
            drift = rng.uniform(-0.3, 0.3) * speed if rng.random() < 0.5 else 0.0
            yaw = np.arctan2(drift, max(speed, 0.1)) + rng.normal() * 0.02
            x = LANE + rng.normal() * 0.3
            self._add_car(x, rng.uniform(5.5, 16), yaw, (drift, speed))

    def _walk(self) -> None:
        """Pedestrians on the pavements and crossing the road; four in ten stand still."""
        rng = self.rng
        for _ in range(rng.integers(1, 6)):
            walks, side = rng.random() < 0.6, rng.choice([-1, 1])
            speed = side * rng.uniform(0.1, 0.2) if walks else 0.0
            beside = rng.choice([-1, 1]) * rng.uniform(3.2, 7.5)
            crosses = rng.random() < 0.65
            x = rng.uniform(-6, 6) if crosses and walks else beside
            self._add_person(x, rng.uniform(5, 22), (speed, 0.0) if crosses else (0.0, speed))

    def _add_car(self, x: float, z: float, yaw: float, velocity: tuple[float, float]) -> None:
        rng = self.rng
        kind = rng.choice([*CARS], p=[0.72, 0.2, 0.08])
        width, height, length = CARS[kind]
        width, height = width * rng.uniform(0.93, 1.07), height * rng.uniform(0.92, 1.1)
        length *= rng.uniform(0.9, 1.1)
        car = SceneObject(x, z, yaw, velocity, width, length, (), str(kind))
        if self._is_free(car):
            colour = [rng.uniform(0, 180), rng.beta(1.2, 1.6) * 230, rng.uniform(40, 235)]
            blocks = self._car_blocks(car.kind, width, height, length, colour)
            self.objects.append(replace(car, blocks=blocks, paint=paint_name(*colour)))

    def _car_blocks(
        self, kind: str, width: float, height: float, length: float, colour: list[float]
    ) -> tuple[Block, ...]:
        """The blocks of a vehicle whose paint is `colour`: hue (of 180), saturation, value."""
        rng = self.rng
        pixel = np.array(colour).reshape(1, 1, 3).astype(np.uint8)
        paint = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
        top = self._texture(textures.plain(rng, paint * 1.08, 10))
        body = (
            self._texture(textures.car_end(rng, paint, rear=True)),
            self._texture(textures.car_end(rng, paint, rear=False)),
            self._texture(textures.car_side(rng, paint)),
            top,
        )
        ends = self._texture(textures.glazing(rng, paint, 1))
        sides = self._texture(textures.glazing(rng, paint, 2 if kind == "car" else 3))
        cabin = (ends, ends, sides, top)
        gap = 0.16
        if kind == "truck":
            load = self._texture(textures.plain(rng, rng.uniform(90, 230, 3), 12))
            return (
                Block(0, 0.36 * length, 0.95 * width, 0.62 * height, 0.26 * length, gap, cabin),
                Block(0, -0.14 * length, width, height - 0.56, 0.7 * length, 0.56, (load,) * 4),
                Block(0, 0, 0.9 * width, 0.5, 0.96 * length, gap, body),
            )
        share, narrow, back, long = (
            (0.56, 0.86, -0.08, 0.55) if kind == "car" else (0.5, 0.95, -0.06, 0.84)
        )
        lower = share * height
        upper = height - lower - gap
        return (
            Block(0, 0, width, lower, length, gap, body),
            Block(0, back * length, narrow * width, upper, long * length, gap + lower, cabin),
        )

    def _add_person(self, x: float, z: float, velocity: tuple[float, float]) -> None:
        rng = self.rng
        height, yaw = rng.uniform(1.55, 1.9), rng.uniform(-0.3, 0.3)
        if not self._is_free(SceneObject(x, z, 0.0, velocity, 0.6, 0.45, (), "pedestrian")):
            return
        legs, torso, head = (
            (self._texture(textures.person(rng, part)),) * 4 for part in ("legs", "torso", "head")
        )
        blocks = (
            Block(0, 0, 0.42, 0.48 * height, 0.32, 0, legs),
            Block(0, 0, 0.58, 0.36 * height, 0.34, 0.48 * height, torso),
            Block(0, 0, 0.26, 0.15 * height, 0.26, 0.845 * height, head),
        )
        self.objects.append(SceneObject(x, z, yaw, velocity, 0.6, 0.45, blocks, "pedestrian"))

    def _is_free(self, item: SceneObject) -> bool:
        """Whether the object keeps clear of the camera and the other objects in every frame.

        At the first, middle and last frame it also keeps a distance from the other objects.
        """
        half_width, half_length = item.clearance()
        for frame in range(self.frames):
            apart = np.abs(item.at(frame) - self.camera(frame)[1])
            if apart[0] < half_width + 0.2 and apart[2] < half_length + 0.2:
                return False
        for other in self.objects:
            width, length = half_width + other.clearance()[0], half_length + other.clearance()[1]
            for frame in range(self.frames):
                apart = np.abs(item.at(frame) - other.at(frame))
                roomy = frame in (0, self.frames // 2, self.frames - 1)
                beside, ahead = (0.3, 0.5) if roomy else (0.0, 0.0)
                if apart[0] < width + beside and apart[2] < length + ahead:
                    return False
        return True

    def _shadow(self, item: SceneObject, frame: int) -> Quad:
        """A dark patch under the object, just above the road."""
        x, z = 0.525 * item.width, 0.51 * item.length
        corner, right, down = (
            turn(item.yaw) @ np.array(v, np.float64)
            for v in ([-x, -0.004, z], [2 * x, 0, 0], [0, 0, -2 * z])
        )
        return Quad(corner + item.at(frame), right, down, self.shade)


def paint_name(hue: float, saturation: float, value: float) -> str:
    """The name of a colour: hue in [0, 180), saturation and value in [0, 255]."""
    if value < 80:
        return "black"
    if saturation < 50:
        return "white" if value >= 160 else "grey"
    return HUES[int((hue + 15) // 30) % 6]


def turn(yaw: float) -> np.ndarray:
    """Rotation (3, 3) about the vertical; positive turns forward towards the right."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


def _faces(item: SceneObject, block: Block, frame: int, identity: int) -> Iterator[Quad]:
    """The five visible faces of a box: rear, front, left, right, top."""
    origin, rotation = item.at(frame), turn(item.yaw)
    x0, x1 = block.x - block.width / 2, block.x + block.width / 2
    z0, z1 = block.z - block.length / 2, block.z + block.length / 2
    top, bottom = -(block.bottom + block.height), -block.bottom
    rear, front, sides, roof = block.faces
    for texture, corners in (
        (rear, ((x0, top, z0), (x1, top, z0), (x0, bottom, z0))),
        (front, ((x1, top, z1), (x0, top, z1), (x1, bottom, z1))),
        (sides, ((x0, top, z1), (x0, top, z0), (x0, bottom, z1))),
        (sides, ((x1, top, z0), (x1, top, z1), (x1, bottom, z0))),
        (roof, ((x0, top, z1), (x1, top, z1), (x0, top, z0))),
    ):
        first, second, third = (origin + rotation @ np.array(p, np.float64) for p in corners)
        yield Quad(first, second - first, third - first, texture, identity)
