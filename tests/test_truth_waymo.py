"""Ground truth of Waymo: frames, panoptic classes, distortion, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import raw_samples as raw
import truth_samples as samples
from detector_world import write_weights
from truth_samples import SCENE

from moduv.commands.detect import DetectionConfig, detect_images
from moduv.datasets.prepare import PrepareConfig
from moduv.datasets.waymo.frame import Camera
from moduv.datasets.waymo.prepare import prepare_waymo
from moduv.datasets.waymo.truth import (
    WaymoTruth,
    convert_waymo,
    panoptic_objects,
    straight_box,
    straight_label,
)
from moduv.engine.errors import InputError
from moduv.evaluation.detection import evaluate
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split

WAYMO = WaymoTruth(workers=1)


def test_waymo_frames_are_named_as_they_are_prepared(tmp_path: Path) -> None:
    """Labels and frames are numbered alike, so that `detect` finds them in a prepared folder."""
    source = samples.write_waymo_tables(tmp_path / "source")
    data, out = tmp_path / "data", tmp_path / "truth.json"
    prepare_waymo(source, data, PrepareConfig(height=32, width=64, workers=1), split="val")
    convert_waymo(source, out, WAYMO, write_frames=tmp_path / "split.txt")
    assert read_split(tmp_path / "split.txt") == [FrameRef(samples.SEGMENT, n) for n in SCENE]
    detect_images(write_weights(tmp_path), data, out, tmp_path / "found", DetectionConfig())
    metrics = evaluate(out, tmp_path / "found/detections.json")
    assert metrics["count/images"] == len(SCENE)
    assert metrics["count/predictions"] > 0


def test_panoptic_classes_are_mobile_ignored_or_nothing() -> None:
    label = np.zeros((4, 40), np.uint16) + 20_000
    kinds = {2: "car", 16: "pedestrian object", 27: "dynamic", 12: "bird", 17: None, 14: None}
    for place, kind in enumerate(kinds):
        label[1:3, 6 * place : 6 * place + 4] = kind * 1000 + 5
    found = {item.name: item for item in panoptic_objects(label, 1000)}
    assert set(found) == {name for name in kinds.values() if name}
    assert [found[name].ignore for name in ("car", "bird")] == [False, False]
    assert [found[name].ignore for name in ("pedestrian object", "dynamic")] == [True, True]
    assert found["pedestrian object"].box == (6, 1, 4, 2)


def test_labels_follow_frames_without_distortion() -> None:
    """The straightened label covers what a straightened picture of the object covers."""
    size = (240, 320)
    lens = np.array([200.0, 200.0, 160, 120, -0.33, 0.05, 0, 0, 0])
    camera = Camera(lens, np.eye(4), width=size[1], height=size[0])
    label = np.full(size, 20_000, np.uint16)
    label[20:60, 10:50] = 2_001
    picture = (label == 2_001).astype(np.uint8) * 255
    seen = cv2.undistort(picture, camera.matrix(), lens[4:9]) > 127
    moved = straight_label(label, camera) == 2_001
    assert (moved & seen).sum() / (moved | seen).sum() > 0.97
    assert (moved & (label == 2_001)).sum() / (moved | (label == 2_001)).sum() < 0.6
    left, top, width, height = straight_box((10, 20, 40, 40), camera)
    rows, columns = np.nonzero(seen)
    around = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    np.testing.assert_allclose([left, top, width, height], around, atol=2)


def test_waymo_can_be_written_without_distortion(tmp_path: Path) -> None:
    source = samples.write_waymo_records(tmp_path / "source")
    boxes: dict[str, np.ndarray] = {}
    for labels in ("masks", "boxes"):
        out = tmp_path / f"{labels}.json"
        convert_waymo(source, out, WaymoTruth(undistort=True, workers=1), labels=labels)
        found = json.loads(out.read_text())["annotations"]
        boxes[labels] = np.array(sorted(a["bbox"] for a in found if not a["ignore"]))
    # The sample's lens moves its border by less than half a pixel.
    np.testing.assert_allclose(boxes["masks"], boxes["boxes"], atol=1)


def test_waymo_frames_without_labels_are_left_out(tmp_path: Path) -> None:
    source, out = raw.write_waymo_records(tmp_path / "source"), tmp_path / "truth.json"
    with pytest.raises(InputError, match="no image that has ground truth"):
        convert_waymo(source, out, WAYMO, labels="boxes")
    assert not out.exists()


def test_missing_waymo_components_are_named(tmp_path: Path) -> None:
    source = samples.write_waymo_tables(tmp_path / "source")
    (source / "vehicle_pose/123.parquet").unlink()
    with pytest.raises(InputError, match="download the component 'vehicle_pose'"):
        convert_waymo(source, tmp_path / "truth.json", WAYMO)


def test_damaged_waymo_labels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "panoptic_png", lambda _: raw.encoded(0, ".png"))
    source = samples.write_waymo_records(tmp_path / "source")
    with pytest.raises(InputError, match="panoptic label of frame 1 is no PNG of 16 bits"):
        convert_waymo(source, tmp_path / "truth.json", WAYMO)
