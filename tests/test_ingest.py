"""Folders of frames come into the library's layout, or are refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.frames.camera import Intrinsics
from moduv.frames.images import read_image, write_image
from moduv.frames.ingest import ImportConfig, import_folder
from moduv.frames.splits import read_split


def write_clip(folder: Path, count: int) -> None:
    for index in range(count):
        write_image(folder / f"frame{index:03d}.png", np.full((40, 60, 3), 10 * index, np.uint8))


def test_clips_become_segments_in_order(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/monday/one", 7)
    write_clip(tmp_path / "in/two", 2)
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig(field_of_view=60, every=2))
    frames = read_split(tmp_path / "out/splits/train_files.txt")
    assert [frame.line() for frame in frames] == ["clips/monday-one 1", "clips/monday-one 2"]
    grey = read_image(frames[1].image_path(tmp_path / "out"))
    assert abs(int(grey.mean()) - 40) <= 1
    camera = Intrinsics.from_cam_json(tmp_path / "out/clips/monday-one/cam.json", 60, 40)
    assert camera.fx == pytest.approx(30 / np.tan(np.pi / 6))


def test_known_intrinsics_are_taken_over(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/one", 3)
    Intrinsics(50, 51, 29, 19, 60, 40).to_cam_json(tmp_path / "in/one/cam.json")
    import_folder(tmp_path / "in", tmp_path / "out", ImportConfig())
    camera = Intrinsics.from_cam_json(tmp_path / "out/clips/one/cam.json", 60, 40)
    assert camera.matrix() == pytest.approx(Intrinsics(50, 51, 29, 19, 60, 40).matrix())


def test_unknown_intrinsics_and_short_clips_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "in/one", 3)
    with pytest.raises(InputError, match=r"one/cam\.json: missing; .*field_of_view"):
        import_folder(tmp_path / "in", tmp_path / "out", ImportConfig())
    with pytest.raises(InputError, match="no clip of three frames"):
        import_folder(tmp_path / "in", tmp_path / "few", ImportConfig(field_of_view=60, every=2))
    with pytest.raises(InputError, match="no such folder"):
        import_folder(tmp_path / "none", tmp_path / "out2", ImportConfig())
    with pytest.raises(InputError, match="every is 0"):
        ImportConfig(every=0)
