"""Triplets of frames (-1, 0, +1) and their cameras, from which depth is learned without truth."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef, with_neighbours
from moduv.frames.images import read_image, resize_image
from moduv.frames.layouts import has_intrinsics, intrinsics, is_assumed, time_steps
from moduv.frames.splits import read_split

OFFSETS = (-1, 0, 1)


def find_triplets(split: Path, data: Path) -> tuple[list[FrameRef], int, int]:
    """The frames of a split that have both neighbours below `data`.

    Returns:
        The frames, how many have no image of their own, and how many lack only a neighbour.

    Raises:
        InputError: when no frame is left, saying whether the data folder or the split is to blame.
    """
    listed = read_split(split)
    kept, dropped = with_neighbours(listed, data)
    known = set(kept)
    absent = [f for f in listed if f not in known and not f.image_path(data).is_file()]
    if len(absent) == len(listed):
        raise InputError(
            f"{data}: has no image of the {len(listed)} frames of {split}, such as "
            f"{absent[0].image_path(data)}; check the data folder and the split."
        )
    if not kept:
        raise InputError(
            f"{split}: none of its {len(listed)} frames has both neighbours under {data}; "
            "check the data folder or list the inner frames of each segment."
        )
    return kept, len(absent), dropped - len(absent)


class Triplets:
    """Frames with their two neighbours, decoded once and kept at training size.

    Args:
        root: folder of the segments; each has `cam.json` beside its frames.
        frames: centre frames; both neighbours must exist.
        height, width: size of the networks' input in pixels.
        flip: probability of a horizontal flip; the principal point is mirrored with the image.
        jitter: probability of the same colour jitter on the three network inputs (0.8 to 1.2 in
            brightness, contrast and saturation, 0.1 of the hue circle); the losses see clean frames.
        field_of_view: horizontal, in degrees, for segments whose camera is unknown; 0: they are refused.
        focal_factor: by which focal lengths that were assumed are multiplied, once it is learned.
        cache_bytes: memory for decoded frames; the least recently used are dropped beyond it.
    """

    def __init__(
        self,
        root: str | Path,
        frames: list[FrameRef],
        height: int,
        width: int,
        *,
        flip: float = 0.0,
        jitter: float = 0.0,
        field_of_view: float = 0.0,
        focal_factor: float = 1.0,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self.root, self.frames = Path(root), frames
        self.height, self.width = height, width
        self.flip, self.jitter, self.field_of_view = flip, jitter, field_of_view
        self.focal_factor = focal_factor
        self._capacity = max(3, cache_bytes // (height * width * 3))
        self._images: OrderedDict[FrameRef, np.ndarray] = OrderedDict()
        self._cameras: dict[str, tuple[Intrinsics, bool]] = {}
        self._small_suffices: dict[str, bool] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Tensor]:
        """Sample `(index, seed)`: `images` and `augmented` (3, 3, H, W), `K` and `inv_K` (4, 4), whether
        they are `assumed` (), and `time_steps` (2,) to the neighbours in usual intervals."""
        index, seed = item
        rng = np.random.default_rng(seed)
        centre = self.frames[index]
        images = np.stack([self._image(centre.neighbour(offset)) for offset in OFFSETS])
        camera, assumed = self.camera(centre.segment)
        if rng.random() < self.flip:
            images, camera = images[:, :, ::-1], camera.flipped()
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        clean = rearrange(pixels, "frame h w rgb -> frame rgb h w").float() / 255
        jittered = rng.random() < self.jitter
        steps = time_steps(self.root, centre.segment, centre.index) or (1.0, 1.0)
        return {
            "images": clean,
            "augmented": jitter_colours(clean, rng) if jittered else clean,
            "K": torch.from_numpy(camera.matrix4()).float(),
            "inv_K": torch.from_numpy(camera.inverse4()).float(),
            "assumed": torch.tensor(assumed),
            "time_steps": torch.tensor(steps),
        }

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    def camera(self, segment: str) -> tuple[Intrinsics, bool]:
        """The segment's intrinsics at training size, and whether they are a guess."""
        if segment not in self._cameras:
            camera, assumed = self._read_camera(segment), is_assumed(self.root, segment)
            camera = camera.zoomed(self.focal_factor) if assumed else camera
            self._cameras[segment] = camera, assumed
        return self._cameras[segment]

    def _read_camera(self, segment: str) -> Intrinsics:
        if not self.field_of_view or has_intrinsics(self.root, segment):
            return intrinsics(self.root, segment, self.width, self.height)
        first = next(frame for frame in self.frames if frame.segment == segment)
        height, width = read_image(first.image_path(self.root)).shape[:2]
        assumed = Intrinsics.from_field_of_view(self.field_of_view, width, height)
        return assumed.resized(self.width, self.height)

    def _image(self, frame: FrameRef) -> np.ndarray:
        image = self._images.pop(frame, None)
        if image is None:
            image = resize_image(self._read(frame), self.height, self.width)
        self._images[frame] = image
        if len(self._images) > self._capacity:
            self._images.popitem(last=False)
        return image

    def _read(self, frame: FrameRef) -> np.ndarray:
        """The shrunken frame where its segment's are large enough, the original elsewhere."""
        if self._small_suffices.get(frame.segment, True):
            image = read_image(frame.image_path(self.root, small=True))
            suffices = image.shape[0] >= self.height and image.shape[1] >= self.width
            if self._small_suffices.setdefault(frame.segment, suffices):
                return image
        return read_image(frame.image_path(self.root))


def jitter_colours(images: Tensor, rng: np.random.Generator) -> Tensor:
    """The same random brightness, contrast, saturation and hue for all frames (N, 3, H, W)."""
    from torchvision.transforms.v2 import functional as transforms

    kinds = ("brightness", "contrast", "saturation", "hue")
    amounts = [*rng.uniform(0.8, 1.2, 3), rng.uniform(-0.1, 0.1)]
    for position in rng.permutation(len(kinds)):
        adjust = getattr(transforms, f"adjust_{kinds[position]}")
        images = adjust(images, float(amounts[position]))
    return images
