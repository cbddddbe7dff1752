"""Surfaces of the street world: smooth procedural textures with mip levels.

Textures carry little detail finer than a sixteenth of their size, so that photometric matching has
slopes to follow and distant surfaces do not shimmer.
"""

from __future__ import annotations

import cv2
import numpy as np

SIZE = 128
LEVELS = 6


def noise(rng: np.random.Generator, cells: tuple[int, ...] = (4, 16)) -> np.ndarray:
    """Smooth noise (SIZE, SIZE, 3) of unit amplitude: mostly brightness, a little colour."""
    total = np.zeros((SIZE, SIZE, 3), np.float32)
    for count in cells:
        grey = rng.normal(size=(count, count, 1))
        grid = (grey + 0.25 * rng.normal(size=(count, count, 3))).astype(np.float32)
        total += cv2.resize(grid, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return total / len(cells)


def plain(rng: np.random.Generator, colour: np.ndarray, contrast: float) -> np.ndarray:
    """A surface of one colour (0 to 255) with noise."""
    return np.asarray(colour, np.float32) + contrast * noise(rng)


def facade(rng: np.random.Generator) -> np.ndarray:
    """A house front: plaster or brick, rows of windows, a darker ground floor."""
    palette = np.array(
        [[176, 160, 140], [150, 110, 90], [190, 185, 175], [140, 140, 150], [170, 130, 100]]
    )
    texture = plain(rng, palette[rng.integers(len(palette))] + rng.normal(0, 12, 3), 22)
    columns, rows = rng.integers(3, 6), rng.integers(3, 5)
    width, height = SIZE / columns, SIZE / rows
    glass = rng.uniform(40, 90) * np.array([0.9, 1.0, 1.15])
    for row in range(rows):
        for column in range(columns):
            x, y = int((column + 0.25) * width), int((row + 0.22) * height)
            w, h = int(0.5 * width), int(0.55 * height)
            texture[y : y + h, x : x + w] = glass + rng.normal(0, 14)
            texture[y - 2 : y, x - 1 : x + w + 1] = 215
    texture[-int(0.1 * SIZE) :] *= 0.7
    return texture


def car_side(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """The lower body's flank: paint, wheels in dark arches, a sill and a door line."""
    texture = plain(rng, colour, 14)
    texture[: SIZE // 8] *= 1.12
    texture[-SIZE // 6 :] *= 0.55
    for centre in (0.2, 0.79):
        position = (int(centre * SIZE), int(0.8 * SIZE))
        cv2.ellipse(texture, position, (15, 36), 0, 0, 360, (22, 22, 24), -1)
        cv2.ellipse(texture, position, (7, 17), 0, 0, 360, (120, 120, 125), -1)
    texture[10:96, SIZE // 2 - 1 : SIZE // 2 + 1] *= 0.7
    return texture


def car_end(rng: np.random.Generator, colour: np.ndarray, rear: bool) -> np.ndarray:
    """Front or rear of the lower body: lamps, plate, bumper."""
    texture = plain(rng, colour, 12)
    texture[-SIZE // 4 :] = 45 + 6 * noise(rng)[-SIZE // 4 :]
    lamp = (190, 25, 20) if rear else (245, 240, 215)
    for x in (6, SIZE - 34):
        cv2.rectangle(texture, (x, 28), (x + 28, 58), lamp, -1)
    if rear:
        cv2.rectangle(texture, (46, 52), (82, 74), (225, 225, 215), -1)
    else:
        cv2.rectangle(texture, (38, 40), (90, 78), (50, 50, 55), -1)
    return texture


def glazing(rng: np.random.Generator, colour: np.ndarray, panes: int) -> np.ndarray:
    """A cabin's wall: panes between pillars of the car's colour."""
    texture = plain(rng, colour, 10)
    glass = np.array([48, 58, 68]) + rng.normal(0, 6)
    width = SIZE / panes
    for pane in range(panes):
        left, right = int((pane + 0.08) * width), int((pane + 0.92) * width)
        texture[12:118, left:right] = glass
        texture[12:50, left:right] += 22
    return texture


def person(rng: np.random.Generator, part: str) -> np.ndarray:
    """Legs, torso or head of a pedestrian."""
    if part == "head":
        texture = plain(rng, np.array([205, 160, 130]) * rng.uniform(0.5, 1.05), 8)
        texture[:50] = rng.uniform(20, 90) * np.array([1.0, 0.85, 0.7])
        return texture
    texture = plain(rng, rng.uniform(30, 220, 3), 16)
    if part == "legs":
        texture = plain(rng, rng.uniform(20, 110) * np.array([0.9, 0.95, 1.1]), 12)
        texture[:, SIZE // 2 - 5 : SIZE // 2 + 5] *= 0.5
        texture[-14:] = 30
    return texture


def asphalt(rng: np.random.Generator) -> np.ndarray:
    """A patch of road; markings are painted by `road`."""
    base = np.full(3, rng.uniform(88, 112)) + rng.normal(0, 3, 3)
    return base + 34 * noise(rng, (16, 32, 64))


def road(rng: np.random.Generator) -> np.ndarray:
    """24 m of street width by 12 m of length: pavements, kerbs, edge lines, a dashed centre line."""
    texture = asphalt(rng)
    column = (np.arange(SIZE) + 0.5) * 24 / SIZE - 12
    pavement = np.abs(column) > 6.3
    paving = np.array([150, 146, 138]) + rng.normal(0, 6, 3) + 34 * noise(rng, (16, 32, 64))
    texture[:, pavement] = paving[:, pavement]
    texture[:, np.abs(np.abs(column) - 6.2) < 0.15] = 190
    texture[:, np.abs(np.abs(column) - 3.7) < 0.1] = 205
    dash = (np.arange(SIZE) * 12 / SIZE) % 6 < 3
    texture[np.ix_(dash, np.abs(column) < 0.12)] = 225
    return texture


def pyramid(texture: np.ndarray) -> np.ndarray:
    """Mip levels in one strip (2 * SIZE, SIZE, 3) uint8: level k begins at row 2 * (SIZE - SIZE >> k)."""
    strip = np.zeros((2 * SIZE, SIZE, 3), np.uint8)
    level = np.clip(texture, 0, 255).astype(np.float32)
    row = 0
    for _ in range(LEVELS):
        size = level.shape[0]
        strip[row : row + size, :size] = np.round(level).astype(np.uint8)
        row += size
        level = cv2.resize(level, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
    return strip
