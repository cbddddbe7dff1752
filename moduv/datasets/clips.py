"""Videos and folders of images become segments in the library's layout.

Repeated frames are dropped, cuts start a new segment, and the frame rate is reduced until neighbours differ
enough to show motion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from moduv.datasets.aspects import Window, centre_window, differs, usual_aspect
from moduv.engine.errors import InputError
from moduv.engine.files import sha256, write_json
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.decoding import Timed, decoder
from moduv.frames.images import resize_image, write_image
from moduv.frames.listing import clip_images, find_clips, say_left_out
from moduv.frames.splits import write_split
from moduv.frames.video import (
    FLOW_WIDTH,
    choose_strides,
    count_frames,
    read_clip,
    scenes,
    usual_motion,
    without_stills,
)

UNREADABLE = "clips that do not decode"


@dataclass(frozen=True)
class ImportConfig:
    """How clips become segments."""

    field_of_view: float = 0.0
    """Horizontal field of view in degrees, for clips without `cam.json`; 0: such clips are refused."""
    every: int = 1
    """Keep every n-th frame; 0: measure n for each clip, so that neighbours differ by `motion`."""
    motion: float = 0.01
    """Optical flow between neighbours for `every` 0, in shares of the width."""
    max_width: int = 0
    """Shrink wider frames to this width, pixels; 0: never."""
    keep_stills: bool = False
    """Keep frames that repeat the previous one."""
    one_aspect: bool = False
    """Crop clips around their centre to the aspect ratio of most frames."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.max_width < 0 or self.motion <= 0:
            raise InputError(
                f"every is {self.every}, max_width {self.max_width}, motion {self.motion}; use every 0 or "
                "more, max_width 0 or more and motion above 0."
            )


@dataclass(frozen=True)
class _Import:
    """What the imported frames depend on."""

    config: ImportConfig
    files: dict[str, int]
    """Clips and their sizes: bytes of a video, images of a folder."""
    cameras: dict[str, str]
    """Clips and hashes of their known cameras; empty where none is known."""


def import_folder(source: Path, out: Path, config: ImportConfig) -> None:
    """Import clips into the library's layout.

    Packets, images and whole clips that do not decode are skipped and logged.

    Args:
        source: a video, or a folder of videos, or of folders whose images, in the order of their names,
            are the frames of one clip each. The camera, where known, is `cam.json` beside the images or
            `<video>.cam.json`: `intrinsic_mat`, rows divided by width and height.
        out: receives `clips/<name>/NNNNNN.jpg`, `cam.json`, `times.json` (seconds, of videos) and
            `splits/train_files.txt`.
        config: field of view, frame rate and size.

    Raises:
        InputError: when no clip has three frames or decodes, or a clip's intrinsics are unknown.
    """
    import_sources([source], out, config)


def import_sources(
    sources: Sequence[Path], out: Path, config: ImportConfig, skip: Path | None = None
) -> None:
    """Import several videos and folders, see `import_folder`.

    Clips below `skip`, by default `out`, are the outputs of an earlier run and ignored.
    """
    clips, left_out = gather_clips(sources, skip or out)
    files = {name: clip_size(clip) for name, clip in clips.items()}
    known = {name: _known_camera(clip) for name, clip in clips.items()}
    cameras = {name: sha256(path)[:16] if path.is_file() else "" for name, path in known.items()}
    stage = Stage("frames import", out, _Import(config, files, cameras))
    stage.run(lambda: _import(clips, out, config, left_out))


def name_clips(sources: Sequence[Path], skip: Path | None = None) -> dict[str, Path]:
    """Map segment names to all clips below the sources, see `gather_clips`."""
    return gather_clips(sources, skip)[0]


def gather_clips(
    sources: Sequence[Path], skip: Path | None = None
) -> tuple[dict[str, Path], Counter[str]]:
    """Map segment names to all clips below the sources; the second value counts what else lies there.

    Args:
        sources: videos and folders.
        skip: a folder of outputs, whose clips are ignored unless a source lies in it.

    Raises:
        InputError: when a source is missing or holds no clip, or two clips share a name.
    """
    named: dict[str, Path] = {}
    left_out = Counter[str]()
    for source in sources:
        found, others = find_clips(source, skip)
        left_out += others
        if not found:
            seen = ", ".join(f"{count} {why}" for why, count in others.items())
            raise InputError(
                f"{source}: holds no videos and no images"
                + ("" if skip is None else f" outside of {skip}")
                + (f", but {seen}" if seen else "")
                + "; give the clips' folder."
            )
        for clip in found:
            name = _name(clip, source)
            if len(sources) > 1 and clip != source:
                name = "_".join(f"{source.resolve().name}-{name}".split())
            if name in named:
                raise InputError(
                    f"{clip}: its segment would be called {name!r} like that of {named[name]}; rename one."
                )
            named[name] = clip
    return named, left_out


