"""Training of patch-CLIP on images without captions (Fan et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moduv.engine import distributed
from moduv.engine.errors import InputError
from moduv.engine.loop import LoopConfig, Step, StepState
from moduv.engine.stages import Stage
from moduv.frames.images import read_image
from moduv.frames.listing import list_files
from moduv.naming.patch_clip import (
    PatchClip,
    TowerConfig,
    alignment_loss,
    build_patch_clip,
    normalise,
)
from moduv.naming.training.fitting import fit_and_save
from moduv.naming.weights import load_tower

RATIOS = (3 / 4, 4 / 3)
"""Range of the aspect ratio, width over height, of a crop."""
TRIES = 10
"""Largest number of attempts at a crop that fits into the image."""


@dataclass(frozen=True)
class PatchTrainingConfig:
    """How patch-CLIP is trained; published are 200 epochs of ImageNet with 4,096 images per step on 32 GPUs."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            62_600, 4096, 1.0, cosine=True, optimizer="sgd", weight_decay=1e-4, workers=8
        )
    )
    smallest: float = 0.9
    """Smallest area of a crop, as a share of the image."""
    network: TowerConfig = field(default_factory=TowerConfig)
    """Sizes of the image tower."""


def train_patches(tower: Path, images: Path, out: Path, config: PatchTrainingConfig) -> None:
    """Train patch-CLIP on images without captions.

    Under torchrun each process contrasts the images of its own batch only, as published.

    Args:
        tower: weights of a CLIP model of open_clip, by default ViT-B-16-quickgelu, whose image tower is frozen.
        images: folder that is walked recursively, such as ImageNet's train folder.
        out: receives `weights.pth` under the published keys, and the state of the training.
        config: crops, network, loop.

    Raises:
        InputError: when there is no image, or the tower is of another architecture.
    """
    files = list_files(images, out).images if images.is_dir() else []
    if len(files) < 2:
        raise InputError(f"{images}: holds fewer than two images; give a folder of images.")
    stage = Stage("name patches", out, config, (tower,))
    stage.run(lambda: _train(files, tower, out, config))


def _train(
    files: Sequence[Path], tower: Path, out: Path, config: PatchTrainingConfig
) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        model = build_patch_clip(config.network)
    load_tower(model, tower)
    model.to(distributed.device())
    data = ImageCrops(files, config.network.image, config.smallest)
    fit_and_save(model, alignment_step(model), data, config.loop, out)
    return {"images": len(files)}


class ImageCrops:
    """Random crops of images, indexed by (index, sample seed), (3, S, S) uint8."""

    def __init__(self, files: Sequence[Path], size: int, smallest: float) -> None:
        self.files, self.size, self.smallest = files, size, smallest

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        """A resized crop of most of the image, mirrored with a probability of 0.5."""
        rng = np.random.default_rng(item[1])
        picture = Image.fromarray(read_image(self.files[item[0]]))
        box = crop_box(picture.height, picture.width, self.smallest, rng)
        crop = np.asarray(picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box))
        mirrored = crop[:, ::-1] if rng.random() < 0.5 else crop
        return torch.from_numpy(mirrored.copy()).permute(2, 0, 1)

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        """Stack samples to (B, 3, S, S)."""
        return torch.stack(samples)


def crop_box(
    height: int, width: int, smallest: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop of at least the share `smallest` of an image, or of the whole image."""
    for _ in range(TRIES):
        area = height * width * rng.uniform(smallest, 1)
        ratio = np.exp(rng.uniform(*np.log(RATIOS)))
        wide, high = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    return 0, 0, width, height


def alignment_step(model: PatchClip) -> Step:
    """The step of `fit`: pooled patches are matched with their own image."""

    def step(batch: Tensor, _: StepState) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        images = normalise(batch.to(device, non_blocking=True))
        return {"loss": alignment_loss(model(images))}

    return step
