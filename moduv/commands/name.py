"""Names for stored detections: the JSON of the demo, COCO results, COCO data sets and label sets."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moduv.commands.detect import DETECTIONS, image_file
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.log import progress, say
from moduv.engine.parallel import bounded_map
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import read_split
from moduv.frames.video import read_clip
from moduv.instances import rle
from moduv.instances.coco import Image, read_data_set, read_ground_truth, read_results
from moduv.instances.store import labelled, read_labels
from moduv.naming.describe import UNKNOWN, Frames, Naming, NamingConfig, Seen, name_objects
from moduv.naming.encoders import Encoder, load_encoder
from moduv.naming.names import TrackName
from moduv.naming.training.encoder import EncoderTrainingConfig, train_encoder
from moduv.naming.vocabulary import Vocabulary

KEYS = ("name", "name_score", "name_margin", "name_group")
"""What is added to an object."""
GROUPS = "groups.json"
NAMES = "names.json"
"""Header of a naming whose file is a bare list."""


def name_detections(
    detections: Path,
    images: Path,
    vocabulary: str,
    encoder: str,
    config: NamingConfig,
    out: Path = Path("named"),
    truth: Path | None = None,
    split: Path | None = None,
    device: str = "auto",
) -> None:
    """Name detected objects, with one name per track; their boxes, masks and scores stay as they are.

    Args:
        detections: detections.json of the demo or of `moduv detect`, a COCO file, or a label root.
        images: folder below which the images and videos lie; for a label root, its data folder.
        vocabulary: YAML file of names, or street, street_paints, road.
        encoder: open_clip:ARCHITECTURE:WEIGHTS_FILE, or open_clip:FOLDER.
        config: score, views and threshold.
        out: receives the named file or label root under its own name, and the groups of unknown objects:
            groups.json and a picture each.
        truth: COCO file with the images of detections that are a bare list.
        split: frames of a label root.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: for weights of another architecture, an empty vocabulary, missing images.
    """
    if (out / detections.name).resolve() == detections.resolve():
        raise InputError(f"{detections}: its named form would replace it; choose another --out.")
    words = Vocabulary.load(vocabulary)
    check_groups_kept(words, out)
    namer = Namer(words, load_encoder(encoder, device), config)
    is_set = detections.is_dir()
    found = LabelSet(detections, images, split) if is_set else CocoFile(detections, images, truth)
    namer.name(found, out / detections.name)


def check_groups_kept(words: Vocabulary, out: Path) -> None:
    """Raise InputError where a name is for a group in a file that naming into `out` would replace."""
    own = (out / GROUPS).resolve()
    used = (entry for entry in words.names if entry.like)
    lost = next((e for e in used if Path(e.like.rpartition("#")[0]).resolve() == own), None)
    if lost is not None:
        raise InputError(
            f"{lost.name!r} is for {lost.like}, and this naming would write other groups there; choose another --out."
        )


@dataclass
class Namer:
    """Names detections by a vocabulary and an encoder."""

    vocabulary: Vocabulary
    encoder: Encoder
    config: NamingConfig

    def name(self, found: CocoFile | LabelSet, target: Path) -> None:
        """Write the named form of a file or label set, and beside it the groups of unknown objects."""
        seen = found.seen(self.config.score)
        naming = name_objects(seen, self._frames(found), self.vocabulary, self.encoder, self.config)
        found.write(target, naming)
        write_groups(target.parent, naming)
        summarise(seen, naming, target)

    def _frames(self, found: CocoFile | LabelSet) -> Frames:
        return lambda keys: found.frames(keys, self.config.workers)


def train_names(annotations: Path, images: Path, out: Path, config: EncoderTrainingConfig) -> None:
    """Train a small image-text encoder on objects with names, for `moduv name --encoder open_clip:OUT`.

    It knows the words of these objects and no others; use CLIP weights for an open vocabulary.

    Args:
        annotations: COCO JSON whose objects have masks and a `name`, such as the street world's.
        images: folder that image names start from.
        out: receives the model.
        config: captions and training.

    Raises:
        InputError: when no object has a name, or images are missing.
    """
    train_encoder(annotations, lambda name: image_file(images, name), out, config)


@dataclass
class CocoFile:
    """A COCO data set, the demo's JSON, or a bare list of results."""

    path: Path
    images: Path
    truth: Path | None = None
    content: Any = field(init=False)

    def __post_init__(self) -> None:
        self.content = read_json(self.path)
        listed = isinstance(self.content, list)
        if listed and self.truth is None:
            raise InputError(
                f"{self.path}: is a bare list of results; say which image a number is with --truth."
            )
        known = read_ground_truth(self.truth) if listed and self.truth else None
        self.data = (
            read_results(self.path, known) if known else read_data_set(self.path, "detections")
        )

    @property
    def entries(self) -> list[dict[str, Any]]:
        return self.content if isinstance(self.content, list) else self.content["annotations"]

    def seen(self, score: float) -> list[Seen]:
        """The objects above a score; those without mask are their boxes."""
        seen = []
        for position, entry in enumerate(self.data.annotations):
            if "score" in entry and entry["score"] <= score:
                continue
            image = self.data.images[entry["image_id"]]
            mask = entry.get("segmentation")
            if mask is None and image.size and "bbox" in entry:
                mask = rle.from_box(entry["bbox"], image.size)
            if mask is None:
                raise InputError(
                    f"{self.path}: annotation {position} has no mask, and its image no size; "
                    "give its 'segmentation'."
                )
            box = rle.corners([entry.get("bbox") or rle.box(mask)])[0].tolist()
            frame, track = self._place(image), self._track(entry, image, position)
            seen.append(Seen(image.id, frame, track, mask, tuple(box)))
        return seen

    def _place(self, image: Image) -> int:
        """The index of an image in its video. Raises InputError when it is not a whole number."""
        index = image.entry.get("frame_index", 0)
        if type(index) is not int and not (isinstance(index, float) and index.is_integer()):
            raise InputError(
                f"{self.path}: 'frame_index' of image {image.id!r} is {index!r:.60}; give a whole number."
            )
        return int(index)

    def _track(self, entry: dict[str, Any], image: Image, position: int) -> Hashable:
        """The key of an object's track: its identity in its video, or the object itself where it has none."""
        track, video = entry.get("track_id"), image.entry.get("video_id")
        if not (
            isinstance(track, int | float | str | None) and isinstance(video, int | str | None)
        ):
            raise InputError(
                f"{self.path}: annotation {position} has the track_id {track!r:.60} and its image the video_id "
                f"{video!r:.60}; give numbers."
            )
        return (position,) if track is None else (video, track)

    def frames(self, keys: list[Hashable], workers: int) -> Iterator[tuple[Hashable, np.ndarray]]:
        """Decode images and the frames of videos, each once."""
        wanted = [self.data.images[key] for key in keys]
        videos: dict[str, dict[int, Image]] = defaultdict(dict)
        stills = []
        for image in wanted:
            name, mark, number = image.name.rpartition("#")
            if mark and number.isdecimal():
                videos[name][int(number)] = image
            else:
                stills.append((image.id, find_file(self.images, image.name)))
        yield from read_stills(stills, workers)
        for name, numbers in videos.items():
            for at, pixels in read_numbers(find_clip(self.images, name), set(numbers)):
                yield numbers[at].id, pixels

    def write(self, path: Path, naming: Naming) -> None:
        """The file with names; what else it says stays."""
        named = []
        for position, (entry, checked) in enumerate(
            zip(self.entries, self.data.annotations, strict=True)
        ):
            image = self.data.images[checked["image_id"]]
            track = self._track(checked, image, position)
            # What an earlier naming has said is gone.
            plain = {key: value for key, value in entry.items() if key not in KEYS}
            named.append(plain | as_keys(naming.names.get(track)))
        if isinstance(self.content, list):
            write_json(path, named)
            write_json(path.parent / NAMES, {"naming": naming.header}, indent=1)
        else:
            write_json(path, {**self.content, "annotations": named, "naming": naming.header})


