"""What a run will do and how long it will take, from a short calibration on the machine it runs on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from moduv.datasets.clips import name_clips
from moduv.detector.data import LabelledFrames
from moduv.detector.model import build_detector
from moduv.detector.predictor import Detector
from moduv.detector.train import DetectorTrainingConfig, detector_step
from moduv.detector.transforms import LabelledFrame, augment
from moduv.engine import distributed
from moduv.engine.config import load_preset, read_preset
from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.engine.loop import StepState
from moduv.frames.images import resize_image
from moduv.frames.video import count_frames, read_clip
from moduv.instances.crops import Crop
from moduv.motion.fields import mask_and_depth
from moduv.motion.losses import compute_losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.phases import PHASES, Phase
from moduv.motion.train import MotionTrainingConfig
from moduv.rounds.recipe import RoundConfig
from moduv.runs.chains import ROUNDS
from moduv.runs.schedule import Effort

RECIPES = [step.name for step in ROUNDS if step.command.startswith("round ")]
ENOUGH = 1.5
"""Seconds after which a calibration stops repeating."""
JSON_BYTES = 2000
"""Of a frame's labels."""


@dataclass(frozen=True)
class Clips:
    """The user's clips, as far as can be told without importing them."""

    frames: int
    """Frames that will be kept, at most."""
    height: int
    width: int
    """Of the kept frames."""
    seconds_per_frame: float
    """To decode, shrink and write one."""
    bytes_per_frame: float


def missing_weights(preset: str) -> list[str]:
    """Files of initial weights that a preset names and that are not there."""
    sections = read_preset(preset)
    named = [
        str(value)
        for section in sections.values()
        if isinstance(section, dict)
        for key, value in section.items()
        if key.endswith("_weights") and value
    ]
    return sorted({name for name in named if not Path(name).is_file()})


def survey_clips(
    sources: Sequence[Path], every: int, max_width: int, out: Path | None = None
) -> Clips:
    """Count the frames of all clips and time the first ones of the first clip that decodes.

    Raises InputError when a source is missing or no clip, outside of the outputs, decodes.
    """
    clips = list(name_clips(sources, out).values())
    total = sum(count_frames(clip) for clip in progress(clips, desc="count", unit="clip"))
    start = time.monotonic()
    images = _first_images(clips)
    height, width = images[0].shape[:2]
    if max_width and width > max_width:
        height, width = round(height * max_width / width), max_width
    sizes = [
        len(cv2.imencode(".jpg", resize_image(image, height, width), [1, 95])[1])
        for image in images
    ]
    seconds = (time.monotonic() - start) / len(images)
    kept = total // max(1, every)
    return Clips(kept, height, width, seconds, float(np.mean(sizes)))


def _first_images(clips: Sequence[Path]) -> list[np.ndarray]:
    """The first images of the first clip that decodes."""
    reasons: list[InputError] = []
    for clip in clips:
        try:
            return [image for _, image in islice(read_clip(clip), 8)]
        except InputError as error:
            reasons.append(error)
    raise reasons[0]


def estimate(preset: str, clips: Clips) -> dict[str, Effort]:
    """Seconds and bytes of every step of a run, by the step's name.

    Every network is built and run a few times on noise of the sizes it will see.
    """
    motion = load_preset(MotionTrainingConfig, preset, "motion")
    recipes = {name: load_preset(RoundConfig, preset, name) for name in RECIPES}
    per_step, per_frame = _time_motion(motion)
    training = {name: _time_detector(recipe, clips) for name, recipe in recipes.items()}
    detect, pixels = training["final"][1], motion.height * motion.width
    of_frames = {
        "frames": (clips.seconds_per_frame, clips.bytes_per_frame),
        "motion_outputs": (per_frame, 4.0 * pixels),
        "L0": (0.02, JSON_BYTES),
        "L1": (detect, JSON_BYTES),
        "L2": (2 * detect, JSON_BYTES),
        "detections": (detect, 2 * JSON_BYTES),
        "evaluation": (0.03, 0.0),
    }
    efforts = {
        name: Effort(seconds * clips.frames, size * clips.frames, per_frame=True)
        for name, (seconds, size) in of_frames.items()
    }
    steps = sum(per_step[name] * loop.steps for name, loop in motion.loops.items())
    efforts |= {"motion": Effort(steps, 4e8), "report": Effort(20, 1e7)}
    for name, recipe in recipes.items():
        efforts[name] = Effort(training[name][0] * recipe.loop.steps, training[name][2])
    return efforts


