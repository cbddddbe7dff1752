"""Prediction of stage 1: motion mask and depth of every frame, in the form the label stage reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moduv.depth.triplets import Triplets, find_triplets
from moduv.engine import distributed
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.engine.log import progress, say
from moduv.engine.parallel import bounded_map
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.geometry import resize
from moduv.motion.fields import Batch, mask_and_depth
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import MotionConfig
from moduv.motion.weights import TrainedMotion, find_trained


@dataclass(frozen=True)
class MotionPredictionConfig:
    """How stage 1 is applied."""

    batch_size: int = speed_only(8)
    workers: int = speed_only(0)
    """Threads that decode frames ahead of the networks; 0: none."""
    bf16: bool = False
    """Run the networks in bf16 autocast, on whatever device; fast on GPUs since Ampere and on CPUs with
    avx512_bf16."""
    enlarge: int = 1
    """Factor by which mask and depth are enlarged (bilinearly) before they are stored."""
    half: bool = False
    """Store mask and depth in half precision."""


def predict_motion(
    data: Path, split: Path, weights: Path, out: Path, config: MotionPredictionConfig
) -> None:
    """Write `mot_mask`, `depth`, `inv_K` and `pose` of the frames of a split.

    A training of depth and ego-motion alone has no `mot_mask`.

    Args:
        data: folder of the segments.
        split: frames to predict; the first and last of a clip are skipped and counted.
        weights: folder of a finished `motion train`, or an official checkpoint of Dynamo-Depth.
        out: receives `<segment>/NNNNNN.npz`; files that exist are kept.
        config: batch size and storage.

    Raises:
        InputError: when the weights are missing or do not fit, when no frame of the split is there,
            and when a frame was not written.
    """
    trained = find_trained(weights)
    stage = Stage("motion predict", out, config, (split, *trained.identity), data)
    stage.run(lambda: _predict(data, split, trained, out, config))


def _predict(
    data: Path, split: Path, trained: TrainedMotion, out: Path, config: MotionPredictionConfig
) -> dict[str, Any]:
    frames, absent, edges = find_triplets(split, data)

    def finished(frame: FrameRef) -> bool:
        return frame.file(out, ".npz").is_file()

    todo = distributed.unfinished(frames, config.batch_size, finished)
    left = distributed.total(len(todo))
    say(
        f"  {len(frames)} frames, {len(frames) - left} finished before, {edges} at clip edges and "
        f"{absent} without an image skipped"
    )
    # Frames come in their order, so only those of the batches that are being decoded are wanted again.
    at_once = (2 * config.workers + 2) * config.batch_size
    triplets = Triplets(
        data,
        todo,
        trained.height,
        trained.width,
        field_of_view=trained.field_of_view,
        focal_factor=trained.focal_factor,
        cache_bytes=3 * trained.height * trained.width * at_once,
    )
    model = trained.load()
    start = time.monotonic()
    for frame, arrays in predict_frames(
        model, triplets, trained.losses, config, has_mask=trained.has_mask
    ):
        if not finished(frame):
            write_npz(frame.file(out, ".npz"), **arrays)
    distributed.barrier()
    _check_complete(frames, out)
    if left:
        say(f"  {left / (time.monotonic() - start):.1f} frames a second")
    return {"frames": len(frames), "edges": edges, "absent": absent}


def _check_complete(frames: list[FrameRef], out: Path) -> None:
    missing = [frame.file(out, ".npz") for frame in frames if not frame.file(out, ".npz").is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: was not written, nor were {len(missing) - 1} others of {len(frames)}; "
            "run the same command again."
        )


def predict_frames(
    model: DynamoDepth,
    triplets: Triplets,
    losses: MotionConfig,
    config: MotionPredictionConfig,
    *,
    has_mask: bool = True,
) -> Iterator[tuple[FrameRef, dict[str, np.ndarray]]]:
    """Motion mask (h, w), depth (h, w), inverse intrinsics (4, 4) and poses (2, 4, 4) of every triplet.

    Without a trained mask there is none. Raises InputError when a frame is broken or the networks' output is not finite.
    """
    model.eval()
    starts = range(0, len(triplets), config.batch_size)
    batches = _batches(triplets, starts, config)
    for start in progress(starts, desc="motion predict", unit="batch"):
        masks, depths, poses = _forward(model, next(batches), losses, config, has_mask)
        for position, frame in enumerate(triplets.frames[start : start + config.batch_size]):
            own = {"depth": depths[position]}
            own |= {} if masks is None else {"mot_mask": masks[position]}
            if not all(np.isfinite(array).all() for array in own.values()):
                raise InputError(
                    f"{frame.line()}: the networks predict no finite depth; train them again."
                )
            camera = triplets.camera(frame.segment)[0]
            size = (camera.width * config.enlarge, camera.height * config.enlarge)
            kind = np.float16 if config.half else np.float32
            yield (
                frame,
                {
                    **{name: array.astype(kind) for name, array in own.items()},
                    "inv_K": camera.resized(*size).inverse4().astype(np.float32),
                    "pose": poses[position],
                },
            )


def _batches(triplets: Triplets, starts: range, config: MotionPredictionConfig) -> Iterator[Batch]:
    """Collated triplets, decoded ahead where there are workers."""

    def collated(start: int) -> Batch:
        indices = range(start, min(start + config.batch_size, len(triplets)))
        return triplets.collate([triplets[index, 0] for index in indices])

    # Threads, not processes: decoding releases the interpreter's lock, and neighbours share a cache.
    return (
        bounded_map(collated, starts, config.workers) if config.workers else map(collated, starts)
    )


@torch.inference_mode()
def _forward(
    model: DynamoDepth,
    batch: Batch,
    losses: MotionConfig,
    config: MotionPredictionConfig,
    has_mask: bool,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Masks, where there are any, and depths (B, h, w) and poses (B, 2, 4, 4) of a batch of triplets."""
    device = distributed.device()
    batch = {key: value.to(device) for key, value in batch.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        mask, depth, poses = mask_and_depth(model, batch, losses, has_mask=has_mask)
    size = torch.Size(side * config.enlarge for side in batch["images"].shape[-2:])
    depths, masks = resize(depth, size)[:, 0].cpu().numpy(), None
    if mask is not None:
        masks = resize(mask, size)[:, 0].cpu().numpy()
    return masks, depths, poses.cpu().numpy()
