"""From frames to label files: ours beside one image at a time.

    bash scripts/quickstart.sh
    python benchmarks/prediction.py [--run save/street] [--data data/street] [--frames 96] [--enlarge 1]

Ours reads, detects and writes as the label stages do: threads decode the next batches of eight, nothing
below the threshold is pasted, masks are pasted and encoded inside their boxes, in threads. The
straightforward way takes one image at a time, pastes every detection at full size, and encodes those above
the threshold. Both find the same objects, which the script asserts. L2, of two detectors, stands alone.
`--enlarge` makes the frames larger by a factor; the network's input stays as it is, the masks to be pasted
grow. Memory is the highest while the work runs, beyond what there was before.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco

from moduv.detector.weights import load_detector
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import read_split, write_split
from moduv.instances.store import read_labels
from moduv.rounds.large2small import AggregatedLabelsConfig, aggregated_labels
from moduv.rounds.moving2mobile import MobileLabelsConfig, mobile_labels

THRESHOLD = 0.5
LARGE, SMALL = 0.15, 0.1
"""The street preset's thresholds of L2."""


def one_at_a_time(detector: Path, data: Path, frames: list[FrameRef], out: Path) -> None:
    """Labels of the frames, frame by frame."""
    model = load_detector(detector).model
    for frame in frames:
        image = torch.from_numpy(read_image(frame.image_path(data))).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            found = model([image])[0]
        kept = found["scores"] > THRESHOLD
        masks = (found["masks"][kept, 0] > 0.5).numpy().astype(np.uint8)
        encoded = [coco.encode(np.asfortranarray(mask)) for mask in masks]
        content = {
            "masks": [{"size": e["size"], "counts": e["counts"].decode()} for e in encoded],
            "boxes": found["boxes"][kept].tolist(),
            "scores": found["scores"][kept].tolist(),
        }
        path = frame.file(out, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def enlarged(data: Path, frames: list[FrameRef], factor: int, out: Path) -> Path:
    """A copy of the frames at `factor` times their size."""
    for frame in frames:
        image = read_image(frame.image_path(data))
        height, width = image.shape[:2]
        write_image(frame.file(out, ".jpg"), resize_image(image, factor * height, factor * width))
    return out


def measure(work: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds, processor seconds, and the MB that a call takes at most (not a number outside Linux)."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    before = 0
    if clear.exists():  # give back what is free, forget the highest memory so far
        ctypes.CDLL(None).malloc_trim(0)
        clear.write_text("5")
        before = _kilobytes(status, "VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    work()
    seconds = time.perf_counter() - start, time.process_time() - busy
    most = (_kilobytes(status, "VmHWM") - before) / 1000 if clear.exists() else float("nan")
    return *seconds, most


def _kilobytes(status: Path, key: str) -> int:
    return next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith(key))


def assert_same(root: Path, frames: list[FrameRef]) -> None:
    for frame in frames:
        mine, theirs = read_labels(root / "ours", frame), read_labels(root / "plain", frame)
        assert len(mine) == len(theirs), frame
        assert not len(mine) or np.diagonal(mine.iou(theirs)).min() > 0.99, frame


def main() -> None:
    """Print frames per second and memory of both ways, and of L2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("save/street"))
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--enlarge", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = options.run / "R3_Final"
    large, small = options.run / "R2_L2S_large", detector
    frames = read_split(options.data / "splits/val_files.txt")[: options.frames]
    one = MobileLabelsConfig(score_threshold=THRESHOLD, batch_size=8)
    two = AggregatedLabelsConfig(large_score=LARGE, small_score=SMALL, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = enlarged(options.data, frames, options.enlarge, root / "data")
        split, few = root / "split.txt", root / "few.txt"
        write_split(split, frames)
        write_split(few, frames[:8])
        one_at_a_time(detector, data, frames[:4], root / "warm")  # the first calls compile
        mobile_labels(data, few, detector, root / "warm_ours", one)
        aggregated_labels(data, few, large, root / "warm_two", two, small)
        works = {
            "ours": lambda: mobile_labels(data, split, detector, root / "ours", one),
            "one at a time": lambda: one_at_a_time(detector, data, frames, root / "plain"),
            "ours, L2": lambda: aggregated_labels(data, split, large, root / "two", two, small),
        }
        found = {name: measure(work) for name, work in works.items()}
        assert_same(root, frames)
    for name, (wall, busy, most) in found.items():
        rates = f"{len(frames) / wall:6.1f} a second, {len(frames) / busy:6.1f} a processor second"
        print(f"{name:<14} frames: {rates}, {most:5.0f} MB")


if __name__ == "__main__":
    main()
