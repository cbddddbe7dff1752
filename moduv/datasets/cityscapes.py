"""Cityscapes (Cordts et al. 2016): sequences as segments, stereo depth and moving objects as their truth.

A snippet has 30 frames at 17 Hz, of which the 20th is annotated. Every second frame is kept, those that the annotated
one is among, so that neighbours are far enough apart to tell depth; the car's own hood is cut off.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moduv.datasets.prepare import PrepareConfig, prepare, required
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_npz
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import read_split, write_split

FRAMES, CAMERA, DISPARITY = "leftImg8bit_sequence", "camera", "disparity"
STEP = 2
"""Distance between the frames that are kept."""
BEFORE, AFTER = 18, 10
"""Extent of a snippet in frames before and after the annotated one, multiples of `STEP`."""
SEEN = 0.75
"""Share of the rows, from the top, above the car's hood."""
DOWNLOAD = (
    "download leftImg8bit_sequence_trainvaltest, camera_trainvaltest and, for evaluation, "
    "disparity_trainvaltest from cityscapes-dataset.com (registration, non-commercial) and unpack them there."
)
NAME = re.compile(r"(?P<city>.+)_(?P<sequence>[0-9]{6})_(?P<number>[0-9]{6})_camera")


def prepare_cityscapes(
    source: Path, out: Path, config: PrepareConfig, movers: Path | None = None
) -> None:
    """Prepare Cityscapes' video snippets.

    Args:
        source: folder of the unpacked archives; every split that is there is prepared.
        out: receives `<split>/<city>_<sequence>_<annotated frame>/NNNNNN.jpg` and `cam.json`, of annotated frames
            `truth/…/NNNNNN.npz` (depth and objects, as the street world's), and splits: of all frames, of each
            of the official parts, and of those with truth.
        config: size of the frames; published: 192 x 512.
        movers: masks of moving objects, `<split>_mask_class/<city>/<frame>/0.png` …; without, none is known.

    Raises:
        InputError: saying what to download when frames or cameras are missing, and naming a broken file.
    """
    cameras = sorted(required(source / CAMERA, DOWNLOAD).glob("*/*/*_camera.json"))
    jobs, segments, left_out = [], [], Counter[str]()
    for path in cameras:
        if not (found := NAME.fullmatch(path.stem)):
            left_out["cameras of another name"] += 1
        elif not _frames(source, path):
            left_out["cameras without frames"] += 1
        else:
            jobs.append((source, out, path, movers, config))
            segments.append(f"{path.parts[-3]}/{found[0].removesuffix('_camera')}")
            if config.points and not _disparity(source, path).is_file():
                left_out["depths of snippets without disparity"] += 1
            elif movers is not None and not any(_masks(movers, path).glob("*.png")):
                left_out["snippets without masks *.png, in which nothing is taken to move"] += 1
    if not jobs:
        raise InputError(
            f"{source}: has no frames {FRAMES}/*/*/*_leftImg8bit.png with a camera; {DOWNLOAD}"
        )
    prepare("prepare cityscapes", out, config, jobs, segments, _prepare_snippet, left_out)
    for split in sorted({segment.partition("/")[0] for segment in segments}):
        files = sorted((out / "truth" / split).glob("*/*.npz"))
        known = [FrameRef(f"{split}/{path.parent.name}", int(path.stem)) for path in files]
        if known:
            write_split(out / "splits" / f"{split}_truth.txt", known)
        inner = [
            f
            for f in read_split(out / "splits" / "all_files.txt")
            if f.segment.startswith(f"{split}/")
        ]
        if inner:
            write_split(out / "splits" / f"{split}_files.txt", inner)


def _frames(source: Path, camera: Path) -> dict[int, Path]:
    """The frames of an annotated one's snippet that are kept, by their new numbers."""
    split, city = camera.parts[-3:-1]
    stem, _, number = camera.stem.removesuffix("_camera").rpartition("_")
    folder, annotated = source / FRAMES / split / city, int(number)
    steps = range(-BEFORE, AFTER + 1, STEP)
    paths = (folder / f"{stem}_{annotated + step:06d}_leftImg8bit.png" for step in steps)
    return {index: path for index, path in enumerate(paths) if path.is_file()}


def _disparity(source: Path, camera: Path) -> Path:
    split, city = camera.parts[-3:-1]
    name = camera.stem.removesuffix("_camera")
    return source / DISPARITY / split / city / f"{name}_disparity.png"


def _masks(movers: Path, camera: Path) -> Path:
    split, city = camera.parts[-3:-1]
    return movers / f"{split}_mask_class" / city / camera.stem.removesuffix("_camera")


