"""L0: the reference's clusters bit for bit, DBSCAN for any parameters, bad input refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError
from moduv.engine.files import write_npz
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.labels.initial import InitialConfig, extract_instances, initial_labels, ranges
from moduv.rounds.labelling import label_motion

L0_CASES = [
    "constrange_6",
    "empty_8",
    "full_7",
    "grid_3",
    "plain_1",
    "plain_2",
    "plain_5",
    "thin_4",
    "waymo_real",
]
PINHOLE = np.linalg.inv([[20.0, 0, 11], [0, 20.0, 8], [0, 0, 1]])


@pytest.mark.parametrize("case", L0_CASES)
def test_initial_labels_equal_the_reference(shared: Path, case: str) -> None:
    arrays = np.load(shared / f"golden/l0/{case}.npz")
    instances = extract_instances(arrays["mot_mask"], arrays["depth"], arrays["inv_K"])
    assert instances.to_json() == json.loads((shared / f"golden/l0/{case}.json").read_text())


def plain_clusters(
    moving: np.ndarray,
    distance: np.ndarray,
    window: int,
    eps: float,
    min_samples: int,
    relative: bool,
) -> list[set[tuple[int, int]]]:
    """DBSCAN over the directed neighbourhood, pixel by pixel."""
    height, width = moving.shape

    def neighbours(y: int, x: int) -> list[tuple[int, int]]:
        reach = np.float32(eps) * distance[y, x] if relative else np.float32(eps)
        return [
            (qy, qx)
            for qy in range(y - window // 2, y + window // 2)
            for qx in range(x - window // 2, x + window // 2)
            if 0 <= qy < height and 0 <= qx < width and moving[qy, qx]
            if abs(distance[y, x] - distance[qy, qx]) <= reach
        ]

    taken: set[tuple[int, int]] = set()
    clusters = []
    for start in zip(*np.nonzero(moving), strict=True):
        if start in taken or len(neighbours(*start)) < min_samples:
            continue
        cluster, queue = {start}, [start]
        taken.add(start)
        while queue:
            pixel = queue.pop()
            if len(neighbours(*pixel)) < min_samples:
                continue
            new = [q for q in neighbours(*pixel) if q not in taken]
            taken.update(new)
            cluster.update(new)
            queue += new
        clusters.append(cluster)
    return clusters


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    window=st.sampled_from([2, 4, 6, 8]),
    share=st.floats(0.0, 1.0),
    density=st.floats(0.2, 1.0),
    steps=st.sampled_from([1, 2, 10]),
    block=st.sampled_from([1, 4, 9]),
    relative=st.booleans(),
)
def test_initial_labels_equal_plain_clustering(
    seed: int, window: int, share: float, density: float, steps: int, block: int, relative: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Blocks of moving pixels, so that whole windows move, beside scattered ones.
    blocks = np.kron(rng.random((17, 23)) < density, np.ones((block, block)))[:17, :23]
    mask = blocks.astype(np.float32)
    # Few different depths, so that ties and constant ranges occur.
    depth = np.round(rng.random((17, 23)) * steps).astype(np.float32) / steps * 0.1 + 1
    min_samples = max(1, round(share * (window**2 + 1)))
    found = extract_instances(
        mask,
        depth,
        PINHOLE,
        window=window,
        eps=0.05,
        min_samples=min_samples,
        relative=relative,
        smallest_extent=-1,
    )
    distance = ranges(depth, PINHOLE)
    expected = plain_clusters(mask > 0.1, distance, window, 0.05, min_samples, relative)
    assert [set(zip(*np.nonzero(m), strict=True)) for m in found.decode()] == expected
    for box, pixels in zip(found.boxes, expected, strict=True):
        rows, columns = zip(*pixels, strict=True)
        assert box.tolist() == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def test_range_is_the_distance_from_the_camera() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 50, (17, 23))
    rows, columns = np.mgrid[:17, :23]
    rays = np.einsum("ij,jhw->ihw", PINHOLE, np.stack([columns, rows, np.ones_like(rows)]))
    found = ranges(depth, PINHOLE)
    assert found.dtype == np.float32
    assert np.allclose(found, depth * np.linalg.norm(rays, axis=0), rtol=1e-5)


def scene(*blocks: tuple[slice, slice, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A motion mask of 40 x 60 with moving rectangles at their depths, before a far background."""
    mask, depth = np.zeros((40, 60), np.float32), np.full((40, 60), 100, np.float32)
    for rows, columns, distance in blocks:
        mask[rows, columns], depth[rows, columns] = 1, distance
    # Almost parallel rays: range and depth agree.
    return mask, depth, np.diag([1e-6, 1e-6, 1.0])