@dataclass
class LabelSet:
    """A label root: one JSON a frame."""

    root: Path
    data: Path
    split: Path | None
    refs: list[FrameRef] = field(init=False)

    def __post_init__(self) -> None:
        if self.split is None:
            inside = self.root / DETECTIONS
            remedy = f"give {inside}" if inside.is_file() else "say which frames with --split"
            raise InputError(f"{self.root}: is a folder; {remedy}.")
        self.refs = labelled(self.root, read_split(self.split))

    def seen(self, score: float) -> list[Seen]:
        """The labels above a score, or without one."""
        seen = []
        for ref in self.refs:
            found = read_labels(self.root, ref)
            tracks = found.columns.get("track", np.full(len(found), -1)).tolist()
            for n, (mask, box) in enumerate(zip(found.masks, found.boxes.tolist(), strict=True)):
                if found.scores is None or found.scores[n] > score:
                    track = self._track(ref, tracks, n)
                    seen.append(Seen(ref, ref.index, track, mask, tuple(box)))
        return seen

    def _track(self, ref: FrameRef, tracks: Sequence[int], position: int) -> Hashable:
        followed = tracks[position] >= 0
        return (ref.segment, tracks[position]) if followed else (ref, "alone", position)

    def frames(self, keys: list[Hashable], workers: int) -> Iterator[tuple[Hashable, np.ndarray]]:
        """Decode frames, each once."""
        refs = [ref for ref in keys if isinstance(ref, FrameRef)]
        yield from read_stills([(ref, ref.image_path(self.data)) for ref in refs], workers)

    def write(self, path: Path, naming: Naming) -> None:
        """A label root with the columns `name`, `name_score`, `name_margin`, `name_group`."""
        for ref in self.refs:
            source = ref.file(self.root, ".json")
            content, found = read_json(source), read_labels(self.root, ref)
            tracks = found.columns.get("track", np.full(len(found), -1)).tolist()
            keys = [naming.names.get(self._track(ref, tracks, n)) for n in range(len(found))]
            # A column has a value for every object.
            columns: dict[str, Any] = {
                "name": [(one.name if one else None) or UNKNOWN for one in keys],
                "name_score": [round(one.score, 6) if one else 0.0 for one in keys],
                "name_margin": [round(one.margin, 6) if one else 0.0 for one in keys],
                "name_group": [(one.group if one else None) or "" for one in keys],
            }
            write_json(ref.file(path, ".json"), {**content, **columns, "naming": naming.header})


