"""Stage 1 with an eye on it: held-out depth metrics and pictures while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moduv.depth.triplets import Triplets, find_triplets
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.engine.journal import Watch
from moduv.engine.log import say
from moduv.evaluation.stage1 import evaluate_motion_outputs
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import evenly
from moduv.geometry.projection import pixel_grid
from moduv.motion.fields import MotionFields, motion_fields
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import Phase
from moduv.motion.predict import MotionPredictionConfig, predict_frames
from moduv.motion.train import MotionTrainingConfig, train_motion
from moduv.visual.drawing import draw_depth, draw_flow, draw_motion, picture_grid


def train_stage1(
    data: Path, split: Path, out: Path, config: MotionTrainingConfig, validation: Path | None = None
) -> None:
    """Train depth, ego-motion, flow and motion mask on raw clips.

    Args:
        data: folder of the segments, in this library's form or as prepared for Dynamo-Depth.
        split: frames to train on; those without both neighbours are left out and counted.
        out: receives a folder per phase, `pictures/` and `weights/` in the official form.
        config: networks, losses and schedule.
        validation: split of held-out frames; looked at every `config.validate_every` steps, measured
            where they have truth, which is never trained on.

    Raises:
        InputError: for missing or broken frames, intrinsics and settings, and when none of the held-out
            frames can be looked at.
    """
    if validation is None or not config.validate_every:
        train_motion(data, split, out, config)
        return
    chosen = _held_out(data, validation, config)
    told: set[str] = set()

    def watch(model: DynamoDepth, phase: Phase) -> Watch:
        return ValidationWatch(model, phase, data, chosen, out, config, told)

    train_motion(data, split, out, config, watch)


def _held_out(data: Path, validation: Path, config: MotionTrainingConfig) -> list[FrameRef]:
    """The frames to look at. Raises InputError now for what would only end a later phase."""
    for name, loop in config.loops.items():
        if config.validate_every % loop.log_every:
            raise InputError(
                f"{name}: validation every {config.validate_every} steps falls between the log's lines; "
                f"choose a multiple of log_every, {loop.log_every}."
            )
    frames, _, _ = find_triplets(validation, data)
    return evenly(frames, config.validation_frames)


@dataclass
class ValidationWatch:
    """One phase's watch: predicts held-out frames, measures and draws them.

    What is wrong with the held-out frames or their truth is said once and never ends the training.
    """

    model: DynamoDepth
    phase: Phase
    data: Path
    frames: list[FrameRef]
    out: Path
    config: MotionTrainingConfig
    told: set[str] = field(default_factory=set)
    """What has been said; shared by the phases."""

    @property
    def every(self) -> int:
        return self.config.validate_every

    def __call__(self, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Depth metrics, those of the mask once there is one, and a picture a frame."""
        triplets = self._triplets()
        numbers: dict[str, float] = {}
        pictures: dict[str, np.ndarray] = {}
        # Compiling the networks for a few held-out frames would take longer than they do.
        eager = torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()
        with eager:
            with self._tolerant():
                numbers = self._measure(triplets)
            with self._tolerant():
                pictures = self._draw(triplets)
        for name, picture in pictures.items():
            write_image(self.out / "pictures" / f"{self.phase.name}_{step:06d}_{name}.jpg", picture)
        return numbers, pictures

    def _triplets(self) -> Triplets:
        camera = self.model.camera
        return Triplets(
            self.data,
            self.frames,
            self.config.height,
            self.config.width,
            field_of_view=self.config.field_of_view,
            focal_factor=1.0 if camera is None else camera.factor.item(),
        )

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if str(error) not in self.told:
                self.told.add(str(error))
                say(f"  validation: {error}")

    def _measure(self, triplets: Triplets) -> dict[str, float]:
        scratch = self.out / "validation"
        settings, has_mask = MotionPredictionConfig(), self.phase.has_mask
        found = predict_frames(
            self.model, triplets, self.config.losses, settings, has_mask=has_mask
        )
        for frame, arrays in found:
            write_npz(frame.file(scratch, ".npz"), **arrays)
        truth = self.data / "truth" if (self.data / "truth").is_dir() else self.data
        metrics, _ = evaluate_motion_outputs(scratch, truth, self.frames)
        wanted = ("depth/", "odometry/", "motion/") if has_mask else ("depth/",)
        return {f"val/{name}": v for name, v in metrics.items() if name.startswith(wanted)}

    def _draw(self, triplets: Triplets) -> dict[str, np.ndarray]:
        count = min(self.config.pictures, len(triplets))
        if not count:
            return {}
        self.model.eval()
        batch = triplets.collate([triplets[index, 0] for index in range(count)])
        batch = {key: value.to(distributed.device()) for key, value in batch.items()}
        with torch.inference_mode():
            fields = motion_fields(self.model, batch, self.phase, self.config.losses)
        names = [frame.line().replace("/", "-").replace(" ", "_") for frame in self.frames]
        return {names[index]: draw_fields(fields, batch, index) for index in range(count)}


def draw_fields(fields: MotionFields, batch: dict[str, Tensor], index: int) -> np.ndarray:
    """What stage 1 makes of one triplet of a batch, as a grid of named pictures (H, W, 3) uint8.

    Frame and its reconstruction from frame +1, disparity, flows to frame +1 in pixels: of a still
    world, of what moves by itself, and complete; the motion mask.
    """
    finest = fields.finest
    frame = _picture(batch["images"][index, 1])
    height, width = frame.shape[:2]
    ego = finest.ego_coordinates[index, 1]  # (2, H, W)
    still = pixel_grid(height, width, ego)[0]
    pictures = {
        "frame": frame,
        "reconstruction": _picture(finest.warped[index, 1]),
        "disparity": draw_depth(finest.depth[index, 0].cpu().numpy()),
        "ego flow": draw_flow((ego - still).cpu().numpy()),
    }
    if finest.complete_coordinates is not None:
        complete = finest.complete_coordinates[index, 1]
        pictures["complete flow"] = draw_flow((complete - still).cpu().numpy())
        moved = complete if finest.motion_logit is None else finest.coordinates[index, 1]
        pictures["independent flow"] = draw_flow((moved - ego).cpu().numpy())
    if finest.motion_logit is not None:
        mask = finest.motion_mask[index, 0].cpu().numpy()
        pictures["motion mask"] = draw_motion(frame, mask)
    return picture_grid(pictures, columns=4, width=max(160, width))


def _picture(image: Tensor) -> np.ndarray:
    """An image (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    array = image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.round(array * 255).astype(np.uint8)