def original_frame(frame: FrameRef) -> str:
    """The name `<split>/<city>/<city>_<sequence>_<frame>` of a prepared frame; "" for frames of other data sets."""
    split, _, name = frame.segment.rpartition("/")
    if not (found := NAME.fullmatch(f"{name}_camera")):
        return ""
    number = int(found["number"]) - BEFORE + STEP * frame.index
    return f"{split}/{found['city']}/{found['city']}_{found['sequence']}_{number:06d}"


def _prepare_snippet(job: tuple[Path, Path, Path, Path | None, PrepareConfig]) -> list[int]:
    source, out, camera, movers, config = job
    split, name = camera.parts[-3], camera.stem.removesuffix("_camera")
    segment = out / split / name
    frames = _frames(source, camera)
    matrix, baseline = _read_camera(camera)
    sizes = set[tuple[int, int]]()
    for index, path in frames.items():
        image = read_image(path)
        sizes.add((image.shape[0], image.shape[1]))
        if len(sizes) > 1:
            raise InputError(
                f"{path}: is not of the size of the snippet's other frames; download it again."
            )
        height = round(SEEN * image.shape[0])
        target = segment / f"{index:06d}.jpg"
        if not target.is_file():
            write_image(target, resize_image(image[:height], config.height, config.width))
    (full, width), source_of_K = min(sizes), f"{camera}: 'intrinsic'"
    intrinsics = Intrinsics.from_matrix(matrix, width, full, source_of_K, "download it again")
    intrinsics.check_pixels(source_of_K)
    intrinsics.cropped(0, 0, width, height).to_cam_json(segment / "cam.json")
    disparity = _disparity(source, camera)
    truth = out / "truth" / split / name / f"{BEFORE // STEP:06d}.npz"
    if config.points and disparity.is_file() and not truth.is_file():
        depth = _depth(disparity, (full, width), matrix[0, 0] * baseline)[:height]
        masks = None if movers is None else _masks(movers, camera)
        instances = _instances(masks, depth.shape)
        ids = np.unique(instances[instances > 0])
        moving = np.ones(len(ids), bool)
        write_npz(truth, depth=depth, instances=instances, ids=ids, moving=moving)
    return list(frames)


def _read_camera(path: Path) -> tuple[np.ndarray, float]:
    """K (3, 3) in pixels and the distance of the stereo cameras in metres."""
    content: Any = read_json(path)
    try:
        values = [float(content["intrinsic"][key]) for key in ("fx", "fy", "u0", "v0")]
        baseline = float(content["extrinsic"]["baseline"])
        if not 0 < baseline < math.inf:
            raise ValueError("no distance")
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(
            f"{path}: lacks 'intrinsic' (fx, fy, u0, v0) or 'extrinsic' (baseline above 0); download it again."
        ) from None
    fx, fy, cx, cy = values
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), baseline


def _depth(path: Path, size: tuple[int, int], factor: float) -> np.ndarray:
    """Depth (H, W) float32 in metres of a 16-bit disparity of a `size`, 0 where there is none."""
    stored = _read_png(path)
    if stored.shape != size or stored.dtype == np.uint8:
        raise InputError(
            f"{path}: is of {stored.shape[1]} x {stored.shape[0]} pixels of {8 * stored.itemsize} bits, and "
            f"its frame of {size[1]} x {size[0]}; give the disparity of 16 bits as it was downloaded."
        )
    disparity = (stored.astype(np.float32) - 1) / 256
    known = disparity > 0
    return np.where(known, factor / np.where(known, disparity, 1), 0).astype(np.float32)


def _instances(folder: Path | None, size: tuple[int, ...]) -> np.ndarray:
    """Numbers (H, W) uint8 of the moving objects whose masks lie in a folder, 0 elsewhere."""
    instances = np.zeros(size, np.uint8)
    paths = sorted(folder.glob("*.png")) if folder is not None and folder.is_dir() else []
    if len(paths) > 255:
        raise InputError(f"{folder}: has {len(paths)} masks; give at most 255.")
    for number, path in enumerate(paths, 1):
        mask = _read_png(path)
        if mask.shape[0] < size[0] or mask.shape[1] != size[1]:
            raise InputError(
                f"{path}: is of {mask.shape[1]} x {mask.shape[0]} pixels, not as its frame; give masks of "
                "the full frames."
            )
        instances[mask[: size[0]] > 0] = number
    return instances


def _read_png(path: Path) -> np.ndarray:
    """A grey image (H, W), of 8 or 16 bits."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: is not readable as an image ({error}); download it again."
        ) from None
    if pixels.ndim != 2:
        raise InputError(f"{path}: is no grey image; give the file as it was downloaded.")
    return pixels
