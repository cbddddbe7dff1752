"""The detector on the user's own images and videos: overlays, and the detections as COCO JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torchvision.models.detection import MaskRCNN

from moduv.detector.half import run_in_half
from moduv.detector.model import build_detector, load_weights
from moduv.detector.predict import predict_images
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.hardware import choose_device, cores, half_type
from moduv.engine.log import progress, say
from moduv.engine.parallel import bounded_map
from moduv.frames.clip import IMAGE_SUFFIXES
from moduv.frames.images import read_image, write_image
from moduv.frames.video import VIDEO_SUFFIXES, Timed, read_clip, scenes, told_frames
from moduv.frames.video_writer import frame_rate, write_video
from moduv.labels.exported import CATEGORIES, coco_results
from moduv.labels.instances import Instances
from moduv.labels.predicted import from_predictions
from moduv.labels.tracks import TrackConfig, Tracker
from moduv.visual.drawing import draw_instances, instance_color

Key = TypeVar("Key")
Seen = tuple[float | None, Instances, dict[int, int]]
"""Of a video's frame: its time, all detections, and the identities of those that have one, by position."""
DRAWERS = 4
"""Threads that draw, at most, while the detector works."""
DETECTIONS = "detections.json"
WEIGHTS = "weights.pth"
OFFICIAL_KEY = "backbone.body.layer1.0.conv1.weight"
"""A key that only the published network has."""


@dataclass(frozen=True)
class Demo:
    """How images and videos are shown, and what detects."""

    threshold: float = 0.5
    """Detections with a score above it are drawn and followed; the JSON holds all of them."""
    batch_size: int = 1
    """Frames at once; only frames of equal size share a batch."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    half: bool = False
    """Half precision, on GPUs."""
    tracks: TrackConfig = field(default_factory=TrackConfig)
    """How the objects of a video are followed."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.threshold <= 1:
            raise InputError(
                f"batch_size is {self.batch_size} and the score threshold {self.threshold}; "
                "use at least one frame and a threshold in [0, 1]."
            )


def demo(
    load_ckpt: Path,
    input: Path,
    out: Path = Path("out"),
    vis_conf_thrd: float = 0.5,
    batch_size: int = 1,
    device: str = "auto",
    half: bool = False,
    patience: int = TrackConfig.patience,
) -> None:
    """Detect mobile objects in images and videos.

    Args:
        load_ckpt: detector weights, official or ours, or the folder of a round.
        input: an image, a video, or a folder that is walked recursively for both.
        out: receives one picture per image, one mp4 per video, and `detections.json`.
        vis_conf_thrd: detections with a score above it are drawn.
        batch_size: frames at once.
        device: auto, cpu, cuda or cuda:N.
        half: half precision, on GPUs.
        patience: frames for which an object of a video is remembered while it is not detected.
    """
    tracks = TrackConfig(patience=patience)
    run_demo(load_ckpt, input, out, Demo(vis_conf_thrd, batch_size, device, half, tracks))


def run_demo(checkpoint_path: Path, source: Path, out: Path, config: Demo) -> None:
    """Detect mobile objects in images and videos.

    Args:
        checkpoint_path: detector weights, official or ours, or the folder of a round.
        source: an image, a video, or a folder that is walked recursively for .jpg, .jpeg, .png and
            for .mp4, .mov, .mkv, .avi, .webm, .m4v.
        out: receives one picture per image and one mp4 per video, named by their paths, and
            `detections.json`. The objects of a video have a `track_id`, and their colour follows it.
        config: score threshold, batches, device.

    Stopped halfway, it keeps the detections of the files that are done. Where nothing was done, an
    earlier `detections.json` stays.

    Raises:
        InputError: when weights or files are missing or broken; other files are finished first.
    """
    names = output_names(find_files(source, out), source, out)
    detector = open_detector(checkpoint_path, config.device, half=config.half)
    run = _Run(detector, config, _Detections(), alone=len(names) == 1)
    try:
        run.images({path: name for path, name in names.items() if not _is_video(path)})
        for path, name in names.items():
            if _is_video(path):
                run.video(path, name)
    finally:
        if run.detections.images:
            write_json(out / DETECTIONS, run.detections.content())
            run.detections.summarise(config.threshold, out)
    if run.broken:
        others = len(run.broken) - 1
        more = f" (and {others} more, named above)" if others else ""
        raise InputError(run.broken[0] + more)


