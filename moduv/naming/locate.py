"""Unsupervised localisation of named objects in videos (Fan et al., ICCV 2023)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.hardware import choose_device
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.clip import FrameRef
from moduv.frames.images import fitted_size, read_image
from moduv.frames.splits import read_split
from moduv.instances.coco import CATEGORIES
from moduv.instances.instances import Instances
from moduv.naming import patch_clip, videomae
from moduv.naming.contacts import Localisation, Prompts, post_process
from moduv.naming.encoders import Encoder, load_encoder
from moduv.naming.patch_clip import PatchClip, TowerConfig, build_patch_clip
from moduv.naming.slots import Grouping, GroupingConfig, build_grouping
from moduv.naming.videomae import PATCH
from moduv.naming.vocabulary import Vocabulary
from moduv.naming.weights import load_grouping, load_patch_clip

BACKGROUND = "__background__"
"""The first entry of the published list of names."""
DETECTIONS = "detections.json"


@dataclass(frozen=True)
class LocateConfig:
    """Networks and sizes of the localisation."""

    network: GroupingConfig = field(default_factory=GroupingConfig)
    """Sizes of the slot network."""
    tower: TowerConfig = field(default_factory=TowerConfig)
    """Sizes of the image tower of patch-CLIP."""
    size: int = 224
    """Shorter side of the frames, pixels."""
    seed: int = 287
    """Of the initial slots, which are random at inference, too."""
    bf16: bool = False
    """Run under autocast to bfloat16, which is faster on GPUs and some CPUs and hardly changes the masks."""

    def __post_init__(self) -> None:
        if self.size % PATCH or self.size <= 0 or self.tower.patch != PATCH:
            raise InputError(
                f"size is {self.size} and the tower's patch {self.tower.patch}; use a multiple of {PATCH} and "
                f"patches of {PATCH}."
            )


@dataclass(frozen=True)
class _Identity:
    """What determines the result beside the input files."""

    config: LocateConfig
    vocabulary_sha256: str
    encoder: str


def locate(
    slots: Path,
    patches: Path,
    data: Path,
    split: Path,
    vocabulary: str,
    encoder: str,
    out: Path,
    config: LocateConfig,
    device: str = "auto",
) -> None:
    """Find and name objects of videos by slots and patch-CLIP, without any detector.

    Args:
        slots: weights of `moduv name slots`, or published ones.
        patches: weights of `moduv name patches`, or published ones.
        data: folder of the frames.
        split: frames; those of a segment are its video.
        vocabulary: YAML file of names, or one that comes with the package.
        encoder: the CLIP model whose text encoder the patches are aligned with, open_clip:ARCHITECTURE:WEIGHTS_FILE.
        out: receives `detections.json` with names, one track per slot and clip.
        config: networks and sizes.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: for weights of other networks, and videos shorter than a clip.
    """
    words = Vocabulary.load(vocabulary)
    refs = read_split(split)
    identity = _Identity(config, words.digest, encoder)
    stage = Stage("name locate", out, identity, (slots, patches, split), data)

    def work() -> dict[str, Any]:
        text = load_encoder(encoder, device)
        networks = build_grouping(config.network), build_patch_clip(config.tower)
        load_grouping(networks[0], slots)
        load_patch_clip(networks[1], patches)
        found = Localiser(*networks, prompts(words, text), config, choose_device(device))
        return _locate(refs, data, out, found)

    stage.run(work)


def _locate(
    refs: Sequence[FrameRef], data: Path, out: Path, localiser: Localiser
) -> dict[str, Any]:
    segments: dict[str, list[FrameRef]] = defaultdict(list)
    for ref in sorted(refs):
        segments[ref.segment].append(ref)
    parts = {out / "parts" / f"{n:06d}.json": videos for n, videos in enumerate(segments.values())}
    for path, frames in progress(parts.items(), desc="locate", unit="video"):
        if not path.is_file():
            images = [read_image(ref.image_path(data)) for ref in frames]
            found = localiser.video(images, frames[0].segment)
            write_json(path, [one.to_json() for one in found])
    content = _collect(parts)
    write_json(out / DETECTIONS, content)
    found_count = len(content["annotations"])
    say(f"  {found_count} boxes in {len(content['images'])} frames: {out / DETECTIONS}")
    return {"frames": len(content["images"]), "boxes": found_count}


def _collect(parts: dict[Path, list[FrameRef]]) -> dict[str, Any]:
    """One COCO file of all segments; tracks are unique over them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    first = 1
    for path, frames in parts.items():
        last = 0
        for ref, stored in zip(frames, read_json(path), strict=True):
            found = Instances.from_json(stored, path)
            number = len(images) + 1
            images.append({"id": number, "file_name": f"{ref.segment}/{ref.index:06d}.jpg"})
            columns = (found.columns.get(key, np.zeros(0)).tolist() for key in ("track", "name"))
            for entry, track, name in zip(found.to_coco(number), *columns, strict=True):
                more = {
                    "track_id": first + int(track),
                    "name": str(name),
                    "name_score": entry["score"],
                }
                annotations.append({"id": len(annotations) + 1, **entry, **more})
                last = max(last, int(track))
        first += last + 1
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def prompts(vocabulary: Vocabulary, encoder: Encoder) -> Prompts:
    """The prompts of a vocabulary for post-processing: the literal background, objects, stuff.

    Raises InputError when the vocabulary has only stuff.
    """
    words = vocabulary.encode(encoder)
    things = [n for n, entry in enumerate(words.names) if entry.kind != "stuff"]
    if not things:
        raise InputError("the vocabulary names stuff alone; add a name of things.")
    stuff = [n for n, entry in enumerate(words.names) if entry.kind == "stuff"]
    numbers = {name: number for number, name in enumerate((*things, *stuff), 1)}
    background = encoder.text([t.format(BACKGROUND) for t in vocabulary.templates]).mean(0)
    first = background / np.linalg.norm(background)
    classes = np.array([0, *(numbers[int(owner)] for owner in words.owners)])
    names = (BACKGROUND, *(words.names[n].name for n in things))
    return Prompts(np.concatenate([first[None], words.vectors]).astype(np.float32), classes, names)


