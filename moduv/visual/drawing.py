"""Pictures of what the stages see: instances, motion, depth, flow.

Images are (H, W, 3) uint8 RGB in and out, and never changed in place.
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.ops import box_iou

from moduv.instances.instances import Instances

Color = tuple[int, int, int]

GOLDEN_RATIO = 0.6180339887498949
MOTION_COLOR: Color = (255, 72, 40)
MATCH_IOU = 0.4
"""IoU above which boxes of two label sets are the same object's."""
OPACITY = 0.42
GAP = 8
"""Between the pictures of a grid, pixels."""


def instance_color(index: int) -> Color:
    """The colour of instance `index`: hues a golden ratio apart, so that neighbours differ most."""
    hue = (0.57 + index * GOLDEN_RATIO) % 1.0
    # Every third round of the wheel is lighter, so that near hues differ in strength too.
    saturation, value = ((0.85, 1.0), (0.60, 1.0), (0.95, 0.85))[index // 5 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def shared_colors(layers: Sequence[Instances]) -> list[list[Color]]:
    """Colours for label sets of one frame, so that an object keeps its colour from set to set.

    Boxes, as shares of the mask's size, are matched greedily to those of the sets before.
    """
    known = np.zeros((0, 4), np.float32)
    colors = []
    for layer in layers:
        boxes = layer.boxes_at(1, 1)
        indices = np.full(len(boxes), -1)
        overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(known)).numpy()
        while overlaps.size and overlaps.max() > MATCH_IOU:
            mine, theirs = np.unravel_index(overlaps.argmax(), overlaps.shape)
            indices[mine] = theirs
            overlaps[mine, :] = overlaps[:, theirs] = 0
        fresh = indices < 0
        indices[fresh] = len(known) + np.arange(fresh.sum())
        known = np.concatenate([known, boxes[fresh]])
        colors.append([instance_color(int(index)) for index in indices])
    return colors


def draw_instances(
    image: np.ndarray,
    instances: Instances,
    *,
    score_threshold: float = 0.0,
    boxes: bool = True,
    colors: Sequence[Color] | None = None,
) -> np.ndarray:
    """Draw labels or detections; masks and boxes are brought to the image's size.

    Instances with a score at or below `score_threshold` are left out. `colors`, one an instance,
    replace the colours by index. The column `name` is written before the score. Large masks are drawn first, so that small ones stay in sight.
    """
    if colors is None:
        colors = [instance_color(index) for index in range(len(instances))]
    scores = instances.scores
    kept = [i for i in range(len(instances)) if scores is None or scores[i] > score_threshold]
    colors, shown = [colors[i] for i in kept], instances[kept]
    picture = image.copy()
    height, width = image.shape[:2]
    line = max(1, round(min(height, width) / 320))
    order, masks = np.argsort(-shown.areas(), kind="stable"), shown.decode()
    for index in order:
        mask = _resize_mask(masks[index], height, width)
        _fill(picture, mask, colors[index])
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colors[index], line, cv2.LINE_AA)
    for index in order if boxes else []:
        corners = np.round(shown.boxes_at(height, width)[index]).astype(int).tolist()
        left, top, right, bottom = corners
        cv2.rectangle(
            picture, (left, top), (right - 1, bottom - 1), colors[index], line, cv2.LINE_AA
        )
        tag = _tag(shown, index)
        if tag:
            _draw_tag(picture, tag, left, top, colors[index])
    return picture


def draw_motion(
    image: np.ndarray, mask: np.ndarray, *, threshold: float | None = None
) -> np.ndarray:
    """Lay a motion mask (h, w) in [0, 1] over a dimmed grey image; outline it at `threshold`."""
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * 0.75
    weight = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    weight = np.clip(weight, 0, 1)[..., None]
    # Half the light of the image stays in the colour, so that the object is still recognised.
    shade = 0.45 + 0.55 * grey[..., None] / 191.0
    picture = grey[..., None] * (1 - weight) + np.array(MOTION_COLOR) * shade * weight
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    if threshold is not None:
        above = (weight[..., 0] > threshold).astype(np.uint8)
        outlines, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        line = max(1, round(min(height, width) / 400))
        cv2.drawContours(picture, outlines, -1, (255, 255, 255), line, cv2.LINE_AA)
    return picture


