"""Predictions of stage 1 for every frame: depth, moving pixels and flow colours, as files of `moduv motion predict`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import flow_to_image

from moduv import geometry
from moduv.depth.triplets import Triplets, find_triplets
from moduv.dynamic_depth.data import frame_batches
from moduv.dynamic_depth.networks.slots import SIDE
from moduv.dynamic_depth.pixelwise.model import PixelwiseNetworks, explain
from moduv.dynamic_depth.pixelwise.residual import moving_pixels, object_flow
from moduv.dynamic_depth.pixelwise.train import TrainedPixelwise
from moduv.engine import distributed
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.engine.log import say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef

PIXEL = 1.0
"""Flow shorter than this, |u| + |v| in pixels, is white."""


@dataclass(frozen=True)
class ScenesConfig:
    """How stage 1 is applied."""

    batch_size: int = speed_only(8)
    """Frames at once."""
    colours: bool = False
    """Write the flow to both neighbours as colours, for slots."""


def predict_scenes(data: Path, split: Path, weights: Path, out: Path, config: ScenesConfig) -> None:
    """Write the depth and the moving pixels of the frames of a split.

    Args:
        data: folder of the segments.
        split: frames; those without both neighbours are left out and counted.
        weights: folder of `moduv depth pixelwise` or `moduv depth final`.
        out: receives `<segment>/NNNNNN.npz` with `depth` (H, W) in half precision, `mot_mask` (H, W), 1 where the flow
            of objects is at least a pixel long, `inv_K` (4, 4), `pose` (2, 4, 4), and for slots `colours`
            (2, 3, 128, 128) uint8. Finished files are kept.
        config: batch size and outputs.

    Raises:
        InputError: when frames or weights are missing or broken, or depth is not finite.
    """
    stage = Stage("depth scenes", out, config, (split, weights), data)
    stage.run(lambda: _predict(data, split, weights, out, config))


def _predict(
    data: Path, split: Path, weights: Path, out: Path, config: ScenesConfig
) -> dict[str, Any]:
    trained = TrainedPixelwise(weights)
    frames, absent, edges = find_triplets(split, data)
    say(f"  {len(frames)} frames; left out: {edges + absent}")
    todo = [frame for frame in distributed.shard(frames) if not frame.file(out, ".npz").is_file()]
    triplets = Triplets(data, todo, trained.height, trained.width)
    for frame, arrays in scenes(trained.load(), triplets, config):
        write_npz(frame.file(out, ".npz"), **arrays)
    distributed.barrier()
    return {"frames": len(frames), "edges": edges, "absent": absent}


def scenes(
    model: PixelwiseNetworks, triplets: Triplets, config: ScenesConfig
) -> Iterator[tuple[FrameRef, dict[str, np.ndarray]]]:
    """The arrays of every triplet; networks are in evaluation mode. Raises InputError when depth is not finite."""
    for frames, batch in frame_batches(triplets, config.batch_size, "scenes"):
        depth, poses, residual = explain(model, batch["images"], batch["K"])
        flow = object_flow(depth, batch["K"], poses, residual)
        maps = {"depth": depth[:, 0].half(), "mot_mask": moving_pixels(flow)[:, 0].half()}
        maps |= {"inv_K": batch["inv_K"], "pose": poses}
        if config.colours:
            maps["colours"] = flow_colours(flow)
        for number, frame in enumerate(frames):
            own = {name: field[number].cpu().numpy() for name, field in maps.items()}
            if not np.isfinite(own["depth"]).all():
                raise InputError(
                    f"{frame.line()}: the networks predict no finite depth; train them again."
                )
            yield frame, own


def flow_colours(flow: Tensor) -> Tensor:
    """Flows (B, 2, 2, H, W) as colours (B, 2, 3, 128, 128) uint8, scaled by the longest of each; white below a pixel."""
    flat = flow.flatten(0, 1)
    # One by one, because torchvision scales by the longest flow of a batch.
    image = torch.stack([flow_to_image(each) for each in flat]).float()
    image = torch.where(flat.abs().sum(1, keepdim=True) < PIXEL, 255.0, image)
    small = geometry.resize(image, (SIDE, SIDE))
    return small.round().to(torch.uint8).unflatten(0, (-1, 2))
