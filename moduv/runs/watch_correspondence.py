"""Dense correspondences with an eye on them: held-out losses and J&F while they are trained, the best kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from moduv.correspondence.data import Clips
from moduv.correspondence.network import CorrespondenceNet
from moduv.correspondence.propagation import PropagationConfig, carry, first_planes
from moduv.correspondence.sequences import DAVIS_MASKS, VideoSequence, find_sequences
from moduv.correspondence.train import CorrespondenceConfig, clip_losses, train_correspondence
from moduv.correspondence.videos import Video
from moduv.correspondence.weights import WEIGHTS, Checkpoint, read_checkpoint, write_checkpoint
from moduv.engine.errors import InputError
from moduv.engine.journal import Watch
from moduv.engine.log import say
from moduv.evaluation.segmentation import evaluate_sequence
from moduv.evaluation.vos import overall_scores
from moduv.frames.images import read_image
from moduv.instances.indexed import read_indices

MEASURED = ("key", "res4")
"""Features whose masks are compared with the truth."""
LOSS_CLIPS = 16
"""Held-out clips whose losses are averaged, at most, in batches of this size."""


def train_with_validation(
    data: Path,
    out: Path,
    config: CorrespondenceConfig,
    frame_list: Path | None = None,
    validation: Path | None = None,
) -> None:
    """Train dense correspondences on raw clips.

    Args:
        data: folder of the videos: video files, folders of frames, or a data set as its authors pack it.
        out: receives `weights.pth`, in the official form, with the feature that follows best, and `log.jsonl`.
        config: network, losses and schedule.
        frame_list: the frames to train on, below `data`; a line for each, or for each folder of frames.
        validation: held-out sequences in the layout of DAVIS 2017, which are never trained on: every
            `config.validate_every` steps masks are followed through them, and the best snapshot is kept.

    Raises:
        InputError: for missing or broken frames, a list that does not fit the data, videos that are too
            short, held-out sequences without masks, and settings that cannot be.
    """
    if validation is None:
        train_correspondence(data, out, config, frame_list)
        return
    every, logged = config.validate_every, config.schedule.log_every
    if every < 1 or every % logged:
        raise InputError(
            f"validation every {every} steps falls between the log's lines; choose a multiple of log_every, "
            f"{logged}."
        )
    sequences = held_out(validation, config.validation_sequences)

    def watch(net: CorrespondenceNet) -> Watch:
        return ValidationWatch(net, sequences, out / WEIGHTS, config)

    train_correspondence(data, out, config, frame_list, watch)


@dataclass(frozen=True)
class HeldOut:
    """A sequence with its true masks."""

    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def video(self) -> Video:
        """The frames as those of a training."""
        return Video(self.frames[0].parent, np.array([frame.name for frame in self.frames]))

    def images(self) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8, in order."""
        return map(read_image, self.frames)

    def truth(self) -> np.ndarray:
        """Object indices (T, H, W) uint8. Raises InputError when masks are broken or of several sizes."""
        masks = [read_indices(path) for path in self.masks]
        for path, mask in zip(self.masks, masks, strict=True):
            if mask.shape != masks[0].shape:
                raise InputError(
                    f"{path}: is of another size than the first mask; mend the sequence."
                )
        return np.stack(masks)


def held_out(root: Path, count: int) -> list[HeldOut]:
    """At most `count` sequences of a folder in the layout of DAVIS 2017, at even distances.

    Raises InputError where frames or masks are missing.
    """
    sequences = find_sequences(root, "davis")
    places = np.linspace(0, len(sequences) - 1, min(len(sequences), count)).astype(int)
    return [_with_truth(sequences[place], root / DAVIS_MASKS) for place in places]


def _with_truth(sequence: VideoSequence, masks: Path) -> HeldOut:
    files = tuple(masks / sequence.name / f"{frame.stem}.png" for frame in sequence.frames)
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None or len(files) < 3:
        raise InputError(
            f"{missing or files[0].parent}: a sequence needs three frames at least and the mask of each; complete "
            "it or take it out of the validation."
        )
    return HeldOut(sequence.frames, files)


@dataclass
class ValidationWatch:
    """Follows true first masks through held-out sequences and keeps the snapshot that does it best.

    What is wrong with a sequence is said once and never ends the training.
    """

    net: CorrespondenceNet
    sequences: list[HeldOut]
    best: Path
    """Weights of the best snapshot."""
    config: CorrespondenceConfig
    told: set[str] = field(default_factory=set)

    @property
    def every(self) -> int:
        return self.config.validate_every

    def __call__(self, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Held-out losses, and the mean J&F of each feature."""
        try:
            return self._measure(step), {}
        except InputError as error:
            if str(error) not in self.told:
                self.told.add(str(error))
                say(f"  validation: {error}")
            return {}, {}

    def _measure(self, step: int) -> dict[str, float]:
        self.net.eval()
        losses = held_out_losses(self.net, [s.video for s in self.sequences], self.config)
        scores = followed_scores(self.net, self.sequences, self.config.propagation)
        self._keep(scores, step)
        return losses | {f"val/J&F {name}": score for name, score in scores.items()}

    def _keep(self, scores: dict[str, float], step: int) -> None:
        """Write the network where one of its features is better than all before."""
        feature = max(scores, key=lambda name: scores[name])
        if self.best.is_file() and read_checkpoint(self.best).score >= scores[feature]:
            return
        state = self.net.state_dict()
        write_checkpoint(
            self.best, Checkpoint(state, self.config.network, feature, scores[feature], step)
        )


@torch.no_grad()
def held_out_losses(
    net: CorrespondenceNet, videos: list[Video], config: CorrespondenceConfig
) -> dict[str, float]:
    """The losses of one clip of each video, the same at every look, in evaluation mode."""
    videos = [video for video in videos if len(video) >= config.clips.frames][:LOSS_CLIPS]
    if not videos:
        return {}
    clips = Clips(videos, config.clips)
    batch = clips.collate([clips[index, index] for index in range(len(clips))])
    device = next(net.parameters()).device
    batch = {key: value.to(device) for key, value in batch.items()}
    losses = clip_losses(net, batch, replace(config.losses, all_processes=False))
    return {f"val/{name}": value.item() for name, value in losses.items()}


@torch.inference_mode()
def followed_scores(
    net: CorrespondenceNet, sequences: list[HeldOut], config: PropagationConfig
) -> dict[str, float]:
    """Mean J&F over all objects, 0 to 1, of each feature."""
    device = next(net.parameters()).device
    objects: dict[str, list] = {name: [] for name in MEASURED}
    for sequence in sequences:
        truth = sequence.truth()
        found = [net(_batch(image).to(device)) for image in sequence.images()]
        for name, scores in objects.items():
            features = (getattr(features, name)[0] for features in found)
            planes = {t: x.to(device) for t, x in first_planes({0: truth[0]}).items()}
            carried = carry(features, planes, truth.shape[1:], config)
            indices = torch.stack([frame for frame, _ in carried])
            scores += evaluate_sequence(truth, indices.cpu().numpy())
    return {name: overall_scores(scores)["J&F-Mean"] for name, scores in objects.items()}


def _batch(image: np.ndarray) -> torch.Tensor:
    """An image (H, W, 3) uint8 as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
