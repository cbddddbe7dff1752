"""Follow objects that are drawn in one frame of a video to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from moduv.commands.detections import Detections
from moduv.correspondence.predict import USUAL_SIDE, Follower, PropagatedConfig, check_size
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.engine.hardware import choose_device
from moduv.engine.log import progress, say
from moduv.frames.decoding import USUAL_RATE, Timed
from moduv.frames.listing import is_video
from moduv.frames.video import count_frames, read_clip
from moduv.frames.video_writer import frame_rate, write_video
from moduv.instances.indexed import INDEXED, VOID, palette, read_png, write_indices
from moduv.instances.instances import Instances
from moduv.visual.drawing import draw_instances

TRACKS = "tracks.json"
MOST_COLOURS = 64
"""Largest number of colours or grey levels in a drawn mask; more of them come from smooth edges."""
JPEG = (".jpg", ".jpeg")


def follow(
    video: Path,
    mask: Path,
    weights: Path,
    out: Path = Path("out"),
    frame: int = 0,
    feature: str = "",
    device: str = "auto",
) -> None:
    """Follow objects, drawn once, to the end of a video.

    Frames whose shorter side has more than 480 pixels are shrunk for the network; masks have the video's size.

    Args:
        video: a video file, or a folder of frames in order of name.
        mask: a PNG of the size of the frames: an index (palette or grey values) or a flat colour for each
            object; 0, black and what is transparent are background.
        weights: a correspondence network, official or ours, or the folder of a training.
        out: receives `<video>.mp4`, indexed masks `<video>/NNNNN.png` and `tracks.json`, COCO with a
            `track_id` for each object.
        frame: the one that the mask is of, from 0; frames before it show nothing.
        feature: res3, res4 or key; by default the one that did best when the network was trained.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: when a file is missing or does not fit.
    """
    if not (video.is_dir() or (video.is_file() and is_video(video))):
        raise InputError(f"{video}: no such video or folder of frames; check the path.")
    name = video.resolve().name if video.is_dir() else video.stem
    film, folder = out / f"{name}.mp4", out / name
    _check_kept(video, mask, film, folder)
    drawn = read_mask(mask)
    if frame < 0:
        raise InputError(f"frame is {frame}; frames count from 0.")
    config, place = PropagatedConfig(feature), choose_device(device)
    follower = Follower.load(weights, config, place, USUAL_SIDE)
    followed = _Followed(follower, video, mask, drawn, frame, folder)
    total = count_frames(video)
    if video.is_dir() and frame >= total:
        raise InputError(_beyond(video, total, frame))
    frames = progress(followed.frames(), desc=video.name, total=total, unit="frame")
    rate = USUAL_RATE if video.is_dir() else frame_rate(video)
    count = write_video(film, frames, rate)
    tracks = Detections()
    tracks.add_video(video, followed.found)
    write_json(out / TRACKS, tracks.content())
    others = len(list(folder.glob("[!.]*.png"))) - count
    if others:
        say(f"{folder}: {others} more masks lie there, of other frames than these; move them away")
    say(f"{video}: {count} frames, {len(np.unique(drawn)) - 1} objects: {out}")


def _beyond(video: Path, total: int, frame: int) -> str:
    return f"{video}: has {total} frames, and the mask is of frame {frame}; frames count from 0."


def _check_kept(video: Path, mask: Path, film: Path, folder: Path) -> None:
    """Raise InputError where an output would replace an input."""
    made = {film.resolve(), folder.resolve()}
    if video.resolve() in made:
        raise InputError(f"{video}: would be written over; choose another folder for --out.")
    if mask.resolve().parent == folder.resolve():
        raise InputError(
            f"{mask}: lies among the masks of an earlier run, which are written anew; copy it to another folder, or "
            "choose another one for --out."
        )


def read_mask(path: Path) -> np.ndarray:
    """Object indices (H, W) uint8 of a drawn mask, by the indices or the colours of its pixels.

    If all colours are in DAVIS's palette, they have its indices; otherwise they are numbered in raster order.

    Raises InputError when the file is missing or broken, and for a mask without objects or with too many.
    """
    if path.suffix.lower() in JPEG:
        raise InputError(f"{path}: is a JPEG, whose colours are not exact; save the mask as a PNG.")
    kind, values = read_png(path)
    if kind == "P" and _has_other_background(path, values):
        say(
            f"{path}: its index 0 is no black; objects are told by their colours, and black is background"
        )
        kind, values = "RGBA", _colours(path)
    indices = _by_index(path, kind, values) if kind in INDEXED else _by_colour(path, kind, values)
    if not indices.any():
        raise InputError(f"{path}: has no object; draw one in a colour that is not black.")
    return indices


def _has_other_background(path: Path, indices: np.ndarray) -> bool:
    """Whether there are black or transparent pixels, but none of index 0, as after a program has sorted the palette."""
    colours = _colours(path)
    background = (colours[..., 3] == 0) | ~colours[..., :3].any(-1)
    return bool(background.any() and indices[background].all())


def _colours(path: Path) -> np.ndarray:
    """The colours (H, W, 4) uint8 RGBA of a picture with a palette."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGBA"))


