"""Dense correspondences with an eye on them: held-out losses and J&F while they are trained, the best kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from moduv.correspondence.data import Clips
from moduv.correspondence.network import CorrespondenceNet
from moduv.correspondence.predict import overlay
from moduv.correspondence.propagation import PropagationConfig, carry, first_planes
from moduv.correspondence.sequences import VideoSequence, find_sequences
from moduv.correspondence.train import CorrespondenceConfig, clip_losses, train_correspondence
from moduv.correspondence.videos import Video
from moduv.correspondence.weights import WEIGHTS, Checkpoint, read_checkpoint, write_checkpoint
from moduv.engine.errors import InputError
from moduv.engine.journal import Watch
from moduv.engine.log import say
from moduv.evaluation.segmentation import ObjectScores, evaluate_sequence
from moduv.evaluation.vos import overall_scores
from moduv.frames.images import read_image, write_image
from moduv.instances.indexed import DAVIS_MASKS, read_indices
from moduv.visual.drawing import picture_grid

MEASURED = ("key", "res4")
"""Features whose masks are compared with the truth."""
PICTURES, SHOWN = 4, 4
"""Sequences that are drawn at every look, and frames, at even distances, that a picture shows."""
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
        out: receives `weights.pth`, in the official form, with the feature that follows best, `log.jsonl`, and
            `pictures` of held-out sequences.
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
        return ValidationWatch(net, sequences, out, config)

    train_correspondence(data, out, config, frame_list, watch)


@dataclass(frozen=True)
class HeldOut:
    """A sequence with its true masks."""

    name: str
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
    return HeldOut(sequence.name, sequence.frames, files)


@dataclass
class ValidationWatch:
    """Follows true first masks through held-out sequences and keeps the snapshot that does it best.

    What is wrong with a sequence is said once and never ends the training.
    """

    net: CorrespondenceNet
    sequences: list[HeldOut]
    out: Path
    """Receives the weights of the best snapshot, and pictures."""
    config: CorrespondenceConfig
    told: set[str] = field(default_factory=set)

    @property
    def every(self) -> int:
        return self.config.validate_every

    def __call__(self, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Held-out losses, the mean J&F of each feature, and pictures of some sequences."""
        try:
            return self._look(step)
        except InputError as error:
            if str(error) not in self.told:
                self.told.add(str(error))
                say(f"  validation: {error}")
            return {}, {}

    def _look(self, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        self.net.eval()
        losses = held_out_losses(self.net, [s.video for s in self.sequences], self.config)
        objects: dict[str, list[ObjectScores]] = {name: [] for name in MEASURED}
        pictures = {}
        for number, sequence in enumerate(self.sequences):
            truth = sequence.truth()
            found = followed(self.net, sequence, truth[0], self.config.propagation)
            for name, indices in found.items():
                objects[name] += evaluate_sequence(truth, indices)
            if number < PICTURES:
                pictures[sequence.name] = draw_followed(sequence, {"true": truth, **found})
        scores = {name: overall_scores(every)["J&F-Mean"] for name, every in objects.items()}
        self._keep(scores, step)
        for name, picture in pictures.items():
            write_image(self.out / "pictures" / f"{step:06d}_{name}.jpg", picture)
        return losses | {f"val/J&F {name}": score for name, score in scores.items()}, pictures

    def _keep(self, scores: dict[str, float], step: int) -> None:
        """Write the network where one of its features is better than all before."""
        feature = max(scores, key=lambda name: scores[name])
        best = self.out / WEIGHTS
        if best.is_file() and read_checkpoint(best).score >= scores[feature]:
            return
        state = self.net.state_dict()
        write_checkpoint(
            best, Checkpoint(state, self.config.network, feature, scores[feature], step)
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
def followed(
    net: CorrespondenceNet, sequence: HeldOut, first: np.ndarray, config: PropagationConfig
) -> dict[str, np.ndarray]:
    """Object indices (T, H, W) uint8 that each feature makes of the first frame's (H, W)."""
    device = next(net.parameters()).device
    seen = [net(_batch(image).to(device)) for image in sequence.images()]
    planes = {t: x.to(device) for t, x in first_planes({0: first}).items()}
    found = {}
    for name in MEASURED:
        features = (getattr(frame, name)[0] for frame in seen)
        size = (first.shape[0], first.shape[1])
        carried = [indices for indices, _ in carry(features, planes, size, config)]
        found[name] = torch.stack(carried).cpu().numpy()
    return found


def draw_followed(sequence: HeldOut, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Some frames of a sequence, a line for each kind of indices (T, H, W); a picture (H, W, 3) uint8."""
    count = len(sequence.frames)
    shown = np.unique(np.linspace(0, count - 1, min(SHOWN, count)).astype(int)).tolist()
    images = {frame: read_image(sequence.frames[frame]) for frame in shown}
    pictures = {
        f"{name}, frame {frame}": overlay(images[frame], indices[frame])
        for name, indices in masks.items()
        for frame in shown
    }
    return picture_grid(pictures, columns=len(shown), width=240)


def _batch(image: np.ndarray) -> torch.Tensor:
    """An image (H, W, 3) uint8 as (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
