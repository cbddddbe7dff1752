"""Data sets that contradict themselves, or are made to do harm: one sentence, and nothing beside the output."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import raw_samples as raw
import truth_samples as samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moduv.datasets.cityscapes import prepare_cityscapes
from moduv.datasets.imagenet_vid import (
    VidConfig,
    VidTruth,
    convert_imagenet_vid,
    prepare_imagenet_vid,
)
from moduv.datasets.kitti import KittiTruth, convert_kitti, prepare_kitti
from moduv.datasets.nuscenes.prepare import TABLES, prepare_nuscenes
from moduv.datasets.nuscenes.truth import TABLES as IMAGE_TABLES
from moduv.datasets.nuscenes.truth import NuImagesTruth, convert_nuimages
from moduv.datasets.prepare import PrepareConfig
from moduv.engine.errors import InputError
from moduv.frames import layouts

CONFIG = PrepareConfig(32, 64, workers=1)
few = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = st.one_of(
    st.sampled_from([None, "", "x", "../../x", "/x", -1, 0, 10**400, True, 1.5, float("inf")]),
    st.lists(st.one_of(st.floats(), st.none(), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.sampled_from(["size", "counts", "x"]), st.integers(), max_size=2),
)
"""Values that are of another kind than a table's, in most of its columns."""


def changed(
    source: Path, tables: Any, version: str, draw: Callable[[st.SearchStrategy[Any]], Any]
) -> str:
    """Put an odd value into the first row of one of the tables; the table's name."""
    table = draw(st.sampled_from(sorted(tables)))
    key = draw(st.sampled_from(sorted(tables[table])))
    path = source / version / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[0][key] = draw(ODD)
    path.write_text(json.dumps(rows))
    return table


def refusal(work: Callable[[], object]) -> str:
    """The sentence that refuses an input; nothing where it is read. Any other error fails the test."""
    try:
        work()
    except InputError as error:
        return str(error)
    return ""


def outside(folder: Path, *known: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and not any(k in p.parents for k in known)]