def test_objects_at_different_ranges_stay_apart() -> None:
    beside = scene((slice(5, 20), slice(5, 20), 2.0), (slice(5, 20), slice(20, 35), 2.5))
    assert extract_instances(*beside).boxes.tolist() == [[5, 5, 20, 20], [20, 5, 35, 20]]
    together = scene((slice(5, 20), slice(5, 20), 2.0), (slice(5, 20), slice(20, 35), 2.02))
    assert extract_instances(*together).boxes.tolist() == [[5, 5, 35, 20]]


@pytest.mark.parametrize(("near", "far", "eps"), [(2.0, 2 + 1 / 32, 1 / 32), (0.1, 0.2, 0.1)])
def test_a_difference_of_exactly_eps_counts(near: float, far: float, eps: float) -> None:
    mask, depth, _ = scene((slice(5, 20), slice(5, 20), near))
    rows, columns = np.mgrid[:40, :60]
    depth[(rows + columns) % 2 == 1] = far
    # Rays along the axis, so that ranges are the depths without rounding.
    axis = np.diag([0.0, 0.0, 1.0])
    assert extract_instances(mask, depth, axis, eps=eps).areas().tolist() == [15 * 15]
    assert len(extract_instances(mask, depth, axis, eps=0.999 * eps)) == 0


def test_relative_eps_does_not_depend_on_the_scale_of_depth() -> None:
    mask, depth, inv_K = scene(
        (slice(5, 20), slice(5, 20), 2.0), (slice(5, 20), slice(20, 35), 2.2)
    )
    for scale in (0.01, 1, 100):
        found = extract_instances(mask, depth * np.float32(scale), inv_K, relative=True)
        assert found.boxes.tolist() == [[5, 5, 20, 20], [20, 5, 35, 20]]


def test_small_instances_are_dropped() -> None:
    mask, depth, inv_K = scene(
        (slice(5, 11), slice(5, 30), 2.0), (slice(20, 27), slice(5, 30), 2.0)
    )
    found = extract_instances(mask, depth, inv_K, window=4, min_samples=16)
    assert found.boxes.tolist() == [[5, 20, 30, 27]]


def test_half_precision_motion_outputs_are_read_like_single_precision() -> None:
    mask, depth, inv_K = scene((slice(5, 20), slice(5, 20), 2.0))
    # The half nearest to 0.3 is above 0.3, but not above 0.3 rounded to half precision.
    mask, depth = (mask * 0.3).astype(np.float16), depth.astype(np.float16)
    half = extract_instances(mask, depth, inv_K, motion_threshold=0.3)
    assert half.boxes.tolist() == [[5, 5, 20, 20]]
    single = (mask.astype(np.float32), depth.astype(np.float32))
    assert half.to_json() == extract_instances(*single, inv_K, motion_threshold=0.3).to_json()


