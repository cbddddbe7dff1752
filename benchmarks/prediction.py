"""From frames to label files: ours beside one image at a time.

    bash scripts/quickstart.sh
    python benchmarks/prediction.py [--run save/street] [--data data/street] [--frames 96] [--enlarge 1]

Ours reads, detects and writes as the label stages do: batches of eight, nothing below the threshold is
pasted, masks are packed to bits and encoded in threads. The straightforward way takes one image at a time,
pastes every detection, and encodes those above the threshold from full-size masks. Both find the same
objects, which the script asserts. `--enlarge` makes the frames larger by a factor; the network's input stays
as it is, the masks to be pasted grow.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco

from moduv.detector.train import load_detector
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import read_split, write_split
from moduv.labels.store import read_labels
from moduv.rounds.moving2mobile import MobileLabels, mobile_labels

THRESHOLD = 0.5


def one_at_a_time(detector: Path, data: Path, frames: list[FrameRef], out: Path) -> None:
    """Labels of the frames, frame by frame."""
    model = load_detector(detector)
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


def main() -> None:
    """Print frames per second of both ways."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("save/street"))
    parser.add_argument("--data", type=Path, default=Path("data/street"))
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--enlarge", type=int, default=1)
    options = parser.parse_args()
    detector = options.run / "R3_Final"
    frames = read_split(options.data / "splits/val_files.txt")[: options.frames]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = enlarged(options.data, frames, options.enlarge, root / "data")
        write_split(root / "split.txt", frames)
        one_at_a_time(detector, data, frames[:4], root / "warm")
        start = time.perf_counter()
        settings = MobileLabels(score_threshold=THRESHOLD, batch_size=8)
        mobile_labels(data, root / "split.txt", detector, root / "ours", settings)
        ours = time.perf_counter() - start
        start = time.perf_counter()
        one_at_a_time(detector, data, frames, root / "plain")
        plain = time.perf_counter() - start
        for frame in frames:
            mine, theirs = read_labels(root / "ours", frame), read_labels(root / "plain", frame)
            assert len(mine) == len(theirs), frame
            assert not len(mine) or np.diagonal(mine.iou(theirs)).min() > 0.99, frame
    print(f"ours {len(frames) / ours:.1f}, one at a time {len(frames) / plain:.1f} frames a second")
    print(f"ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
