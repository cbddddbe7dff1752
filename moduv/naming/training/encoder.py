"""A small image-text encoder that is trained on named objects, for use without CLIP weights and in tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moduv.engine import distributed
from moduv.engine.config import speed_only
from moduv.engine.files import write_json
from moduv.engine.log import say
from moduv.engine.loop import LoopConfig, Step, StepState
from moduv.engine.stages import Stage
from moduv.naming.encoders import CONFIG, Description, OpenClipEncoder, tokenizer
from moduv.naming.training.crops import CaptionConfig, NamedCrops
from moduv.naming.training.fitting import WEIGHTS, fit_and_save

MODEL: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""The architecture in open_clip's format."""
TINY = Description("tiny", MODEL, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LARGEST_SCALE = 100.0
"""Largest scale of the logits, as in CLIP (Radford et al. 2021)."""


@dataclass(frozen=True)
class EncoderTrainingConfig:
    """How the small encoder is trained."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            450,
            96,
            1e-3,
            warmup=50,
            cosine=True,
            optimizer="adamw",
            weight_decay=0.01,
            save_every=100,
        )
    )
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    """The captions of crops."""
    cache_bytes: int = speed_only(1 << 29)
    """Memory for cached crops in bytes, per loading process."""


def train_encoder(
    annotations: Path, find: Callable[[str], Path], out: Path, config: EncoderTrainingConfig
) -> OpenClipEncoder:
    """Train the small encoder. An interrupted training is continued exactly.

    Args:
        annotations: COCO JSON whose objects have masks and a `name`.
        find: returns the file of an image by its `file_name`.
        out: receives the model's description and weights, for `open_clip:OUT`.
        config: captions and loop.

    Returns:
        The trained encoder.

    Raises:
        InputError: when no object has a name, or images are missing or broken.
    """
    stage = Stage("name train", out, config, (annotations,))
    stage.run(lambda: _train(annotations, find, out, config))
    return OpenClipEncoder(TINY, out / WEIGHTS, distributed.device())


def _train(
    annotations: Path, find: Callable[[str], Path], out: Path, config: EncoderTrainingConfig
) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        model = TINY.build().to(distributed.device())
    encoder = OpenClipEncoder.of_model(model, TINY)
    data = NamedCrops(
        annotations, find, encoder.size, config.captions, tokenizer(TINY), config.cache_bytes
    )
    say(f"  {len(data)} named objects")
    if distributed.is_main():
        images = {"mean": list(TINY.mean), "std": list(TINY.std)}
        write_json(out / CONFIG, {"model_cfg": MODEL, "preprocess_cfg": images}, indent=1)
    fit_and_save(model, contrastive_step(encoder), data, config.loop, out)
    return {"objects": len(data)}


def contrastive_step(encoder: OpenClipEncoder) -> Step:
    """The step of `fit`: images are matched with the captions of a batch."""
    model: Any = encoder.model

    def step(batch: tuple[Tensor, Tensor, Tensor], _: StepState) -> dict[str, Tensor]:
        pixels, tokens, captions = (part.to(encoder.mean.device) for part in batch)
        images = model.encode_image(encoder.normalise(pixels), normalize=True)
        texts = model.encode_text(tokens, normalize=True)
        scale = model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        return {"loss": contrastive_loss(scale * images @ texts.T, captions)}

    return step


def contrastive_loss(logits: Tensor, captions: Tensor) -> Tensor:
    """InfoNCE in both directions; samples with the same caption are positives of each other.

    Args:
        logits: (B, B), images by texts.
        captions: (B,), an index of each sample's caption.
    """
    same = (captions[:, None] == captions).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
