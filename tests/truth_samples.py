"""The same small scene as each data set would annotate it, for the converters of ground truth."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import raw_samples as raw
from pycocotools import mask as coco

from moduv.commands.cli import main

HEIGHT, WIDTH = raw.HEIGHT, raw.WIDTH
SEGMENT = "val/segment-123"


@dataclass(frozen=True)
class Thing:
    """A rectangle in the image: continuous XYXY, whole pixels."""

    kind: str
    """car, person, crowd (not judged) or sign (not mobile)."""
    left: int
    top: int
    right: int
    bottom: int

    @property
    def box(self) -> list[int]:
        return [self.left, self.top, self.right - self.left, self.bottom - self.top]

    def mask(self) -> np.ndarray:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[self.top : self.bottom, self.left : self.right] = True
        return mask

    def runs(self) -> dict[str, Any]:
        encoded = coco.encode(np.asfortranarray(self.mask().astype(np.uint8)))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}


SCENE = {
    1: (
        Thing("car", 4, 20, 28, 36),
        Thing("person", 40, 18, 47, 42),
        Thing("crowd", 60, 10, 90, 30),
        Thing("sign", 30, 2, 38, 10),
    ),
    3: (Thing("car", 50, 24, 80, 44),),
}
"""Frames 0 and 2 are not annotated."""
CROWD, SIGN = SCENE[1][2:]


def objects() -> list[tuple[int, Thing]]:
    """What is to be found, with its frame."""
    return [(n, t) for n, things in SCENE.items() for t in things if t.kind in {"car", "person"}]


def detection(frame: int, thing: Thing, score: float = 0.8) -> dict[str, Any]:
    """A detection exactly where the thing is."""
    return {
        **{"image_id": frame, "category_id": 1, "bbox": thing.box, "score": score},
        "segmentation": thing.runs(),
    }


# --- COCO -----------------------------------------------------------------------------------------

MOBILE = [
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
]


def write_coco(root: Path) -> Path:
    """Objects as polygons, the crowd as plain runs; images are numbered 101 and 103."""
    root.mkdir(parents=True)
    names = [*MOBILE, "stop sign"]
    numbers = {"car": 3, "person": 1, "crowd": 1, "sign": len(names)}
    annotations = []
    for frame, things in SCENE.items():
        for thing in things:
            left, top, right, bottom = thing.left, thing.top, thing.right, thing.bottom
            polygon = [left, top, right, top, right, bottom, left, bottom]
            flat = thing.mask().T.ravel()
            ends = np.flatnonzero(np.diff(flat, prepend=False, append=False))
            runs = np.diff(ends, prepend=0, append=flat.size).tolist()
            crowd = {"size": [HEIGHT, WIDTH], "counts": runs}
            annotations.append(
                {
                    **{"id": 900 + len(annotations), "image_id": 100 + frame, "bbox": thing.box},
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(thing.kind == "crowd"),
                    "segmentation": crowd if thing.kind == "crowd" else [polygon],
                    "category_id": numbers[thing.kind],
                }
            )
    content = {
        "images": [
            {"id": 100 + n, "file_name": f"{n:012d}.jpg", "height": HEIGHT, "width": WIDTH}
            for n in SCENE
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
    path = root / "instances_val2017.json"
    path.write_text(json.dumps(content))
    return path


# --- ImageNet-VID ---------------------------------------------------------------------------------

VID_KINDS = {"car": "n02958343", "person": "n02484322"}
"""The person is a monkey there; crowds and signs are not annotated."""


def write_imagenet_vid(root: Path) -> Path:
    """Boxes of every frame of a video, in frames 0 and 2 none."""
    folder = root / "Annotations/VID" / raw.VID_VAL
    folder.mkdir(parents=True)
    for frame in range(raw.FRAMES):
        objects = [thing for thing in SCENE.get(frame, ()) if thing.kind in VID_KINDS]
        boxes = "".join(
            f"<object><trackid>{n}</trackid><name>{VID_KINDS[t.kind]}</name><bndbox><xmax>{t.right}</xmax>"
            f"<xmin>{t.left}</xmin><ymax>{t.bottom}</ymax><ymin>{t.top}</ymin></bndbox></object>"
            for n, t in enumerate(objects)
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (folder / f"{frame:06d}.xml").write_text(f"<annotation>{size}{boxes}</annotation>")
    return root


# --- KITTI ----------------------------------------------------------------------------------------

KITTI_TYPES = {"car": "Car", "person": "Pedestrian", "crowd": "DontCare"}


def kitti_line(thing: Thing, *, truncation: float = 0.0, occlusion: int = 0) -> str:
    corners = f"{thing.left:.2f} {thing.top:.2f} {thing.right:.2f} {thing.bottom:.2f}"
    kind = KITTI_TYPES[thing.kind]
    return f"{kind} {truncation:.2f} {occlusion} -1.57 {corners} 1.5 1.6 3.9 1 2 20 0.1\n"


def write_kitti_objects(root: Path) -> Path:
    """The object benchmark; signs are not annotated."""
    for folder in ("label_2", "image_2"):
        (root / "training" / folder).mkdir(parents=True)
    for frame, things in SCENE.items():
        lines = [kitti_line(thing) for thing in things if thing.kind in KITTI_TYPES]
        (root / f"training/label_2/{frame:06d}.txt").write_text("".join(lines))
        (root / f"training/image_2/{frame:06d}.png").write_bytes(raw.encoded(frame, ".png"))
    return root


def write_kitti_tracking(root: Path) -> Path:
    """The tracking benchmark: one sequence, whose frames 0 and 2 are annotated and empty."""
    (root / "training/label_02").mkdir(parents=True)
    images = root / "training/image_02/0007"
    images.mkdir(parents=True)
    lines = [
        f"{frame} {number if thing.kind != 'crowd' else -1} {kitti_line(thing)}"
        for frame, things in SCENE.items()
        for number, thing in enumerate(things)
        if thing.kind in KITTI_TYPES
    ]
    (root / "training/label_02/0007.txt").write_text("".join(lines))
    for frame in range(raw.FRAMES):
        (images / f"{frame:06d}.png").write_bytes(raw.encoded(frame, ".png"))
    return root


# --- nuImages -------------------------------------------------------------------------------------

NUIMAGES = {
    "car": "vehicle.car",
    "person": "human.pedestrian.adult",
    "crowd": "static_object.bicycle_rack",
    "sign": "movable_object.barrier",
}
ATTRIBUTES = {"car": ["vehicle.parked"], "person": ["pedestrian.moving"]}


def nuimages_tables() -> dict[str, list[dict[str, Any]]]:
    """A key frame per frame of the scene, a sweep, and another camera's key frame with a car."""
    names = sorted({name for found in ATTRIBUTES.values() for name in found})
    categories = [*NUIMAGES.values(), "animal"]
    tables: dict[str, list[dict[str, Any]]] = {
        "category": [{"token": f"c-{name}", "name": name} for name in categories],
        "attribute": [{"token": f"a-{name}", "name": name} for name in names],
        "sample_data": [],
        "object_ann": [],
    }
    places = {str(n): f"samples/CAM_FRONT/n003__{n}.jpg" for n in SCENE}
    others = {"back": "samples/CAM_BACK/n003__1.jpg", "sweep": "sweeps/CAM_FRONT/n003__0.jpg"}
    for token, name in (places | others).items():
        row = {"token": token, "filename": name, "is_key_frame": token != "sweep"}
        tables["sample_data"].append({**row, "height": HEIGHT, "width": WIDTH})
    for frame, things in SCENE.items():
        for thing in things:
            tables["object_ann"].append(nuimages_object(str(frame), thing))
    tables["object_ann"].append(nuimages_object("back", SCENE[1][0]))
    return tables


