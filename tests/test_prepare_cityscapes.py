"""Cityscapes' snippets become segments with truth that the evaluation of depth reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import raw_samples as raw

from moduv.datasets.cityscapes import original_frame, prepare_cityscapes
from moduv.datasets.prepare import PrepareConfig
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.evaluation.depth_regions import PROTOCOLS, evaluate_depths
from moduv.frames import layouts
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image
from moduv.frames.splits import read_split

CONFIG = PrepareConfig(32, 64, workers=1)
SEGMENT = "val/aachen_000003_000019"


def test_every_second_frame_without_the_hood(tmp_path: Path) -> None:
    source, out = raw.write_cityscapes(tmp_path / "raw"), tmp_path / "out"
    prepare_cityscapes(source, out, CONFIG)
    # Of the frames 14 to 22 those that the 19th is among: 15, 17, 19, 21.
    assert layouts.frame_numbers(out, SEGMENT) == [7, 8, 9, 10]
    for name in ("all", "val"):
        frames = read_split(out / f"splits/{name}_files.txt")
        assert [frame.index for frame in frames] == [8, 9]
    # The annotated frame is the 19th.
    assert original_frame(frames[1]) == "val/aachen/aachen_000003_000019"
    assert original_frame(frames[0]) == "val/aachen/aachen_000003_000017"
    assert original_frame(FrameRef("train/clip_0000", 1)) == ""
    assert read_image(out / SEGMENT / "000009.jpg").shape == (32, 64, 3)
    camera = layouts.intrinsics(out, SEGMENT, raw.WIDTH, 48)
    # The upper 48 of 64 rows: what is cut off below moves nothing.
    expected = Intrinsics(raw.FOCAL, raw.FOCAL, raw.WIDTH / 2, raw.HEIGHT / 2, raw.WIDTH, 48)
    assert np.allclose(camera.matrix(), expected.matrix())


def test_truth_is_metres_and_movers(tmp_path: Path) -> None:
    source, out = raw.write_cityscapes(tmp_path / "raw"), tmp_path / "out"
    prepare_cityscapes(source, out, CONFIG, source / "movers")
    (frame,) = read_split(out / "splits/val_truth.txt")
    assert (frame.segment, frame.index) == (SEGMENT, 9)
    truth = np.load(frame.file(out / "truth", ".npz"))
    assert truth["depth"].shape == (48, raw.WIDTH)
    assert (truth["depth"][:, :10] == 0).all()
    # Disparities are stored in steps of 1 / 256 pixel.
    assert truth["depth"][:, 10:] == pytest.approx(raw.WALL, rel=2e-3)
    mover = np.zeros((48, raw.WIDTH), bool)
    mover[20:40, 30:50] = True
    assert np.array_equal(truth["instances"] == 1, mover)
    depth = np.full((32, 64), 3.0)
    depth[14:26, 20:33] = 6.0
    write_npz(frame.file(tmp_path / "motion", ".npz"), depth=depth)
    frames = read_split(out / "splits/all_files.txt")
    for other in frames:
        write_npz(other.file(tmp_path / "motion", ".npz"), depth=depth)
    found = evaluate_depths(tmp_path / "motion", out / "truth", frames, PROTOCOLS["cityscapes"])
    assert found["abs_rel_static"] < 0.1
    assert found["abs_rel_dynamic"] > 0.8
    assert found["objects"] == 1


def test_what_is_finished_is_kept(tmp_path: Path) -> None:
    source, out = raw.write_cityscapes(tmp_path / "raw"), tmp_path / "out"
    prepare_cityscapes(source, out, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    prepare_cityscapes(source, out, CONFIG)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")} == before
    assert not (out / "splits/train_truth.txt").exists()


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"camera: missing; download leftImg8bit_sequence"):
        prepare_cityscapes(tmp_path / "none", tmp_path / "out", CONFIG)
    source = raw.write_cityscapes(tmp_path / "raw")
    name = "aachen/aachen_000003_000019"
    (source / f"camera/val/{name}_camera.json").write_text("{}")
    with pytest.raises(InputError, match=r"_camera\.json: lacks 'intrinsic'"):
        prepare_cityscapes(source, tmp_path / "out", CONFIG)
    raw.write_cityscapes(source)
    (source / f"disparity/val/{name}_disparity.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"_disparity\.png: is not readable as an image"):
        prepare_cityscapes(source, tmp_path / "out", CONFIG)
    raw.write_cityscapes(source)
    mask = source / f"movers/val_mask_class/{name}/0.png"
    mask.write_bytes((source / f"leftImg8bit_sequence/val/{name}_leftImg8bit.png").read_bytes())
    with pytest.raises(InputError, match=r"0\.png: is no grey image"):
        prepare_cityscapes(source, tmp_path / "out", CONFIG, source / "movers")
