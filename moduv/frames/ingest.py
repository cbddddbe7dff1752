"""Foreign clips brought into the form of this library: videos and folders of images become segments.

Repeated frames are left out, cuts end a segment, and the frame rate is reduced so that neighbours differ
enough to show motion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, resize_image, write_image
from moduv.frames.splits import write_split
from moduv.frames.video import (
    Timed,
    choose_strides,
    find_clips,
    read_clip,
    scenes,
    usual_motion,
    without_stills,
)


@dataclass(frozen=True)
class ImportConfig:
    """How foreign frames are taken over."""

    field_of_view: float = 0.0
    """Horizontal field of view in degrees, for clips without `cam.json`; 0: such clips are refused."""
    every: int = 1
    """Take every n-th frame, so that neighbours differ enough to show motion; 0: as many as that takes
    is measured for each clip."""
    motion: float = 0.01
    """With `every` 0: the optical flow that neighbours are to differ by, in shares of the width."""
    max_width: int = 0
    """Shrink frames that are wider, pixels; 0: never."""
    keep_stills: bool = False
    """Keep frames that repeat the one before."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.max_width < 0 or self.motion <= 0:
            raise InputError(
                f"every is {self.every}, max_width {self.max_width}, motion {self.motion}; use every 0 or "
                "more, max_width 0 or more and motion above 0."
            )


@dataclass(frozen=True)
class _Import:
    """What decides the imported frames."""

    config: ImportConfig
    files: dict[str, int]
    """Clips and their sizes: bytes of a video, images of a folder."""


def import_folder(source: Path, out: Path, config: ImportConfig) -> None:
    """Bring clips into the library's layout.

    Args:
        source: a video file, or a folder below which videos lie, or folders whose images are the
            frames of one clip each in the order of their names. `cam.json` with `intrinsic_mat` (rows
            divided by width and height) lies beside the images, or beside a video as
            `<video>.cam.json`, where the camera is known.
        out: receives `clips/<name>/NNNNNN.jpg`, `cam.json`, `times.json` (seconds, of videos) and
            `splits/train_files.txt`.
        config: field of view, frame rate and size.

    Raises:
        InputError: when there is no clip of three frames, a file does not decode, or a clip's
            intrinsics are unknown.
    """
    import_sources([source], out, config)


def import_sources(sources: Sequence[Path], out: Path, config: ImportConfig) -> None:
    """`import_folder` of several videos and folders; see there."""
    clips = name_clips(sources)
    files = {name: clip_size(clip) for name, clip in clips.items()}
    Stage("frames import", out, _Import(config, files)).run(lambda: _import(clips, out, config))


def name_clips(sources: Sequence[Path]) -> dict[str, Path]:
    """Every clip below the sources by the name of its segment.

    Raises InputError when a source is missing, holds no clip, or two clips would have one name.
    """
    named: dict[str, Path] = {}
    for source in sources:
        found = find_clips(source)
        if not found:
            raise InputError(f"{source}: holds no videos and no images; give the clips' folder.")
        for clip in found:
            name = _name(clip, source)
            if len(sources) > 1 and clip != source:
                name = "_".join(f"{source.resolve().name}-{name}".split())
            if name in named:
                raise InputError(
                    f"{clip}: its segment would be called {name!r} like that of {named[name]}; rename one."
                )
            named[name] = clip
    return named


def clip_size(clip: Path) -> int:
    """Bytes of a video, number of files of a folder."""
    return sum(1 for _ in clip.iterdir()) if clip.is_dir() else clip.stat().st_size


