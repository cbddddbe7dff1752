"""Label propagation: each pixel takes the labels of the most similar pixels of earlier frames.

As in Jabri et al. 2020, section 3.4, with the settings of Araslanov et al. 2021: the context of a frame is the frame in which
an object was given, as a whole, and the latest frames, within a radius.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moduv.correspondence.neighbours import Found, Rounded, most_similar, vote
from moduv.engine.errors import InputError
from moduv.instances.indexed import VOID

MOST_OBJECTS = 254
"""Indices are bytes, of which 0 is the background and 255 void."""
PLANES = 8
"""Number of planes that are resized to the size of the frames at once."""


@dataclass(frozen=True)
class PropagationConfig:
    """Settings of label propagation; the defaults are the published ones."""

    context: int = 20
    """Number of latest frames in the context."""
    radius: float = 12
    """Only pixels closer than this are compared in the latest frames, in pixels of the features."""
    top_k: int = 10
    """Number of pixels in the whole context from which a label is taken."""
    temperature: float = 0.05
    """Divisor of the cosines in the softmax that weights these pixels."""

    def __post_init__(self) -> None:
        if self.context < 1 or self.radius <= 0 or self.top_k < 1 or self.temperature <= 0:
            raise InputError(
                f"context is {self.context}, radius {self.radius}, top_k {self.top_k}, temperature "
                f"{self.temperature}; use at least one frame and one pixel, and positive numbers."
            )


@torch.no_grad()
def propagate(
    features: Tensor,
    first_masks: Mapping[int, Tensor],
    size: tuple[int, int],
    *,
    context: int = 20,
    radius: float = 12,
    top_k: int = 10,
    temperature: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Propagate masks through a clip.

    Args:
        features: (T, C, h, w), of unit length over C.
        first_masks: given masks by frame, as planes (K, H, W) in [0, 1]: plane 0 is the background, and the plane of an
            object is set in the frame where it is new (see `first_planes`).
        size: (H, W) of the masks.
        context: number of latest frames in the context.
        radius: only pixels closer than this are compared in the latest frames, in pixels of the features.
        top_k: number of pixels in the whole context from which a label is taken.
        temperature: divisor of the cosines in the softmax over these pixels.

    Returns:
        Indices (T, H, W) uint8 of the largest planes and their values (T, H, W), not normalised.

    Raises:
        InputError: for masks of other frames or sizes, and for too many objects.
    """
    late = [frame for frame in first_masks if not 0 <= frame < len(features)]
    if late:
        raise InputError(
            f"a mask is given for frame {late[0]}, and the clip has frames 0 to {len(features) - 1}; "
            "give masks of its frames."
        )
    config = PropagationConfig(context, radius, top_k, temperature)
    carried = list(carry(features, first_masks, size, config))
    return torch.stack([ids for ids, _ in carried]), torch.stack([sure for _, sure in carried])


