"""Writes the street world in the layout of a real data set, with its ground truth beside it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_json, write_json, write_npz
from moduv.engine.log import progress, say
from moduv.engine.parallel import process_map
from moduv.engine.stages import Stage
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.instances.coco import CATEGORIES
from moduv.street.render import render
from moduv.street.scene import Scene
from moduv.street.truth import annotate, count_objects, optical_flow

SPLITS = ("train", "val")
VAL_SEED = 1_000_000
"""Seeds of validation clips begin here, so that adding training clips leaves them as they are."""
SEED_STRIDE = 2 * VAL_SEED
"""Distance between the clips' seeds of two worlds: worlds of different seeds share no clip."""


@dataclass(frozen=True)
class StreetConfig:
    """The street world's size."""

    height: int = 96
    width: int = 160
    train_clips: int = 96
    val_clips: int = 20
    frames_per_clip: int = 12
    supersampling: int = 3
    """Samples per pixel along each axis; odd."""
    seed: int = 0
    workers: int = speed_only(2)
    """Processes that render; they decide nothing about the result."""

    def __post_init__(self) -> None:
        clips = self.train_clips, self.val_clips
        least = min(*clips, self.supersampling, self.workers)
        for problem, found in {
            "smaller frames than 96 x 160": self.height < 96 or self.width < 160,
            "supersampling that is not 1, 3, 5 …": self.supersampling % 2 == 0,
            "less than one clip a split, sample a pixel or worker": least < 1,
            f"more than {VAL_SEED} clips a split": max(clips) > VAL_SEED,
            "less than 3 frames a clip": self.frames_per_clip < 3,
            "a seed below 0": self.seed < 0,
        }.items():
            if found:
                raise InputError(f"the street world cannot have {problem}; change the setting.")

    def camera(self) -> Intrinsics:
        """The camera of every clip: 70 degrees wide, horizon a little above the middle."""
        focal = 0.72 * self.width
        centre = ((self.width - 1) / 2, 0.45 * self.height)
        return Intrinsics(focal, focal, *centre, self.width, self.height)


def render_dataset(root: Path, config: StreetConfig) -> None:
    """Render the street world below `root`; clips that are finished are kept.

    Args:
        root: receives `train/clip_0000/000000.jpg` …, `cam.json` beside the frames, `splits/`,
            `annotations/` (COCO) and `truth/` (depth, instances, flow, poses).
        config: how many clips and frames, how large.

    Raises:
        InputError: when `root` holds a street world of other settings.
    """
    # The number of processes is no part of what the world is: a resumed run may use another one.
    identity = replace(config, workers=StreetConfig.workers)
    Stage("street render", root, identity).run(lambda: _render(root, config))


def _render(root: Path, config: StreetConfig) -> dict[str, Any]:
    counts = {}
    for split in SPLITS:
        number = config.train_clips if split == "train" else config.val_clips
        first = config.seed * SEED_STRIDE + (VAL_SEED if split == "val" else 0)
        jobs = [(root, config, f"{split}/clip_{clip:04d}", first + clip) for clip in range(number)]
        done = process_map(_render_clip, jobs, config.workers)
        parts = list(progress(done, desc=f"street {split}", total=number, unit="clip"))
        segments = [job[2] for job in jobs]
        annotations = merge_annotations(segments, parts, config)
        write_json(root / "annotations" / f"{split}.json", annotations)
        inner = range(1, config.frames_per_clip - 1)
        frames = [FrameRef(segment, index) for segment in segments for index in inner]
        write_split(root / "splits" / f"{split}_files.txt", frames)
        counts[split] = count_objects(annotations)
        listing = ", ".join(f"{count} {name}" for name, count in counts[split].items())
        say(f"  {split}: {len(annotations['images'])} frames; objects {listing}")
    return counts


def merge_annotations(
    segments: list[str], parts: list[list[list[dict[str, Any]]]], config: StreetConfig
) -> dict[str, Any]:
    """One COCO dictionary from the annotations of every frame of every clip.

    A `track_id` becomes unique over all clips.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    size = {"width": config.width, "height": config.height}
    for position, (segment, clip) in enumerate(zip(segments, parts, strict=True)):
        for index, frame in enumerate(clip):
            number = len(images) + 1
            images.append({"id": number, "file_name": f"{segment}/{index:06d}.jpg", **size})
            for item in frame:
                # Instance maps are 8 bit: no clip has more objects.
                track = 256 * position + item["track_id"]
                entry = {"id": len(annotations) + 1, "image_id": number, **item}
                annotations.append({**entry, "track_id": track})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def _render_clip(job: tuple[Path, StreetConfig, str, int]) -> list[list[dict[str, Any]]]:
    """Render one clip unless all its files are there; its annotations are written last."""
    root, config, segment, seed = job
    truth, frames = root / "truth" / segment, root / segment
    finished = truth / "objects.json"
    numbers = range(config.frames_per_clip)
    files = [p for n in numbers for p in (frames / f"{n:06d}.jpg", truth / f"{n:06d}.npz")]
    files += [frames / "cam.json", truth / "poses.txt", finished]
    if all(path.is_file() for path in files):
        return read_json(finished)
    for folder in (truth, frames):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    scene, camera = Scene(seed, config.frames_per_clip), config.camera()
    camera.to_cam_json(frames / "cam.json")
    moving = np.array([item.moving for item in scene.objects], bool)
    annotations, poses = [], []
    for frame in numbers:
        image, depth, ids = render(scene, frame, camera, config.supersampling)
        flow = np.zeros((2, *depth.shape))
        if frame + 1 < config.frames_per_clip:
            flow = optical_flow(scene, frame, camera, depth, ids)
        write_image(frames / f"{frame:06d}.jpg", image)
        write_npz(
            truth / f"{frame:06d}.npz",
            depth=depth.astype(np.float16),
            instances=ids.astype(np.uint8),
            flow=flow.astype(np.float16),
            ids=np.arange(1, len(moving) + 1),
            moving=moving,
        )
        annotations.append(annotate(scene, depth, ids))
        rotation, position = scene.camera(frame)
        pose = [*np.column_stack([rotation, position]).ravel(), 0, 0, 0, 1]
        poses.append(" ".join(f"{value:.9g}" for value in pose))
    with atomic_path(truth / "poses.txt") as temporary:
        temporary.write_text("\n".join(poses) + "\n")
    write_json(finished, annotations)
    return annotations