def _import(clips: dict[str, Path], out: Path, config: ImportConfig) -> dict[str, Any]:
    frames: list[FrameRef] = []
    for name, clip in clips.items():
        if not _known_camera(clip).is_file() and not config.field_of_view:
            raise InputError(
                f"{_known_camera(clip)}: missing; write the intrinsics of {name} there or give the camera's "
                "field of view with --config.field_of_view DEGREES."
            )
    strides = _strides(clips, config)
    for segment, clip in progress(clips.items(), desc="import", total=len(clips), unit="clip"):
        camera, stride = _known_camera(clip), strides[segment]
        for scene, images in groupby(_chosen(clip, stride, config), key=lambda item: item[0]):
            name = segment + (f"-{scene}" if scene else "")
            frames += _write_segment(out, f"clips/{name}", images, camera, config)
    if not frames:
        raise InputError(
            f"{next(iter(clips.values()))}: has no clip of three frames that differ, nor has any other "
            "source; give videos or folders of consecutive frames."
        )
    write_split(out / "splits" / "train_files.txt", frames)
    segments = {frame.segment for frame in frames}
    say(f"  {len(frames)} frames with neighbours in {len(segments)} segments of {len(clips)} clips")
    return {"clips": len(clips), "segments": len(segments), "frames": len(frames)}


def _strides(clips: dict[str, Path], config: ImportConfig) -> dict[str, int]:
    """Every how many frames of each clip are taken."""
    if config.every:
        return dict.fromkeys(clips, config.every)
    measured = [
        usual_motion(without_stills(read_clip(clip)), 0.1 * config.motion)
        for clip in progress(clips.values(), desc="motion", total=len(clips), unit="clip")
    ]
    strides = dict(zip(clips, choose_strides(measured, config.motion), strict=True))
    for stride, count in sorted(Counter(strides.values()).items()):
        say(f"  one frame in {stride} of {count} clips, by their motion")
    return strides


def _chosen(clip: Path, stride: int, config: ImportConfig) -> Iterator[tuple[int, Timed]]:
    """Every stride-th frame of each scene, with the scene's number."""
    frames = read_clip(clip)
    if not config.keep_stills:
        frames = without_stills(frames)
    for _, scene in groupby(scenes(frames), key=lambda item: item[0]):
        for position, item in enumerate(scene):
            if position % stride == 0:
                yield item


def _write_segment(
    out: Path,
    segment: str,
    images: Iterator[tuple[int, Timed]],
    camera: Path,
    config: ImportConfig,
) -> list[FrameRef]:
    """Write the frames of a segment; its frames with both neighbours. Too few for one leave nothing."""
    waiting: list[Timed] = []
    times: list[float | None] = []
    for _, (time, image) in images:
        waiting.append((time, _shrunk(image, config.max_width)))
        if len(times) + len(waiting) < 3:
            continue
        for known, kept in waiting:
            target = FrameRef(segment, len(times)).file(out, ".jpg")
            if not target.is_file():
                write_image(target, kept)
            times.append(known)
        waiting = []
    if not times:
        say(f"  {segment}: {len(waiting)} frames are too few for a triplet; left out")
        return []
    height, width = read_image(FrameRef(segment, 0).file(out, ".jpg")).shape[:2]
    if camera.is_file():
        found = Intrinsics.from_cam_json(camera, width, height)
    else:
        found = Intrinsics.from_field_of_view(config.field_of_view, width, height)
    found.to_cam_json(out / segment / "cam.json", assumed=not camera.is_file())
    if None not in times:
        write_json(out / segment / "times.json", times)
    return [FrameRef(segment, index) for index in range(1, len(times) - 1)]


def _shrunk(image: Any, max_width: int) -> Any:
    height, width = image.shape[:2]
    if not max_width or width <= max_width:
        return image
    return resize_image(image, round(height * max_width / width), max_width)


def _known_camera(clip: Path) -> Path:
    return clip / "cam.json" if clip.is_dir() else clip.with_name(clip.name + ".cam.json")


def _name(clip: Path, source: Path) -> str:
    """The segment's name: the way from the source, in one word, for split files have a frame a line."""
    way = clip.relative_to(source) if clip != source else Path(clip.name)
    if not clip.is_dir():
        way = way.with_suffix("")
    return "_".join(way.as_posix().replace("/", "-").split()).strip(".") or "clip"
