"""ImageNet-VID (Russakovsky et al. 2015): videos as segments of small frames, boxes of 30 kinds as ground truth.

Frames are resized as Fan et al. (ICCV 2023) do: the shorter side 224 pixels, the other the nearest multiple of 16.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from moduv.datasets.prepare import prepare, required
from moduv.datasets.truth import Selection, TrueImage, TrueObject, TruthConfig, write_truth
from moduv.engine.config import speed_only
from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.frames.images import fitted_size, read_image, resize_image, write_image
from moduv.frames.listing import clip_images, is_video
from moduv.frames.splits import read_split, write_split
from moduv.frames.video import read_clip

FRAMES, SNIPPETS, BOXES = "Data/VID", "Data/VID/snippets", "Annotations/VID"
PARTS = ("train", "val", "test")
MULTIPLE = 16
"""Sides of prepared frames are multiples of this, the side of a patch of the networks."""
LONGEST_SIDE = 1 << 16
"""Larger sides of an image, in pixels, are errors of its annotation."""
DOWNLOAD = (
    "download ILSVRC2015_VID.tar.gz from image-net.org (registration, non-commercial) and unpack it, so that "
    "there are Data/VID and Annotations/VID."
)
NAMES = {
    "n02691156": "airplane",
    "n02419796": "antelope",
    "n02131653": "bear",
    "n02834778": "bicycle",
    "n01503061": "bird",
    "n02924116": "bus",
    "n02958343": "car",
    "n02402425": "cattle",
    "n02084071": "dog",
    "n02121808": "domestic_cat",
    "n02503517": "elephant",
    "n02118333": "fox",
    "n02510455": "giant_panda",
    "n02342885": "hamster",
    "n02374451": "horse",
    "n02129165": "lion",
    "n01674464": "lizard",
    "n02484322": "monkey",
    "n03790512": "motorcycle",
    "n02324045": "rabbit",
    "n02509815": "red_panda",
    "n02411705": "sheep",
    "n01726692": "snake",
    "n02355227": "squirrel",
    "n02129604": "tiger",
    "n04468005": "train",
    "n01662784": "turtle",
    "n04530566": "watercraft",
    "n02062744": "whale",
    "n02391049": "zebra",
}
"""Kinds by their WordNet ids."""


@dataclass(frozen=True)
class VidConfig:
    """How the videos are prepared."""

    size: int = 224
    """Shorter side of the frames, pixels."""
    workers: int = speed_only(4)

    def __post_init__(self) -> None:
        _check_size(self.size)
        if self.workers < 1:
            raise InputError(f"prepare: {self.workers} workers; use at least one.")


@dataclass(frozen=True)
class VidTruth(TruthConfig):
    """Which annotated objects count, and at which size."""

    size: int = 224
    """Shorter side of the prepared frames, which boxes are scaled to; 0: as annotated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size:
            _check_size(self.size)


def _check_size(size: int) -> None:
    if size < MULTIPLE or size % MULTIPLE:
        raise InputError(f"size is {size}; use a multiple of {MULTIPLE}.")


def prepare_imagenet_vid(source: Path, out: Path, config: VidConfig) -> None:
    """Prepare ImageNet-VID's videos.

    Args:
        source: folder that holds `Data/VID`. A video is a folder of frames, or a file of `snippets`, which is
            decoded where there is no such folder; every part that is there is prepared.
        out: receives `<part>/…/<video>/NNNNNN.jpg`, numbered as annotated, and `splits/<part>_files.txt`, all frames
            of a part.
        config: size of the frames.

    Raises:
        InputError: saying what to download when there is no video, and naming one that does not decode.
    """
    required(source / FRAMES, DOWNLOAD)
    left_out = Counter[str]()
    videos = _videos(source, left_out)
    if not videos:
        raise InputError(
            f"{source}: has neither frames {FRAMES}/*/*.JPEG nor {SNIPPETS}; {DOWNLOAD}"
        )
    jobs = [(path, out / segment, config) for segment, path in videos.items()]
    name, segments = "prepare imagenet-vid", list(videos)
    prepare(name, out, config, jobs, segments, _prepare_video, left_out, neighbours=False)
    frames = read_split(out / "splits/all_files.txt")
    for part in PARTS:
        own = [frame for frame in frames if frame.segment.startswith(f"{part}/")]
        if own:
            write_split(out / f"splits/{part}_files.txt", own)


