"""Foreign frames brought into the form of this library: folders of clips become segments and a split.

The training reads `<data>/<segment>/NNNNNN.jpg` with `cam.json` beside the frames. A folder of clips
with other file names is brought into that form by `import_folder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moduv.engine.errors import InputError
from moduv.engine.log import progress, say
from moduv.engine.stages import Stage
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import IMAGE_SUFFIXES, FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import write_split


@dataclass(frozen=True)
class ImportConfig:
    """How foreign frames are taken over."""

    field_of_view: float = 0.0
    """Horizontal field of view in degrees, for clips without `cam.json`; 0: such clips are refused."""
    every: int = 1
    """Take every n-th frame, so that neighbours differ enough to show motion."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every is {self.every}; take every 1st frame or fewer.")


def import_folder(source: Path, out: Path, config: ImportConfig) -> None:
    """Bring clips, each a folder of images in the order of their names, into the library's layout.

    Args:
        source: folder whose sub-folders hold the frames of one clip each; `cam.json` with
            `intrinsic_mat` (rows divided by width and height) beside the frames where it is known.
        out: receives `clips/<name>/NNNNNN.jpg`, `cam.json` and `splits/train_files.txt`.
        config: field of view and frame rate.

    Raises:
        InputError: when there is no clip of three frames, or a clip's intrinsics are unknown.
    """
    Stage("frames import", out, config).run(lambda: _import(source, out, config))


def _import(source: Path, out: Path, config: ImportConfig) -> dict[str, Any]:
    clips = find_clips(source)
    frames: list[FrameRef] = []
    for folder, paths in progress(clips.items(), desc="import", unit="clip"):
        chosen = paths[:: config.every]
        if len(chosen) < 3:
            say(f"  {folder}: {len(chosen)} frames are too few for a triplet; left out")
            continue
        segment = "clips/" + (
            folder.relative_to(source).as_posix().replace("/", "-") or folder.name
        )
        camera = _camera(folder, chosen[0], config)
        camera.to_cam_json(out / segment / "cam.json")
        for index, path in enumerate(chosen):
            target = FrameRef(segment, index).file(out, ".jpg")
            if not target.is_file():
                write_image(target, read_image(path))
        frames += [FrameRef(segment, index) for index in range(1, len(chosen) - 1)]
    if not frames:
        raise InputError(
            f"{source}: has no clip of three frames; give folders of consecutive frames."
        )
    write_split(out / "splits" / "train_files.txt", frames)
    say(f"  {len(frames)} frames with neighbours in {len(clips)} clips")
    return {"clips": len(clips), "frames": len(frames)}


def find_clips(source: Path) -> dict[Path, list[Path]]:
    """Folders below `source` that hold images, with their images in order of name."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; give the folder of the clips.")
    clips: dict[Path, list[Path]] = {}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            clips.setdefault(path.parent, []).append(path)
    return clips


def _camera(folder: Path, first: Path, config: ImportConfig) -> Intrinsics:
    height, width = read_image(first).shape[:2]
    known = folder / "cam.json"
    if known.is_file():
        return Intrinsics.from_cam_json(known, width, height)
    if not config.field_of_view:
        raise InputError(
            f"{known}: missing; write the intrinsics there or give the camera's field of view with "
            "--config.field_of_view DEGREES."
        )
    return Intrinsics.from_field_of_view(config.field_of_view, width, height)