def find_files(source: Path, out: Path) -> list[Path]:
    """The file itself, or all images and videos below a folder but not below `out`, sorted.

    Raises InputError when there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such image, video or folder; check --input.")
    suffixes = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    found = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )
    if out.resolve() != source.resolve():
        found = [path for path in found if out.resolve() not in path.resolve().parents]
    if not found:
        raise InputError(f"{source}: holds no image (.jpg, .jpeg, .png) and no video.")
    return found


def output_names(paths: list[Path], source: Path, out: Path) -> dict[Path, Path]:
    """Where every file's overlay goes: its path with dashes, videos as mp4.

    Raises InputError when two would go to one place, or one would replace its own source.
    """
    names: dict[Path, Path] = {}
    for path in paths:
        relative = path.relative_to(source) if source.is_dir() else Path(path.name)
        name = "-".join(relative.parts)
        mp4 = not _is_video(path) or path.suffix.lower() == ".mp4"
        target = out / (name if mp4 else f"{name}.mp4")
        if target.resolve() == path.resolve():
            raise InputError(
                f"{path}: the overlay would replace it; choose another folder for --out."
            )
        if target in names.values():
            raise InputError(f"{path}: another file's overlay is also called {target}; rename one.")
        names[path] = target
    return names


def open_detector(path: Path, device: str = "auto", *, half: bool = False) -> MaskRCNN:
    """Build the network that the weights belong to and load them, ready to predict.

    Args:
        path: a weights file, or the folder of a round.
        device: see `choose_device`.
        half: run in half precision.

    Raises:
        InputError: when the file is missing or fits neither network, or the device is not there.
    """
    chosen = choose_device(device)
    dtype = half_type(chosen) if half else None
    path = path / WEIGHTS if path.is_dir() else path
    state = checkpoint.load_weights(path)
    detector = build_detector("paper" if OFFICIAL_KEY in state else "street")
    load_weights(detector, path)
    detector.to(chosen).eval()
    if dtype is not None:
        run_in_half(detector, dtype)
    return detector


def detect(
    detector: MaskRCNN, frames: Iterable[tuple[Key, np.ndarray]], batch_size: int
) -> Iterator[tuple[Key, np.ndarray, Instances]]:
    """Every frame, an image (H, W, 3) uint8 RGB with any key, and all its detections, in order."""
    for batch in _batches(frames, batch_size):
        predictions = predict_images(detector, [image for _, image in batch])
        for (key, image), found in zip(batch, predictions, strict=True):
            yield key, image, from_predictions(found, 0.0)


@dataclass
class _Detections:
    """Detections of all files, in COCO's form."""

    videos: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, entry: dict[str, Any], found: Instances, identities: dict[int, int] | None = None
    ) -> None:
        """Add a frame; `identities` are those of its detections that have one, by position."""
        assert found.size is not None
        height, width = found.size
        number = len(self.images) + 1
        self.images.append({"id": number, **entry, "height": height, "width": width})
        for position, result in enumerate(coco_results(found, number, found.size)):
            track = (identities or {}).get(position)
            followed = {} if track is None else {"track_id": track}
            annotation = {"id": len(self.annotations) + 1, **result, "iscrowd": 0, **followed}
            self.annotations.append(annotation)

    def content(self) -> dict[str, Any]:
        videos = {"videos": self.videos} if self.videos else {}
        found = {"images": self.images, "annotations": self.annotations}
        return {**videos, **found, "categories": CATEGORIES}

    def summarise(self, threshold: float, out: Path) -> None:
        stills = sum("video_id" not in image for image in self.images)
        shown = sum(annotation["score"] > threshold for annotation in self.annotations)
        videos = f" and {len(self.videos)} videos" if self.videos else ""
        say(f"{stills} images{videos}, {shown} objects above {threshold:g}: {out}")


