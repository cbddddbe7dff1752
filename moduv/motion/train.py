"""Training of stage 1: the four phases of Dynamo-Depth, one after the other (section 3.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moduv.depth.networks.camera import LearnedCamera
from moduv.depth.triplets import Triplets, find_triplets
from moduv.depth.weights import load_initial_weights, save_modules
from moduv.engine import distributed
from moduv.engine.batch_norm import share_batch_norm
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.log import say
from moduv.engine.loop import LoopConfig, StepState, Watch, fit
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.layouts import has_intrinsics, is_assumed
from moduv.motion.losses import compute_losses
from moduv.motion.networks import DynamoDepth
from moduv.motion.networks.motion_fields import MotionFieldDecoder
from moduv.motion.phases import MODULES, PHASES, MotionConfig, Phase

WEIGHTS = "weights"
"""Folder of a finished training that holds one `.pth` per module."""
PUBLISHED_EPOCH = 8000
"""Batches in an epoch of the published schedule."""


@dataclass(frozen=True)
class MotionTrainingConfig:
    """Everything that can be set in stage 1."""

    loops: dict[str, LoopConfig]
    """Length, batch size and learning rate of each phase, by the phase's name. Later phases may be left out:
    after `disp_init`, depth and ego-motion are there, which is all that measured flow needs."""
    depth_model: str = "litemono"
    """Networks: litemono, monodepthv2 or street."""
    height: int = 320
    width: int = 480
    """Size of the networks' input in pixels."""
    resnet_weights: str = ""
    """File of torchvision's ImageNet ResNet-18, from which every ResNet starts; empty: from scratch."""
    litemono_weights: str = ""
    """File of Lite-Mono-8M's pre-training, from which its encoder starts; empty: from scratch."""
    losses: MotionConfig = field(default_factory=MotionConfig)
    ramp: float = 0.0
    """Share of a phase over which the ramped terms fade in; 0: a third of a published epoch."""
    flip: float = 0.5
    jitter: float = 0.5
    field_of_view: float = 0.0
    """Horizontal field of view in degrees that is assumed where a segment's camera is unknown; 0: such
    segments are refused."""
    learn_focal: bool = False
    """Learn the focal length of assumed cameras together with depth, from the assumed one on."""
    validate_every: int = 0
    """Steps between looks at held-out frames, where they are given; 0: never."""
    validation_frames: int = 100
    pictures: int = 4
    """How many held-out frames are drawn at every look."""
    sync_batch_norm: bool = False
    """Normalise over the batches of all GPUs, so that they train what one would; processes on CPUs always do."""
    compile: bool = speed_only(False)
    """Compile the networks with torch.compile: minutes at the start of every phase."""
    seed: int = 0
    """Of the initial weights, and of the order and noise of the phases whose own seed is 0. 0: those keep
    seed 0, so every phase sees the same order."""

    def __post_init__(self) -> None:
        if not self.loops or set(self.loops) != set(list(PHASES)[: len(self.loops)]):
            raise InputError(
                f"motion: loops must name the phases {tuple(PHASES)}, or the first of them; mend the preset."
            )

    @property
    def phases(self) -> list[Phase]:
        """The phases that are trained, in order."""
        return [phase for name, phase in PHASES.items() if name in self.loops]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batches that processes share."""
        return tuple(loop.batch_size for loop in self.loops.values())


WatchPhase = Callable[[DynamoDepth, Phase], Watch]
"""Makes the watch of a phase, once the networks are there."""


def train_motion(
    data: Path,
    split: Path,
    out: Path,
    config: MotionTrainingConfig,
    watch: WatchPhase | None = None,
) -> None:
    """Train depth, ego-motion, flow and motion mask on raw clips.

    Args:
        data: folder of the segments, each with numbered frames and `cam.json`.
        split: frames to train on; those without both neighbours are left out and counted.
        out: receives a folder per phase and `weights/` in the official form.
        config: networks, losses and schedule.
        watch: looks at the networks while they are trained.

    Raises:
        InputError: for missing or broken frames, intrinsics and settings.
    """
    stage = Stage("motion train", out, config, (split,), data)
    stage.run(lambda: _train(data, split, out, config, watch))


def _train(
    data: Path, split: Path, out: Path, config: MotionTrainingConfig, watch: WatchPhase | None
) -> dict[str, Any]:
    frames, absent, edges = find_triplets(split, data)
    say(
        f"  {len(frames)} triplets; left out: {edges} frames that lack a neighbour, {absent} without "
        "an image"
    )
    guessed = _report_cameras(data, frames, config)
    triplets = Triplets(
        data,
        frames,
        config.height,
        config.width,
        flip=config.flip,
        jitter=config.jitter,
        field_of_view=config.field_of_view,
    )
    model = _make_networks(config, guessed)
    for phase in config.phases:
        _train_phase(model, triplets, phase, out / phase.folder, config, watch)
    if distributed.is_main():
        save_modules(model, MODULES, out / WEIGHTS, config.height, config.width)
    results = {"triplets": len(frames), "without_neighbours": edges, "absent": absent}
    if model.camera is None:
        return results
    factor = model.camera.factor.item()
    say(f"  focal length learned: {factor:.3f} of the assumed one")
    return {**results, "focal_factor": factor}


def _make_networks(config: MotionTrainingConfig, guessed: bool) -> DynamoDepth:
    """Networks with their initial weights, ready to be trained; `guessed`: some cameras are assumed."""
    torch.manual_seed(config.seed)
    model = DynamoDepth(config.depth_model)
    scratch = load_initial_weights(model, config.resnet_weights, config.litemono_weights)
    if scratch:
        say(f"  from scratch: {', '.join(scratch)}")
    if config.losses.flow_parametrisation == "residual":
        decoder = model.motion_dec
        if isinstance(decoder, MotionFieldDecoder):
            decoder.silence()  # its noise would hide the ego flow that it is added to
    if config.learn_focal and guessed:
        model.camera = LearnedCamera()
    device = distributed.device()
    model.to_device(device)
    if device.type == "cpu":
        share_batch_norm(model)
    elif config.sync_batch_norm and distributed.world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.compile:
        for name in MODULES:  # when they first run; names and forms of their weights stay
            getattr(model, name).compile()
    return model


def _report_cameras(data: Path, frames: list[FrameRef], config: MotionTrainingConfig) -> bool:
    """Say where intrinsics are only assumed; whether there are such segments."""
    segments = {frame.segment for frame in frames}
    unknown = {segment for segment in segments if not has_intrinsics(data, segment)}
    if unknown and config.field_of_view:
        degrees = f"{config.field_of_view:g} degrees"
        say(f"  camera unknown in {len(unknown)} segments; {degrees} are assumed there")
    guessed = {segment for segment in segments if is_assumed(data, segment)}
    if guessed - unknown:
        say(f"  camera assumed in {len(guessed - unknown)} segments when they were imported")
    if guessed and config.learn_focal:
        say("  the focal length is learned from there")
    return bool(guessed)


def _train_phase(
    model: DynamoDepth,
    triplets: Triplets,
    phase: Phase,
    run_dir: Path,
    config: MotionTrainingConfig,
    watch: WatchPhase | None = None,
) -> None:
    """Train the modules of one phase; a finished phase is loaded."""
    phase.freeze(model)
    camera = model.camera
    if camera is not None:
        camera.requires_grad_("depth_dec" in phase.trains)
    loop = phase_loop(config, phase)
    device = distributed.device()

    def step(batch: dict[str, Tensor], state: StepState) -> dict[str, Tensor]:
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        ramp = min(1.0, state.step / ramp_steps(config, loop, state.total))
        if camera is not None:
            batch["K"], batch["inv_K"] = camera(batch["K"], batch["inv_K"], batch["assumed"])
        losses = partial(compute_losses, model, batch, phase, ramp, config.losses, state.generator)
        terms = or_uncompiled(model, losses) if config.compile else losses()
        return terms if camera is None else {**terms, "focal_factor": camera.factor}

    look = None if watch is None else watch(model, phase)
    fit(model, step, triplets, loop, run_dir, label=phase.name, watch=look)


def or_uncompiled(model: nn.Module, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Do `work`; where compiling the networks fails, say so and do it again with the plain ones."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and rarely needed

    try:
        return work()
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        say(f"  compile: torch.compile failed ({reason}); the networks run as they are")
        for name in MODULES:
            getattr(model, name)._compiled_call_impl = None
        return work()


def phase_loop(config: MotionTrainingConfig, phase: Phase) -> LoopConfig:
    """The loop of a phase; without a seed of its own, it draws from the training's, if that has one."""
    loop = config.loops[phase.name]
    if loop.seed or not config.seed:
        return loop
    sequence = np.random.SeedSequence([config.seed, list(PHASES).index(phase.name)])
    return replace(loop, seed=int(sequence.generate_state(1)[0]))


def ramp_steps(config: MotionTrainingConfig, loop: LoopConfig, total: int) -> float:
    """Steps until the ramped terms have their full weight.

    Args:
        loop: the phase as it is set.
        total: its steps as they are run: fewer, where several processes share larger batches.
    """
    if config.ramp:
        return max(1.0, config.ramp * total)
    return max(1.0, PUBLISHED_EPOCH / 3 * (total / loop.steps))
