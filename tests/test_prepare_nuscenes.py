"""nuScenes is prepared whatever the order of its tables; rows that contradict themselves are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import raw_samples as raw
from prepare_world import CONFIG, nuscenes

from moduv.engine.errors import InputError
from moduv.frames.splits import read_split


@pytest.mark.parametrize(
    ("table", "key"),
    [("scene", "token"), ("sample_data", "sample_token"), ("sample_annotation", "size")],
)
def test_rows_of_nuscenes_that_lack_something_are_named(
    tmp_path: Path, table: str, key: str
) -> None:
    path = raw.write_nuscenes(tmp_path / "source") / f"v1.0-mini/{table}.json"
    rows = json.loads(path.read_text())
    del rows[-1][key]
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=rf"{table}.json: row {len(rows) - 1} lacks '{key}'"):
        nuscenes(tmp_path / "source", tmp_path / "out", CONFIG)


@pytest.mark.parametrize("rotation", [[0, 0, 0, 0], [1, 0, 0], "north"])
def test_rotations_of_nuscenes_that_are_none_are_named(tmp_path: Path, rotation: object) -> None:
    path = raw.write_nuscenes(tmp_path / "source") / "v1.0-mini/ego_pose.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows[:-1], {**rows[-1], "rotation": rotation}]))
    with pytest.raises(InputError, match=r"row 'p3': 'rotation' and 'translation' are no pose"):
        nuscenes(tmp_path / "source", tmp_path / "out", CONFIG)


def change_rows(source: Path, table: str, change: Callable[[list[dict]], object]) -> None:
    path = source / f"v1.0-mini/{table}.json"
    rows = json.loads(path.read_text())
    changed = change(rows)
    path.write_text(json.dumps(rows if changed is None else changed))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_table_of_nuscenes_does_not_matter(tmp_path: Path, seed: int) -> None:
    source = raw.write_nuscenes(tmp_path / "source")
    nuscenes(source, tmp_path / "sorted", CONFIG)
    order = np.random.default_rng(seed).permutation
    change_rows(source, "sample_data", lambda rows: [rows[i] for i in order(len(rows))])
    nuscenes(source, tmp_path / "mixed", CONFIG)
    for path in (tmp_path / "sorted/scenes").rglob("*.*"):
        if path.is_file():
            again = tmp_path / "mixed" / path.relative_to(tmp_path / "sorted")
            assert path.read_bytes() == again.read_bytes()


def test_chains_of_nuscenes_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    for name, change, said in (
        ("circle", lambda rows: rows[raw.FRAMES - 1].update(next="d0"), "leads in a circle"),
        ("times", lambda rows: rows[2].update(timestamp=0), "times that do not grow"),
        ("sizes", lambda rows: rows[2].update(width=1600), "several cameras or sizes"),
        ("images", lambda rows: [{**r, "width": 1600} for r in rows], "calibrated for 1600 x 64"),
    ):
        source = raw.write_nuscenes(tmp_path / name)
        change_rows(source, "sample_data", change)
        with pytest.raises(InputError, match=said):
            nuscenes(source, tmp_path / f"{name}-out", CONFIG)


def test_cameras_of_nuscenes_that_are_none_are_refused(tmp_path: Path) -> None:
    source = raw.write_nuscenes(tmp_path / "source")
    matrix = np.array([[raw.FOCAL, 0, 48], [0, raw.FOCAL, 32], [0, 0, 1]]).T.tolist()
    change_rows(source, "calibrated_sensor", lambda rows: rows[0].update(camera_intrinsic=matrix))
    with pytest.raises(InputError, match=r"'camera_intrinsic' of 'cc' .* as if written by columns"):
        nuscenes(source, tmp_path / "out", CONFIG)


def test_nuscenes_sweeps_before_the_first_row(shared: Path, tmp_path: Path) -> None:
    nuscenes(shared / "cases/nuscenes_sweep_before_key_frame/raw", tmp_path, CONFIG)
    assert len(list((tmp_path / "scenes/scene-0001/FRONT/rgb/original").iterdir())) == 7
    assert len(read_split(tmp_path / "splits/all_files.txt")) == 5
