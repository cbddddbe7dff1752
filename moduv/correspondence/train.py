"""Training of dense correspondences on unlabeled clips (Araslanov et al., NeurIPS 2021, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moduv.correspondence.data import Batch, ClipConfig, Clips
from moduv.correspondence.losses import LossConfig, correspondence_losses
from moduv.correspondence.network import CorrespondenceNet
from moduv.correspondence.propagation import PropagationConfig
from moduv.correspondence.videos import (
    Video,
    find_videos,
    long_enough,
    read_layout,
    read_list,
    write_list,
)
from moduv.correspondence.weights import (
    PUBLISHED_FEATURE,
    WEIGHTS,
    Checkpoint,
    NetworkConfig,
    read_checkpoint,
    write_checkpoint,
)
from moduv.engine import distributed
from moduv.engine.batch_norm import share_batch_norm
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.journal import Watch
from moduv.engine.log import say
from moduv.engine.loop import LoopConfig, StepState, fit
from moduv.engine.stages import Stage

UNPACKED = "frames"
"""Folder of the frames of video files."""
BETAS = (0.5, 0.999)
"""Of Adam."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Length and learning rate of the training; an epoch is one clip of every video."""

    epochs: int = 501
    """The reference implementation counts from 0 to 500."""
    batch_size: int = 16
    """Clips per step, over all processes."""
    optimizer: str = "adam"
    learning_rate: float = 1e-4
    """Learning rate of weights; that of biases is twice as high."""
    weight_decay: float = 5e-4
    """Weight decay of weights; biases have none."""
    decay: float = 0.5
    """Factor of the learning rate every `decay_every` epochs."""
    decay_every: int = 100
    """Epochs."""
    bf16: bool = False
    """Train under autocast to bfloat16."""
    workers: int = speed_only(0)
    """Processes that prepare samples; 0: the training process itself."""
    save_every: int = speed_only(500)
    """Steps between saved states."""
    log_every: int = speed_only(50)
    """Steps between lines of the log."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.decay_every) < 1:
            raise InputError(
                f"schedule: epochs is {self.epochs}, batch_size {self.batch_size}, decay_every "
                f"{self.decay_every}; use 1 or more."
            )

    def loop(self, videos: int) -> LoopConfig:
        """The loop over a number of videos; an epoch's last, incomplete batch is left out."""
        batches = max(1, videos // self.batch_size)
        return LoopConfig(
            steps=self.epochs * batches,
            batch_size=self.batch_size,
            epoch=batches * self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            bf16=self.bf16,
            workers=self.workers,
            save_every=self.save_every,
            log_every=self.log_every,
            seed=self.seed,
        )

    def rate(self, loop: LoopConfig, step: int) -> float:
        """The learning rate of weights at a step of `loop`."""
        epoch = step * self.epochs // loop.steps
        return loop.learning_rate * self.decay ** (epoch // self.decay_every)


@dataclass(frozen=True)
class CorrespondenceConfig:
    """Settings of a training; the defaults are those published for YouTube-VOS."""

    folder: str = "ytvos/train/JPEGImages"
    """Folder of the videos below the data folder; if it does not exist, all videos below the data folder are taken."""
    clips: ClipConfig = field(default_factory=ClipConfig)
    """Samples."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Width and stride of the network."""
    losses: LossConfig = field(default_factory=LossConfig)
    """Grids and weights of the losses."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Length and learning rate."""
    sync_batch_norm: bool = True
    """Share batch statistics among GPUs, so that the result does not depend on their number; processes on CPUs always do."""
    validate_every: int = 1000
    """Steps between validations on held-out videos, where they are given."""
    validation_sequences: int = 30
    """Number of held-out videos, evenly spaced among all; 30 are all of DAVIS 2017."""
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    """How masks are propagated in validation."""

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes of the batches that processes share."""
        return (self.schedule.batch_size,)


WatchTraining = Callable[[CorrespondenceNet], Watch]
"""Makes the watch of a training from its network."""


def train_correspondence(
    data: Path,
    out: Path,
    config: CorrespondenceConfig,
    frame_list: Path | None = None,
    watch: WatchTraining | None = None,
) -> None:
    """Train the network on raw clips.

    Args:
        data: folder of the videos: video files, folders of frames, or a data set as its authors pack it.
        out: receives `weights.pth`: the best snapshot of the watch, or the last state without a watch.
        config: network, losses and schedule.
        frame_list: the frames to train on, below `data`; a line for each, or for each folder of frames.
        watch: validates the network during training.

    Raises:
        InputError: for missing or broken frames, a list that does not fit the data, videos that are too
            short, and impossible settings.
    """
    inputs = () if frame_list is None else (frame_list,)
    stage = Stage("correspondence train", out, config, inputs, data)
    stage.run(lambda: _train(data, out, config, frame_list, watch))


def _train(
    data: Path,
    out: Path,
    config: CorrespondenceConfig,
    frame_list: Path | None,
    watch: WatchTraining | None,
) -> dict[str, Any]:
    videos = training_videos(data, out / UNPACKED, config, frame_list)
    frames = sum(map(len, videos))
    loop = config.schedule.loop(len(videos))
    say(f"  {frames} frames in {len(videos)} videos; {loop.steps} steps of {loop.batch_size} clips")
    if len(videos) < loop.batch_size:
        say("  there are fewer videos than clips in a batch: some compare a video with itself")
    net = make_network(config)
    clips = Clips(videos, config.clips)
    look = None if watch is None else watch(net)
    step = training_step(net, config.losses)
    groups, rate = parameter_groups, config.schedule.rate
    label = "correspondence"
    fit(net, step, clips, loop, out, label=label, watch=look, groups=groups, rate=rate)
    best = out / WEIGHTS
    if distributed.is_main() and not best.is_file():
        content = Checkpoint(net.state_dict(), config.network, PUBLISHED_FEATURE, 0.0, loop.steps)
        write_checkpoint(best, content)
    distributed.barrier()
    kept = read_checkpoint(best)
    results = {"feature": kept.feature, "score": kept.score, "step": kept.step}
    return {"videos": len(videos), "frames": frames, **results}


def training_videos(
    data: Path, unpacked: Path, config: CorrespondenceConfig, frame_list: Path | None = None
) -> list[Video]:
    """The videos of a list, of a data set's layout, or below a folder.

    Raises InputError for what is missing or too short.
    """
    layout, side = data / config.folder, max(config.clips.views.smallest)
    if frame_list is not None:
        videos, source = read_list(frame_list, data), frame_list
    elif layout.is_dir() and (videos := read_layout(layout)):
        source = layout
    else:
        source = data
        if distributed.is_main():  # unpacks, which the others then find done
            find_videos(source, unpacked, side)
        distributed.barrier()
        videos = find_videos(source, unpacked, side)
    return long_enough(videos, config.clips.shortest, source)


def list_frames(data: Path, out: Path, config: CorrespondenceConfig) -> None:
    """Write the frames of a data set in the authors' form of a list.

    Args:
        data: folder that the paths of the list are below; its layout is the preset's, or that of a folder of
            folders of frames.
        out: receives a line for each frame of the videos that are long enough.
        config: the data set's layout and the length of a clip.

    Raises:
        InputError: when there are no folders of frames, or all are too short.
    """
    source = data / config.folder if (data / config.folder).is_dir() else data
    videos = read_layout(source) if source.is_dir() else []
    if not videos:
        raise InputError(f"{source}: holds no folders of frames; give the data set's folder.")
    videos = long_enough(videos, config.clips.shortest, source)
    say(f"  {write_list(out, videos, data)} frames of {len(videos)} videos: {out}")


def make_network(config: CorrespondenceConfig) -> CorrespondenceNet:
    """The untrained network on this process's device; its weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.schedule.seed)
        net = CorrespondenceNet(config.network)
    device = distributed.device()
    net.to(device)
    # A third faster on CPUs, too, where some half-precision convolutions of torch 2.14 crash with it.
    if device.type == "cuda" or not config.schedule.bf16:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        share_batch_norm(net)
    elif config.sync_batch_norm and distributed.world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return net


def parameter_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Weights and biases; biases have twice the learning rate and no weight decay. Normalisation layers have both."""
    named = dict(net.named_parameters())
    biases = [parameter for name, parameter in named.items() if name.endswith(".bias")]
    weights = [parameter for name, parameter in named.items() if not name.endswith(".bias")]
    return [
        {"params": weights, "betas": BETAS},
        {"params": biases, "betas": BETAS, "weight_decay": 0.0, "scale": 2.0},
    ]


def training_step(
    net: CorrespondenceNet, losses: LossConfig
) -> Callable[[Batch, StepState], Batch]:
    """The step function of `fit`, with all losses of a batch of `data.Clips`."""

    def step(batch: Batch, _: StepState) -> Batch:
        device = next(net.parameters()).device
        return clip_losses(
            net, {k: v.to(device, non_blocking=True) for k, v in batch.items()}, losses
        )

    return step


def clip_losses(net: CorrespondenceNet, batch: Batch, losses: LossConfig) -> Batch:
    """Losses of a batch of `data.Clips` on the network's device.

    The main view and the first frame of the second view have gradients, the other frames do not (stop-gradient). Batch
    normalisation sees these two sets one after the other.
    """
    main, second = (_unit(batch[view]) for view in ("main", "second"))  # (B, T, 3, H, W)
    videos, frames = main.shape[:2]
    with_gradients = net(torch.cat([main.flatten(0, 1), second[:, 0]])).key
    with torch.no_grad():
        others = net(second[:, 1:].flatten(0, 1)).key.unflatten(0, (videos, frames - 1))
    main_keys = with_gradients[: videos * frames].unflatten(0, (videos, frames))
    second_keys = torch.cat([with_gradients[videos * frames :, None], others], 1)
    with torch.autocast(main.device.type, enabled=False):  # `fit` may have entered it
        return correspondence_losses(
            main_keys, second_keys, batch["affine"], batch["draws"], losses
        )


def _unit(images: Tensor) -> Tensor:
    """8-bit images as floats in [0, 1]."""
    return images.float() / 255