def _videos(source: Path, left_out: Counter[str]) -> dict[str, Path]:
    """Folders of frames, and files where there is none, by their segments.

    Raises InputError when two files would be one segment.
    """
    found: dict[str, Path] = {}
    for part in PARTS:
        for path in filter(is_video, sorted((source / SNIPPETS / part).rglob("*"))):
            segment = path.relative_to(source / SNIPPETS).with_suffix("").as_posix()
            if segment in found:
                raise InputError(
                    f"{path}: its segment would be called {segment!r} like that of {found[segment]}; "
                    "move one away."
                )
            found[segment] = path
        for folder in _leaves(source / FRAMES / part, left_out):
            found[folder.relative_to(source / FRAMES).as_posix()] = folder
    known = {*PARTS, Path(SNIPPETS).name}
    others = [path for path in (source / FRAMES).iterdir() if path.name not in known]
    left_out[f"folders beside {', '.join(PARTS)}"] += sum(path.is_dir() for path in others)
    return dict(sorted(found.items()))


def _leaves(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Folders that hold no others, in order; images beside folders are counted."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for path in inner:
        yield from _leaves(path, left_out)
    images = len(clip_images(folder)) if folder.is_dir() else 0
    if inner:
        left_out["images beside folders of frames"] += images
    elif images:
        yield folder


def _prepare_video(job: tuple[Path, Path, VidConfig]) -> list[int]:
    path, segment, config = job
    numbers = []
    for number, image in _frames(path):
        target = segment / f"{number:06d}.jpg"
        if not target.is_file():
            height, width = image.shape[:2]
            size = fitted_size(height, width, config.size, MULTIPLE)
            write_image(target, resize_image(image, *size))
        numbers.append(number)
    return numbers


def _frames(path: Path) -> Iterable[tuple[int, np.ndarray]]:
    if path.is_file():
        yield from ((number, image) for number, (_, image) in enumerate(read_clip(path)))
        return
    seen: dict[int, Path] = {}
    for file in clip_images(path):
        if not re.fullmatch("[0-9]{1,18}", file.stem):
            raise InputError(f"{file}: is named by no number; give the frames as downloaded.")
        first = seen.setdefault(int(file.stem), file)
        if first != file:
            raise InputError(
                f"{file}: is frame {int(file.stem)} like {first.name}; move one of them away."
            )
        yield int(file.stem), read_image(file)


def convert_imagenet_vid(
    source: Path, out: Path, config: VidTruth, split: Path | None = None, part: str = "val"
) -> None:
    """Write the boxes of ImageNet-VID's 30 kinds as ground truth, each with the `name` of its kind.

    A box reaches from its left to its right coordinate, without a pixel more.

    Args:
        source: folder that holds `Annotations/VID`.
        out: the file to write.
        config: size of the frames and the smallest object.
        split: frames to take; None: all.
        part: train or val.

    Raises:
        InputError: saying what to download when annotations are missing, and naming a broken one.
    """
    root = source / BOXES
    files = sorted(required(root / part, DOWNLOAD).rglob("*.xml"))
    selection = Selection(split)
    images = _images(root, files, selection, config.size)
    write_truth(out, images, config, selection, f"ImageNet-VID {part}")


def _images(root: Path, files: list[Path], selection: Selection, size: int) -> Iterator[TrueImage]:
    for path in progress(files, desc="ImageNet-VID", unit="frame"):
        name = path.relative_to(root).with_suffix(".jpg").as_posix()
        if name in selection:
            yield _read_boxes(path, name, size)


def _read_boxes(path: Path, name: str, size: int) -> TrueImage:
    """The objects of a frame, clipped to it and scaled to the shorter side `size`."""
    try:
        root = ElementTree.parse(path).getroot()
        width, height = _number(root, "size/width"), _number(root, "size/height")
        if not (0 < width < LONGEST_SIDE and 0 < height < LONGEST_SIDE):
            raise ValueError("no size of an image")
        shown = (height, width) if not size else fitted_size(height, width, size, MULTIPLE)
        scale = np.array([shown[1] / width, shown[0] / height] * 2)
        objects = []
        for entry in root.iterfind("object"):
            sides = [_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            if sides[0] > sides[2] or sides[1] > sides[3]:
                raise ValueError("a box whose corners are swapped")
            left, top, right, bottom = (np.clip(sides, 0, [width, height] * 2) * scale).tolist()
            box = (left, top, right - left, bottom - top)
            kind = NAMES[entry.findtext("name", "")]
            objects.append(TrueObject(box, kind, ignore=min(box[2:]) <= 0))
    except (ElementTree.ParseError, LookupError, ValueError, OverflowError):
        raise InputError(
            f"{path}: is no annotation of ImageNet-VID's 30 kinds; {DOWNLOAD}"
        ) from None
    return TrueImage(name, shown, tuple(objects))


def _number(entry: ElementTree.Element, place: str) -> int:
    return int(entry.findtext(place, ""))