@dataclass
class _Run:
    """The work on all files, one after the other."""

    detector: MaskRCNN
    config: Demo
    detections: _Detections
    alone: bool = False
    """Whether there is a single file; what is wrong with it need not be said twice."""
    broken: list[str] = field(default_factory=list)
    """What is wrong with files that could not be shown."""
    next_identity: int = 1

    def images(self, names: dict[Path, Path]) -> None:
        """Draw images; those that cannot be read are left out. Whatever is drawn is also noted."""
        written: dict[Path, Instances] = {}

        def draw(item: tuple[Path, np.ndarray, Instances]) -> None:
            path, image, found = item
            shown = draw_instances(image, found, score_threshold=self.config.threshold)
            write_image(names[path], shown)
            written[path] = found

        found = detect(self.detector, self._readable(names), self.config.batch_size)
        drawn = bounded_map(draw, found, _drawers())
        try:
            for _ in progress(drawn, desc="demo", total=len(names), unit="frame"):
                pass
        finally:
            for path in names:
                if path in written:
                    self.detections.add({"file_name": str(path)}, written[path])

    def _readable(self, paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray]]:
        for path, image in bounded_map(_try_image, paths, _drawers()):
            if isinstance(image, InputError):
                self._leave_out(image)
            else:
                yield path, image

    def _leave_out(self, error: InputError) -> None:
        self.broken.append(str(error))
        if not self.alone:
            say(str(error))

    def video(self, path: Path, target: Path) -> None:
        """Draw a video; one that does not decode to its end leaves nothing."""
        seen: list[Seen] = []
        begin = time.monotonic()
        try:
            frames = progress(
                self._followed(path, seen), desc=path.name, total=told_frames(path), unit="frame"
            )
            count = write_video(
                target, bounded_map(_draw_followed, frames, _drawers()), frame_rate(path)
            )
        except InputError as error:
            self._leave_out(error)
            return
        number = len(self.detections.videos) + 1
        height, width = seen[0][1].size or (0, 0)
        video = {"id": number, "name": str(path), "width": width, "height": height}
        self.detections.videos.append(video)
        for index, (at, found, identities) in enumerate(seen):
            entry = {"file_name": f"{path}#{index:06d}", "video_id": number, "frame_index": index}
            when = {} if at is None else {"time": at}
            self.detections.add({**entry, **when}, found, identities)
        objects = len({track for _, _, identities in seen for track in identities.values()})
        rate = count / (time.monotonic() - begin)
        say(f"{path}: {count} frames, {objects} objects, {rate:.1f} frames per second")

    def _followed(
        self, path: Path, seen: list[Seen]
    ) -> Iterator[tuple[Timed, Instances, list[int]]]:
        """A video's frames, what is drawn of each, and its identities; `seen` takes all detections."""
        tracker = Tracker(self.config.tracks, self.next_identity)
        before = 0
        frames = (((scene, at), image) for scene, (at, image) in scenes(read_clip(path)))
        for (scene, at), image, found in detect(self.detector, frames, self.config.batch_size):
            if scene != before:
                tracker.forget()
            before = scene
            assert found.scores is not None
            above = np.flatnonzero(found.scores > self.config.threshold)
            identities = tracker.update(found.boxes[above]).tolist()
            seen.append((at, found, dict(zip(above.tolist(), identities, strict=True))))
            self.next_identity = tracker.next_identity
            yield (at, image), found[above], identities


def _draw_followed(item: tuple[Timed, Instances, list[int]]) -> Timed:
    (at, image), found, identities = item
    colors = [instance_color(identity) for identity in identities]
    return at, draw_instances(image, found, colors=colors)


def _try_image(path: Path) -> tuple[Path, np.ndarray | InputError]:
    try:
        return path, read_image(path)
    except InputError:
        # Frames of a split are read by the same function, and its remedy is for those.
        return path, InputError(
            f"{path}: the file is truncated or no image; replace it or leave it out."
        )
    except OSError as error:
        return path, InputError(
            f"{path}: cannot be read ({error.strerror}); change that or leave it out."
        )


def _drawers() -> int:
    return min(DRAWERS, cores())


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _batches(items: Iterable[Key], size: int) -> Iterator[list[Key]]:
    batch: list[Key] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