@pytest.mark.parametrize(
    ("mask", "depth", "inv_K", "message"),
    [
        (np.ones((8, 8)), np.ones((8, 9)), np.eye(4), "'mot_mask' .* and 'depth' .* one size"),
        (np.ones((2, 8, 8)), np.ones((2, 8, 8)), np.eye(4), "'mot_mask' .* not images of one size"),
        (np.ones((0, 8)), np.ones((0, 8)), np.eye(4), "'mot_mask' .* not images of one size"),
        (np.ones((8, 8)), np.ones((8, 8)), np.eye(2), "'inv_K' is"),
        (np.full((8, 8), np.nan), np.ones((8, 8)), np.eye(4), "'mot_mask' holds numbers"),
        (np.ones((8, 8)), np.full((8, 8), np.inf), np.eye(4), "'depth' holds numbers"),
        (np.ones((8, 8)), np.ones((8, 8)), np.full((4, 4), np.nan), "'inv_K' holds numbers"),
        (np.ones((8, 8)), np.full((8, 8), "near"), np.eye(4), "'depth' holds numbers"),
        (np.ones((8, 8)), np.ones((8, 8)) * 1j, np.eye(4), "'depth' holds numbers"),
        (np.ones((8, 8)), np.zeros((8, 8)), np.eye(4), "'depth' reaches from 0 to 0"),
        (np.ones((8, 8)), np.full((8, 8), -1), np.eye(4), "'depth' reaches from -1"),
        (np.ones((8, 8)), np.full((8, 8), 1e30), np.eye(4), r"'depth' reaches from 1e\+30"),
        (np.full((8, 8), 5), np.ones((8, 8)), np.eye(4), "'mot_mask' reaches from 5 to 5"),
        (np.full((8, 8), -5.0), np.ones((8, 8)), np.eye(4), "'mot_mask' reaches from -5"),
        (np.full((8, 8), 255, np.uint8), np.ones((8, 8)), np.eye(4), "'mot_mask' reaches from 255"),
    ],
)
def test_bad_arrays_are_refused(
    mask: np.ndarray, depth: np.ndarray, inv_K: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=rf"000045\.npz: {message}.*; predict the frame again"):
        extract_instances(mask, depth, inv_K, source="000045.npz")


@pytest.mark.parametrize("inv_K", [np.zeros((4, 4)), np.ones((3, 3)), np.diag([0.0, 0, 1, 1])])
def test_cameras_that_see_no_picture_are_refused(inv_K: np.ndarray) -> None:
    with pytest.raises(InputError, match="'inv_K' cannot be inverted; predict the frame again"):
        initial_labels(np.ones((8, 8)), np.ones((8, 8)), inv_K=inv_K)


def test_the_bounds_themselves_are_taken() -> None:
    mask, depth = np.zeros((8, 8), bool), np.full((8, 8), 1e-5, np.float16)
    assert len(extract_instances(mask, depth, np.eye(4))) == 0
    assert len(extract_instances(mask.astype(np.uint8), depth, np.eye(3))) == 0


@given(
    value=st.floats(allow_nan=True),
    place=st.tuples(st.sampled_from(["mask", "depth", "inv_K"]), st.integers(0, 8)),
)
def test_any_number_in_a_motion_output(value: float, place: tuple[str, int]) -> None:
    arrays = {"mask": np.ones((3, 3)), "depth": np.ones((3, 3)), "inv_K": np.eye(3)}
    arrays[place[0]].flat[place[1]] = value
    try:
        found = extract_instances(*arrays.values(), min_samples=1, smallest_extent=-1)
    except InputError:
        return
    assert all(mask.any() for mask in found.decode())


def test_an_output_of_another_aspect_than_its_frame_is_refused(tmp_path: Path) -> None:
    square = {"mot_mask": np.ones((40, 40)), "depth": np.ones((40, 40)), "inv_K": np.eye(4)}
    write_npz(tmp_path / "m/a/000001.npz", **square)
    write_image(tmp_path / "d/a/000001.jpg", np.zeros((48, 80, 3), np.uint8))
    write_split(tmp_path / "s.txt", [FrameRef("a", 1)])
    for snap in (True, False):
        config = InitialConfig(snap=snap, workers=1)
        paths = tmp_path / "s.txt", tmp_path / "m", tmp_path / f"out{snap}"
        with pytest.raises(InputError, match=r"000001\.npz: .* 40 x 40 .* another aspect"):
            label_motion(*paths, config, tmp_path / "d")
        assert not list(tmp_path.glob("out*/a"))


@pytest.mark.parametrize("wrong", [{"window": 9}, {"window": 0}, {"min_samples": 0}])
def test_parameters_without_meaning_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is"):
        extract_instances(np.ones((8, 8)), np.ones((8, 8)), np.eye(4), **wrong)
