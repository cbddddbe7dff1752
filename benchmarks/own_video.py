"""The street world as a newcomer's videos: mp4 files of another size and frame rate, truth taken away.

    python benchmarks/own_video.py write --out out/videos
    moduv run out/videos/clips --out save/videos --preset street
    python benchmarks/own_video.py score --run save/videos --data data/street

`write` renders the quickstart's training clips at 24 frames a second instead of its 12, 240 x 144 pixels, as
H.264. `score` measures the detector on the quickstart's held-out frames, which no run on the videos has seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from options import measure_detector

from moduv.engine.config import load_preset
from moduv.engine.log import progress
from moduv.engine.parallel import process_map
from moduv.street.dataset import StreetConfig
from moduv.street.render import render
from moduv.street.scene import Scene

RATE = 24
"""Frames a second of the videos; the world moves as if it were filmed at half of that."""


class Finer(Scene):
    """A street filmed at twice the frame rate: frame n of it is at the time of frame n / 2."""

    def camera(self, frame: float) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        low = int(np.floor(frame))
        between = frame - low
        rotation, position = super().camera(low)
        if not between:
            return rotation, position
        turned, moved = super().camera(low + 1)
        # A few hundredths of a degree a frame: the mean of two rotations is one.
        return (1 - between) * rotation + between * turned, (
            1 - between
        ) * position + between * moved


def write_clip(job: tuple[int, StreetConfig, Path, bool]) -> None:
    """Render one clip as a video and, where they are given, its intrinsics beside it."""
    seed, config, folder, with_camera = job
    path = folder / f"clip_{seed:04d}.mp4"
    scene, camera = Finer(seed, config.frames_per_clip), config.camera()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = config.height, config.width, "yuv420p"
        for number in range(2 * config.frames_per_clip - 1):
            image = render(scene, number / 2, camera, config.supersampling)[0]  # type: ignore[arg-type]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if with_camera:
        camera.to_cam_json(folder / f"{path.name}.cam.json")


def write(out: Path, clips: int, with_camera: bool, standing: bool) -> None:
    """Write the training clips of the quickstart's world as videos, or those whose camera stands."""
    config = replace(load_preset(StreetConfig, "street", "street"), height=144, width=240)
    folder = out / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    seeds: Sequence[int] = range(clips or config.train_clips)
    if standing:
        seeds = [seed for seed in seeds if not Scene(seed, config.frames_per_clip).speed.any()]
    jobs = [(seed, config, folder, with_camera) for seed in seeds]
    done = process_map(write_clip, jobs, config.workers)
    for _ in progress(done, desc="videos", total=len(jobs), unit="clip"):
        pass


def score(run: Path, data: Path) -> None:
    """Print AP50 of the run's final detector on the held-out frames of the street world."""
    metrics = measure_detector(run / "R3_Final", data)
    for key in ("box/AP50", "box/AP", "mask/AP50", "box/recall", "box/recall_static"):
        print(f"{key:<20} {metrics[key]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("--out", type=Path, required=True)
    writing.add_argument("--clips", type=int, default=0, help="0: all of the quickstart's")
    writing.add_argument("--with_camera", action="store_true", help="tell the intrinsics")
    writing.add_argument("--standing", action="store_true", help="clips whose camera stands")
    scoring = commands.add_parser("score")
    scoring.add_argument("--run", type=Path, required=True)
    scoring.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.out, arguments.clips, arguments.with_camera, arguments.standing)
    else:
        score(arguments.run, arguments.data)


if __name__ == "__main__":
    main()
