"""Outputs of other stages for a frame: depth and motion of stage 1, the road of a label set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import say
from moduv.engine.stages import fingerprint, made_by_stages, read_manifest
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image
from moduv.frames.splits import read_split
from moduv.instances.instances import ASPECT_TOLERANCE
from moduv.instances.store import SUFFIX, read_labels
from moduv.labels.initial import LEAST_SINGULAR

MOVING = 0.5
"""Smallest value of a moving pixel in a motion mask."""


def made_here(*folders: Path | None) -> tuple[Path, ...]:
    """The folders that a stage of this library made; those of the user are trusted not to change.

    Raises InputError for a folder whose stage was interrupted.
    """
    return made_by_stages(*(folder for folder in folders if folder))


def finished(folder: Path, stages: Collection[str], what: str, remedy: str) -> dict[str, Any]:
    """The manifest of a finished stage.

    Args:
        folder: of the stage.
        stages: names of the stages that will do.
        what: what the stage makes, for the error.
        remedy: how the error ends.

    Raises:
        InputError: when none of these stages is finished there.
    """
    manifest = read_manifest(folder)
    if manifest.get("stage") not in stages:
        raise InputError(f"{folder}: holds no finished {what}; {remedy}.")
    return manifest


def finished_size(folder: Path, stages: Collection[str], what: str, remedy: str) -> tuple[int, int]:
    """The height and width in pixels at which a finished stage has trained; arguments as of `finished`."""
    size = finished(folder, stages, what, remedy)["results"].get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise InputError(f"{folder}: holds no finished {what}; {remedy}.")
    return int(size[0]), int(size[1])


def teachers(motion: Path) -> list[str]:
    """Fingerprints of the inputs of a folder of motion outputs, its weights among them; empty if unknown."""
    return sorted(read_manifest(motion).get("inputs", {}).values())


def check_teacher(pseudo: Path, weights: Sequence[Path]) -> None:
    """Raise InputError when pseudo-depth is known to be in the scale of other weights than these."""
    known = read_manifest(pseudo).get("results", {}).get("teachers")
    if known and any(fingerprint(path) not in known for path in weights):
        raise InputError(
            f"{pseudo}: was made with the depth of another stage 1 than {weights[0]}, in another scale; make "
            "pseudo-depth with the outputs of these weights."
        )


def frames_with(split: Path, motion: Path) -> list[FrameRef]:
    """The frames of a split that have motion outputs. Raises InputError when none has."""
    listed = read_split(split)
    frames = [frame for frame in listed if frame.file(motion, ".npz").is_file()]
    if not frames:
        raise InputError(
            f"{motion}: has none of the {len(listed)} frames of {split}; predict motion on this split first."
        )
    if len(frames) < len(listed):
        say(f"  {len(listed) - len(frames)} frames without motion output left out")
    return frames


def frames_of(split: Path, motion: Path, objects: Path) -> list[FrameRef]:
    """The frames of a split that have objects and motion outputs. Raises InputError when none has both."""
    listed = read_split(split)
    frames = [
        frame
        for frame in listed
        if frame.file(objects, SUFFIX).is_file() and frame.file(motion, ".npz").is_file()
    ]
    if not frames:
        raise InputError(
            f"{objects}: has no frame of {split} that {motion} has, too; predict motion and find objects on "
            "this split first."
        )
    if len(frames) < len(listed):
        say(
            f"  {len(listed) - len(frames)} of {len(listed)} frames lack objects or motion output, left out"
        )
    return frames


def with_road(frames: list[FrameRef], road: Path) -> list[FrameRef]:
    """The frames that a label root of the road has. Raises InputError when it has none."""
    found = [frame for frame in frames if frame.file(road, SUFFIX).is_file()]
    if not found:
        raise InputError(
            f"{road}: has the road of none of the {len(frames)} frames; find the road on this split first."
        )
    if len(found) < len(frames):
        say(f"  {len(frames) - len(found)} frames without road left out")
    return found


def read_depth(path: Path) -> np.ndarray:
    """The depth (H, W) float32 of a motion output. Raises InputError when it is not positive and finite."""
    depth = read_npz(path, ("depth",))["depth"].astype(np.float32)
    if depth.ndim != 2 or not (np.isfinite(depth) & (depth > 0)).all():
        raise InputError(f"{path}: 'depth' is not positive and finite; predict it again.")
    return depth


def check_aspect(depth: Sequence[int], image: Sequence[int], path: Path) -> None:
    """Raise InputError, naming the depth's file, when depth and image (height, width) differ in their aspect ratio."""
    if abs((depth[0] * image[1]) / (depth[1] * image[0]) - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"{path}: 'depth' is {depth[0]} x {depth[1]} and its image {image[0]} x {image[1]}, of another aspect ratio; "
            "predict it again from these frames."
        )