def _by_index(path: Path, kind: str, values: np.ndarray) -> np.ndarray:
    present = set(np.unique(values).tolist())
    if present <= {0, VOID}:  # black and white
        return (values != 0).astype(np.uint8)
    if kind == "L":
        _check_flat(path, len(present - {0, VOID}), "grey values")
    if VOID in present:
        say(f"{path}: pixels of 255, white, are void beside other values, and not followed")
    return np.where(values == VOID, 0, values).astype(np.uint8)


def _by_colour(path: Path, kind: str, values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8 or kind not in ("RGB", "RGBA", "LA"):
        raise InputError(
            f"{path}: is a picture of kind {kind}; save the mask as a PNG of 8 bits, with a palette, grey values "
            "or flat colours."
        )
    if kind != "RGB":  # what is transparent is background
        values = np.where(values[..., -1:] > 0, values[..., :-1], 0)
    colours = np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.int64)
    codes = colours @ np.array([1 << 16, 1 << 8, 1])
    known, first, place = np.unique(codes, return_index=True, return_inverse=True)
    _check_flat(path, int(np.count_nonzero(known)), "colours")
    names = {code: index for index, code in enumerate(palette() @ np.array([1 << 16, 1 << 8, 1]))}
    if all(names.get(code, VOID) < VOID for code in known.tolist()):
        numbers = [names[code] for code in known.tolist()]
    else:
        met = [code for code in known[np.argsort(first)].tolist() if code]
        numbers = [met.index(code) + 1 if code else 0 for code in known.tolist()]
    return np.array(numbers, np.uint8)[place.reshape(codes.shape)]


def _check_flat(path: Path, count: int, what: str) -> None:
    """Raise InputError for more values than anyone draws by hand."""
    if count > MOST_COLOURS:
        raise InputError(
            f"{path}: has {count} {what}, and each is taken for an object; draw without smooth edges, or save "
            "indices with a palette."
        )


@dataclass
class _Followed:
    """Follows objects through a video; writes their masks and keeps them as instances."""

    follower: Follower
    video: Path
    mask: Path
    drawn: np.ndarray
    frame: int
    folder: Path
    found: list[tuple[float | None, Instances]] = field(default_factory=list)

    def frames(self) -> Iterator[Timed]:
        """The frames with the objects drawn over them."""
        for number, (at, image, indices, sure) in enumerate(self._indices()):
            write_indices(self.folder / f"{number:05d}.png", indices)
            objects = instances_of(indices, sure)
            self.found.append((at, objects))
            colors = [tuple(palette()[i].tolist()) for i in objects.columns["track"]]
            yield at, draw_instances(image, objects, boxes=False, colors=colors)

    def _indices(self) -> Iterator[tuple[float | None, np.ndarray, np.ndarray, np.ndarray]]:
        """Time, image, indices and confidence of every frame."""
        clip, before = read_clip(self.video), 0
        for at, image in islice(clip, self.frame):
            before += 1
            yield at, image, *np.zeros((2, *image.shape[:2]), np.uint8)
        times = list[float | None]()

        def images() -> Iterator[np.ndarray]:
            for at, image in clip:
                if not times:
                    check_size(self.drawn, image.shape[:2], self.mask)
                times.append(at)
                yield image

        masks = {0: self.drawn}
        for image, indices, sure in self.follower.follow(images(), masks, self.drawn.shape):
            yield times[-1], image, indices, sure
        if not times:
            raise InputError(_beyond(self.video, before, self.frame))


def instances_of(indices: np.ndarray, confidence: np.ndarray) -> Instances:
    """The objects of a frame's indices (H, W), with their mean confidence as score and index as `track`."""
    present = [index for index in np.unique(indices).tolist() if index]
    masks = (
        np.stack([indices == index for index in present])
        if present
        else np.zeros((0, *indices.shape))
    )
    scores = np.array([confidence[mask].mean() for mask in masks], np.float32)
    return Instances.from_dense(
        masks, scores=np.clip(scores, 0, 1), columns={"track": np.array(present, np.int64)}
    )
