"""Prediction of stage 1: motion mask and depth of every frame, in the form the label stage reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from moduv.engine import distributed
from moduv.engine.config import build
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage, read_manifest
from moduv.frames.clip import FrameRef, with_neighbours
from moduv.frames.splits import read_split
from moduv.geometry import resize
from moduv.motion.data import Triplets
from moduv.motion.fields import mask_and_depth
from moduv.motion.networks import DynamoDepth
from moduv.motion.train import WEIGHTS, MotionTraining


@dataclass(frozen=True)
class MotionPrediction:
    """How stage 1 is applied."""

    SPEED_ONLY: ClassVar = ("batch_size",)

    batch_size: int = 8
    enlarge: int = 1
    """Factor by which mask and depth are enlarged (bilinearly) before they are stored."""
    half: bool = False
    """Store mask and depth in half precision."""


def predict_motion(
    data: Path, split: Path, weights: Path, out: Path, config: MotionPrediction
) -> None:
    """Write `mot_mask`, `depth`, `inv_K` and `pose` of the frames of a split.

    Args:
        data: folder of the segments.
        split: frames to predict; the first and last of a clip are skipped and counted.
        weights: folder of a finished `motion train`.
        out: receives `<segment>/NNNNNN.npz`; files that exist are kept.
        config: batch size and storage.

    Raises:
        InputError: when the training is missing or the weights do not fit.
    """
    stage = Stage("motion predict", out, config, (split, weights), data)
    stage.run(lambda: _predict(data, split, weights, out, config))


def _predict(
    data: Path, split: Path, weights: Path, out: Path, config: MotionPrediction
) -> dict[str, Any]:
    manifest = read_manifest(weights)
    training = build(MotionTraining, manifest["config"], f"{weights}/manifest.json")
    frames, edges = with_neighbours(read_split(split), data)
    todo = [frame for frame in frames if not frame.file(out, ".npz").is_file()]
    say(
        f"  {len(frames)} frames, {len(frames) - len(todo)} finished before, {edges} at clip edges skipped"
    )
    model = DynamoDepth(training.depth_model).to(distributed.device())
    model.load_checkpoint(weights / WEIGHTS)
    triplets = Triplets(
        data,
        distributed.shard(todo),
        training.height,
        training.width,
        field_of_view=training.field_of_view,
        focal_factor=manifest["results"].get("focal_factor", 1.0),
    )
    start = time.monotonic()
    for frame, arrays in predict_frames(model, triplets, training, config):
        write_npz(frame.file(out, ".npz"), **arrays)
    distributed.barrier()
    if todo:
        say(f"  {len(todo) / (time.monotonic() - start):.1f} frames a second")
    return {"frames": len(frames), "edges": edges}


def predict_frames(
    model: DynamoDepth, triplets: Triplets, training: MotionTraining, config: MotionPrediction
) -> Iterator[tuple[FrameRef, dict[str, np.ndarray]]]:
    """Motion mask (h, w), depth (h, w), inverse intrinsics (4, 4) and poses (2, 4, 4) of every triplet.

    Raises InputError when the networks' output is not finite.
    """
    model.eval()
    starts = range(0, len(triplets), config.batch_size)
    for start in progress(starts, desc="motion predict", unit="batch"):
        indices = range(start, min(start + config.batch_size, len(triplets)))
        batch = triplets.collate([triplets[index, 0] for index in indices])
        masks, depths, poses = _forward(model, batch, training, config)
        for position, index in enumerate(indices):
            frame = triplets.frames[index]
            camera = triplets.camera(frame.segment)
            size = (camera.width * config.enlarge, camera.height * config.enlarge)
            kind = np.float16 if config.half else np.float32
            if not np.isfinite(depths[position]).all() or not np.isfinite(masks[position]).all():
                raise InputError(
                    f"{frame.line()}: the networks predict no finite depth; train them again."
                )
            yield (
                frame,
                {
                    "mot_mask": masks[position].astype(kind),
                    "depth": depths[position].astype(kind),
                    "inv_K": camera.resized(*size).inverse4().astype(np.float32),
                    "pose": poses[position],
                },
            )


@torch.inference_mode()
def _forward(
    model: DynamoDepth, batch: dict[str, Tensor], training: MotionTraining, config: MotionPrediction
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks and depths (B, h, w) and poses (B, 2, 4, 4) of a batch of triplets."""
    device = distributed.device()
    batch = {key: value.to(device) for key, value in batch.items()}
    mask, depth, poses = mask_and_depth(model, batch, training.losses)
    size = torch.Size(side * config.enlarge for side in batch["images"].shape[-2:])
    mask, depth = resize(mask, size)[:, 0], resize(depth, size)[:, 0]
    return mask.cpu().numpy(), depth.cpu().numpy(), poses.cpu().numpy()