def as_keys(one: TrackName | None) -> dict[str, Any]:
    """What is added to an annotation; nothing for objects that were not looked at."""
    if one is None:
        return {}
    keys = {"name": one.name} if one.name else {}
    scores = {"name_score": round(one.score, 6), "name_margin": round(one.margin, 6)}
    return {**keys, **scores, **({"name_group": one.group} if one.group else {})}


def find_file(root: Path, name: str) -> Path:
    """An image or video by the name in a file: below `root`, or, as the demo has it, from here.

    Raises InputError when there is neither.
    """
    with contextlib.suppress(InputError):
        return image_file(root, name)
    if not Path(name).is_file():
        raise InputError(
            f"{root / name}: no such image; give the folder that image names start from by --images."
        )
    return Path(name)


def find_clip(root: Path, name: str) -> Path:
    """The same for a video, which may be a folder of frames, as `moduv follow` takes it."""
    places = (root / name, Path(name))
    return next((place for place in places if place.is_dir()), None) or find_file(root, name)


def read_stills(
    files: Iterable[tuple[Hashable, Path]], workers: int
) -> Iterator[tuple[Hashable, np.ndarray]]:
    """Images (H, W, 3) uint8 with their keys, decoded ahead by threads."""
    listed = list(files)
    pixels = bounded_map(lambda item: read_image(item[1]), listed, workers)
    bar = progress(pixels, desc="name", total=len(listed), unit="image")
    for (key, _), image in zip(listed, bar, strict=True):
        yield key, image


def read_numbers(path: Path, numbers: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Some frames of a video by their numbers. Raises InputError when it has fewer."""
    left = set(numbers)
    for number, (_, image) in enumerate(read_clip(path)):
        if number in left:
            left.remove(number)
            yield number, image
        if not left:
            return
    raise InputError(
        f"{path}: has no frame {min(left)}; give the video that the detections were made for."
    )


def write_groups(out: Path, naming: Naming) -> None:
    """Write the groups of unknown objects, with a strip of pictures of each, in the place of earlier ones."""
    for old in (out / "groups").glob("group_*.png"):
        if old.stem not in naming.pictures:
            old.unlink()
    for group, crops in naming.pictures.items():
        write_image(out / "groups" / f"{group}.png", np.concatenate(crops, 1))
    content = {"encoder": naming.header["encoder"], "groups": naming.groups}
    write_json(out / GROUPS, content)


def summarise(seen: Sequence[Seen], naming: Naming, path: Path) -> None:
    """Log how many tracks have each name."""
    counts: dict[str, int] = defaultdict(int)
    for one in naming.names.values():
        counts[one.name or (UNKNOWN if one.group in naming.groups else "taken for stuff")] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count} {name}" for name, count in ranked) or "none"
    say(
        f"{path}: {len(seen)} objects, {len(naming.names)} tracks above {naming.threshold:.3f}: {listed}; "
        f"{len(naming.groups)} groups of unknown ones"
    )