@few
@given(st.data())
def test_any_value_in_a_table_of_nuscenes(tmp_path_factory: Any, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("nuscenes")
    source, out = raw.write_nuscenes(root / "a/b/source"), root / "a/b/out"
    changed(source, TABLES, "v1.0-mini", data.draw)
    told = refusal(lambda: prepare_nuscenes(source, out, CONFIG, version="v1.0-mini"))
    assert len(told) < len(str(source)) + 600
    assert not told or "nuscenes.org" in told or "no split file can name" in told
    assert outside(root, source, out) == []


@few
@given(st.data())
def test_any_value_in_a_table_of_nuimages(tmp_path_factory: Any, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("nuimages")
    source = samples.write_nuimages(root / "source")
    changed(source, IMAGE_TABLES, "v1.0-val", data.draw)
    told = refusal(lambda: convert_nuimages(source, root / "truth.json", NuImagesTruth()))
    assert len(told) < len(str(source)) + 700


@pytest.mark.parametrize("name", ["../../x", "a b", "a\nb", "..", "a\\b", "a\u2028b"])
def test_scenes_stay_inside_the_output(tmp_path: Path, name: str) -> None:
    source, out = raw.write_nuscenes(tmp_path / "a/b/source"), tmp_path / "a/b/out"
    path = source / "v1.0-mini/scene.json"
    path.write_text(json.dumps([{**json.loads(path.read_text())[0], "name": name}]))
    with pytest.raises(InputError, match="which no split file can name"):
        prepare_nuscenes(source, out, CONFIG, version="v1.0-mini")
    assert outside(tmp_path, source) == []


@pytest.mark.parametrize(
    ("write", "folder", "prepare"),
    [
        (raw.write_kitti, "2011_09_26", lambda s, o: prepare_kitti(s, o, CONFIG)),
        (
            raw.write_imagenet_vid,
            f"Data/VID/{raw.VID_VAL}",
            lambda s, o: prepare_imagenet_vid(s, o, VidConfig(32, workers=1)),
        ),
    ],
)
def test_folders_with_spaces_are_refused_before_the_work(
    tmp_path: Path, write: Any, folder: str, prepare: Any
) -> None:
    """Their frames would be lines of the split that nobody can read."""
    source = write(tmp_path / "source")
    (source / folder).rename((source / folder).with_name("my drive"))
    with pytest.raises(InputError, match=r"my drive.*rename its folder or file without spaces"):
        prepare(source, tmp_path / "out")
    assert outside(tmp_path, source) == []


def test_towns_with_spaces_are_refused(tmp_path: Path) -> None:
    source = raw.write_cityscapes(tmp_path / "source")
    for kind in ("camera", "leftImg8bit_sequence"):
        (source / kind / "val/aachen").rename(source / kind / "val/bad aachen")
        for path in (source / kind / "val/bad aachen").iterdir():
            path.rename(path.with_name(path.name.replace("aachen", "bad aachen")))
    with pytest.raises(InputError, match="which no split file can name"):
        prepare_cityscapes(source, tmp_path / "out", CONFIG)


def test_rows_of_one_token_and_objects_of_no_sample_are_refused(tmp_path: Path) -> None:
    for table, key, value, said in (
        ("ego_pose", "token", "p1", "the token 'p1' occurs twice"),
        ("sample_annotation", "sample_token", "x", "has no row 'x' that another table names"),
        ("sample_data", "filename", "../x.jpg", "no path below the data set"),
    ):
        source = raw.write_nuscenes(tmp_path / table)
        path = source / f"v1.0-mini/{table}.json"
        first, *rest = json.loads(path.read_text())
        path.write_text(json.dumps([{**first, key: value}, *rest]))
        with pytest.raises(InputError, match=said):
            prepare_nuscenes(source, tmp_path / "out", CONFIG, version="v1.0-mini")


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    tables = samples.nuimages_tables()
    for row in tables["sample_data"]:
        row.update(height=raw.WIDTH, width=raw.HEIGHT)
    source = samples.write_nuimages(tmp_path / "source", tables)
    with pytest.raises(InputError, match=r"its mask is of \[64, 96\] and its image of \[96, 64\]"):
        convert_nuimages(source, tmp_path / "truth.json", NuImagesTruth())


# --- KITTI ------------------------------------------------------------------------------------------

DAY = "2011_09_26"
DRIVE = f"{DAY}/2011_09_26_drive_0009_sync"
OXTS = f"{DRIVE}/oxts/data/0000000001.txt"
SCAN = f"{DRIVE}/velodyne_points/data/0000000001.bin"


@pytest.mark.parametrize("place", ["49 8 1 0 0 90", "49 8888 1 0 0 0", "49 8 1 0 -7 0"])
def test_angles_in_degrees_and_places_off_the_earth(tmp_path: Path, place: str) -> None:
    source = raw.write_kitti(tmp_path / "source")
    (source / OXTS).write_text(place)
    with pytest.raises(InputError, match=r"0000000001\.txt: does not begin with a place"):
        prepare_kitti(source, tmp_path / "out", CONFIG)


@pytest.mark.parametrize("size", [101, 40 << 30])
def test_scans_that_are_cut_or_larger_than_any(tmp_path: Path, size: int) -> None:
    source = raw.write_kitti(tmp_path / "source")
    os.truncate(source / SCAN, size)  # sparse
    with pytest.raises(
        InputError, match=r"0000000001\.bin: is no list of 4 finite numbers a point"
    ):
        prepare_kitti(source, tmp_path / "out", CONFIG)


def test_scans_that_are_missing_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw.write_kitti(tmp_path / "source")
    (source / SCAN).unlink()
    prepare_kitti(source, tmp_path / "out", CONFIG)
    assert "left out in all: 1 depths of frames without scan" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["9" * 5000 + " 1 Car 0 0 0 1 1 2 2", "٣ 1 Car 0 0 0 1 1 2 2", "3 1 Car nan 0 0 1 1 2 2"],
)
def test_numbers_of_labels_that_are_none(tmp_path: Path, line: str) -> None:
    source = samples.write_kitti_tracking(tmp_path / "source")
    (source / "training/label_02/0007.txt").write_text(line)
    with pytest.raises(InputError, match=r"0007\.txt: line 1 is no label of KITTI"):
        convert_kitti(source, tmp_path / "t.json", KittiTruth(), labels="label_02")


def test_sizes_of_images_that_were_converted_and_of_giants(tmp_path: Path) -> None:
    source = samples.write_kitti_objects(tmp_path / "source")
    first, *others = sorted((source / "training/image_2").iterdir())
    for path in others:
        path.rename(path.with_suffix(".jpg"))
    convert_kitti(source, tmp_path / "t.json", KittiTruth())
    sizes = [image["height"] for image in json.loads((tmp_path / "t.json").read_text())["images"]]
    assert sizes == [raw.HEIGHT] * (1 + len(others))
    giant = first.read_bytes()
    first.write_bytes(giant[:16] + (50_000).to_bytes(4, "big") * 2 + giant[24:])
    with pytest.raises(InputError, match=f"{first.name}: is no image"):
        convert_kitti(source, tmp_path / "t.json", KittiTruth())


# --- Cityscapes and ImageNet-VID ----------------------------------------------------------------------

CAMERA = "camera/val/aachen/aachen_000003_000019_camera.json"
DISPARITY = "disparity/val/aachen/aachen_000003_000019_disparity.png"
MASK = "movers/val_mask_class/aachen/aachen_000003_000019/0.png"


@pytest.mark.parametrize("baseline", [-0.2, 0, float("nan"), float("inf"), 10**400, None, [1]])
def test_distances_of_cameras_that_are_none(tmp_path: Path, baseline: object) -> None:
    source = raw.write_cityscapes(tmp_path / "source")
    camera = json.loads((source / CAMERA).read_text())
    (source / CAMERA).write_text(json.dumps({**camera, "extrinsic": {"baseline": baseline}}))
    with pytest.raises(InputError, match=r"_camera\.json: lacks .*baseline above 0"):
        prepare_cityscapes(source, tmp_path / "out", CONFIG)


@pytest.mark.parametrize(
    ("place", "pixels", "said"),
    [
        (DISPARITY, np.full((32, 48), 300, np.uint16), "is of 48 x 32 pixels of 16 bits"),
        (DISPARITY, np.full((64, 96), 30, np.uint8), "is of 96 x 64 pixels of 8 bits"),
        (MASK, np.full((32, 48), 255, np.uint8), "not as its frame"),
    ],
)
def test_maps_of_another_size_or_kind(
    tmp_path: Path, place: str, pixels: np.ndarray, said: str
) -> None:
    source = raw.write_cityscapes(tmp_path / "source")
    (source / place).write_bytes(bytes(cv2.imencode(".png", pixels)[1]))
    with pytest.raises(InputError, match=said):
        prepare_cityscapes(source, tmp_path / "out", CONFIG, source / "movers")


@pytest.mark.parametrize("place", [DISPARITY, MASK])
def test_maps_that_claim_to_be_giants(tmp_path: Path, place: str) -> None:
    source = raw.write_cityscapes(tmp_path / "source")
    content = (source / place).read_bytes()
    size = (50_000).to_bytes(4, "big") * 2
    header = b"IHDR" + size + content[24:29]
    content = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    (source / place).write_bytes(content)
    with pytest.raises(InputError, match="is not readable as an image"):
        prepare_cityscapes(source, tmp_path / "out", CONFIG, source / "movers")


def test_snippets_without_disparity_or_masks_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw.write_cityscapes(tmp_path / "source")
    (source / MASK).rename((source / MASK).with_suffix(".jpg"))
    prepare_cityscapes(source, tmp_path / "a", CONFIG, source / "movers")
    assert "1 snippets without masks *.png" in capsys.readouterr().out
    (source / DISPARITY).unlink()
    prepare_cityscapes(source, tmp_path / "b", CONFIG, source / "movers")
    assert "1 depths of snippets without disparity" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["1.JPEG", "000001.png", "²².JPEG", "٣.JPEG", "9" * 30 + ".JPEG"])