class Localiser:
    """Localises and names objects by slots, patch-CLIP and a vocabulary."""

    def __init__(
        self,
        grouping: Grouping,
        patches: PatchClip,
        words: Prompts,
        config: LocateConfig,
        device: torch.device,
    ) -> None:
        width = words.vectors.shape[1]
        if width != config.tower.output:
            raise InputError(
                f"words have {width} numbers and patches {config.tower.output}; use the text encoder of the CLIP "
                "model that the patches were trained beside."
            )
        self.grouping, self.patches = grouping.to(device).eval(), patches.to(device).eval()
        self.words, self.config, self.device = words, config, device

    def video(self, images: Sequence[np.ndarray], name: str = "a video") -> list[Instances]:
        """Objects of every frame (H, W, 3) uint8, with the columns `track` and `name`.

        The video is cut into clips; the last one overlaps the one before where frames are left over. Raises InputError
        when the video is shorter than a clip, or its frames are of several sizes.
        """
        length = self.config.network.frames
        if len(images) < length:
            raise InputError(
                f"{name}: has {len(images)} frames, and the slots were trained on clips of {length}; "
                "give a longer video."
            )
        if len({image.shape for image in images}) > 1:
            raise InputError(f"{name}: its frames are of several sizes; prepare it again.")
        found: list[Instances] = []
        tracks = count()
        while len(found) < len(images):
            start = min(len(found), len(images) - length)
            clip = self._clip(images[start : start + length], tracks)
            found += clip[len(found) - start :]
        return found

    def _clip(self, images: Sequence[np.ndarray], tracks: Iterator[int]) -> list[Instances]:
        height, width = images[0].shape[:2]
        high, wide = fitted_size(height, width, self.config.size, PATCH)
        rows, columns, size = high // PATCH, wide // PATCH, (wide, high)
        resized = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
        pixels = torch.from_numpy(np.stack(resized)).to(self.device)
        located = post_process(
            self.alphas(pixels), self.spoken(pixels), self.words, (rows, columns)
        )
        numbers = np.array([next(tracks) for _ in located.groups], np.int64)
        return [
            _instances(located, frame, numbers, (height, width)) for frame in range(len(images))
        ]

    def alphas(self, pixels: Tensor) -> np.ndarray:
        """Shares (T, K, n) of K slots in n tokens, of frames (T, H, W, 3) uint8."""
        config = self.config.network
        generator = torch.Generator().manual_seed(self.config.seed)
        noise = torch.randn(1, config.slots, config.dim, generator=generator).to(self.device)
        clip = videomae.normalise(pixels.permute(3, 0, 1, 2)[None])
        with self._precision():
            found = self.grouping.alphas(clip, noise)
        return found[0].float().cpu().numpy()

    @torch.inference_mode()
    def spoken(self, pixels: Tensor) -> np.ndarray:
        """Text-aligned tokens (T, n, E) of frames (T, H, W, 3) uint8, normalised as in the training of patch-CLIP.

        The published code normalises by ImageNet's mean and deviation here.
        """
        images = patch_clip.normalise(pixels.permute(0, 3, 1, 2))
        with self._precision():
            found = self.patches(images).patches
        return found.float().cpu().numpy()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)


def _instances(
    located: Localisation, frame: int, tracks: np.ndarray, size: tuple[int, int]
) -> Instances:
    """The objects that are seen in a frame, at its size: half-open boxes around whole tokens."""
    tokens = located.merged[:, frame]
    seen = np.flatnonzero(tokens.any((1, 2)))
    height, width = size
    scale = np.array([width / tokens.shape[2], height / tokens.shape[1]] * 2) / PATCH
    boxes = (located.boxes[frame, seen] + np.array([0, 0, 1, 1])) * scale
    masks = [
        cv2.resize(tokens[n].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        for n in seen.tolist()
    ]
    dense = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
    names = np.array([located.names[n] for n in seen.tolist()], str)
    scores = located.name_scores[seen]
    return Instances.from_dense(dense, boxes, scores, {"track": tracks[seen], "name": names})
