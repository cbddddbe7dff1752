"""A detector as one file that runs without this library: ONNX, TorchScript, or named tensors (safetensors)."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import box_iou

from moduv.detector.config import DetectorConfig
from moduv.detector.model import MEAN, STD, build_detector
from moduv.detector.portable import PortableDetector, paste
from moduv.engine import checkpoint
from moduv.engine.config import build, to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "torchscript": (),
    "safetensors": ("safetensors",),
}
"""The formats, and the packages that each needs beside the requirements."""
INPUTS = {"uint8": torch.uint8, "float32": torch.float32}
MASKS = ("image", "box")
OUTPUTS = ["boxes", "scores", "masks"]
OPSET = 17
"""The oldest ONNX operators that have everything; onnxruntime runs them since version 1.12."""
FACTS = "moduv.json"
"""Name of the facts inside a TorchScript archive."""
SAME = 0.9
"""IoU from which two boxes are the same detection's. Those of one image overlap by 0.5 at most."""
BOX_TOLERANCE, SCORE_TOLERANCE = 1e-3, 1e-2
"""Largest difference of a box's edge, in shares of the image's longer side, and of a score."""
MASK_TOLERANCE = 0.02
"""Largest share of a mask that differs, the mean over detections. A single mask may grow by a pixel, because
it is pasted between its box's corners, rounded down."""
UNMATCHED = 0.05
"""Largest share of detections that only one of the two finds: which of two boxes of nearly the same score
suppresses the other may turn with the last digit."""

Run = Callable[[np.ndarray], tuple[Tensor, Tensor, Tensor]]
"""Boxes, scores and whole masks in an image (H, W, 3) uint8."""


@dataclass(frozen=True)
class ExportConfig:
    """What the exported detector takes and gives. Safetensors hold weights alone, whatever is said here."""

    input: str = "uint8"
    """Type of ONNX's input: `uint8`, or `float32` in [0, 1]; TorchScript takes both."""
    masks: str = "image"
    """`image`: masks (N, H, W) at the image's size; `box`: (N, M, M) inside the boxes, a hundredth of the
    memory where images are large."""

    def __post_init__(self) -> None:
        if self.input not in INPUTS or self.masks not in MASKS:
            raise InputError(
                f"export with input {self.input!r} and masks {self.masks!r} is unknown; choose the input "
                f"from {[*INPUTS]} and the masks from {[*MASKS]}."
            )


@dataclass(frozen=True)
class Difference:
    """How far an exported detector is from its source."""

    objects: int
    """Detections of the source."""
    unmatched: int
    """Detections that only one of the two finds."""
    pairs: Tensor
    """(N, 3), of the detections that both find: the difference of the box in shares of the image's longer
    side, of the score, and of the mask, 1 - IoU of the probabilities."""

    def __add__(self, other: Difference) -> Difference:
        """The difference over the images of both."""
        pairs = torch.cat([self.pairs, other.pairs])
        return Difference(self.objects + other.objects, self.unmatched + other.unmatched, pairs)

    @property
    def largest(self) -> list[float]:
        """Of the boxes, scores and masks."""
        return torch.cat([self.pairs, torch.zeros(1, 3)]).amax(0).tolist()

    @property
    def mean_mask(self) -> float:
        return float(self.pairs[:, 2].sum()) / max(1, self.objects)

    def __str__(self) -> str:
        box, score, mask = self.largest
        return (
            f"largest difference in {self.objects} detections: boxes {box:.2g} of the image's longer side, "
            f"scores {score:.2g}, masks {mask:.2g} of their area (mean {self.mean_mask:.2g}); "
            f"{self.unmatched} found by one only"
        )

    @property
    def is_small(self) -> bool:
        """Whether the two are the same detector."""
        box, score, _ = self.largest
        rest = self.mean_mask <= MASK_TOLERANCE and self.unmatched <= UNMATCHED * self.objects
        return box <= BOX_TOLERANCE and score <= SCORE_TOLERANCE and rest


def export_detector(
    model: GeneralizedRCNN,
    architecture: DetectorConfig,
    path: str | Path,
    format: str,
    sample: np.ndarray,
    config: ExportConfig | None = None,
) -> Difference:
    """Write a detector to a file and run the file; it takes its name when it detects what the model does.

    The comparison is made on the sample and on a part of it turned by 90 degrees, which has another size.

    Args:
        model: the detector; it is left as it is.
        architecture: what `model` was built from.
        path: receives the file.
        format: `onnx`, `torchscript` or `safetensors`.
        sample: image (H, W, 3) uint8 RGB in which the model detects something.
        config: what the file takes and gives.

    Raises:
        InputError: for an unknown format, a missing package, a sample without detections, or a file that
            detects something else.
    """
    config, path = config or ExportConfig(), Path(path)
    check_target(path, format)
    facts = _facts(architecture, config, format)
    portable = PortableDetector(model, architecture, whole_masks=config.masks == "image")
    example = to_input(sample, config.input)
    with atomic_path(path) as temporary:
        function: Callable[..., Any]
        if format == "onnx":
            write_onnx(portable, temporary, example, facts)
            function = _load_onnx(temporary)
        elif format == "torchscript":
            write_torchscript(portable, temporary, facts)
            function = torch.jit.load(str(temporary))
        else:
            write_safetensors(model, temporary, facts)
            function = _load_safetensors(temporary, config)
        found = verify(model, _runner(function, config), sample)
        if not found.objects:
            raise InputError(
                f"{path}: nothing is detected in the sample, so the exported detector cannot be checked; "
                "give --sample, an image with objects."
            )
        if not found.is_small:
            raise InputError(
                f"{path}: the exported detector is not the same, {found}; nothing is written, export to "
                "another format or give another --sample."
            )
    return found