def _time_motion(config: MotionTrainingConfig) -> tuple[dict[str, float], float]:
    """Seconds of a training step of every phase, and of one frame's prediction."""
    device = distributed.device()
    model = DynamoDepth(config.depth_model).to(device)
    seconds = {}
    for name, phase in PHASES.items():
        phase.freeze(model)
        batch = _noise_triplets(config, config.loops[name].batch_size)
        work = partial(_motion_step, model, batch, phase, config)
        seconds[name] = _usual_time(work)
        model.zero_grad(set_to_none=True)
    model.eval()
    batch = _noise_triplets(config, 4)
    with torch.inference_mode():
        predicting = _usual_time(lambda: mask_and_depth(model, batch, config.losses))
    return seconds, predicting / 4


def _motion_step(
    model: DynamoDepth, batch: dict[str, torch.Tensor], phase: Phase, config: MotionTrainingConfig
) -> None:
    generator = torch.Generator(distributed.device()).manual_seed(0)
    compute_losses(model, batch, phase, 1.0, config.losses, generator)["loss"].backward()


def _noise_triplets(config: MotionTrainingConfig, count: int) -> dict[str, torch.Tensor]:
    from moduv.frames.camera import Intrinsics

    camera = Intrinsics.from_field_of_view(60, config.width, config.height)
    images = torch.rand(count, 3, 3, config.height, config.width)
    batch = {
        "images": images,
        "K": torch.from_numpy(camera.matrix4()).float().expand(count, 4, 4),
        "inv_K": torch.from_numpy(camera.inverse4()).float().expand(count, 4, 4),
    }
    return {key: value.to(distributed.device()) for key, value in batch.items()}


def _time_detector(recipe: DetectorTrainingConfig, clips: Clips) -> tuple[float, float, float]:
    """Seconds of a training step, seconds of one frame's prediction, bytes of the training state."""
    device = distributed.device()
    model = build_detector(recipe.detector).to(device).train()
    height, width = clips.height, clips.width
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    frame = _noise_frame(image)
    drawn = [
        augment(frame, recipe.augmentation, rng, lambda _: frame)
        for _ in range(recipe.loop.batch_size)
    ]
    batch = LabelledFrames.collate([(picture, {**target, "seed": 0}) for picture, target in drawn])
    step, state = detector_step(model), StepState(0, 1, torch.Generator(device))
    training = _usual_time(lambda: step(batch, state)["loss"].backward())
    detector = Detector(model)
    predicting = _usual_time(lambda: detector.predictions([image]))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return training, predicting, 16.0 * parameters


def _noise_frame(image: np.ndarray) -> LabelledFrame:
    """An image (H, W, 3) with three objects."""
    height, width = image.shape[:2]
    corners = np.array([[0.1, 0.4, 0.3, 0.6], [0.4, 0.4, 0.6, 0.7], [0.7, 0.3, 0.9, 0.5]])
    boxes = np.round(corners * [width, height, width, height]).astype(np.float32)
    masks = [
        Crop(y0, x0, np.ones((y1 - y0, x1 - x0), bool))
        for x0, y0, x1, y1 in boxes.astype(int).tolist()
    ]
    return LabelledFrame(image, boxes, masks, (height, width))


def _usual_time(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls, after one that warms up: what else runs only slows."""
    times: list[float] = []
    begin = time.monotonic()
    while len(times) < 5 and (len(times) < 2 or time.monotonic() - begin < ENOUGH):
        start = time.monotonic()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    return min(times[1:])