def clip_size(clip: Path) -> int:
    """Return the bytes of a video, or the number of images in a folder."""
    return len(clip_images(clip)) if clip.is_dir() else clip.stat().st_size


def _import(
    named: dict[str, Path], out: Path, config: ImportConfig, others: Counter[str]
) -> dict[str, Any]:
    """Import clips by name; `others` is what was left out before."""
    sizes, left_out = clip_sizes(named)
    counted = others + Counter({UNREADABLE: len(left_out)})
    clips = {name: named[name] for name in sizes}
    for name, clip in clips.items():
        if not _known_camera(clip).is_file() and not config.field_of_view:
            raise InputError(
                f"{_known_camera(clip)}: missing; write the intrinsics of {name} there or give the camera's "
                "field of view with --config.field_of_view DEGREES."
            )
    aspect = _aspect(clips, sizes) if config.one_aspect else None
    strides = _strides(clips, config)
    frames: list[FrameRef] = []
    taken = {f"clips/{name}" for name in named}
    for segment, clip in progress(clips.items(), desc="import", total=len(clips), unit="clip"):
        shape = _Shape(_known_camera(clip), aspect, config)
        chosen = _chosen(clip, strides[segment], config, counted)
        for scene, images in groupby(chosen, key=lambda item: item[0]):
            name = _scene_name(f"clips/{segment}", scene, taken)
            frames += _write_segment(out, name, images, shape, counted)
    if not frames:
        say_left_out(counted)
        raise InputError(
            f"{next(iter(clips.values()))}: has no clip of three frames that differ, nor has any other "
            "source; give videos or folders of consecutive frames."
        )
    write_split(out / "splits" / "train_files.txt", frames)
    segments = {frame.segment for frame in frames}
    say(f"  {len(frames)} frames with neighbours in {len(segments)} segments of {len(clips)} clips")
    say_left_out(counted)
    counts = {"clips": len(clips), "segments": len(segments), "frames": len(frames)}
    return {**counts, "left_out": left_out, "counts_left_out": dict(counted)}


def _scene_name(segment: str, scene: int, taken: set[str]) -> str:
    """The segment of a clip's scene, which is not called like another clip; it is added to `taken`."""
    name = segment + (f"-{scene}" if scene else "")
    while scene and name in taken:
        name += "_"
    taken.add(name)
    return name


