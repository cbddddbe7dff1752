"""Encoders of images and text into a joint space. Weights are local files; nothing is downloaded."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, reason_of, sha256
from moduv.engine.hardware import choose_device
from moduv.engine.log import say

CONFIG = "open_clip_config.json"
"""Description of a model in a folder, as open_clip names it."""
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "weights.pth")
"""Weights beside the description: as on model hubs, and of this library."""
PARTS = ("vision_cfg", "text_cfg")
"""Required entries of a description."""
WRAPPER = "module."
"""Prefix of all keys after parallel training."""
BATCH = 32
"""Images or sentences that are encoded at once."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Encoder(Protocol):
    """Encodes images and text as unit vectors, whose dot product is their similarity."""

    size: int
    """Side of the square images in pixels."""
    identity: dict[str, str]
    """What determines the vectors: the architecture and the digest of the weights."""

    def images(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Encode N images (size, size, 3) uint8 RGB as (N, E) float32."""

    def text(self, prompts: Sequence[str]) -> np.ndarray:
        """Encode M sentences as (M, E) float32."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Normalise vectors (…, E) to length 1; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def load_encoder(spec: str, device: str = "auto") -> OpenClipEncoder:
    """Load the encoder of a specification.

    Args:
        spec: `open_clip:ARCHITECTURE:WEIGHTS_FILE` with a name that open_clip knows, or
            `open_clip:FOLDER` with a model of `moduv name train` or a downloaded model folder.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: for another form, a missing package or file, and weights of another architecture.
    """
    kind, _, rest = spec.partition(":")
    if kind != "open_clip" or not rest:
        raise InputError(
            f"encoder {spec!r:.120} is unknown; write open_clip:FOLDER, such as that of moduv name train, or "
            "open_clip:ARCHITECTURE:WEIGHTS_FILE, with a file fetched once, such as open_clip_model.safetensors of "
            "a CLIP model on a model hub."
        )
    if Path(rest).is_dir():
        return _from_folder(Path(rest), choose_device(device))
    architecture, _, file = rest.partition(":")
    if not file:
        raise InputError(
            f"encoder {spec!r:.120}: {rest!r} is no folder and names no weights; "
            "write open_clip:ARCHITECTURE:WEIGHTS_FILE or open_clip:FOLDER."
        )
    described = Description.of_name(architecture)
    return OpenClipEncoder(described, Path(file), choose_device(device))


def _from_folder(folder: Path, device: torch.device) -> OpenClipEncoder:
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files or not (folder / CONFIG).is_file():
        raise InputError(
            f"{folder}: lacks {CONFIG} or weights ({', '.join(WEIGHTS)}); "
            "download the model whole or train it again."
        )
    if len(files) > 1:
        others = ", ".join(path.name for path in files[1:])
        say(f"{folder}: has several weights; {files[0].name} is taken, not {others}")
    return OpenClipEncoder(Description.of_file(folder / CONFIG), files[0], device)


@dataclass(frozen=True)
class Description:
    """An architecture in open_clip's format, and the normalisation of its images."""

    name: str
    model: dict[str, Any]
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def of_name(cls, name: str) -> Description:
        """The description of an architecture that open_clip knows. Raises InputError for others."""
        model = open_clip().get_model_config(name)
        if model is None:
            raise InputError(
                f"open_clip knows no architecture {name!r:.80}; choose one of open_clip.list_models(), "
                "such as ViT-B-32-quickgelu, the one that the weights were trained with."
            )
        pretrained = open_clip().pretrained
        tags = pretrained.list_pretrained_tags_by_model(name)
        known = [pretrained.get_pretrained_cfg(name, tag) for tag in tags]
        norms = {
            (tuple(c.get("mean") or CLIP_MEAN), tuple(c.get("std") or CLIP_STD)) for c in known
        }
        # Where the pretrained weights of an architecture differ, CLIP's own normalisation is the most common.
        return cls(name, model, *(norms.pop() if len(norms) == 1 else ()))

    @classmethod
    def of_file(cls, path: Path) -> Description:
        """Read the description in a model folder. Raises InputError for a file of another form."""
        content = read_json(path)
        model = content.get("model_cfg") if isinstance(content, dict) else None
        images = content.get("preprocess_cfg", {}) if isinstance(content, dict) else None
        if (
            not isinstance(model, dict)
            or not isinstance(images, dict)
            or not all(isinstance(model.get(key), dict) for key in PARTS)
        ):
            raise InputError(
                f"{path}: lacks 'model_cfg' with {' and '.join(PARTS)}; download or train the model again."
            )
        norms = images.get("mean", CLIP_MEAN), images.get("std", CLIP_STD)
        if not all(map(_is_colour, norms)) or min(norms[1]) <= 0:
            raise InputError(
                f"{path}: 'mean' and 'std' are not three numbers, 'std' above 0; correct them."
            )
        return cls(path.parent.name, model, tuple(norms[0]), tuple(norms[1]))

    def build(self) -> nn.Module:
        """Build the model with random weights.

        Raises InputError when its text encoder needs files of a model hub, or the description is broken.
        """
        text = self.model.get("text_cfg", {})
        hub = [key for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
        if hub or "multimodal_cfg" in self.model:
            raise InputError(
                f"{self.name}: its text encoder needs files of a model hub; "
                "choose a CLIP architecture with open_clip's own tokenizer, such as ViT-B-32-quickgelu."
            )
        options = {k: v for k, v in self.model.items() if k != "custom_text"}
        clip = open_clip()
        kind = clip.CustomTextCLIP if self.model.get("custom_text") else clip.CLIP
        try:
            return kind(**options)
        except Exception as error:  # a foreign description may lead to any error
            raise InputError(
                f"{self.name}: open_clip cannot build it ({reason_of(error)}); check its description."
            ) from None


def _is_colour(numbers: Any) -> bool:
    """Whether something is three finite numbers."""
    return (
        isinstance(numbers, list | tuple)
        and len(numbers) == 3
        and all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
    )


@functools.cache
def open_clip() -> Any:
    """The package open_clip. Raises InputError when it is not installed."""
    try:
        import open_clip
    except ModuleNotFoundError:
        raise InputError(
            "naming needs the package 'open_clip_torch'; install it with pip install -e '.[naming]'."
        ) from None
    return open_clip


class OpenClipEncoder:
    """A model of open_clip with the weights of a local file."""

    def __init__(self, described: Description, weights: Path, device: torch.device) -> None:
        model = described.build()
        checkpoint.load_strict(model, read_weights(weights), weights)
        digest = sha256(weights)
        self.identity = {"architecture": described.name, "weights_sha256": digest}
        self._use(model, described, device)

    @classmethod
    def of_model(cls, model: nn.Module, described: Description) -> OpenClipEncoder:
        """Wrap a model in memory, on its device."""
        encoder = cls.__new__(cls)
        encoder.identity = {"architecture": described.name, "weights_sha256": ""}
        encoder._use(model, described, next(model.parameters()).device)
        return encoder

    def _use(self, model: Any, described: Description, device: torch.device) -> None:
        self.model = model.to(device).eval()
        sides = described.model["vision_cfg"].get("image_size", 224)
        self.size = int(sides if isinstance(sides, int) else sides[0])
        self.mean = torch.tensor(described.mean, device=device)[:, None, None]
        self.std = torch.tensor(described.std, device=device)[:, None, None]
        self.tokenize = tokenizer(described)

    def images(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """See `Encoder`."""
        parts = [self._images(crops[at : at + BATCH]) for at in range(0, len(crops), BATCH)]
        return _joined(parts, self.model)

    @torch.inference_mode()
    def _images(self, crops: Sequence[np.ndarray]) -> Tensor:
        pixels = torch.from_numpy(np.stack(crops)).to(self.mean.device).permute(0, 3, 1, 2)
        return self.model.encode_image(self.normalise(pixels), normalize=True)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise images (N, 3, S, S) uint8 as in the training of the model."""
        return (pixels.float() / 255 - self.mean) / self.std

    def text(self, prompts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        parts = [self._text(prompts[at : at + BATCH]) for at in range(0, len(prompts), BATCH)]
        return _joined(parts, self.model)

    @torch.inference_mode()
    def _text(self, prompts: Sequence[str]) -> Tensor:
        tokens = self.tokenize(list(prompts)).to(self.mean.device)
        return self.model.encode_text(tokens, normalize=True)


def tokenizer(described: Description) -> Any:
    """The tokenizer of N sentences, to (N, context length)."""
    length = described.model["text_cfg"].get("context_length", 77)
    return open_clip().SimpleTokenizer(context_length=length)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a flat state dict, or one under `state_dict`, of one or several GPUs.

    Raises InputError when the file is missing or holds something else.
    """
    content = checkpoint.load(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return checkpoint.without_prefix(checkpoint.as_state(content, path), WRAPPER, path)


def _joined(parts: list[Tensor], model: Any) -> np.ndarray:
    if not parts:
        width = int(model.text_projection.shape[-1]) if hasattr(model, "text_projection") else 0
        return np.zeros((0, width), np.float32)
    return torch.cat(parts).float().cpu().numpy()