def carry(
    features: Iterable[Tensor],
    first_masks: Mapping[int, Tensor],
    size: tuple[int, int],
    config: PropagationConfig,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Propagate masks frame by frame: features (C, h, w) in, indices (H, W) and confidence (H, W) out.

    Memory does not grow with the length of the video.
    """
    planes = max((len(given) for given in first_masks.values()), default=1)
    _check_masks(first_masks, planes, size)
    memory = Memory(planes, config)
    for frame, feature in enumerate(features):
        with torch.no_grad():
            likely = memory.advance(feature, first_masks.get(frame))
            confidence, indices = _likeliest(likely, size)
        yield indices, confidence


def _likeliest(planes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The largest of the planes (K, h, w) at every pixel of (H, W), and its index uint8; the first one of equal ones.

    Only a few planes are resized at a time to save memory, as there may be hundreds.
    """
    confidence, indices = _resized(planes[:PLANES], size).max(0)
    for start in range(PLANES, len(planes), PLANES):
        more, others = _resized(planes[start : start + PLANES], size).max(0)
        indices = torch.where(more > confidence, others + start, indices)
        confidence = torch.maximum(confidence, more)
    return confidence, indices.to(torch.uint8)


def _check_masks(first_masks: Mapping[int, Tensor], planes: int, size: tuple[int, int]) -> None:
    if planes > MOST_OBJECTS + 1:
        raise InputError(
            f"the masks have {planes - 1} objects; give at most {MOST_OBJECTS}, for an index is a byte."
        )
    for frame, given in first_masks.items():
        if tuple(given.shape) != (planes, *size):
            raise InputError(
                f"the mask of frame {frame} is {tuple(given.shape)} (planes, height, width) and "
                f"{(planes, *size)} is needed; give every mask at the size of the frames."
            )


def first_planes(masks: Mapping[int, np.ndarray]) -> dict[int, Tensor]:
    """The objects that are new in each of some masks, as planes (K, H, W) bool for `propagate`.

    Args:
        masks: object indices (H, W) by frame; 0 and 255 (void) are background. An object is taken from the first mask
            that has its index; later masks of it are ignored.
    """
    objects = [np.where(mask == VOID, 0, mask) for mask in masks.values()]
    count = max((int(mask.max(initial=0)) for mask in objects), default=0)
    known: set[int] = set()
    planes = {}
    for frame, mask in sorted(zip(masks, objects, strict=True), key=lambda pair: pair[0]):
        fresh = set(np.unique(mask).tolist()) - known
        known |= fresh
        if fresh:
            planes[frame] = torch.zeros(count + 1, *mask.shape, dtype=torch.bool)
        for index in fresh:
            planes[frame][index] = torch.from_numpy(mask == index)
    return planes


@dataclass(frozen=True)
class _Seen:
    """An earlier frame."""

    frame: int
    feature: Rounded
    """(h, w, C)."""
    planes: Tensor
    """(K, h, w), soft, as propagated."""


@dataclass(frozen=True)
class _Start:
    """A frame in which objects were given; it stays in the context."""

    seen: _Seen
    present: Tensor
    """Indices of the planes that were given there, which are the ones propagated from this start."""


class Memory:
    """The context of a video: features and planes of the starts and of the latest frames."""

    def __init__(self, planes: int, config: PropagationConfig) -> None:
        self.config = config
        self._planes = planes
        self._frame = 0
        self._ring: list[Rounded] = []
        """Features of this frame and the latest, allocated at once against fragmentation of memory."""
        self._recent: deque[_Seen] = deque(maxlen=config.context)
        self._starts: list[_Start] = []

    def advance(self, feature: Tensor, given: Tensor | None) -> Tensor:
        """The planes (K, h, w) of the next frame, in which the objects of `given` (K, H, W) are new."""
        kept = self._kept(feature)
        planes = self._carried(kept)
        if given is not None and given.any():
            new = _resized(given.to(planes), kept.shape[:2])
            if self._frame == 0:
                planes, counted = new, new
            else:
                covered = new.sum(0)
                planes, counted = (1 - covered) * planes + covered * new, given
            present = counted.flatten(1).sum(1).nonzero()[:, 0]
            self._starts.append(_Start(_Seen(self._frame, kept.clone(), planes), present))
        self._recent.append(_Seen(self._frame, kept, planes))
        self._frame += 1
        return planes

    def _kept(self, feature: Tensor) -> Rounded:
        """Store the features (C, h, w) of the next frame in the place of those no longer needed."""
        feature = feature.movedim(0, -1)
        places = self.config.context + 1
        if not self._frame:
            numbers = feature.new_empty(places, *feature.shape, dtype=torch.int16)
            scales = feature.new_empty(places, *feature.shape[:2], 1, dtype=torch.float32)
            self._ring = [Rounded(*pair) for pair in zip(numbers, scales, strict=True)]
        if feature.shape != self._ring[0].shape:
            raise InputError(
                f"frame {self._frame} has features {tuple(feature.shape)} (height, width, channels) and those "
                f"before {tuple(self._ring[0].shape)}; give frames of one size."
            )
        kept = self._ring[self._frame % places]
        kept.fill(feature)
        return kept

    def _carried(self, feature: Rounded) -> Tensor:
        """The planes propagated from each start, added up; each start has the objects that were given there."""
        height, width, _ = feature.shape
        total = feature.scale.new_zeros(self._planes, height, width)
        if not self._starts:
            return total
        # The searches in the latest frames are shared among starts.
        near = self._near(feature)
        for start in self._starts:
            if len(start.present):
                carried = self._from_start(feature, start, near)
                total[start.present] += carried.view(-1, height, width)
        return total

    def _near(self, feature: Rounded) -> list[tuple[list[_Seen], Found]]:
        """Search the latest frames from the first start on; frames of starts are searched separately."""
        begins = [start.seen.frame for start in self._starts]
        parts: list[list[_Seen]] = []
        for seen in self._recent:
            if seen.frame < begins[0]:
                continue
            if not parts or seen.frame in begins or parts[-1][-1].frame in begins:
                parts.append([])
            parts[-1].append(seen)
        k, radius = self.config.top_k, self.config.radius
        return [(p, most_similar(feature, [s.feature for s in p], k, radius)) for p in parts]

    def _from_start(
        self, feature: Rounded, start: _Start, near: list[tuple[list[_Seen], Found]]
    ) -> Tensor:
        """The planes (K, h w) of the objects of one start, from the most similar pixels of its context."""
        k, begin = self.config.top_k, start.seen.frame
        context, found = [start.seen], [most_similar(feature, [start.seen.feature], k, None)]
        for part, best in near:
            if part[0].frame >= begin:
                context += part
                found.append(best)
        # As in the reference, the start takes the place of context frames before it.
        replaced = begin - (self._frame - self.config.context)
        if replaced > 0:
            copies = min(replaced, k)
            found += [found[1]] * copies
            context += [start.seen] * copies
        labels = torch.cat([seen.planes[start.present].flatten(1) for seen in context], dim=1)
        return vote(found, k, self.config.temperature).taken(labels)


def _resized(planes: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize planes (K, H, W) bilinearly, with aligned corners."""
    return F.interpolate(planes[None], tuple(size), mode="bilinear", align_corners=True)[0]
