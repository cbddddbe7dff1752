"""Objects without given masks: slots explain flow and depth, and what moves in a slot is a candidate (section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth.data import frame_batches, on_device
from moduv.dynamic_depth.masks.rules import BOXLIKE, clean_masks, distinct_masks, slot_labels
from moduv.dynamic_depth.masks.slots import slot_losses
from moduv.dynamic_depth.networks.slots import SIDE, SLOTS, WIDTH, SlotAttentionNet
from moduv.dynamic_depth.objects import NOTHING
from moduv.dynamic_depth.outputs import (
    finished,
    frames_with,
    made_here,
    read_depth,
    read_moving,
    read_road,
    with_road,
)
from moduv.dynamic_depth.schedules import ramp, warm_then_halved
from moduv.dynamic_depth.weights import load_network
from moduv.engine import checkpoint, distributed
from moduv.engine.config import added, speed_only
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.engine.log import progress, say
from moduv.engine.loop import LoopConfig, StepState, TrainingConfig, fit
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, labelled, read_labels, write_labels

WEIGHTS = "slot_attention.pth"
WHITE = 254
"""A pixel whose red, green and blue are all this bright or brighter stands still."""
CERTAIN = 0.25
"""Smallest probability of a pixel that belongs to a slot."""


@dataclass(frozen=True)
class SlotsConfig(TrainingConfig):
    """How slots are trained. The defaults are shares of the published 40 epochs of 4,358 steps."""

    background: float = 0.125
    """Share of the training after which the first slot is trained to be the background."""
    presence: tuple[float, float] = (0.1147, 0.6884)
    """Shares of the training between which the weight of presence rises; from the first on, it also weights the masks."""
    presence_weight: float = 0.002
    """Final weight of presence."""
    logits: bool = False
    """Treat the background's probability as a logit in its loss, as published."""


@dataclass(frozen=True)
class CandidatesConfig:
    """How slots are applied."""

    batch_size: int = speed_only(8)
    """Frames at once."""


def slot_frames(colours: np.ndarray, depth: np.ndarray) -> tuple[Tensor, Tensor]:
    """The inputs of slot attention for a frame.

    Args:
        colours: (2, 3, 128, 128) uint8, the flow to both neighbours in colours, white where nothing moves.
        depth: (H, W).

    Returns:
        Colours in [-1, 1] and depth, (2, 4, 128, 128), and the moving pixels, (2, 1, 128, 128) bool. The depth is
        exponential, from 0 to 1, and is 1 where nothing moves.
    """
    pixels = torch.from_numpy(colours)
    moving = (pixels < WHITE).any(1, keepdim=True)
    small = geometry.resize(torch.from_numpy(depth)[None, None], (SIDE, SIDE))
    grown = (small / small.max()).exp() - 1
    shown = torch.where(moving, grown, grown.max()) / grown.max()
    return torch.cat([2 * pixels.float() / 255 - 1, shown], 1), moving


class FlowFrames:
    """Frames of flow and depth, indexed by (index, sample seed); there is no augmentation.

    Args:
        motion: folder of `moduv depth scenes`, with colours.
        frames: the frames.
    """

    def __init__(self, motion: Path, frames: list[FrameRef]) -> None:
        self.motion, self.frames = motion, frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """`frames` (2, 4, 128, 128) and `moving` (2, 1, 128, 128), see `slot_frames`."""
        path = self.frames[item[0]].file(self.motion, ".npz")
        colours = read_npz(path, ("colours",))["colours"]
        if colours.shape != (2, 3, SIDE, SIDE):
            raise InputError(f"{path}: 'colours' are of another size; predict scenes again.")
        frames, moving = slot_frames(colours.astype(np.uint8), read_depth(path))
        return {"frames": frames, "moving": moving}

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: torch.cat([sample[key] for sample in samples]) for key in samples[0]}


def train_slots(split: Path, motion: Path, out: Path, config: SlotsConfig) -> None:
    """Train slot attention to explain the flow and the depth of single frames.

    Args:
        split: frames to train on; those without motion output are left out and counted.
        motion: folder of `moduv depth scenes`, with colours.
        out: receives `slot_attention.pth`.
        config: schedule.

    Raises:
        InputError: when a file is missing, broken, or made without colours.
    """
    stage = Stage("depth slots", out, config, (split, *made_here(motion)))
    stage.run(lambda: _train(split, motion, out, config))


def _train(split: Path, motion: Path, out: Path, config: SlotsConfig) -> dict[str, Any]:
    frames = frames_with(split, motion)
    torch.manual_seed(config.loop.seed)
    net = SlotAttentionNet().to(distributed.device())

    def step(batch: dict[str, Tensor], state: StepState) -> dict[str, Tensor]:
        device = batch["frames"].device
        shape = (len(batch["frames"]), SLOTS, WIDTH)
        noise = torch.randn(shape, generator=state.generator, device=device)
        weight = None
        if state.progress >= max(config.presence[0], config.background):
            weight = config.presence_weight * ramp(state.progress, config.presence)
        found = net(batch["frames"], noise, by_presence=weight is not None)
        background = state.progress >= config.background
        return slot_losses(
            found,
            batch["frames"],
            batch["moving"],
            background=background,
            presence=weight,
            logits=config.logits,
        )

    def rate(loop: LoopConfig, step: int) -> float:
        return loop.learning_rate * warm_then_halved(step, loop.steps)

    data, moved = FlowFrames(motion, frames), on_device(step)
    fit(net, moved, data, config.loop, out, label="slots", rate=rate)
    if distributed.is_main():
        checkpoint.save_weights(out / WEIGHTS, net.state_dict())
    return {"frames": len(frames)}


