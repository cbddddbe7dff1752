"""The detector on the user's own images and videos: overlays, and the detections as COCO JSON."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moduv.commands.detections import Detections
from moduv.commands.name import CocoFile, Namer, check_groups_kept
from moduv.commands.overlays import draw_named
from moduv.correspondence.predict import USUAL_SIDE, Follower, PropagatedConfig
from moduv.correspondence.propagation import PropagationConfig
from moduv.correspondence.tracks import MaskTrackConfig, MaskTracker
from moduv.detector.predictor import Detector, batches
from moduv.detector.weights import load_detector
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.hardware import choose_device, cores
from moduv.engine.log import progress, say
from moduv.engine.parallel import bounded_map
from moduv.frames.decoding import Timed, nominal_frame_count
from moduv.frames.images import read_image, write_image
from moduv.frames.layouts import IMAGE_SUFFIXES
from moduv.frames.listing import VIDEO_SUFFIXES, Listing, is_video, list_files, say_left_out
from moduv.frames.video import read_clip
from moduv.frames.video_writer import frame_rate, write_video
from moduv.instances.instances import Instances
from moduv.instances.tracks import NOT_FOLLOWED, FrameTracker, TrackConfig, Tracker
from moduv.naming.describe import NamingConfig
from moduv.naming.encoders import load_encoder
from moduv.naming.vocabulary import Vocabulary
from moduv.visual.drawing import draw_instances, instance_color

DRAWERS = 4
"""Threads that draw, at most, while the detector works."""
DETECTIONS = "detections.json"


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

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
    follow: Path | None = None
    """Weights of a correspondence network; objects are then followed by propagated masks, not by boxes."""

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
    names: str = "",
    encoder: str = "",
    follow: Path | None = None,
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
        names: vocabulary by which the objects are named, see `moduv name`.
        encoder: what compares pictures and words, open_clip:ARCHITECTURE:WEIGHTS_FILE or open_clip:FOLDER.
        follow: weights of a correspondence network, see `moduv correspondence train`; the objects of a video
            are then told apart by masks that are propagated from frame to frame, not by their boxes.
    """
    if bool(names) != bool(encoder):
        raise InputError("names need both --names and --encoder; give both, or none.")
    # Before the detector has worked for nothing.
    namer = _namer(names, encoder, out, vis_conf_thrd, device) if names else None
    tracks = TrackConfig(patience=patience)
    config = DemoConfig(vis_conf_thrd, batch_size, device, half, tracks, follow)
    run = _show(load_ckpt, input, out, config)
    if namer is not None and run.detections.images:
        listing = find_files(input, out)
        targets = output_names([*listing.images, *listing.videos], input, out)
        namer.name(CocoFile(out / DETECTIONS, Path()), out / DETECTIONS)
        draw_named(out / DETECTIONS, {str(path): to for path, to in targets.items()}, vis_conf_thrd)
    _refuse_broken(run)


def _namer(names: str, encoder: str, out: Path, score: float, device: str) -> Namer:
    words = Vocabulary.load(names)
    check_groups_kept(words, out)
    return Namer(words, load_encoder(encoder, device), NamingConfig(score=score))


def run_demo(checkpoint_path: Path, source: Path, out: Path, config: DemoConfig) -> None:
    """Detect mobile objects in images and videos.

    Args:
        checkpoint_path: detector weights, official or ours, or the folder of a round.
        source: an image, a video, or a folder that is walked recursively for both.
        out: receives one picture per image and one mp4 per video, named by their paths, and
            `detections.json`. The objects of a video have a `track_id`, and their colour follows it.
        config: score threshold, batches, device.

    Stopped halfway, it keeps the detections of the files that are done. Where nothing was done, an
    earlier `detections.json` stays.

    Raises:
        InputError: when weights or files are missing or broken; other files are finished first.
    """
    _refuse_broken(_show(checkpoint_path, source, out, config))


def _show(checkpoint_path: Path, source: Path, out: Path, config: DemoConfig) -> _Run:
    """Do the work of `run_demo`, and only record which files cannot be shown."""
    listing = find_files(source, out)
    names = output_names([*listing.images, *listing.videos], source, out)
    detector = load_detector(checkpoint_path, config.device, config.half)
    follower = None
    if config.follow is not None and not listing.videos:
        say(f"{source}: holds no video, so that --follow has nothing to follow")
    elif config.follow is not None:
        device = choose_device(config.device)
        follower = Follower.load(config.follow, PropagatedConfig(), device, USUAL_SIDE)
    run = _Run(detector, config, Detections(), follower, alone=len(names) == 1)
    try:
        run.images({path: names[path] for path in listing.images})
        for path in listing.videos:
            run.video(path, names[path])
    finally:
        if run.detections.images:
            write_json(out / DETECTIONS, run.detections.content())
            run.detections.summarise(config.threshold, out)
            say_left_out(
                listing.left_out + Counter({"files that cannot be shown": len(run.broken)})
            )
    return run


def _refuse_broken(run: _Run) -> None:
    """Raise InputError naming the first of the files that could not be shown, if there are any."""
    if run.broken:
        others = len(run.broken) - 1
        more = f" (and {others} more, named above)" if others else ""
        raise InputError(run.broken[0] + more)


