"""Recordings of Waymo Open that contradict themselves, or hold numbers that are none, end in one sentence."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import raw_samples as raw
import truth_samples as samples

from moduv.datasets.prepare import PrepareConfig
from moduv.datasets.waymo.prepare import prepare_waymo
from moduv.datasets.waymo.truth import WaymoTruth, convert_waymo
from moduv.engine.errors import InputError

CONFIG = PrepareConfig(height=32, width=64, workers=1)
EMPTY = zlib.compress(raw.field(1, np.ones(1, "<f4").tobytes()))
BOMB = zlib.compress(bytes(1 << 29))


def refused(source: Path, out: Path, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        prepare_waymo(source, out, CONFIG)
    assert "\n" not in str(error.value)
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("LENS", raw.LENS[:8], "calibration is no camera's"),
        ("LENS", [np.nan, *raw.LENS[1:]], "calibration is no camera's"),
        ("LENS", [-raw.FOCAL, *raw.LENS[1:]], "calibration is no camera's"),
        ("mounted", lambda _: np.zeros((4, 4)), "place is no rigid motion"),
        ("mounted", lambda _: np.diag([1.0, 1, -1, 1]), "place is no rigid motion"),
        ("world_pose", lambda _: np.full((4, 4), np.nan), "pose is no rigid motion"),
        ("BEAMS", np.array([0.1]), "the lidar has 1 rows"),
        ("BOXES", ((1, (np.inf, 0.0, 0.0), (1.0, 1.0, 1.0), 0.0, (0.0, 0.0, 0.0)),), "not finite"),
        ("matrix", lambda _: EMPTY, "range image"),
        ("matrix", lambda _: BOMB, "larger than any"),
        ("matrix", lambda _: EMPTY[:5], "no frame of Waymo"),
        ("range_image", lambda: np.full((12, 120, 4), np.inf, np.float32), "not finite"),
        ("pixel_poses", lambda _: np.zeros((12, 119, 6), np.float32), r"poses are \(12, 119, 6\)"),
        ("WIDTH", 95, "pixels, and calibrated for 95 x 64"),
    ],
)
def test_numbers_that_no_drive_has(
    name: str, value: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [raw.encoded(index, ".jpg") for index in range(raw.FRAMES)]
    ranges = raw.range_image()
    if name == "BEAMS":
        monkeypatch.setattr(raw, "range_image", lambda: ranges)
        monkeypatch.setattr(raw, "pixel_poses", lambda _: np.zeros((12, 120, 6), np.float32))
    monkeypatch.setattr(raw, name, value)
    monkeypatch.setattr(raw, "encoded", lambda index, _: images[index])
    refused(raw.write_waymo_records(tmp_path / "source"), tmp_path / "out", sentence)


def test_frames_out_of_order_and_sensors_that_are_there_twice(tmp_path: Path) -> None:
    records = [raw.waymo_record(index) for index in (0, 2, 1, 3)]
    refused(
        raw.write_waymo_records(tmp_path / "order", records),
        tmp_path / "out",
        "record 2 is of the time 100000 and the one before of 200000",
    )
    again = raw.field(4, raw.field(1, 1) + raw.field(2, raw.encoded(3, ".jpg")))
    records = [raw.waymo_record(index, labels=again) for index in range(4)]
    source = raw.write_waymo_records(tmp_path / "twice", records)
    refused(source, tmp_path / "out", "2 entries of a sensor instead of one")


def test_a_camera_that_changes_within_a_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [raw.waymo_record(0), raw.waymo_record(1)]
    monkeypatch.setattr(raw, "LENS", [2 * raw.FOCAL, *raw.LENS[1:]])
    records += [raw.waymo_record(2), raw.waymo_record(3)]
    source = raw.write_waymo_records(tmp_path / "source", records)
    refused(source, tmp_path / "out", "camera of frame 2 is calibrated otherwise")


def test_a_record_that_claims_to_be_huge(tmp_path: Path) -> None:
    source = raw.write_waymo_records(tmp_path / "source")
    (path,) = source.iterdir()
    size = struct.pack("<Q", 1 << 62)
    path.write_bytes(size + raw.checksum(size) + path.read_bytes()[12:])
    refused(source, tmp_path / "out", "is cut or damaged at byte")


def test_two_files_of_one_segment_and_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw.write_waymo_records(tmp_path / "source")
    (path,) = source.iterdir()
    (source / f"._{path.name}").write_bytes(b"none")
    raw.write_waymo_tables(source)
    prepare_waymo(source, tmp_path / "out", CONFIG)
    assert "its 1 files of camera_image are left out" in capsys.readouterr().out
    (source / "123.tfrecord").write_bytes(path.read_bytes())
    refused(source, tmp_path / "other", r"2 files are of segment-123, first 123\.tfrecord")


CHANGES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "calibrations": (
        "camera_calibration",
        lambda table: table.take([0, 0]),
        "2 rows where one is needed",
    ),
    "lidars": ("lidar_calibration", lambda table: table.take([0, 0]), "2 rows where one"),
    "poses": ("vehicle_pose", lambda table: table.take([0, 1, 1, 2, 3]), "2 rows where one"),
    "images": ("camera_image", lambda t: t.take([0, 1, 1, *range(2, 8)]), "has a time twice"),
    "names": (
        "camera_calibration",
        lambda t: t.set_column(0, "key.camera_name", [["1"]]),
        "not readable",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_tables_with_rows_that_are_too_many_or_of_another_type(kind: str, tmp_path: Path) -> None:
    from pyarrow.parquet import read_table, write_table

    component, change, sentence = CHANGES[kind]
    source = raw.write_waymo_tables(tmp_path / "source")
    path = source / component / "123.parquet"
    write_table(change(read_table(path)), path)
    refused(source, tmp_path / "out", sentence)


def test_panoptic_labels_that_claim_to_be_huge_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = raw.encoded(0, ".png")
    huge = whole[:16] + struct.pack(">II", 30_000, 30_000) + whole[24:]
    monkeypatch.setattr(samples, "panoptic_png", lambda _: huge)
    source = samples.write_waymo_records(tmp_path / "source")
    with pytest.raises(InputError, match=r"is no PNG of 16 bits"):
        convert_waymo(source, tmp_path / "truth.json", WaymoTruth(workers=1))
