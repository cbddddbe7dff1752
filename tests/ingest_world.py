"""Clips to import: folders of images and encoded videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from moduv.datasets.clips import ImportConfig, import_folder
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import read_split


def write_clip(folder: Path, count: int) -> None:
    for index in range(count):
        write_image(folder / f"frame{index:03d}.png", np.full((40, 60, 3), 20 * index, np.uint8))


def write_noise(folder: Path, width: int, height: int, count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(width * height)
    images = [rng.integers(0, 255, (height, width, 3)).astype(np.uint8) for _ in range(count)]
    for index, image in enumerate(images):
        write_image(folder / f"{index}.png", cv2.blur(image, (9, 9)))
    return [cv2.blur(image, (9, 9)) for image in images]


def street_frames(count: int, seed: int = 0, step: int = 3) -> list[np.ndarray]:
    """Smooth pictures that shift by `step` pixels of 160 a frame."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 60, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (800, 96), interpolation=cv2.INTER_CUBIC)
    return [wide[:, step * index : step * index + 160] for index in range(count)]


def write_video(
    path: Path, frames: list[np.ndarray], times: list[int] | None = None, codec: str = "mpeg4"
) -> None:
    """A video with the given times in units of 1/100 s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        stream.time_base = Fraction(1, 100)
        stream.bit_rate = 4_000_000
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[index] if times else 4 * index
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def imported(tmp_path: Path, **settings: object) -> list[FrameRef]:
    config = ImportConfig(field_of_view=60, **settings)  # type: ignore[arg-type]
    import_folder(tmp_path / "in", tmp_path / "out", config)
    return read_split(tmp_path / "out/splits/train_files.txt")


def kept_frames(tmp_path: Path) -> int:
    return len(list((tmp_path / "out/clips/drive").glob("*.jpg")))


def encode(path: Path, frames: list[np.ndarray], codec: str = "libx264", **settings: Any) -> None:
    """A video at 10 frames a second; B-frames where the codec likes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        add_stream(container, frames, codec, **settings)


def add_stream(container: Any, frames: list[np.ndarray], codec: str, **settings: Any) -> None:
    stream = container.add_stream(codec, rate=10)
    stream.pix_fmt = "yuv420p"
    stream.height, stream.width = frames[0].shape[:2]
    for name, value in settings.items():
        setattr(stream.codec_context, name, value)
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 10)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def set_display_matrix(path: Path, *turn: int) -> None:
    """Set a, b, c, d of the matrix of an mp4's track: (x, y) is shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    a, b, c, d = (number << 16 for number in turn)
    matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    path.write_bytes(bytes(content))
