"""What depth on what moves makes of masks, depths and folders that are broken, empty, stale or of another frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from moduv.commands.cli import main
from moduv.dynamic_depth.masks.candidates import CleanConfig, as_instances, clean_labels
from moduv.dynamic_depth.masks.given import MasksConfig, import_masks
from moduv.dynamic_depth.masks.rules import clean_masks, distinct_masks
from moduv.dynamic_depth.mining import make_pseudo_depth
from moduv.dynamic_depth.objects import ObjectsConfig, find_objects
from moduv.dynamic_depth.outputs import (
    check_teacher,
    made_here,
    read_inverse_intrinsics,
    read_moving,
    read_scene,
    stacked,
)
from moduv.dynamic_depth.pixelwise.scenes import flow_colours
from moduv.dynamic_depth.pseudo import (
    ObjectDepth,
    PseudoDepth,
    read_pseudo_depth,
    write_pseudo_depth,
)
from moduv.dynamic_depth.scales import ScaleConfig
from moduv.engine.errors import InputError
from moduv.engine.files import write_json, write_npz
from moduv.engine.stages import fingerprint, read_manifest
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels

SIZE = (96, 160)
FRAMES = [FrameRef("train/clip_0000", index) for index in (1, 2)]


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_split(tmp_path / "split.txt", FRAMES)
    return tmp_path / "split.txt"


def write_all(root: Path, *masks: np.ndarray, frames: list[FrameRef] = FRAMES) -> Path:
    for frame in frames:
        write_labels(root, frame, as_instances(np.array(masks, bool).reshape(-1, *SIZE)))
    return root


# --- masks of one object ------------------------------------------------------------------------------


def test_of_masks_that_cover_each_other_the_larger_is_left_as_it_was() -> None:
    whole = box(20, 20, 40, 60)
    part, touching, beside = box(30, 40, 50, 60), box(20, 50, 40, 80), box(20, 55, 40, 80)
    for other in (part, touching):  # half of it is covered, a third
        (kept,) = distinct_masks(np.stack([other, whole]))
        assert np.array_equal(kept, whole)
    assert len(distinct_masks(np.stack([beside, whole]))) == 2  # a fifth
    assert distinct_masks(np.zeros((0, *SIZE), bool)).shape == (0, *SIZE)


def test_several_larger_masks_do_not_add_up() -> None:
    row = np.stack([box(20, 0, 40, 50), box(20, 42, 40, 82), box(20, 74, 40, 124)])
    assert len(distinct_masks(row)) == 3, "each neighbour covers a fifth of the middle one"


def test_only_predictions_must_fill_their_box() -> None:
    car = box(20, 20, 40, 60) | box(10, 30, 20, 50)  # a body and a roof
    assert len(distinct_masks(car[None])) == 1
    nothing = np.zeros(SIZE, bool)
    assert not len(clean_masks(car[None], nothing))
    assert not len(clean_masks(car[None], nothing, 0.19))
    assert len(clean_masks(car[None], nothing, 0.21)) == 1, "its box is larger by a fifth"


def test_masks_that_are_empty_or_all_of_the_image_are_no_error() -> None:
    road = box(60, 0, 96, 160)
    assert not len(clean_masks(np.zeros((2, *SIZE), bool), road))
    assert not len(clean_masks(np.zeros((0, *SIZE), bool), road))
    (left,) = clean_masks(np.ones((1, *SIZE), bool), road)
    assert np.array_equal(left, ~road)


# --- flow ---------------------------------------------------------------------------------------------


def test_colours_of_a_flow_do_not_depend_on_what_shares_its_batch() -> None:
    flow = torch.zeros(2, 2, 2, *SIZE)
    flow[0, :, 0, 20:40, 30:60], flow[1, :, 1, 50:70, 80:120] = 3.0, 40.0
    together = flow_colours(flow)
    for number in range(2):
        assert torch.equal(together[number], flow_colours(flow[number : number + 1])[0])
    assert together[0].min() < 64, "its largest flow has the full colour"


# --- stages on disk -----------------------------------------------------------------------------------


def test_frames_without_road_are_left_out(
    tmp_path: Path, split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_all(tmp_path / "labels", box(20, 20, 60, 60))
    road = write_all(tmp_path / "road", box(50, 0, 96, 160), frames=FRAMES[:1])
    find_objects(split, labels, labels, tmp_path / "objects", ObjectsConfig(), road)
    clean_labels(split, labels, road, tmp_path / "clean", CleanConfig())
    assert capsys.readouterr().out.count("1 frames without road left out") == 2
    for out in ("objects", "clean"):
        (mask,) = read_labels(tmp_path / out, FRAMES[0]).decode()
        assert np.array_equal(mask, box(20, 20, 50, 60))
        assert read_manifest(tmp_path / out)["results"]["frames"] == 1
    with pytest.raises(InputError, match="has the road of none of the 2 frames"):
        find_objects(split, labels, labels, tmp_path / "o", ObjectsConfig(), tmp_path / "none")


def test_an_empty_road_can_be_read(tmp_path: Path, split: Path) -> None:
    labels = write_all(tmp_path / "labels", box(20, 20, 60, 60))
    road = write_all(tmp_path / "road")
    find_objects(split, labels, labels, tmp_path / "objects", ObjectsConfig(), road)
    assert len(read_labels(tmp_path / "objects", FRAMES[0])) == 1


def test_what_moves_must_be_of_the_same_frames(tmp_path: Path, split: Path) -> None:
    labels = write_all(tmp_path / "labels", box(20, 20, 60, 60))
    wide = np.zeros((1, 96, 400), bool)
    wide[0, 20:60, 20:60] = True
    write_labels(tmp_path / "wide", FRAMES[0], Instances.from_dense(wide))
    write_npz(FRAMES[0].file(tmp_path / "motion", ".npz"), mot_mask=wide[0].astype(np.float16))
    for moved in ("wide", "motion"):
        with pytest.raises(InputError, match="another aspect"):
            find_objects(split, labels, tmp_path / moved, tmp_path / "o", ObjectsConfig())


def test_motion_outputs_of_other_shapes_are_named(tmp_path: Path) -> None:
    path = FRAMES[0].file(tmp_path, ".npz")
    write_npz(path, mot_mask=np.zeros((1, *SIZE)), inv_K=np.eye(3))
    with pytest.raises(InputError, match=r"000001\.npz: 'mot_mask' has the shape"):
        read_moving(FRAMES[0], tmp_path)
    with pytest.raises(InputError, match=r"000001\.npz: 'inv_K' is no finite matrix"):
        read_inverse_intrinsics(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=r"000001\.npz"):
        read_moving(FRAMES[0], tmp_path)
    samples = [{"depth": torch.ones(1, *size)} for size in (SIZE, (64, 96))]
    with pytest.raises(InputError, match="depth is 64 x 96 in some frames and 96 x 160 in others"):
        stacked(samples)


def test_masks_that_show_nothing_are_refused(tmp_path: Path, split: Path) -> None:
    for frame in FRAMES:
        write_image(frame.file(tmp_path / "data", ".jpg"), np.zeros((*SIZE, 3), np.uint8))
        path = tmp_path / "masks" / frame.segment / f"{frame.index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), 3 * box(20, 20, 40, 40).astype(np.uint8))  # numbers of objects
    config = MasksConfig(str(tmp_path / "masks"))
    with pytest.raises(InputError, match="all masks of the 2 frames are empty"):
        import_masks(tmp_path / "data", split, tmp_path / "out", config)


def write_masks(root: Path, name: str, image: np.ndarray) -> MasksConfig:
    for frame in FRAMES:
        write_image(frame.file(root / "data", ".jpg"), np.zeros((*SIZE, 3), np.uint8))
        path = root / "masks" / frame.segment / f"{frame.index:06d}{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return MasksConfig(str(root / "masks"))


@pytest.mark.parametrize("kind", ["blue", "16 bits", "jpg", "both"])
def test_masks_that_would_be_misread_are_refused(kind: str, tmp_path: Path, split: Path) -> None:
    shown = box(20, 20, 40, 40)
    blue = np.zeros((*SIZE, 3), np.uint8)
    blue[shown, 2] = 255
    image = {"blue": blue, "16 bits": shown.astype(np.uint16)}.get(kind, 255 * shown.view(np.uint8))
    name = {"jpg": "/0.jpg", "both": "/0.png"}.get(kind, ".png")
    config = write_masks(tmp_path, name, image)
    if kind == "both":
        write_masks(tmp_path, ".png", image)
    sentence = {"jpg": "0.jpg: is no PNG", "both": "are both masks of frame"}.get(
        kind, "of 16 bits or in colours"
    )
    with pytest.raises(InputError, match=sentence):
        import_masks(tmp_path / "data", split, tmp_path / "out", config)


@pytest.mark.parametrize("form", ["grey", "RGB", "RGBA", "palette", "bits"])
def test_masks_of_any_grey_form_are_the_same(
    form: str, tmp_path: Path, split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = box(20, 20, 40, 40)
    grey = Image.fromarray(255 * shown.view(np.uint8))
    kinds = {"grey": "L", "palette": "P", "bits": "1"}
    config = write_masks(tmp_path, "/0.png", np.asarray(grey.convert(kinds.get(form, form))))
    write_masks(tmp_path, "/1.png", np.zeros(SIZE, np.uint8))
    if form == "palette":
        for frame in FRAMES:
            path = tmp_path / "masks" / frame.segment / f"{frame.index:06d}/0.png"
            grey.convert("RGB").quantize(4).save(path)
    import_masks(tmp_path / "data", split, tmp_path / "out", config)
    assert np.array_equal(read_labels(tmp_path / "out", FRAMES[0]).decode(), shown[None])
    assert "2 masks; left out: 2 without a pixel" in capsys.readouterr().out


def test_what_moves_in_no_frame_is_another_folder(
    tmp_path: Path, split: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_all(tmp_path / "labels", box(20, 20, 60, 60))
    with pytest.raises(InputError, match="has neither labels nor motion outputs of the 2 frames"):
        find_objects(split, labels, tmp_path / "none", tmp_path / "o", ObjectsConfig())
    moved = write_all(tmp_path / "moved", box(20, 20, 60, 60), frames=FRAMES[:1])
    find_objects(split, labels, moved, tmp_path / "objects", ObjectsConfig())
    assert "1 frames without a file in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("inv_K", np.zeros((4, 4)), "cannot be inverted"),
        ("depth", np.full(SIZE[::-1], 9.0), "of another aspect"),
        ("depth", -np.ones(SIZE), "not positive and finite"),
    ],
)
def test_depths_and_cameras_that_are_none_are_named(
    key: str, value: np.ndarray, sentence: str, tmp_path: Path
) -> None:
    write_image(FRAMES[0].file(tmp_path, ".jpg"), np.zeros((*SIZE, 3), np.uint8))
    whole = {"depth": np.full(SIZE, 9.0), "inv_K": np.eye(4)}
    write_npz(FRAMES[0].file(tmp_path / "motion", ".npz"), **whole)
    assert read_scene(FRAMES[0], tmp_path, tmp_path / "motion")[1].shape == (1, *SIZE)
    write_npz(FRAMES[0].file(tmp_path / "motion", ".npz"), **{**whole, key: value})
    with pytest.raises(InputError, match=sentence):
        read_scene(FRAMES[0], tmp_path, tmp_path / "motion")


@pytest.mark.parametrize("value", [5.0, -5.0, np.nan, np.inf])
def test_motion_masks_lie_between_0_and_1(value: float, tmp_path: Path) -> None:
    write_npz(FRAMES[0].file(tmp_path, ".npz"), mot_mask=np.full(SIZE, value))
    with pytest.raises(InputError, match="numbers beyond 0 and 1"):
        read_moving(FRAMES[0], tmp_path)


# --- pseudo-depth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [np.nan, np.inf, -1.0, 0.0, 1e-9, 1e6])
def test_depths_that_cannot_be_kept_are_left_out(depth: float) -> None:
    mask = np.ones((4, 4), bool)
    field = np.full((4, 4), 9.0, np.float32)
    assert ObjectDepth(2, 3, mask, field, 1.0).is_known
    field[1, 1] = depth
    assert not ObjectDepth(2, 3, mask, field, 1.0).is_known
    assert ObjectDepth(2, 3, field == 9, field, 1.0).is_known, "beside the object it is no matter"


def test_an_object_that_stands_too_far_is_left_out(tmp_path: Path, split: Path) -> None:
    labels = write_all(tmp_path / "labels", box(20, 20, 60, 60))
    find_objects(split, labels, labels, tmp_path / "objects", ObjectsConfig())
    for frame in FRAMES:  # nearly at infinity
        write_npz(frame.file(tmp_path / "motion", ".npz"), depth=np.full(SIZE, 1e5, np.float32))
    make_pseudo_depth(
        split, tmp_path / "motion", tmp_path / "objects", tmp_path / "p", ScaleConfig()
    )
    results = read_manifest(tmp_path / "p")["results"]
    assert results["objects"] == 0
    assert results["left_out"] == 2


@pytest.mark.parametrize("size", [(-3, 5), (0, 0), (1 << 30, 1 << 30)])
def test_sizes_that_no_depth_has_are_named(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "000001.npz"
    write_pseudo_depth(path, PseudoDepth(SIZE, ()))
    write_npz(path, **{**np.load(path), "size": np.array(size)})
    with pytest.raises(InputError, match=r"000001\.npz: is no pseudo-depth of a frame"):
        read_pseudo_depth(path)


def test_pseudo_depth_of_another_stage_1_is_refused(tmp_path: Path, split: Path) -> None:
    weights, others = tmp_path / "weights.pth", tmp_path / "others.pth"
    weights.write_bytes(b"these")
    others.write_bytes(b"those")
    labels = write_all(tmp_path / "labels", box(20, 20, 60, 60))
    find_objects(split, labels, labels, tmp_path / "objects", ObjectsConfig())
    for frame in FRAMES:
        write_npz(frame.file(tmp_path / "motion", ".npz"), depth=np.full(SIZE, 9.0))
    made = {"stage": "motion predict", "config": {}, "results": {}}
    inputs = {"weights.pth": fingerprint(weights)}
    write_json(tmp_path / "motion/manifest.json", {**made, "inputs": inputs})
    pseudo = tmp_path / "pseudo"
    make_pseudo_depth(split, tmp_path / "motion", tmp_path / "objects", pseudo, ScaleConfig())
    check_teacher(pseudo, [weights])
    with pytest.raises(InputError, match="depth of another stage 1"):
        check_teacher(pseudo, [others])


def test_a_folder_whose_stage_was_interrupted_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "road").mkdir()
    assert made_here(tmp_path / "road", None) == ()
    write_json(tmp_path / "road/.manifest.json", {"config": {}})
    with pytest.raises(InputError, match="road: is not finished; run the command that makes it"):
        made_here(tmp_path / "road")


def test_help_needs_no_preset_that_has_the_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["depth", "ground", "--help"])
    assert stopped.value.code == 0
    assert "--config.loop.steps" in capsys.readouterr().out