def find_files(source: Path, out: Path) -> Listing:
    """List the file itself, or all images and videos below a folder except those below `out`.

    Raises InputError when there is none.
    """
    if source.is_file():
        return Listing(videos=[source]) if is_video(source) else Listing(images=[source])
    if not source.is_dir():
        raise InputError(f"{source}: no such image, video or folder; check --input.")
    found = list_files(source, None if out.resolve() == source.resolve() else out)
    if not (found.images or found.videos):
        raise InputError(
            f"{source}: holds no image ({', '.join(IMAGE_SUFFIXES)}) and no video "
            f"({', '.join(VIDEO_SUFFIXES)})."
        )
    return found


def output_names(paths: list[Path], source: Path, out: Path) -> dict[Path, Path]:
    """Map every file to its overlay: the path with dashes, videos as mp4, images of no usual suffix as png.

    Raises InputError when two would go to one place, or one would replace its own source.
    """
    names: dict[Path, Path] = {}
    for path in paths:
        relative = path.relative_to(source) if source.is_dir() else Path(path.name)
        kept, added = ((".mp4",), ".mp4") if is_video(path) else (IMAGE_SUFFIXES, ".png")
        name = "-".join(relative.parts)
        target = out / (name if path.suffix.lower() in kept else name + added)
        if target.resolve() == path.resolve():
            raise InputError(
                f"{path}: the overlay would replace it; choose another folder for --out."
            )
        if target in names.values():
            raise InputError(f"{path}: another file's overlay is also called {target}; rename one.")
        names[path] = target
    return names


@dataclass
class _Run:
    """Processes all files, one after the other."""

    detector: Detector
    config: DemoConfig
    detections: Detections
    follower: Follower | None = None
    alone: bool = False
    """Whether there is a single file; what is wrong with it need not be said twice."""
    broken: list[str] = field(default_factory=list)
    """What is wrong with files that could not be shown."""
    next_identity: int = 1

    def images(self, names: dict[Path, Path]) -> None:
        """Draw images and record their detections; skip those that cannot be read."""
        written: dict[Path, Instances] = {}

        def draw(item: tuple[Path, np.ndarray, Instances]) -> None:
            path, image, found = item
            shown = draw_instances(image, found, score_threshold=self.config.threshold)
            try:
                write_image(names[path], shown)
                written[path] = found
            except InputError as error:
                self._leave_out(error)

        drawn = bounded_map(draw, self._detected(names), _drawers())
        try:
            for _ in progress(drawn, desc="demo", total=len(names), unit="frame"):
                pass
        finally:
            for path in names:
                if path in written:
                    self.detections.add({"file_name": str(path)}, written[path])

    def _detected(self, paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray, Instances]]:
        for batch in batches(self._readable(paths), self.config.batch_size):
            found = self.detector.predictions([image for _, image in batch])
            for (path, image), one in zip(batch, found, strict=True):
                yield path, image, one.to_instances()

    def _readable(self, paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray]]:
        for path, image in bounded_map(self._try_image, paths, _drawers()):
            if isinstance(image, InputError):
                self._leave_out(image)
            else:
                yield path, image

    def _try_image(self, path: Path) -> tuple[Path, np.ndarray | InputError]:
        try:
            image = read_image(path, "replace it or leave it out")
            self.detector.check_size(image, str(path))
            return path, image
        except InputError as error:
            return path, error
        except OSError as error:
            return path, InputError(
                f"{path}: cannot be read ({error.strerror}); change that or leave it out."
            )

    def _leave_out(self, error: InputError) -> None:
        self.broken.append(str(error))
        if not self.alone:
            say(str(error))

    def video(self, path: Path, target: Path) -> None:
        """Draw a video; if it does not decode to its end, write nothing."""
        seen: list[tuple[float | None, Instances]] = []
        begin = time.monotonic()
        try:
            frames = progress(
                self._followed(path, seen),
                desc=path.name,
                total=nominal_frame_count(path),
                unit="frame",
            )
            count = write_video(
                target, bounded_map(_draw_followed, frames, _drawers()), frame_rate(path)
            )
        except InputError as error:
            self._leave_out(error)
            return
        self.detections.add_video(path, seen)
        tracks = {track for _, found in seen for track in found.columns["track"].tolist()}
        objects = len(tracks - {NOT_FOLLOWED})
        rate = count / (time.monotonic() - begin)
        say(f"{path}: {count} frames, {objects} objects, {rate:.1f} frames per second")

    def _followed(
        self, path: Path, seen: list[tuple[float | None, Instances]]
    ) -> Iterator[tuple[Timed, Instances]]:
        """A video's frames and the objects to draw; `seen` receives the time and all detections of each."""
        tracker = self._tracker()
        frames, threshold = self._frames(path), self.config.threshold
        for frame, found in self.detector.follow(
            frames, tracker, threshold, self.config.batch_size
        ):
            seen.append((frame[0], found))
            self.next_identity = tracker.next_identity
            yield frame, found[found.columns["track"] != NOT_FOLLOWED]

    def _tracker(self) -> FrameTracker:
        """By masks where there is a network for it, by boxes otherwise."""
        if self.follower is None:
            return Tracker(self.config.tracks, self.next_identity)
        remembered = PropagationConfig(context=max(1, self.config.tracks.patience))
        config = MaskTrackConfig(propagation=remembered)
        return MaskTracker(self.follower, config, self.next_identity)

    def _frames(self, path: Path) -> Iterator[Timed]:
        for at, image in read_clip(path):
            self.detector.check_size(image, str(path))
            yield at, image


def _draw_followed(item: tuple[Timed, Instances]) -> Timed:
    (at, image), found = item
    colors = [instance_color(identity) for identity in found.columns["track"].tolist()]
    return at, draw_instances(image, found, colors=colors)


def _drawers() -> int:
    return min(DRAWERS, cores())