def clip_sizes(clips: dict[str, Path]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Width and height of every clip, and why others are left out.

    Raises InputError when all are.
    """
    sizes: dict[str, tuple[int, int]] = {}
    left_out: dict[str, str] = {}
    for name, clip in clips.items():
        if not clip.is_dir():
            decoder(clip)  # a missing decoder is not the clip's fault
        try:
            height, width = next(read_clip(clip, lambda _: None))[1].shape[:2]
            sizes[name] = width, height
        except InputError as error:
            left_out[name] = str(error)
    if not sizes:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise InputError(next(iter(left_out.values())) + more)
    for reason in left_out.values():
        say(f"  left out: {reason}")
    return sizes, left_out


def _aspect(clips: dict[str, Path], sizes: dict[str, tuple[int, int]]) -> Fraction:
    """The aspect ratio of most frames."""
    aspects = {name: Fraction(*size) for name, size in sizes.items()}
    if len(set(aspects.values())) == 1:
        return next(iter(aspects.values()))
    frames = Counter[Fraction]()
    for name, clip in clips.items():
        frames[aspects[name]] += count_frames(clip)
    usual = usual_aspect(frames)
    others = sum(differs(*size, usual) for size in sizes.values())
    if others:
        say(
            f"  {others} clips cropped to the aspect ratio of the others, {usual.numerator}:{usual.denominator}"
        )
    return usual


def _strides(clips: dict[str, Path], config: ImportConfig) -> dict[str, int]:
    """Every how many frames of each clip are taken."""
    if config.every:
        return dict.fromkeys(clips, config.every)
    measured = []
    for clip in progress(clips.values(), desc="motion", total=len(clips), unit="clip"):
        # What is left out is logged when the frames are written.
        frames = without_stills(read_clip(clip, lambda _: None, grey_width=FLOW_WIDTH))
        measured.append(usual_motion(frames, config.motion))
    counts = [count_frames(clip) for clip in clips.values()]
    strides = dict(zip(clips, choose_strides(measured, counts, config.motion), strict=True))
    for stride, count in sorted(Counter(strides.values()).items()):
        say(f"  one frame in {stride} of {count} clips, by their motion")
    return strides


def _chosen(
    clip: Path, stride: int, config: ImportConfig, left_out: Counter[str]
) -> Iterator[tuple[int, Timed]]:
    """Every stride-th frame of each scene, with the scene's number."""
    frames = read_clip(clip, left_out=left_out)
    if not config.keep_stills:
        frames = without_stills(frames, left_out)
    for _, scene in groupby(scenes(frames), key=lambda item: item[0]):
        for position, item in enumerate(scene):
            if position % stride == 0:
                yield item


@dataclass(frozen=True)
class _Shape:
    """How a clip's frames and its camera are cropped and resized."""

    known: Path
    """The camera's file, where there is one."""
    aspect: Fraction | None
    config: ImportConfig

    def frame(self, image: np.ndarray) -> np.ndarray:
        """Crop an image (H, W, 3) and shrink it to the largest width."""
        left, top, width, height = self._window(image)
        image, widest = image[top : top + height, left : left + width], self.config.max_width
        if not widest or width <= widest:
            return image
        return resize_image(image, round(height * widest / width), widest)

    def camera(self, image: np.ndarray) -> Intrinsics:
        """Return the camera of an image (H, W, 3) after `frame`."""
        height, width = image.shape[:2]
        if self.known.is_file():
            found = Intrinsics.from_cam_json(self.known, width, height)
            if unusual := found.check_pixels(f"{self.known}: 'intrinsic_mat'"):
                say(f"  {unusual}")
        else:
            found = Intrinsics.from_field_of_view(self.config.field_of_view, width, height)
        height, width = self.frame(image).shape[:2]
        return found.cropped(*self._window(image)).resized(width, height)

    def _window(self, image: np.ndarray) -> Window:
        height, width = image.shape[:2]
        if self.aspect is None:
            return Window(0, 0, width, height)
        return centre_window(width, height, self.aspect)


def _write_segment(
    out: Path,
    segment: str,
    images: Iterator[tuple[int, Timed]],
    shape: _Shape,
    left_out: Counter[str],
) -> list[FrameRef]:
    """Write the frames of a segment; its frames with both neighbours. Too few for one leave nothing."""
    waiting: list[Timed] = []
    times: list[float | None] = []
    camera = None
    for _, (time, image) in images:
        camera = camera or shape.camera(image)
        waiting.append((time, shape.frame(image)))
        if len(times) + len(waiting) < 3:
            continue
        for known, kept in waiting:
            target = FrameRef(segment, len(times)).file(out, ".jpg")
            if not target.is_file():
                write_image(target, kept)
            times.append(known)
        waiting = []
    if camera is None or not times:
        say(f"  {segment}: {len(waiting)} frames are too few for a triplet; left out")
        left_out["frames too few for a triplet"] += len(waiting)
        return []
    camera.to_cam_json(out / segment / "cam.json", assumed=not shape.known.is_file())
    if None not in times:
        write_json(out / segment / "times.json", times)
    return [FrameRef(segment, index) for index in range(1, len(times) - 1)]


def _known_camera(clip: Path) -> Path:
    return clip / "cam.json" if clip.is_dir() else clip.with_name(clip.name + ".cam.json")


def _name(clip: Path, source: Path) -> str:
    """The segment's name: the way from the source, in one word, for split files have a frame a line."""
    way = clip.relative_to(source) if clip != source else Path(clip.name)
    if not clip.is_dir():
        way = way.with_suffix("")
    # Nor may it hold backslashes, or bytes that are no text.
    plain = re.sub(r"[\\\ud800-\udfff]", "_", way.as_posix().replace("/", "-"))
    return "_".join(plain.split()).strip(".") or "clip"
