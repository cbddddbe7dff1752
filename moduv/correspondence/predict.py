"""Propagation of masks through the sequences of a data set, written in the form of its evaluation."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moduv.correspondence.network import TrainedNet, read_network
from moduv.correspondence.propagation import PropagationConfig, carry, first_planes
from moduv.correspondence.sequences import VideoSequence, find_sequences
from moduv.correspondence.weights import FEATURES, weights_file
from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.images import read_image, resize_image, write_image
from moduv.instances.indexed import palette, read_indices, write_indices

COLOR = 0.7
"""Opacity of an object's colour in overlays."""
USUAL_SIDE = 480
"""Shorter side, pixels, of the frames on which features are usually compared: that of DAVIS."""


@dataclass(frozen=True)
class PropagatedConfig:
    """How masks are propagated."""

    feature: str = ""
    """`res3`, `res4` or `key`; empty: the one that did best when the network was trained."""
    propagation: PropagationConfig = field(default_factory=PropagationConfig)
    """Context and weights."""

    def __post_init__(self) -> None:
        if self.feature not in ("", *FEATURES):
            raise InputError(f"feature is {self.feature!r}; use one of {', '.join(FEATURES)}.")


@dataclass(frozen=True)
class Follower:
    """A network that follows objects by the similarity of one of its features."""

    trained: TrainedNet
    config: PropagatedConfig
    device: torch.device
    largest_side: int = 0
    """Pixels to which the shorter side of larger frames is shrunk for the network; 0: frames stay as they are."""

    @classmethod
    def load(
        cls,
        weights: Path,
        config: PropagatedConfig,
        device: torch.device,
        largest_side: int = 0,
    ) -> Follower:
        """Load a network from a file or the folder of a training. Raises InputError when it holds none."""
        trained = read_network(weights)
        trained.net.to(device)
        return cls(trained, config, device, largest_side)

    @property
    def feature(self) -> str:
        """The feature's name."""
        return self.config.feature or self.trained.feature

    @torch.inference_mode()
    def features(self, image: np.ndarray) -> torch.Tensor:
        """Features (C, h, w) of an image (H, W, 3) uint8 RGB."""
        share = self.largest_side / min(image.shape[:2])
        if 0 < share < 1:
            image = resize_image(image, *(round(share * side) for side in image.shape[:2]))
        pixels = torch.from_numpy(image).to(self.device).movedim(-1, 0)[None].float() / 255
        return getattr(self.trained.net(pixels), self.feature)[0]

    def follow(
        self, images: Iterable[np.ndarray], masks: Mapping[int, np.ndarray], size: tuple[int, int]
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Each frame of a video with its object indices (H, W) uint8 and their confidence (H, W).

        Args:
            images: (H, W, 3) uint8 RGB.
            masks: indices (H, W) by frame; an object counts from where it is first seen.
            size: (H, W).

        Raises InputError for masks and frames of another size.
        """
        images, shown = tee(_of_size(images, size))
        features = map(self.features, images)
        carried = carry(features, first_planes(masks), size, self.config.propagation)
        for image, (indices, confidence) in zip(shown, carried, strict=True):
            yield image, indices.cpu().numpy(), confidence.cpu().numpy()


def _of_size(images: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    for frame, image in enumerate(images):
        if image.shape[:2] != tuple(size):
            raise InputError(
                f"frame {frame} is {image.shape[1]} x {image.shape[0]} and the first {size[1]} x {size[0]}; give "
                "frames of one size."
            )
        yield image


def propagate_dataset(
    data: Path,
    weights: Path,
    out: Path,
    config: PropagatedConfig,
    dataset: str = "folder",
    list: Path | None = None,
) -> None:
    """Propagate the first masks of the sequences of a data set.

    Args:
        data: root of the data set. davis: `JPEGImages/480p`, `Annotations/480p`, `ImageSets/2017/val.txt`.
            ytvos: `valid`, and `valid_all_frames` if there. folder: `JPEGImages/<sequence>` and
            `Annotations/<sequence>`, a mask for each frame in which objects are given.
        weights: a correspondence network, official or ours, or the folder of a training.
        out: receives `<feature>_vos/<sequence>/NAME.png`, indices with the palette of DAVIS, and
            `<feature>_vis`, the same over the frames; for ytvos also `Annotations.zip`.
        config: the feature, and how labels are carried.
        dataset: davis, ytvos or folder.
        list: a file of lines 'flag image mask' with paths below `data`, which names the frames instead; masks may be
            absent, and the masks of frames with flag 0 are not written.

    Raises:
        InputError: when files are missing or do not fit; sequences that are done are kept.
    """
    inputs = (weights_file(weights), *([list] if list else []))
    stage = Stage("correspondence propagate", out, config, inputs, data)
    stage.run(
        lambda: _propagate(find_sequences(data, dataset, list), weights, out, config, dataset)
    )


def _propagate(
    sequences: list[VideoSequence],
    weights: Path,
    out: Path,
    config: PropagatedConfig,
    dataset: str,
) -> dict[str, Any]:
    follower = Follower.load(weights, config, distributed.device())
    masks, pictures = (out / f"{follower.feature}_{kind}" for kind in ("vos", "vis"))
    share = [s for s in distributed.shard(sequences) if not _is_finished(s, masks)]
    for sequence in progress(share, desc="propagate", total=len(share), unit="sequence"):
        _follow_sequence(follower, sequence, masks, pictures)
    distributed.barrier()
    files = [file for s in sequences for file in s.results(masks) if file is not None]
    if distributed.is_main() and dataset == "ytvos":
        _zip(files, masks, out / "Annotations.zip")
    say(f"  {len(files)} masks of {len(sequences)} sequences: {masks}")
    return {"sequences": len(sequences), "masks": len(files), "feature": follower.feature}


def _is_finished(sequence: VideoSequence, folder: Path) -> bool:
    return all(file is None or file.is_file() for file in sequence.results(folder))


def _follow_sequence(
    follower: Follower, sequence: VideoSequence, masks: Path, pictures: Path
) -> None:
    """Write masks and overlays of a sequence; the mask of a frame comes last, as it marks the frame as done."""
    given = {frame: read_indices(path) for frame, path in sequence.masks.items()}
    size = _read(sequence.frames[0]).shape[:2]
    for frame, mask in given.items():
        check_size(mask, size, sequence.masks[frame])
    found = follower.follow(map(_read, sequence.frames), given, size)
    files = zip(sequence.results(pictures), sequence.results(masks), strict=True)
    for (image, indices, _), (picture, file) in zip(found, files, strict=True):
        if picture is not None and file is not None:
            write_image(picture, overlay(image, indices))
            write_indices(file, indices)


def _read(path: Path) -> np.ndarray:
    return read_image(path, "replace it or take its sequence out of the data set")


def check_size(mask: np.ndarray, size: tuple[int, ...], path: Path) -> None:
    """Raise InputError unless a mask (H, W) has the size of the frames."""
    if mask.shape != tuple(size):
        raise InputError(
            f"{path}: is {mask.shape[1]} x {mask.shape[0]} and the frames are {size[1]} x {size[0]}; give the mask "
            "at the size of the frames."
        )


def overlay(image: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Overlay an image (H, W, 3) with its objects (H, W) in the colours of DAVIS."""
    coloured = (1 - COLOR) * image + COLOR * palette()[indices]
    return np.where(indices[..., None] > 0, np.round(coloured), image).astype(np.uint8)


def _zip(files: Iterable[Path], masks: Path, target: Path) -> None:
    """The masks as the server of YouTube-VOS takes them: `Annotations/<video>/<frame>.png`."""
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in files:
            archive.write(file, Path("Annotations") / file.relative_to(masks))