def check_target(path: Path, format: str) -> None:
    """Raise InputError for a format that does not exist, lacks its packages, or does not suit the path."""
    if format not in PACKAGES:
        raise InputError(f"--format {format!r} does not exist; choose one of {[*PACKAGES]}.")
    missing = [name for name in PACKAGES[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format {format} needs the package {missing[0]!r}; install it with "
            "pip install -e '.[export]'."
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file with --out.")
    if format == "safetensors" and path.suffix != checkpoint.SAFETENSORS:
        raise InputError(
            f"{path}: loaders know the format by the suffix {checkpoint.SAFETENSORS}; end --out with it."
        )


def write_onnx(model: PortableDetector, path: Path, example: Tensor, facts: dict[str, str]) -> None:
    """Write a graph with images of any size; `example` (3, H, W) decides the input's type only."""
    import onnx

    sizes = {"image": {1: "height", 2: "width"}, **{name: {0: "objects"} for name in OUTPUTS}}
    if model.whole_masks:
        sizes["masks"] |= {1: "height", 2: "width"}
    with warnings.catch_warnings():
        # Shapes that stay fixed are those of the network; that this exporter ages is said in docs/export.md.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=OUTPUTS,
            dynamic_axes=sizes,
        )
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, facts)
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def write_torchscript(model: PortableDetector, path: Path, facts: dict[str, str]) -> None:
    """Write the detector as a scripted module, with all its branches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(model)
        # Given a path, torch refuses names that begin with a dot and have no suffix.
        with path.open("wb") as stream:
            torch.jit.save(scripted, stream, _extra_files={FACTS: json.dumps(facts)})


def write_safetensors(model: GeneralizedRCNN, path: Path, facts: dict[str, str]) -> None:
    """Write the flat state dict, torchvision's keys, and the facts as metadata."""
    from safetensors.torch import save_file

    # Clones, because tensors that share memory are refused.
    state = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    save_file(state, str(path), metadata=facts)


def to_input(image: np.ndarray, kind: str) -> Tensor:
    """An image (H, W, 3) uint8 as the input (3, H, W) of a kind, `uint8` or `float32`."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return tensor if kind == "uint8" else tensor.float() / 255


@torch.inference_mode()
def verify(model: GeneralizedRCNN, run: Run, sample: np.ndarray) -> Difference:
    """Compare a runner with a model in an image (H, W, 3) uint8 and in a turned part of it."""
    turned = np.rot90(sample)[: max(1, sample.shape[1] * 3 // 4)]
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        first, second = (
            compare(model([to_input(image, "uint8").to(device)])[0], run(image))
            for image in (sample, turned)
        )
        return first + second
    finally:
        model.train(was_training)


def compare(expected: dict[str, Tensor], found: tuple[Tensor, Tensor, Tensor]) -> Difference:
    """Compare detections, each with the one at its place; their order does not count.

    Args:
        expected: torchvision's `boxes` (N, 4) XYXY in pixels, `scores` (N,), `masks` (N, 1, H, W).
        found: boxes (K, 4), scores (K,), masks (K, H, W).
    """
    boxes, scores, masks = (expected[name].cpu() for name in OUTPUTS)
    total = len(boxes) + len(found[0])
    if not len(boxes) or not len(found[0]):
        return Difference(len(boxes), total, torch.zeros(0, 3))
    overlap, nearest = box_iou(boxes, found[0]).max(dim=1)
    pairs = [
        (
            float((boxes[i] - found[0][k]).abs().max()) / max(masks.shape[-2:]),
            float((scores[i] - found[1][k]).abs()),
            _mask_difference(masks[i, 0], found[2][k]),
        )
        for i, k in enumerate(nearest.tolist())
        if overlap[i] > SAME
    ]
    return Difference(len(boxes), total - 2 * len(pairs), torch.tensor(pairs).reshape(-1, 3))


def _mask_difference(one: Tensor, other: Tensor) -> float:
    """1 - IoU of probabilities (H, W); 0 where both are empty."""
    union = float(torch.maximum(one, other).sum())
    return 1 - float(torch.minimum(one, other).sum()) / union if union else 0.0


def _facts(architecture: DetectorConfig, config: ExportConfig, format: str) -> dict[str, str]:
    """What a user of the file should know, as text."""
    facts: dict[str, Any] = {
        "architecture": to_dict(architecture),
        "input_size": {"short_side": architecture.min_size, "long_side_max": architecture.max_size},
        "normalisation": {"mean": MEAN, "std": STD, "range": [0, 1]},
        "colours": "RGB",
        "classes": ["background", "object"],
        "score_threshold": architecture.score_threshold,
    }
    if format != "safetensors":
        facts["masks"] = config.masks
    return {"format": "pt", **{name: json.dumps(value) for name, value in facts.items()}}


def _runner(function: Callable[..., Any], config: ExportConfig) -> Run:
    """Run an exported function, which takes a tensor (3, H, W)."""

    def run(image: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, masks = function(to_input(image, config.input))
        if config.masks == "box":
            masks = paste(masks, boxes, *image.shape[:2])
        return boxes, scores, masks

    return run


def _load_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: [
        torch.from_numpy(x) for x in session.run(OUTPUTS, {"image": image.numpy()})
    ]


def _load_safetensors(path: Path, config: ExportConfig) -> PortableDetector:
    """The network that a file describes, with its weights."""
    told = json.loads(checkpoint.metadata(path)["architecture"])
    architecture = build(DetectorConfig, told, str(path))
    model = build_detector(architecture)
    checkpoint.load_strict(model, checkpoint.load_weights(path), path)
    return PortableDetector(model, architecture, whole_masks=config.masks == "image")