def nuimages_object(token: str, thing: Thing) -> dict[str, Any]:
    runs = thing.runs()
    counts = base64.b64encode(runs["counts"].encode()).decode()
    return {
        "sample_data_token": token,
        "category_token": f"c-{NUIMAGES[thing.kind]}",
        "attribute_tokens": [f"a-{name}" for name in ATTRIBUTES.get(thing.kind, [])],
        "bbox": [thing.left, thing.top, thing.right, thing.bottom],
        "mask": {"size": runs["size"], "counts": counts},
    }


def write_nuimages(root: Path, tables: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    (root / "v1.0-val").mkdir(parents=True)
    for name, rows in (tables or nuimages_tables()).items():
        (root / f"v1.0-val/{name}.json").write_text(json.dumps(rows))
    return root


# --- Waymo ----------------------------------------------------------------------------------------

DIVISOR = 1000
CLASSES = {"car": 2, "person": 9, "crowd": 9, "sign": 17}
BOX_TYPES = {"car": 1, "person": 2, "crowd": 0, "sign": 3}
ROAD = 20


def panoptic_png(frame: int) -> bytes:
    """The scene on a road; a crowd is a class without instances."""
    label = np.full((HEIGHT, WIDTH), ROAD * DIVISOR, np.uint16)
    for number, thing in enumerate(SCENE[frame], 1):
        instance = 0 if thing.kind == "crowd" else number
        label[thing.mask()] = CLASSES[thing.kind] * DIVISOR + instance
    return bytes(cv2.imencode(".png", label)[1])


def write_waymo_records(root: Path) -> Path:
    """Perception v1, with labels of another camera that are to be passed over."""
    records = []
    for frame in range(raw.FRAMES):
        things = SCENE.get(frame)
        if things is None:
            records.append(raw.waymo_record(frame))
            continue
        label = raw.field(1, DIVISOR) + raw.field(2, panoptic_png(frame))
        boxes = b"".join(raw.field(2, _waymo_box(thing)) for thing in things)
        other = raw.field(8, raw.field(1, 2) + raw.field(2, _waymo_box(SCENE[1][0])))
        front = raw.field(8, raw.field(1, 1) + boxes)
        records.append(raw.waymo_record(frame, raw.field(10, label), other + front))
    return raw.write_waymo_records(root, records)


def _waymo_box(thing: Thing) -> bytes:
    left, top, width, height = (float(value) for value in thing.box)
    box = raw.field(1, left + width / 2) + raw.field(2, top + height / 2)
    box += raw.field(5, width) + raw.field(4, height)
    return raw.field(1, box) + raw.field(3, BOX_TYPES[thing.kind])


def write_waymo_tables(root: Path) -> Path:
    """Perception v2, beside the components that stage 1 reads."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    raw.write_waymo_tables(root)
    panoptic, box = "[CameraSegmentationLabelComponent].panoptic_label", "[CameraBoxComponent]."
    rows: dict[str, list[dict[str, Any]]] = {"camera_segmentation": [], "camera_box": []}
    for frame, things in reversed(SCENE.items()):
        time = {"key.frame_timestamp_micros": 1_000_000 + 100_000 * frame}
        for camera, png in ((2, b"no picture"), (1, panoptic_png(frame))):
            row = {**time, "key.camera_name": camera, panoptic: png}
            rows["camera_segmentation"].append({**row, f"{panoptic}_divisor": DIVISOR})
        for thing in things:
            left, top, width, height = (float(value) for value in thing.box)
            rows["camera_box"].append(
                {
                    **time,
                    **{"key.camera_name": 1, f"{box}type": BOX_TYPES[thing.kind]},
                    **{f"{box}box.center.x": left + width / 2, f"{box}box.size.x": width},
                    **{f"{box}box.center.y": top + height / 2, f"{box}box.size.y": height},
                }
            )
    for component, found in rows.items():
        (root / component).mkdir()
        write_table(pa.Table.from_pylist(found), root / component / "123.parquet")
    return root


@dataclass(frozen=True)
class Form:
    """A data set's form: how the scene is written in it, the command's words, what comes out."""

    write: Callable[[Path], Path]
    words: tuple[str, ...]
    image: str
    """Image name by frame number."""
    masks: bool
    images: int = len(SCENE)
    source: str = "--source"


FORMS = {
    "coco": Form(write_coco, ("truth", "coco"), "{:012d}.jpg", True, source="--annotations"),
    "kitti": Form(write_kitti_objects, ("truth", "kitti"), "training/image_2/{:06d}.png", False),
    "kitti tracking": Form(
        write_kitti_tracking,
        ("truth", "kitti", "--labels", "label_02"),
        "training/image_02/0007/{:06d}.png",
        False,
        images=raw.FRAMES,
    ),
    "nuimages": Form(write_nuimages, ("truth", "nuscenes"), "samples/CAM_FRONT/n003__{}.jpg", True),
    "waymo v1 masks": Form(write_waymo_records, ("truth", "waymo"), SEGMENT + "/{:06d}.jpg", True),
    "waymo v1 boxes": Form(
        write_waymo_records,
        ("truth", "waymo", "--labels", "boxes"),
        SEGMENT + "/{:06d}.jpg",
        False,
    ),
    "waymo v2 masks": Form(write_waymo_tables, ("truth", "waymo"), SEGMENT + "/{:06d}.jpg", True),
    "waymo v2 boxes": Form(
        write_waymo_tables,
        ("truth", "waymo", "--labels", "boxes"),
        SEGMENT + "/{:06d}.jpg",
        False,
        images=raw.FRAMES,
    ),
}


def scores(form: Form, truth: Path, *detections: dict[str, Any]) -> dict[str, float]:
    """What `moduv evaluate` says of detections that are exported as a COCO data set."""
    frames = sorted({found["image_id"] for found in detections})
    images = [{"id": n, "file_name": form.image.format(n)} for n in frames]
    annotations = [dict(found) for found in detections]
    if not form.masks:
        annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in annotations]
    found, out = truth.with_name("found.json"), truth.with_name("metrics.json")
    found.write_text(json.dumps({"images": images, "annotations": annotations}))
    main(["evaluate", "--ground_truth", str(truth), "--predictions", str(found), "--out", str(out)])
    return json.loads(out.read_text())


def perfect() -> list[dict[str, Any]]:
    return [detection(frame, thing) for frame, thing in objects()]