def read_inverse_intrinsics(path: Path) -> np.ndarray:
    """The inverse intrinsics (4, 4) float32 of a motion output. Raises InputError when they are invalid."""
    inv_K = read_npz(path, ("inv_K",))["inv_K"].astype(np.float32)
    if inv_K.shape != (4, 4) or not np.isfinite(inv_K).all():
        raise InputError(f"{path}: 'inv_K' is no finite matrix of 4 x 4; predict it again.")
    if np.linalg.cond(inv_K.astype(np.float64)) > LEAST_SINGULAR:
        raise InputError(f"{path}: 'inv_K' cannot be inverted; predict it again.")
    return inv_K


def stacked(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the samples of frames. Raises InputError when their depths are of several sizes."""
    shapes = {name: {tuple(sample[name].shape) for sample in samples} for name in samples[0]}
    several = sorted(next((found for found in shapes.values() if len(found) > 1), ()))
    if several:
        (*_, height, width), (*_, other_height, other_width) = several[:2]
        raise InputError(
            f"depth is {height} x {width} in some frames and {other_height} x {other_width} in others; "
            "predict them all at one size, or name in a split those of one."
        )
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def read_scene(frame: FrameRef, data: Path, motion: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Image (3, H, W) in [0, 1], depth (1, H, W) and inverse intrinsics (4, 4) of a frame, at its depth's size.

    Raises InputError when a file is missing or broken, or the image has another aspect ratio.
    """
    path = frame.file(motion, ".npz")
    depth = read_depth(path)
    inv_K = read_inverse_intrinsics(path)
    image = read_image(frame.image_path(data))
    check_aspect(depth.shape, image.shape, path)
    image = resize_image(image, *depth.shape)
    pixels = torch.from_numpy(image).movedim(-1, 0).float() / 255
    return pixels, torch.from_numpy(depth)[None], torch.from_numpy(inv_K)


def read_moving(frame: FrameRef, motion: Path) -> np.ndarray:
    """The moving pixels (H, W) bool of a motion output.

    Raises InputError when the output is missing, broken, or has no motion mask.
    """
    path = frame.file(motion, ".npz")
    mask = read_npz(path, ("mot_mask",))["mot_mask"]
    if mask.ndim != 2:
        raise InputError(
            f"{path}: 'mot_mask' has the shape {mask.shape}, no image's; predict it again."
        )
    if not ((mask >= 0) & (mask <= 1)).all():
        raise InputError(f"{path}: 'mot_mask' has numbers beyond 0 and 1; predict it again.")
    return np.asarray(mask >= MOVING)


def read_road(root: Path, frame: FrameRef, size: tuple[int, int]) -> np.ndarray:
    """The road (H, W) bool of a frame at a size (H, W): all of its masks in a label root together.

    Raises InputError when it is missing, broken or has another aspect ratio.
    """
    road = np.zeros(size, bool)
    for mask in read_labels(root, frame, size).resized(*size).decode():
        road |= mask
    return road
