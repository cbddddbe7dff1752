"""A valid COCO data set to damage, and the command that reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moduv.commands.cli import main
from moduv.frames.clip import FrameRef
from moduv.instances import rle

HEIGHT, WIDTH = 96, 160
FRAMES = [FrameRef("clips/a", 1), FrameRef("clips/a", 2)]
Content = dict[str, Any]


def square(left: float, top: float, side: float) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number: int, image: int, left: float, top: float, side: float) -> Content:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": side * side,
        "bbox": [left, top, side, side],
        "segmentation": square(left, top, side),
        "score": 0.5,
    }


def valid() -> Content:
    """Three squares in two images, as polygons, as text and as a list of runs."""
    content = {
        "images": [
            {"id": n, "file_name": f"clips/a/{n:06d}.jpg", "height": HEIGHT, "width": WIDTH}
            for n in (1, 2)
        ],
        "annotations": [
            annotation(1, 1, 10, 10, 20),
            annotation(2, 1, 100, 40, 30),
            annotation(3, 2, 50, 50, 40),
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:70, 100:130] = True
    content["annotations"][1]["segmentation"] = rle.encode(mask)
    runs = [50 * HEIGHT + 50, *[40, HEIGHT - 40] * 39, 40]
    counts = [*runs, HEIGHT * WIDTH - sum(runs)]
    content["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    return content


def save(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, what was said, and the error of a command."""
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    told = capsys.readouterr()
    assert told.err.count("moduv: error") == (1 if code else 0)
    return code, told.out, told.err.partition("moduv: error: ")[2]
