"""Which objects move, the depth of the road they stand on, and what of it lies on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.dynamic_depth.mining import frame_pseudo_depth, make_pseudo_depth
from moduv.dynamic_depth.objects import ObjectsConfig, covered_shares, find_objects, label_motion
from moduv.dynamic_depth.pseudo import (
    ObjectDepth,
    PseudoDepth,
    compose,
    object_depth,
    read_pseudo_depth,
    write_pseudo_depth,
)
from moduv.dynamic_depth.scales import ScaleConfig, contact_depth, fit_road
from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.engine.stages import read_manifest
from moduv.frames.clip import FrameRef
from moduv.frames.splits import write_split
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels

SIZE = (24, 40)


def box_mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def instances(*masks: np.ndarray) -> Instances:
    return Instances.from_dense(np.stack(masks)) if masks else Instances([], np.zeros((0, 4)))


def ground(horizon: int = 4) -> np.ndarray:
    """Depth (H, W) of a flat road below a far wall."""
    rows = np.arange(SIZE[0], dtype=np.float32)[:, None]
    return np.broadcast_to(80 / np.maximum(rows - horizon, 1), SIZE).copy()


# --- what moves ---------------------------------------------------------------------------------------


def test_an_object_moves_where_enough_of_it_does() -> None:
    mask = box_mask(8, 10, 12, 20)
    half, less = box_mask(8, 10, 12, 15), box_mask(8, 10, 12, 14)
    assert covered_shares(instances(mask), instances(half)) == pytest.approx([0.5])
    for moved, moving in ((half, 1), (less, 0)):
        (found,) = label_motion([instances(mask)], [instances(moved)], ObjectsConfig())
        assert found.columns["moving"].tolist() == [moving]
    assert covered_shares(instances(mask), instances()) == pytest.approx([0.0])


def test_what_moves_once_moves_in_all_of_its_track() -> None:
    driving = [instances(box_mask(8, 2 + n, 12, 12 + n), box_mask(8, 26, 12, 36)) for n in range(4)]
    seen = [instances(), instances(box_mask(8, 3, 12, 13)), instances(), instances()]
    found = label_motion(driving, seen, ObjectsConfig())
    assert [frame.columns["moving"].tolist() for frame in found] == [[1, 0]] * 4
    assert len({tuple(frame.columns["track"].tolist()) for frame in found}) == 1


def world(root: Path, *, moved: bool = True) -> tuple[Path, list[FrameRef]]:
    """Two frames with a mover and a parked object on a road; the mover is too far by a half."""
    frames = [FrameRef("train/clip_0000", index) for index in (1, 2)]
    mover, parked = box_mask(10, 5, 15, 15), box_mask(8, 25, 12, 35)
    for frame in frames:
        write_labels(root / "labels", frame, instances(mover, parked))
        write_labels(root / "L0", frame, instances(mover) if moved else instances())
        depth = ground()
        depth[parked], depth[mover] = depth[12, 0], 1.5 * depth[15, 0]
        write_npz(frame.file(root / "motion", ".npz"), depth=depth)
    write_split(root / "split.txt", frames)
    return root / "split.txt", frames


@pytest.mark.parametrize("plane", [False, True])
def test_pseudo_depth_stands_on_the_road(tmp_path: Path, plane: bool) -> None:
    split, frames = world(tmp_path)
    find_objects(split, tmp_path / "labels", tmp_path / "L0", tmp_path / "objects", ObjectsConfig())
    assert read_manifest(tmp_path / "objects")["results"] == {"frames": 2, "moving": 2, "static": 2}
    folders = tmp_path / "motion", tmp_path / "objects", tmp_path / "pseudo"
    make_pseudo_depth(split, *folders, ScaleConfig(plane))
    pseudo = read_pseudo_depth(frames[0].file(tmp_path / "pseudo", ".npz"))
    (item,) = pseudo.objects
    road = ground()
    stands = 80 / (14.5 - 4) if plane else road[15, 0]  # at the mask's edge, or in the row below
    assert item.scale == pytest.approx(stands / (1.5 * road[15, 0]), rel=1e-3)
    found = compose(road, pseudo)
    mover = box_mask(10, 5, 15, 15)
    assert np.allclose(found[mover], stands, rtol=1e-3)
    assert np.array_equal(found[~mover], road[~mover]), "the rest is the teacher's"
    assert frames[0].file(tmp_path / "pseudo", ".npz").stat().st_size < 2000


def test_a_run_without_movers_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split, frames = world(tmp_path, moved=False)
    find_objects(split, tmp_path / "labels", tmp_path / "L0", tmp_path / "objects", ObjectsConfig())
    assert "nothing moves: no object is covered by" in capsys.readouterr().out
    folders = tmp_path / "motion", tmp_path / "objects", tmp_path / "pseudo"
    make_pseudo_depth(split, *folders, ScaleConfig())
    assert read_manifest(tmp_path / "pseudo")["results"]["objects"] == 0
    assert not read_pseudo_depth(frames[0].file(tmp_path / "pseudo", ".npz")).rendered().any()


def test_objects_of_no_use_are_left_out(tmp_path: Path) -> None:
    split, frames = world(tmp_path)
    everything, speck = np.ones(SIZE, bool), box_mask(5, 5, 6, 7)
    for frame in frames:
        write_labels(
            tmp_path / "labels", frame, instances(everything, speck, box_mask(8, 2, 14, 9))
        )
    find_objects(split, tmp_path / "labels", tmp_path / "L0", tmp_path / "objects", ObjectsConfig())
    assert len(read_labels(tmp_path / "objects", frames[0])) == 1
    with pytest.raises(InputError, match="the smallest below the largest"):
        ObjectsConfig(smallest=0.6)


def test_what_fits_no_frame_is_named(tmp_path: Path) -> None:
    split, frames = world(tmp_path)
    find_objects(split, tmp_path / "labels", tmp_path / "L0", tmp_path / "objects", ObjectsConfig())
    path = frames[0].file(tmp_path / "motion", ".npz")
    objects = read_labels(tmp_path / "objects", frames[0])
    for depth, message in {
        "wide": (np.full((24, 90), 9.0), "aspect"),
        "broken": (np.full(SIZE, np.nan), r"000001\.npz: 'depth' is not positive and finite"),
        "behind": (np.full(SIZE, -1.0), r"000001\.npz: 'depth' is not positive and finite"),
    }.values():
        write_npz(path, depth=depth)
        with pytest.raises(InputError, match=message):
            frame_pseudo_depth(frames[0], tmp_path / "motion", objects, ScaleConfig())
    write_npz(path, depth=ground())
    plain = read_labels(tmp_path / "labels", frames[0])
    with pytest.raises(InputError, match="run moduv depth objects first"):
        frame_pseudo_depth(frames[0], tmp_path / "motion", plain, ScaleConfig())
    other = tmp_path / "other.txt"
    write_split(other, [FrameRef("train/clip_0009", 1)])
    with pytest.raises(InputError, match=r"has no frame of .*other\.txt"):
        make_pseudo_depth(
            other, tmp_path / "motion", tmp_path / "objects", tmp_path / "p", ScaleConfig()
        )


# --- the road below -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(6, 20), st.integers(0, 25), st.floats(0.2, 5))
def test_an_object_gets_the_depth_of_the_road_whatever_its_own(
    bottom: int, left: int, wrong: float
) -> None:
    mask, road = box_mask(bottom - 3, left, bottom, left + 8), ground()
    depth = np.where(mask, wrong * road[bottom, 0], road).astype(np.float32)
    assert contact_depth(depth, mask, ScaleConfig()) == pytest.approx(road[bottom, 0])
    for flat in (True, False):
        item = object_depth(depth, mask, float(road[bottom, 0]), flat=flat)
        assert np.allclose(item.depth[item.mask], road[bottom, 0], rtol=1e-5)
        assert item.scale == pytest.approx(1 / wrong, rel=1e-4)


def test_no_road_below_is_no_depth() -> None:
    for mask in (box_mask(20, 5, 24, 15), np.zeros(SIZE, bool), np.ones(SIZE, bool)):
        assert contact_depth(ground(), mask, ScaleConfig()) is None


@settings(deadline=None, max_examples=25)
@given(
    horizon=st.floats(20, 50),
    slope=st.floats(1e-3, 1e-2),
    row=st.integers(56, 90),
    seed=st.integers(0, 99),
)
def test_the_plane_of_the_road_is_found_beside_objects_walls_and_noise(
    horizon: float, slope: float, row: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.arange(96)[:, None]
    disparity = np.broadcast_to(slope * np.maximum(rows - horizon, 4), (96, 160)).copy()
    disparity *= 1 + 0.05 * rng.standard_normal(disparity.shape)
    disparity[:80, :40] = slope * 30  # a wall
    mask = np.zeros((96, 160), bool)
    mask[row - 20 : row, 60:110] = True
    # An object that seems far, and some of whose depth is seen around it.
    disparity[row - 20 : row + 2, 58:112] = slope * 2
    plane = fit_road(1 / disparity, mask)
    assert plane is not None
    expected = 1 / (slope * (row - 0.5 - horizon))
    assert contact_depth(1 / disparity, mask, ScaleConfig(), plane) == pytest.approx(
        expected, rel=0.15
    )


def test_what_is_no_level_road_has_no_plane() -> None:
    wall, ceiling = np.full((96, 160), 10.0), 1 / np.linspace(1, 0.1, 96)[:, None].repeat(160, 1)
    rough = np.random.default_rng(0).uniform(1, 50, (96, 1)).repeat(160, 1)
    nothing = np.zeros((96, 160), bool)
    for depth, objects in ((wall, nothing), (ceiling, nothing), (rough, nothing), (wall, ~nothing)):
        assert fit_road(depth, objects) is None


# --- on disk ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), count=st.integers(0, 4))
def test_what_is_written_is_read(
    seed: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    objects = []
    for _ in range(count):
        rows, columns = rng.integers(1, 9, 2)
        mask = rng.random((rows, columns)) < 0.7
        depth = rng.uniform(1, 90, (rows, columns)).astype(np.float32)
        top, left = int(rng.integers(0, 24 - rows)), int(rng.integers(0, 40 - columns))
        objects.append(ObjectDepth(top, left, mask, depth, float(rng.uniform(0.5, 2))))
    path = tmp_path_factory.mktemp("pseudo") / "000001.npz"
    pseudo = PseudoDepth(SIZE, tuple(objects))
    write_pseudo_depth(path, pseudo)
    found = read_pseudo_depth(path)
    assert len(found.objects) == count
    # In half precision.
    assert np.allclose(found.rendered(), pseudo.rendered(), rtol=1e-3)
    assert [item.scale for item in found.objects] == pytest.approx([item.scale for item in objects])


def test_of_two_objects_the_nearer_is_in_front() -> None:
    mask = np.ones((4, 4), bool)
    near, far = (
        ObjectDepth(2, 2 + n, mask, np.full((4, 4), d), 1.0) for n, d in ((0, 5.0), (2, 9.0))
    )
    for objects in ((near, far), (far, near)):
        rendered = PseudoDepth(SIZE, objects).rendered()
        assert (rendered[2:6, 2:6] == 5).all()
        assert (rendered[2:6, 6:8] == 9).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("boxes", np.array([[30, 2, 20, 4]])),
        ("boxes", np.array([[-1, 2, 4, 4]])),
        ("depths", np.full(16, np.nan, np.float16)),
        ("depths", np.ones(15, np.float16)),
        ("bits", np.zeros(1, np.uint8)),
        ("size", np.array([24])),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, key: str, value: np.ndarray) -> None:
    path, mask = tmp_path / "000001.npz", np.ones((4, 4), bool)
    write_pseudo_depth(path, PseudoDepth(SIZE, (ObjectDepth(2, 3, mask, np.ones((4, 4)), 1.0),)))
    write_npz(path, **{**np.load(path), key: value})
    with pytest.raises(InputError, match=r"000001\.npz: is no pseudo-depth of a frame"):
        read_pseudo_depth(path)
