"""The street world: same seed, same bytes; depth, poses, flow, masks and annotations agree."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, sha256
from moduv.frames.camera import Intrinsics
from moduv.frames.images import read_image
from moduv.frames.splits import read_split
from moduv.instances.indexed import read_indices
from moduv.street.dataset import StreetConfig, render_dataset
from moduv.street.render import FAR, render
from moduv.street.scene import Scene, paint_name
from moduv.street.sequences import write_sequences
from moduv.street.truth import count_objects, optical_flow

SMALL = StreetConfig(train_clips=2, val_clips=1, frames_per_clip=4, workers=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street")
    render_dataset(root, SMALL)
    return root


def hashes(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "manifest.json")
    return {path.relative_to(root).as_posix(): sha256(path) for path in files}


def test_layout_is_that_of_a_data_set(world: Path) -> None:
    frames = read_split(world / "splits/train_files.txt")
    assert [frame.line() for frame in frames[:3]] == [
        "train/clip_0000 1",
        "train/clip_0000 2",
        "train/clip_0001 1",
    ]
    image = read_image(frames[0].image_path(world))
    assert image.shape == (96, 160, 3)
    camera = Intrinsics.from_cam_json(world / "train/clip_0000/cam.json", 160, 96)
    assert np.allclose(camera.matrix(), SMALL.camera().matrix())
    assert len((world / "truth/val/clip_0000/poses.txt").read_text().splitlines()) == 4


def test_killed_rendering_resumes_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "killed")
    (tmp_path / "killed/manifest.json").unlink()
    (tmp_path / "killed/truth/train/clip_0001/objects.json").unlink()
    (tmp_path / "killed/train/clip_0001/000002.jpg").write_bytes(b"half")
    render_dataset(tmp_path / "killed", SMALL)
    assert hashes(tmp_path / "killed") == hashes(world)


def test_deleted_frames_are_rendered_again(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "holed")
    (tmp_path / "holed/manifest.json").unlink()
    shutil.rmtree(tmp_path / "holed/train/clip_0001")
    (tmp_path / "holed/truth/val/clip_0000/000001.npz").unlink()
    kept = (tmp_path / "holed/train/clip_0000/000000.jpg").stat().st_mtime_ns
    render_dataset(tmp_path / "holed", SMALL)
    assert hashes(tmp_path / "holed") == hashes(world)
    assert (tmp_path / "holed/train/clip_0000/000000.jpg").stat().st_mtime_ns == kept


def test_number_of_processes_decides_nothing(world: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path / "alone", replace(SMALL, workers=1))
    assert hashes(tmp_path / "alone") == hashes(world)
    before = (world / "manifest.json").stat().st_mtime_ns
    render_dataset(world, replace(SMALL, workers=1))
    assert (world / "manifest.json").stat().st_mtime_ns == before


def test_worlds_of_different_seeds_share_no_clip(world: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path / "other", replace(SMALL, seed=1))
    first, second = (
        {sha256(path) for path in root.rglob("000000.jpg")} for root in (world, tmp_path / "other")
    )
    assert len(first) == len(second) == 3
    assert not first & second


@pytest.mark.parametrize("frames", [8, 30])
def test_objects_pass_neither_through_the_camera_nor_each_other(frames: int) -> None:
    for seed in range(12):
        scene = Scene(seed, frames)
        for frame in range(frames):
            bodies = [(item.at(frame), item.clearance()) for item in scene.objects]
            bodies.append((scene.camera(frame)[1], (0.1, 0.1)))
            for index, (place, (width, length)) in enumerate(bodies):
                for other, (wide, long) in bodies[:index]:
                    apart = np.abs(place - other)
                    assert apart[0] >= width + wide or apart[2] >= length + long


def test_other_settings_at_the_same_place_are_refused(world: Path) -> None:
    with pytest.raises(InputError, match="another config"):
        render_dataset(world, StreetConfig(train_clips=3, val_clips=1, frames_per_clip=4))


@pytest.mark.parametrize(
    "change",
    [
        {"height": 48},
        {"supersampling": 2},
        {"frames_per_clip": 2},
        {"train_clips": 1_000_001},
        {"workers": 0},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_one_sentence(change: dict[str, int]) -> None:
    with pytest.raises(InputError):
        StreetConfig(**change)


def test_annotations_are_the_instance_masks(world: Path) -> None:
    content = read_json(world / "annotations/val.json")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert content["annotations"]
    for annotation in content["annotations"]:
        stem = names[annotation["image_id"]].removesuffix(".jpg")
        truth = np.load(world / f"truth/{stem}.npz")
        mask = coco.decode(annotation["segmentation"]).astype(bool)
        found = np.unique(truth["instances"][mask])
        assert len(found) == 1
        assert (truth["instances"] == found[0]).sum() == mask.sum() == annotation["area"]
        assert truth["moving"][truth["ids"] == found[0]][0] == bool(annotation["moving"])
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()


def test_annotations_name_objects_and_follow_them(world: Path) -> None:
    content = read_json(world / "annotations/train.json")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    clips: dict[int, set[str]] = {}
    called: dict[int, set[str]] = {}
    for annotation in content["annotations"]:
        track = annotation["track_id"]
        clips.setdefault(track, set()).add(names[annotation["image_id"]].rpartition("/")[0])
        called.setdefault(track, set()).add(annotation["name"])
    assert len(clips) > 10
    assert all(len(found) == 1 for found in (*clips.values(), *called.values()))
    scene = Scene(0, SMALL.frames_per_clip)
    for track, (name,) in called.items():
        if clips[track] == {"train/clip_0000"}:
            assert scene.objects[track - 1].name == name


def test_paints_are_named_by_what_is_painted() -> None:
    for colour, name in {
        (0, 200, 200): "red",
        (179, 200, 200): "red",
        (16, 200, 200): "yellow",
        (120, 200, 200): "blue",
        (120, 200, 79): "black",
        (120, 49, 159): "grey",
        (120, 49, 160): "white",
    }.items():
        assert paint_name(*colour) == name
    named = [item for seed in range(6) for item in Scene(seed, 4).objects]
    assert {item.kind for item in named} == {"car", "van", "truck", "pedestrian"}
    assert all(bool(item.paint) == (item.kind != "pedestrian") for item in named)
    assert len({item.name for item in named}) > 12


def test_sequences_number_the_objects_of_the_first_frame(world: Path, tmp_path: Path) -> None:
    write_sequences(world, tmp_path)
    assert (tmp_path / "ImageSets/2017/val.txt").read_text() == "clip_0000\n"
    frames = sorted((tmp_path / "JPEGImages/480p/clip_0000").iterdir())
    assert [path.name for path in frames] == [f"{n:05d}.jpg" for n in range(4)]
    assert frames[2].read_bytes() == (world / "val/clip_0000/000002.jpg").read_bytes()
    masks = [read_indices(tmp_path / f"Annotations/480p/clip_0000/{n:05d}.png") for n in range(4)]
    truth = [np.load(world / f"truth/val/clip_0000/{n:06d}.npz")["instances"] for n in range(4)]
    first, *_ = read_json(world / "truth/val/clip_0000/objects.json")
    large = [item["track_id"] for item in first if not item["ignore"]]
    assert large
    for mask, instances in zip(masks, truth, strict=True):
        for number, identity in enumerate(large, 1):
            assert np.array_equal(mask == number, instances == identity)
        assert mask.max() <= len(large)


def test_sequences_of_no_finished_world_are_one_sentence(world: Path, tmp_path: Path) -> None:
    for root, split in ((tmp_path, "val"), (world, "test")):
        with pytest.raises(InputError, match="holds no finished street world"):
            write_sequences(root, tmp_path / "out", split)


def pixels_of(camera: Intrinsics) -> np.ndarray:
    rows, columns = np.mgrid[: camera.height, : camera.width]
    return np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1).astype(float)


@pytest.mark.parametrize("seed", [1, 5, 11])
def test_flow_depth_and_poses_agree_on_the_static_world(seed: int) -> None:
    scene, camera = Scene(seed, 6), SMALL.camera()
    _, depth, ids = render(scene, 2, camera)
    _, next_depth, next_ids = render(scene, 3, camera)
    flow = optical_flow(scene, 2, camera, depth, ids)
    (first, start), (second, end) = scene.camera(2), scene.camera(3)
    points = first @ (np.linalg.inv(camera.matrix()) @ pixels_of(camera) * depth.ravel())
    seen = second.T @ (points + (start - end)[:, None])
    expected = (camera.matrix() @ seen / seen[2])[:2] - pixels_of(camera)[:2]
    static = (ids.ravel() == 0) & (depth.ravel() < FAR)
    assert np.allclose(flow.reshape(2, -1)[:, static], expected[:, static], atol=1e-6)
    # Where the flow leads, the next frame shows a surface at the depth it has moved to.
    target = np.round(pixels_of(camera)[:2] + expected).astype(int)
    inside = (target[0] >= 0) & (target[0] < 160) & (target[1] >= 0) & (target[1] < 96)
    flat = static & inside & (depth.ravel() < 20)
    there = target[1, flat], target[0, flat]
    visible = next_ids[there] == 0
    error = np.abs(next_depth[there] - seen[2, flat]) / seen[2, flat]
    assert np.median(error[visible]) < 0.02


def test_moving_objects_leave_the_flow_of_the_static_world() -> None:
    camera = SMALL.camera()
    checked = 0
    for seed in range(8):
        scene = Scene(seed, 6)
        _, depth, ids = render(scene, 2, camera)
        flow = optical_flow(scene, 2, camera, depth, ids)
        still = optical_flow(scene, 2, camera, depth, np.zeros_like(ids))
        difference = np.linalg.norm(flow - still, axis=0)
        for identity, item in enumerate(scene.objects, 1):
            inside = ids == identity
            if inside.sum() > 20:
                assert bool(difference[inside].max() > 1e-6) == item.moving
                checked += 1
    assert checked > 20


def test_every_kind_of_object_occurs() -> None:
    counts = dict.fromkeys(count_objects({"annotations": []}), 0)
    from moduv.street.truth import annotate

    for seed in range(24):
        scene = Scene(seed, 12)
        _, depth, ids = render(scene, 6, SMALL.camera(), supersampling=1)
        for name, number in count_objects({"annotations": annotate(scene, depth, ids)}).items():
            counts[name] += number
    assert min(counts.values()) > 0, counts


def test_supersampled_pixels_are_the_mean_of_their_samples() -> None:
    scene, camera = Scene(3, 6), SMALL.camera()
    image, depth, ids = render(scene, 1, camera, supersampling=3)
    _, sharp_depth, sharp_ids = render(scene, 1, camera, supersampling=1)
    assert image.std() > 20
    assert np.array_equal(ids, sharp_ids)
    assert np.allclose(depth, sharp_depth, rtol=1e-5)