def test_frames_of_one_number_or_none(tmp_path: Path, name: str) -> None:
    source = raw.write_imagenet_vid(tmp_path / "source")
    folder = source / "Data/VID" / raw.VID_VAL
    (folder / name).write_bytes((folder / "000001.JPEG").read_bytes())
    with pytest.raises(InputError, match=r"is named by no number|is frame 1 like"):
        prepare_imagenet_vid(source, tmp_path / "out", VidConfig(32, workers=1))


def test_videos_of_one_name_and_images_beside_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = raw.write_imagenet_vid(tmp_path / "source")
    folder = source / "Data/VID" / raw.VID_VAL
    (folder.parent / "1.JPEG").write_bytes((folder / "000001.JPEG").read_bytes())
    (source / "Data/VID/valid").mkdir()
    prepare_imagenet_vid(source, tmp_path / "out", VidConfig(32, workers=1))
    told = capsys.readouterr().out
    assert "1 images beside folders of frames" in told
    assert "1 folders beside train, val, test" in told
    file = source / f"Data/VID/snippets/{raw.VID_TRAIN}.mp4"
    file.with_suffix(".avi").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="its segment would be called"):
        prepare_imagenet_vid(source, tmp_path / "out", VidConfig(32, workers=1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<annotation>", '<?xml version="1.0" encoding="foo"?><annotation>'),
        ("<width>96", "<width>-5"),
        ("<width>96", "<width>" + "9" * 400),
        ("<width>96", "<width>" + "9" * 5000),
        ("<xmin>", "<xmin>9"),
        ("<annotation>", "<a>" * 1000 + "<annotation>"),
    ],
)
def test_annotations_that_contradict_themselves(tmp_path: Path, old: str, new: str) -> None:
    source = samples.write_imagenet_vid(tmp_path / "source")
    path = source / "Annotations/VID" / raw.VID_VAL / "000001.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"000001\.xml: is no annotation"):
        convert_imagenet_vid(source, tmp_path / "t.json", VidTruth(size=32))


