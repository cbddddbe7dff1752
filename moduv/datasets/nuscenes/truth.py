"""nuImages, nuScenes' set of annotated single images: boxes, masks and what moves.

Taken are people, vehicles and animals of the front camera, the frames that the paper's demo shows.
Bicycle racks, whose bicycles are not annotated one by one, are not judged. Movable things (barriers,
cones, debris, what is pushed or pulled) do not move by themselves and are not taken.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moduv.datasets.nuscenes.tables import (
    ANY,
    FLAG,
    PLACE,
    TOKEN,
    WHOLE,
    Row,
    Schema,
    numbers,
    read_table,
)
from moduv.datasets.truth import (
    Selection,
    Size,
    TrueImage,
    TrueObject,
    TruthConfig,
    check_names,
    is_of_family,
    write_truth,
)
from moduv.engine.errors import InputError
from moduv.engine.log import progress
from moduv.instances import rle
from moduv.instances.rle import Rle

TABLES: Mapping[str, Schema] = {
    "sample_data": {
        **{"token": TOKEN, "filename": PLACE, "is_key_frame": FLAG},
        **{"height": WHOLE, "width": WHOLE},
    },
    "category": {"token": TOKEN, "name": TOKEN},
    "attribute": {"token": TOKEN, "name": TOKEN},
    "object_ann": {"sample_data_token": TOKEN, "category_token": ANY, "attribute_tokens": ANY}
    | {"bbox": ANY, "mask": ANY},
}
"""The tables that are read, and what their rows must have."""
STATES = {
    "vehicle.moving": True,
    "vehicle.stopped": False,
    "vehicle.parked": False,
    "pedestrian.moving": True,
    "pedestrian.standing": False,
    "pedestrian.sitting_lying_down": False,
}
"""Attributes that tell whether an object moves; bicycles have none."""
BOX = numbers(4)
DOWNLOAD = (
    "download the metadata and samples of nuImages from nuscenes.org/nuimages (account, terms "
    "CC BY-NC-SA 4.0) and unpack them there."
)


@dataclass(frozen=True)
class NuImagesTruth(TruthConfig):
    """Which of nuImages' objects count."""

    categories: tuple[str, ...] = ("human", "vehicle", "animal")
    """Categories, or first parts of their names, of objects that can move."""
    ignored: tuple[str, ...] = ("static_object.bicycle_rack",)
    """Those of regions in which detections are not judged."""
    cameras: tuple[str, ...] = ("CAM_FRONT",)
    """Cameras whose images are taken; empty: all."""


def convert_nuimages(
    source: Path,
    out: Path,
    config: NuImagesTruth,
    version: str = "v1.0-val",
    split: Path | None = None,
) -> None:
    """Write nuImages' boxes and masks as class-agnostic ground truth.

    Args:
        source: folder with `samples/` and the version's tables.
        out: the file to write; images are named as in the tables, `samples/CAM_FRONT/….jpg`.
        config: categories, cameras and the smallest object.
        version: folder of the tables.
        split: file of the images to take, one name a line; None: all annotated ones.

    Raises:
        InputError: when tables are missing, do not belong together or lack a category, or a mask is
            damaged.
    """
    folder = source / version
    tables = {name: _table(folder, name, schema) for name, schema in TABLES.items()}
    selection = Selection(split)
    images = _images(folder, tables, config, selection)
    write_truth(out, images, config, selection, f"nuImages {version}")


def _table(folder: Path, name: str, schema: Schema) -> list[Row]:
    path = folder / f"{name}.json"
    if not path.is_file():
        other = (folder / "sample_annotation.json").is_file()
        what = "these are the tables of nuScenes, which has boxes in space only; " if other else ""
        raise InputError(f"{path}: missing; {what}{DOWNLOAD}")
    return read_table(path, schema, DOWNLOAD)


def _images(
    folder: Path, tables: dict[str, list[Row]], config: NuImagesTruth, selection: Selection
) -> Iterator[TrueImage]:
    names = {row["token"]: row["name"] for row in tables["category"]}
    wanted_names = (*config.categories, *config.ignored)
    check_names(wanted_names, names.values(), str(folder / "category.json"))
    states = {row["token"]: STATES.get(row["name"]) for row in tables["attribute"]}
    of_image: dict[str, list[Row]] = defaultdict(list)
    for row in tables["object_ann"]:
        of_image[row["sample_data_token"]].append(row)
    wanted = [row for row in tables["sample_data"] if _is_wanted(row, config, selection)]
    wanted.sort(key=lambda row: row["filename"])
    for row in progress(wanted, desc="nuImages", unit="image"):
        size = (row["height"], row["width"])
        entries = of_image[row["token"]]
        try:
            found = [_object(e, names[e["category_token"]], size, states, config) for e in entries]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{folder / 'object_ann.json'}: an object of {row['filename']} is damaged or refers to "
                f"nothing ({error}); {DOWNLOAD}"
            ) from None
        yield TrueImage(row["filename"], size, tuple(item for item in found if item is not None))


def _is_wanted(row: Row, config: NuImagesTruth, selection: Selection) -> bool:
    """Annotated images are the key frames of the cameras; sweeps and lidar scans have no objects."""
    path = PurePosixPath(row["filename"])
    camera = path.parent.name
    chosen = camera in config.cameras if config.cameras else camera.startswith("CAM_")
    return bool(row["is_key_frame"]) and chosen and row["filename"] in selection


def _object(
    entry: Row, name: str, size: Size, states: dict[str, bool | None], config: NuImagesTruth
) -> TrueObject | None:
    mobile, ignored = (is_of_family(name, *f) for f in (config.categories, config.ignored))
    if not mobile and not ignored:
        return None
    if not BOX.holds(entry["bbox"]):
        raise ValueError(f"its 'bbox' is no {BOX.words}")
    left, top, right, bottom = map(float, entry["bbox"])
    if left > right or top > bottom:
        raise ValueError(f"its 'bbox' {entry['bbox']} is not left, top, right, bottom")
    told = [states[token] for token in entry["attribute_tokens"]]
    moving = next((state for state in told if state is not None), None)
    mask = None if entry["mask"] is None else _decoded(entry["mask"], size)
    box = (left, top, right - left, bottom - top)
    return TrueObject(box, name, mask, ignore=ignored, moving=moving)


def _decoded(mask: Row, size: Size) -> Rle:
    """COCO's compressed runs, which nuImages wraps in base64."""
    counts = base64.b64decode(mask["counts"], validate=True).decode("ascii")
    decoded = {"size": [int(side) for side in mask["size"]], "counts": counts}
    if not rle.is_whole(decoded):
        raise ValueError("its mask is cut")
    if (*decoded["size"],) != size:
        raise ValueError(
            f"its mask is of {decoded['size']} and its image of {[*size]}, height and width"
        )
    return decoded
