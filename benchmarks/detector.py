"""Training of the detector beside the straightforward way: samples and images per second, memory.

    python benchmarks/detector.py [--networks paper street] [--batches 1 4] [--repeat 5] [--quick]

Samples: a frame of 1280 x 1920 with 20 objects is read, flipped and shrunk on a grey canvas. The
straightforward way decodes every mask at full size, as floats, and resizes each to the nearest pixel.
Step: Mask R-CNN on such frames; the paper's network at an input of 320 x 480, which a CPU can train in
sensible time. The straightforward way is torchvision's: full-size masks and its RoIAlign, single
precision, one image a step, every loss read on the host. Ours is measured in single precision and, where
the machine has fast bf16, in that.

CPU figures are processor seconds of one thread, both ways in turn, so that whatever else the machine does
meets both. Both ways give the same boxes and, in single precision, the same losses; the tests assert it.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import MaskRCNN
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from moduv.detector.config import PAPER, DetectorConfig, detector_config
from moduv.detector.data import LabelledFrames
from moduv.detector.model import build_detector
from moduv.detector.train import detector_step
from moduv.detector.transforms import GREY, AugmentationConfig, Sample, draw_placement
from moduv.engine import distributed
from moduv.engine.loop import StepState
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels

STREET = detector_config("street")
FULL, QUICK = (1280, 1920), (128, 192)
OBJECTS = 20
NETWORKS = {
    "paper": (replace(PAPER, min_size=320, max_size=480), FULL),
    "street": (STREET, (STREET.min_size, STREET.max_size)),
}


def write_frames(root: Path, size: tuple[int, int], count: int) -> list[FrameRef]:
    """Write smooth random frames with labelled ellipses of a twentieth to a third of the height."""
    refs = [FrameRef("train/clip", index) for index in range(count)]
    for ref in refs:
        rng = np.random.default_rng(ref.index)
        coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3)).astype(np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        write_image(ref.file(root / "frames", ".jpg"), image)
        write_labels(root / "labels", ref, ellipses(rng, size))
    return refs


def ellipses(rng: np.random.Generator, size: tuple[int, int]) -> Instances:
    """`OBJECTS` instances of an image of `size`."""
    masks, boxes = [], []
    for _ in range(OBJECTS):
        half = rng.uniform(size[0] / 40, size[0] / 6, 2).astype(int) + 2
        x, y = (int(rng.integers(h, side - h)) for h, side in zip(half, size[::-1], strict=True))
        mask = np.zeros(size, np.uint8)
        cv2.ellipse(mask, (x, y), half.tolist(), 0, 0, 360, 1, cv2.FILLED)
        masks.append(rle.encode(mask))
        left, top, width, height = cv2.boundingRect(mask)
        boxes.append([left, top, left + width, top + height])
    return Instances(masks, np.array(boxes), np.ones(OBJECTS), size)


class DenseFrames(LabelledFrames):
    """The same samples with masks (N, H, W) float, decoded and resized at full size."""

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Image (3, H, W) float in [0, 1] and torchvision's target; flip and jitter only."""
        ref, rng = self.frames[item[0]], np.random.default_rng(item[1])
        assert self.label_root is not None
        bgr = cv2.imread(str(ref.image_path(self.frames_root)))
        image = torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1) / 255
        labels = read_labels(self.label_root, ref)
        masks = torch.stack([torch.from_numpy(coco.decode(m)).float() for m in labels.masks])
        height, width = image.shape[1:]
        config, factor = self.augmentation, 1.0
        if rng.random() < config.jitter:
            factor = float(rng.uniform(config.jitter_min, config.jitter_max))
        place = draw_placement(height, width, factor, config.flip, rng)
        boxes = torch.from_numpy(place.boxes(labels.boxes, (height, width)))
        image, masks = image[None], masks[:, None]
        if place.flip:
            image, masks = image.flip(3), masks.flip(3)
        if factor != 1:
            small = (place.height, place.width)
            image = functional.interpolate(image, size=small, mode="bilinear")
            masks = functional.interpolate(masks, size=small)
        rows, columns = place.visible((height, width))
        canvas = torch.full((3, height, width), GREY / 255)
        canvas[:, rows, columns] = image[0]
        placed = torch.zeros(len(masks), height, width)
        placed[:, rows, columns] = masks[:, 0]
        kept = (boxes[:, 2:] - boxes[:, :2]).min(1).values > config.min_side
        count = int(kept.sum())
        labelled = {"boxes": boxes[kept], "labels": torch.ones(count, dtype=torch.int64)}
        return canvas, {**labelled, "masks": placed[kept]}


def dense(sample: Sample) -> Sample:
    """A sample of ours in torchvision's form."""
    image, target = sample
    return image.float() / 255, {**target, "masks": target["masks"].dense().float()}