def colorize(values: np.ndarray, colormap: str, low: float, high: float) -> np.ndarray:
    """A map (H, W) through a colormap of OpenCV, from `low` to `high`."""
    scaled = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    levels = np.clip(scaled * 255, 0, 255).astype(np.uint8)
    table = getattr(cv2, f"COLORMAP_{colormap.upper()}")
    return cv2.cvtColor(cv2.applyColorMap(levels, table), cv2.COLOR_BGR2RGB)


def draw_depth(depth: np.ndarray) -> np.ndarray:
    """A depth map (H, W), any unit, as its disparity: near is bright.

    Scaled by the 95th percentile, as is usual, so that one near pixel does not darken the rest.
    """
    disparity = 1.0 / np.maximum(depth.astype(np.float64), 1e-6)
    return colorize(disparity, "magma", 0.0, float(np.percentile(disparity, 95)))


def draw_depth_error(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How far a depth (h, w), any unit, is from the true one (H, W), 0 where unknown: bright is twice or half.

    Under the one scale that gives both the same median.
    """
    size = (truth.shape[1], truth.shape[0])
    predicted = cv2.resize(depth.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    known = truth > 0
    if not known.any():
        return colorize(np.zeros(truth.shape), "inferno", 0.0, 1.0)
    ratio = np.where(known, predicted / np.where(known, truth, 1), 1)
    ratio = ratio * np.median(truth[known]) / np.median(predicted[known])
    return colorize(np.abs(np.log2(ratio)) * known, "inferno", 0.0, 1.0)


def draw_ranges(image: np.ndarray, distance: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Colour the moving pixels of a dimmed grey image by their distance: near is yellow, far violet.

    distance  (h, w), any unit; the colours span what the moving pixels reach
    moving    (h, w) bool
    """
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * 0.75
    picture = np.repeat(np.round(grey)[..., None], 3, axis=-1).astype(np.uint8)
    if not moving.any():
        return picture
    # Neighbours of pixels that do not move keep their own range, so nothing is interpolated.
    nearest, farthest = float(distance[moving].min()), float(distance[moving].max())
    coloured = colorize(-distance, "plasma", -farthest, -nearest)
    size = (width, height)
    inside = cv2.resize(moving.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    picture[inside] = cv2.resize(coloured, size, interpolation=cv2.INTER_NEAREST)[inside]
    return picture


def draw_flow(flow: np.ndarray) -> np.ndarray:
    """Flow on a colour wheel: hue is the direction, strength the magnitude, white is no motion.

    Args:
        flow: (2, H, W) optical flow, or (3, H, W) complete flow, of which right and forward (x, z) are
            shown. Its 99th percentile has full colour.
    """
    (picture,) = draw_flows([np.stack([flow[0], flow[-1]], -1)])
    return picture


def draw_flows(flows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Flows (H, W, 2) on one colour wheel: the 99th percentile of the first has full colour."""
    magnitudes = [np.linalg.norm(flow, axis=2).astype(np.float64) for flow in flows]
    maximum = max(float(np.percentile(magnitudes[0], 99)), 1e-12)
    pictures = []
    for flow, magnitude in zip(flows, magnitudes, strict=True):
        hue = (np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi)) % 1.0
        strength = np.clip(magnitude / maximum, 0, 1)
        hsv = np.stack([hue * 360, strength, np.ones_like(hue)], axis=-1).astype(np.float32)
        pictures.append(np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8))
    return pictures


def enlarge(image: np.ndarray, width: int) -> np.ndarray:
    """Bring a small image to at least `width` pixels, by a whole factor, for fine overlays."""
    factor = -(-width // image.shape[1])
    if factor <= 1:
        return image.copy()
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def grid_size(
    count: int, picture: tuple[int, ...], *, columns: int = 3, width: int = 480
) -> tuple[int, int]:
    """Height and width of the grid of `count` pictures whose shape (H, W, …) is that of `picture`."""
    cell = _title_height(width) + round(picture[0] * width / picture[1])
    return -(-count // columns) * (cell + 2 * GAP), min(columns, count) * (width + GAP) + GAP


def _title_height(width: int) -> int:
    return max(20, width // 18)


def picture_grid(
    pictures: Mapping[str, np.ndarray], *, columns: int = 3, width: int = 480
) -> np.ndarray:
    """Pictures side by side, each `width` wide under its title, on white."""
    cells = []
    for title, picture in pictures.items():
        height = round(picture.shape[0] * width / picture.shape[1])
        method = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_CUBIC
        head = np.full((_title_height(width), width, 3), 255, np.uint8)
        _write(head, title, 2, 2, len(head) - 6, (30, 30, 30))
        cells.append(
            np.concatenate([head, cv2.resize(picture, (width, height), interpolation=method)])
        )
    lines = []
    across = min(columns, len(cells)) * (width + GAP) + GAP
    for start in range(0, len(cells), columns):
        line = cells[start : start + columns]
        sheet = np.full((max(map(len, line)) + 2 * GAP, across, 3), 255, np.uint8)
        for index, cell in enumerate(line):
            left = GAP + index * (width + GAP)
            sheet[GAP : GAP + len(cell), left : left + width] = cell
        lines.append(sheet)
    return np.concatenate(lines)


def _resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) bool to (height, width) uint8; bilinear before the cut, so that edges are smooth."""
    if mask.shape == (height, width):
        return mask.astype(np.uint8)
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return (soft >= 0.5).astype(np.uint8)


def _fill(picture: np.ndarray, mask: np.ndarray, color: Color) -> None:
    left, top, width, height = cv2.boundingRect(mask)
    region = picture[top : top + height, left : left + width]
    inside = mask[top : top + height, left : left + width].astype(bool)
    mixed = region[inside] * (1 - OPACITY) + np.array(color) * OPACITY
    region[inside] = np.round(mixed).astype(np.uint8)


def _tag(shown: Instances, index: int) -> str:
    """What is written over an instance: its name and its score, as far as it has them."""
    name = shown.columns["name"][index] if "name" in shown.columns else ""
    score = "" if shown.scores is None else f"{shown.scores[index]:.2f}"
    return f"{name} {score}".strip()


def _draw_tag(picture: np.ndarray, text: str, left: int, top: int, color: Color) -> None:
    """A line in its instance's colour, above the box or, at the image's edge, inside it."""
    size = max(11, round(min(picture.shape[:2]) / 34))
    height, width = _text_alpha(text, size).shape
    y = top - height - 2 if top >= height + 2 else top
    x = int(np.clip(left, 0, max(picture.shape[1] - width - 4, 0)))
    y = int(np.clip(y, 0, max(picture.shape[0] - height - 2, 0)))
    cv2.rectangle(picture, (x, y), (x + width + 3, y + height + 1), color, cv2.FILLED)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    _write(picture, text, x + 2, y + 1, size, (0, 0, 0) if luminance > 120 else (255, 255, 255))


def _write(picture: np.ndarray, text: str, left: int, top: int, size: int, color: Color) -> None:
    """Write text in place, cut at the picture's edge."""
    alpha = _text_alpha(text, size)
    region = picture[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    weight = alpha[: region.shape[0], : region.shape[1], None] / 255.0
    region[:] = np.round(region * (1 - weight) + np.array(color) * weight).astype(np.uint8)


@functools.lru_cache(maxsize=512)
def _text_alpha(text: str, size: int) -> np.ndarray:
    """Coverage (H, W) uint8 of a line of text, `size` pixels high with its margins."""
    font = ImageFont.load_default(max(8, round(size * 0.8)))
    canvas = Image.new("L", (max(1, int(font.getlength(text)) + 2), size), 0)
    ImageDraw.Draw(canvas).text((1, size / 2), text, fill=255, font=font, anchor="lm")
    return np.asarray(canvas)