def find_candidates(
    split: Path, motion: Path, slots: Path, road: Path, out: Path, config: CandidatesConfig
) -> None:
    """Write candidates for objects: what moves in a slot and stands on the road.

    Args:
        split: frames; those without motion output are left out and counted.
        motion: folder of `moduv depth scenes`, with colours.
        slots: folder of `moduv depth slots`.
        road: label root of the road.
        out: label root; finished files are kept.
        config: batch size.

    Raises:
        InputError: when a file is missing or broken.
    """
    stage = Stage("depth candidates", out, config, (split, *made_here(motion, road), slots))
    stage.run(lambda: _find(split, motion, slots, road, out, config))


def _find(
    split: Path, motion: Path, slots: Path, road: Path, out: Path, config: CandidatesConfig
) -> dict[str, Any]:
    frames = frames_with(split, motion)
    todo = [frame for frame in distributed.shard(frames) if not is_labelled(out, frame)]
    for frame, masks in _slot_masks(_load(slots), FlowFrames(motion, todo), config.batch_size):
        moving = read_moving(frame, motion)
        size = (moving.shape[0], moving.shape[1])
        ground = read_road(road, frame, size)
        large = F.interpolate(masks.float(), size, mode="nearest").numpy() > 0
        # The flows to both neighbours mostly show the same objects.
        found = np.concatenate([slot_labels(each, ground, moving) for each in large])
        write_labels(out, frame, as_instances(distinct_masks(found)))
    distributed.barrier()
    count = sum(len(read_labels(out, frame)) for frame in frames)
    say(f"  {count} candidates in {len(frames)} frames")
    return {"frames": len(frames), "objects": count}


@torch.inference_mode()
def _slot_masks(
    net: SlotAttentionNet, data: FlowFrames, batch_size: int
) -> Iterator[tuple[FrameRef, Tensor]]:
    """The slots (2, 5, 128, 128) bool of every frame, by the flow to both neighbours; the initial slots are the means."""
    for frames, batch in frame_batches(data, batch_size, "slots"):
        shown = batch["frames"]
        noise = shown.new_zeros(len(shown), SLOTS, WIDTH)
        masks = net(shown, noise).masks[:, :, 0] >= CERTAIN
        yield from zip(frames, masks.unflatten(0, (-1, 2)).cpu(), strict=True)


def _load(folder: Path) -> SlotAttentionNet:
    finished(folder, {"depth slots"}, "slots", "run moduv depth slots first")
    return load_network(SlotAttentionNet(), folder / WEIGHTS)


def as_instances(masks: np.ndarray) -> Instances:
    """Masks (N, H, W) bool as instances without scores."""
    return Instances.from_dense(masks) if len(masks) else NOTHING


@dataclass(frozen=True)
class CleanConfig:
    """Which predictions become labels."""

    score: float = 0.5
    """Predictions need a score above this, where they have scores."""
    unlike_box: float = added(BOXLIKE)
    """Labels are dropped whose box exceeds their area by this share or more. The published tenth keeps little but vans: the
    true masks of the street world's cars have values from 0.16 to 0.6."""


def clean_labels(split: Path, labels: Path, road: Path, out: Path, config: CleanConfig) -> None:
    """Write the labels that look like single objects, without the road.

    Args:
        split: frames; those without labels or road are left out and counted.
        labels: label root, such as what a detector finds.
        road: label root of the road.
        out: label root; finished files are kept.
        config: smallest score, and the shapes that are kept.

    Raises:
        InputError: when no frame has labels and road, or a file is broken.
    """
    stage = Stage("depth clean", out, config, (split, *made_here(labels, road)))
    stage.run(lambda: _clean(split, labels, road, out, config))


def _clean(split: Path, labels: Path, road: Path, out: Path, config: CleanConfig) -> dict[str, Any]:
    frames = with_road(labelled(labels, read_split(split)), road)
    for frame in progress(distributed.shard(frames), desc="clean", unit="frame"):
        if is_labelled(out, frame):
            continue
        found = read_labels(labels, frame).above(config.score)
        if not len(found) or found.size is None:
            write_labels(out, frame, NOTHING)
            continue
        ground = read_road(road, frame, found.size)
        write_labels(
            out, frame, as_instances(clean_masks(found.decode(), ground, config.unlike_box))
        )
    distributed.barrier()
    kept = sum(len(read_labels(out, frame)) for frame in frames)
    given = sum(len(read_labels(labels, frame)) for frame in frames)
    say(f"  {kept} of {given} labels kept in {len(frames)} frames")
    return {"frames": len(frames), "objects": kept, "given": given}