class Training:
    """A network with its optimiser and one batch; `step` trains on it once."""

    def __init__(
        self, config: DetectorConfig, samples: Sequence[Sample], mode: str, bf16: bool = False
    ) -> None:
        self.baseline, self.bf16, self.device = mode == "baseline", bf16, distributed.device()
        self.model = start_network(config).to(self.device)
        if self.baseline:
            use_torchvision_pools(self.model, config)
        elif self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, 1e-6, fused=None if self.baseline else True)
        self.batch = LabelledFrames.collate([dense(s) if self.baseline else s for s in samples])
        self.loss = detector_step(self.model)

    def step(self) -> dict[str, Tensor]:
        """One training step; returns its loss terms."""
        torch.manual_seed(0)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            terms = self.loss(self.batch, StepState(0, 1, torch.Generator(self.device)))
        terms["loss"].backward()
        self.optimizer.step()
        if self.baseline:
            for value in terms.values():
                value.item()
        return terms


def start_network(config: DetectorConfig) -> MaskRCNN:
    """An untrained network whose features are of order one, so that its proposals are its anchors."""
    torch.manual_seed(0)
    model = build_detector(config)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.5)
    return model


def use_torchvision_pools(model: MaskRCNN, config: DetectorConfig) -> None:
    """Read regions with torchvision's operator, as `maskrcnn_resnet50_fpn` does."""
    heads = model.roi_heads
    for name in ("box_roi_pool", "mask_roi_pool"):
        own = getattr(heads, name)
        pool = MultiScaleRoIAlign(
            own.featmap_names,
            own.output_size,
            config.roi_samples,
            canonical_scale=config.roi_scale,
        )
        setattr(heads, name, pool)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether half precision is worth its conversions on this machine."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported())


def seconds_of(work: Callable[[], Any]) -> float:
    """Processor seconds of a call; wall time, with everything the device had to do, on a GPU."""
    if not torch.cuda.is_available():
        start = time.process_time()
        work()
        return time.process_time() - start
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_of(work: Callable[[], Any]) -> float:
    """MB that a call takes at most, on the GPU if there is one; not a number where nothing tells."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return float("nan")
    # Linux: give back what is free, forget the highest memory so far
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")
    before = _kilobytes(status, "VmRSS")
    work()
    return (_kilobytes(status, "VmHWM") - before) / 1000


def _kilobytes(status: Path, key: str) -> int:
    return next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith(key))


def compare(ours: Callable[[], Any], baseline: Callable[[], Any], repeat: int) -> list[float]:
    """Median seconds of ours and of the baseline, called in turn, and the MB that each takes."""
    works = [ours, baseline]
    peaks = [(seconds_of(work), peak_of(work))[1] for work in works]  # the first call compiles
    times = [[seconds_of(work) for work in works] for _ in range(repeat)]
    return [*(statistics.median(column) for column in zip(*times, strict=True)), *peaks]


def print_row(title: str, images: Sequence[int], figures: Sequence[float]) -> None:
    """A table row: images per second of both, their ratio, memory of both."""
    rates = [count / seconds for count, seconds in zip(images, figures[:2], strict=True)]
    memory = f"{figures[2]:.0f} / {figures[3]:.0f} MB"
    numbers = " | ".join(f"{value:.2f}" for value in (*rates, rates[0] / rates[1]))
    print(f"| {title} | {numbers} | {memory} |", flush=True)


def compare_samples(size: tuple[int, int], repeat: int) -> None:
    """Print the rows of the data pipeline: whole frames, and shrunk ones as in the final round."""
    recipes = {
        "flip": AugmentationConfig(jitter=0.0),
        "flip, jitter 0.5 to 1": AugmentationConfig(),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        refs = write_frames(root, size, 4)
        for name, recipe in recipes.items():
            places = (root / "frames", refs, root / "labels", recipe)
            ways = [kind(*places, cache_bytes=0) for kind in (LabelledFrames, DenseFrames)]
            works = [lambda w=way: [w[(i, 2 * i)] for i in range(len(refs))] for way in ways]
            print_row(f"sample, {name}", [len(refs)] * 2, compare(works[0], works[1], repeat))


def compare_steps(
    network: str, size: tuple[int, int], config: DetectorConfig, batches: list[int], repeat: int
) -> None:
    """Print the rows of a network: each batch size of ours against single images."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        refs = write_frames(root, size, max(batches))
        frames = LabelledFrames(root / "frames", refs, root / "labels", AugmentationConfig())
        samples = [frames[(index, index)] for index in range(len(refs))]
    baseline = Training(config, samples[:1], "baseline")
    precisions = {"float32": False}
    if has_fast_bf16(baseline.device):
        precisions["bf16"] = True
    for (name, bf16), batch in product(precisions.items(), batches):
        ours = Training(config, samples[:batch], "ours", bf16)
        figures = compare(ours.step, baseline.step, repeat)
        print_row(f"step, {network}, {name}, batch {batch} / 1", [batch, 1], figures)


def main() -> None:
    """Print a table of images per second, ratios and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", nargs="*", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small frames, street network, once")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.batches, options.repeat = ["street"], [2], 1
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print("| | ours, images/s | baseline, images/s | ratio | extra memory, ours / baseline |")
    print("|---|---|---|---|---|")
    compare_samples(QUICK if options.quick else FULL, options.repeat)
    for network in options.networks:
        config, size = NETWORKS[network]
        compare_steps(network, size, config, options.batches, options.repeat)


if __name__ == "__main__":
    main()