@pytest.mark.parametrize(
    "rotation", ["1 0 0 0 0 0 0 0 1", "9 9 9 9 9 9 9 9 9", "-1 0 0 0 1 0 0 0 1"]
)
@pytest.mark.parametrize("name", ["calib_velo_to_cam.txt", "calib_imu_to_velo.txt"])
def test_calibrations_that_do_more_than_turn(tmp_path: Path, name: str, rotation: str) -> None:
    source = raw.write_kitti(tmp_path / "source")
    (source / DAY / name).write_text(f"R: {rotation}\nT: 0 0 0\n")
    if name == "calib_velo_to_cam.txt":
        with pytest.raises(InputError, match=r"velo_to_cam\.txt: 'R' is no rotation"):
            prepare_kitti(source, tmp_path / "out", CONFIG)
        return
    prepare_kitti(source, tmp_path / "out", CONFIG)
    with pytest.raises(InputError, match=r"imu_to_velo\.txt: 'R' is no rotation"):
        layouts.camera_poses(tmp_path / "out", f"{DRIVE}/image_02")


def test_poses_of_another_form_are_refused(tmp_path: Path) -> None:
    """Four lines of twelve numbers would be three poses of sixteen."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 4)
    with pytest.raises(InputError, match="16 finite numbers a line"):
        layouts.camera_poses(tmp_path, "a")


def test_boxes_beyond_their_image_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = samples.write_kitti_objects(tmp_path / "source")
    (source / "training/label_2/000001.txt").write_text("Car 0 0 0 10 10 5000 5000 1 1 1 1 1 1 1")
    max((source / "training/image_2").iterdir()).unlink()
    convert_kitti(source, tmp_path / "t.json", KittiTruth())
    told = capsys.readouterr().out
    assert "1 boxes reach beyond their image, first [10.0, 10.0, 4990.0, 4990.0]" in told
    assert "1 images are not there" in told
