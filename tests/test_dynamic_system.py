"""The published system of depth in moving regions, stage after stage, on a tiny street."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from moduv.detector.transforms import AugmentationConfig
from moduv.dynamic_depth.alignment import AlignmentConfig, train_alignment
from moduv.dynamic_depth.masks.candidates import (
    CandidatesConfig,
    CleanConfig,
    SlotsConfig,
    clean_labels,
    find_candidates,
    slot_frames,
    train_slots,
)
from moduv.dynamic_depth.masks.given import MasksConfig, import_masks
from moduv.dynamic_depth.masks.road import GroundConfig, RoadConfig, predict_road, train_ground
from moduv.dynamic_depth.mining import make_pseudo_depth
from moduv.dynamic_depth.objects import ObjectsConfig, find_objects, movers
from moduv.dynamic_depth.outputs import read_moving
from moduv.dynamic_depth.pixelwise.final import FinalConfig, train_final
from moduv.dynamic_depth.pixelwise.scenes import ScenesConfig, predict_scenes
from moduv.dynamic_depth.pixelwise.train import (
    PHASES,
    PixelwiseConfig,
    TrainedPixelwise,
    train_pixelwise,
)
from moduv.dynamic_depth.scales import ScaleConfig
from moduv.dynamic_depth.schedules import halvings, ramp
from moduv.dynamic_depth.shapes import ObjectTriplets, ShapesConfig, neighbour_masks, train_shapes
from moduv.engine.errors import InputError
from moduv.engine.files import write_json, write_npz
from moduv.engine.loop import LoopConfig
from moduv.engine.stages import read_manifest
from moduv.frames.clip import FrameRef
from moduv.frames.splits import read_split, write_split
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels
from moduv.rounds.moving2mobile import MobileLabelsConfig, mobile_labels
from moduv.rounds.recipe import RoundConfig, train_round

SIZE = (128, 192)
LOOP = LoopConfig(
    steps=1, batch_size=1, learning_rate=1e-4, clip_norm=10.0, save_every=1, log_every=1
)
CONFIG = PixelwiseConfig(dict.fromkeys(PHASES, LOOP), *SIZE)


def two_frames(street: Path, root: Path) -> tuple[Path, list[FrameRef]]:
    frames = read_split(street / "splits/train_files.txt")[:2]
    write_split(root / "split.txt", frames)
    return root / "split.txt", frames


@pytest.fixture(scope="module")
def stage1(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    split, _ = two_frames(street, root)
    train_pixelwise(street, split, root / "pixelwise", CONFIG)
    predict_scenes(
        street, split, root / "pixelwise", root / "scenes", ScenesConfig(2, colours=True)
    )
    return root


def true_masks(street: Path, frame: FrameRef) -> np.ndarray:
    truth = np.load(frame.file(street / "truth", ".npz"))
    return np.stack([truth["instances"] == number for number in truth["ids"]])


@pytest.mark.slow
def test_stage_1_writes_what_other_stages_read(stage1: Path, street: Path) -> None:
    frames = read_split(stage1 / "split.txt")
    arrays = np.load(frames[0].file(stage1 / "scenes", ".npz"))
    assert arrays["depth"].shape == arrays["mot_mask"].shape == SIZE
    assert arrays["depth"].min() > 0
    assert set(np.unique(arrays["mot_mask"])) <= {0, 1}
    assert arrays["colours"].shape == (2, 3, 128, 128)
    assert arrays["pose"].shape == (2, 4, 4)
    weights = sorted(path.name for path in (stage1 / "pixelwise/weights").iterdir())
    assert weights == ["depth_net.pth", "pose_net.pth", "raft.pth"]
    assert TrainedPixelwise(stage1 / "pixelwise").height == SIZE[0]


@pytest.mark.slow
def test_a_stage_that_was_interrupted_ends_the_same(
    stage1: Path, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moduv.dynamic_depth.pixelwise import train

    calls, whole = [], train.pixelwise_terms

    def interrupt(*arguments: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "pixelwise_terms", interrupt)
    split = stage1 / "split.txt"
    with pytest.raises(KeyboardInterrupt):
        train_pixelwise(street, split, tmp_path / "again", CONFIG)
    train_pixelwise(street, split, tmp_path / "again", CONFIG)
    for name in ("depth_net", "pose_net", "raft"):
        first, second = (
            torch.load(root / f"weights/{name}.pth")
            for root in (stage1 / "pixelwise", tmp_path / "again")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_given_masks_lead_to_final_depth(stage1: Path, street: Path, tmp_path: Path) -> None:
    split, scenes = stage1 / "split.txt", stage1 / "scenes"
    frames = read_split(split)
    for frame in frames:
        for number, mask in enumerate(true_masks(street, frame)):
            path = tmp_path / "given" / frame.segment / f"{frame.index:06d}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), 255 * mask.astype(np.uint8))
        road = np.zeros((96, 160), np.uint8)
        road[60:] = 255
        road[true_masks(street, frame).any(0)] = 0
        path = tmp_path / "road" / frame.segment / f"{frame.index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), road)
    for name in ("given", "road"):
        config = MasksConfig(str(tmp_path / name))
        import_masks(street, split, tmp_path / f"{name}_labels", config)
    objects = ObjectsConfig(smallest=0.002, tracked=False, ahead=True)
    folders = tmp_path / "given_labels", scenes, tmp_path / "objects", objects
    find_objects(split, *folders, road=tmp_path / "road_labels")
    weights = stage1 / "pixelwise"
    train_shapes(
        street, split, weights, tmp_path / "objects", tmp_path / "shapes", ShapesConfig(LOOP)
    )
    config = AlignmentConfig(replace(LOOP, batch_size=2), logarithm=False)
    made = {"road": tmp_path / "road_labels", "shapes": tmp_path / "shapes"}
    train_alignment(
        street, split, scenes, tmp_path / "objects", tmp_path / "alignment", config, **made
    )
    make_pseudo_depth(
        *(split, scenes, tmp_path / "objects", tmp_path / "pseudo", ScaleConfig()),
        **{"alignment": tmp_path / "alignment", "data": street, **made},
    )
    results = read_manifest(tmp_path / "pseudo")["results"]
    moving = sum(int(movers(read_labels(tmp_path / "objects", frame)).sum()) for frame in frames)
    assert moving
    assert results["objects"] + results["left_out"] == moving
    train_final(street, split, weights, tmp_path / "pseudo", tmp_path / "final", FinalConfig(LOOP))
    predict_scenes(street, split, tmp_path / "final", tmp_path / "depth", ScenesConfig(2))
    assert np.load(frames[0].file(tmp_path / "depth", ".npz"))["depth"].shape == SIZE


def seen_by_a_trained_stage_1(stage1: Path, street: Path, out: Path) -> Path:
    """The scenes of two frames, in which what moves is what does: no two steps of training would find it."""
    for frame in read_split(stage1 / "split.txt"):
        arrays = dict(np.load(frame.file(stage1 / "scenes", ".npz")))
        moving = np.load(frame.file(street / "truth", ".npz"))["moving"].astype(bool)
        union = true_masks(street, frame)[moving].any(0).astype(np.uint8)
        arrays["mot_mask"] = cv2.resize(union, SIZE[::-1], interpolation=0).astype(np.float16)
        write_npz(frame.file(out, ".npz"), **arrays)
    write_json(out / "manifest.json", {"config": {}, "results": {}})
    return out


@pytest.mark.slow
def test_raw_frames_alone_lead_to_final_depth(stage1: Path, street: Path, tmp_path: Path) -> None:
    split, weights, out = stage1 / "split.txt", stage1 / "pixelwise", tmp_path
    scenes = seen_by_a_trained_stage_1(stage1, street, out / "scenes")
    with pytest.raises(InputError, match="128 rows, which are not cut into thirds"):
        train_ground(street, split, scenes, out / "ground", GroundConfig(LOOP))
    train_ground(street, split, scenes, out / "ground", GroundConfig(LOOP, own_weight=0.0))
    predict_road(street, split, scenes, out / "ground", out / "road", RoadConfig(1))
    train_slots(split, scenes, out / "slots", SlotsConfig(replace(LOOP, steps=2)))
    find_candidates(
        split, scenes, out / "slots", out / "road", out / "candidates", CandidatesConfig(1)
    )
    frames = read_split(split)
    for frame in frames:
        candidates = read_labels(out / "candidates", frame)
        if len(candidates):
            assert not (candidates.decode() & ~read_moving(frame, scenes)).any()
        # As slots and ground segmentation would know them after more than two steps.
        true = true_masks(street, frame)
        large = [mask for mask in true if mask.mean() > 0.004]
        write_labels(out / "candidates", frame, Instances.from_dense(np.stack(large)))
        road = ~true.any(0)
        road[:60] = False
        write_labels(out / "road", frame, Instances.from_dense(road[None]))
    teach_twice(street, split, out)
    options = {"road": out / "road"}
    config = ObjectsConfig(smallest=0.002, largest=1.0, tracked=False)
    find_objects(split, out / "masks", scenes, out / "objects", config, **options)
    train_shapes(street, split, weights, out / "objects", out / "shapes", ShapesConfig(LOOP))
    options["shapes"] = out / "shapes"
    folders = scenes, out / "objects"
    train_alignment(street, split, *folders, out / "aligned", AlignmentConfig(LOOP), **options)
    options |= {"alignment": out / "aligned", "data": street}
    make_pseudo_depth(split, *folders, out / "pseudo", ScaleConfig(), **options)
    assert read_manifest(out / "pseudo")["results"]["objects"]
    train_final(street, split, weights, out / "pseudo", out / "final", FinalConfig(LOOP))
    predict_scenes(street, split, out / "final", out / "depth", ScenesConfig(2))
    before, after = (np.load(frames[0].file(out / name, ".npz")) for name in ("scenes", "depth"))
    assert after["depth"].shape == SIZE
    assert not np.array_equal(before["depth"], after["depth"])


def teach_twice(street: Path, split: Path, out: Path) -> None:
    """Candidates teach a detector, and what it finds another; what that finds are the masks."""
    loop = LoopConfig(
        steps=60, batch_size=2, learning_rate=3e-3, optimizer="adamw", warmup=10, save_every=60
    )
    recipe = RoundConfig(loop, "street", augmentation=AugmentationConfig(flip=0.0, jitter=0.0))
    for labels, finder, found, cleaned in (
        ("candidates", "finder_1", "found_1", "cleaned"),
        ("cleaned", "finder_2", "found_2", "masks"),
    ):
        train_round(street, split, out / labels, out / finder, recipe)
        mobile = MobileLabelsConfig(0.3, fit_masks=True)
        mobile_labels(street, split, out / finder, out / found, mobile)
        clean_labels(split, out / found, out / "road", out / cleaned, CleanConfig(0.3, 0.7))
        kept = read_manifest(out / cleaned)["results"]
        assert 0 < kept["objects"] <= kept["given"]


# --- parts -------------------------------------------------------------------------------------------------


def test_predictions_that_look_like_objects_are_kept(tmp_path: Path) -> None:
    frame, size = FrameRef("train/clip_0000", 1), (96, 160)
    write_split(tmp_path / "split.txt", [frame])
    masks = np.zeros((3, *size), bool)
    masks[0, 20:60, 20:60], masks[1, 22:58, 22:58] = True, True
    masks[2, 20:60, 100:102], masks[2, 20:22, 100:140] = True, True  # an angle, no box
    scored = Instances.from_dense(masks, scores=np.array([0.9, 0.8, 0.9]))
    write_labels(tmp_path / "found", frame, scored)
    road = np.zeros((1, *size), bool)
    road[0, 50:] = True
    write_labels(tmp_path / "road", frame, Instances.from_dense(road))
    folders = tmp_path / "split.txt", tmp_path / "found", tmp_path / "road"
    clean_labels(*folders, tmp_path / "out", CleanConfig())
    (kept,) = read_labels(tmp_path / "out", frame).decode()
    assert np.array_equal(kept, masks[0] & ~road[0])
    clean_labels(*folders, tmp_path / "sure", CleanConfig(0.95))
    assert not len(read_labels(tmp_path / "sure", frame))


def test_objects_are_followed_into_the_neighbours() -> None:
    mask, depth = torch.zeros(1, 1, 24, 32), torch.full((1, 1, 24, 32), 8.0)
    mask[..., 8:16, 8:16] = 1
    K = torch.eye(4)[None].clone()
    K[:, 0, 0] = K[:, 1, 1] = 20.0
    residual = torch.zeros(1, 2, 2, 24, 32)
    residual[:, 0, 0], residual[:, 1, 0] = -8 * 3.001, 8 * 5.001  # three pixels left, five right
    still = torch.eye(4).repeat(1, 2, 1, 1)
    before, centre, after = neighbour_masks(mask, depth, K, still, residual).unbind(1)
    assert torch.equal(centre, mask)
    assert torch.equal(before, mask.roll(-3, -1))
    assert torch.equal(after, mask.roll(5, -1))


def test_masks_are_mirrored_with_their_image(street: Path, tmp_path: Path) -> None:
    _, frames = two_frames(street, tmp_path)
    mask = np.zeros((1, 96, 160), bool)
    mask[0, 50:70, 10:40] = True
    write_labels(tmp_path / "objects", frames[0], Instances.from_dense(mask))
    places = [(frames[0], 0)]
    plain, mirrored = (
        ObjectTriplets(street, places, 96, 160, tmp_path / "objects", flip=flip)[0, 5]
        for flip in (0.0, 1.0)
    )
    assert np.array_equal(plain["mask"].numpy() > 0, mask)
    for key in ("images", "mask"):
        assert torch.equal(plain[key].flip(-1), mirrored[key])


def test_slots_see_depth_only_where_something_moves() -> None:
    colours = np.full((2, 3, 128, 128), 255, np.uint8)
    colours[0, :, 40:60, 40:60] = (200, 10, 10)[0]
    depth = np.full((64, 96), 10.0, np.float32)
    depth[:, 48:] = 20.0
    frames, moving = slot_frames(colours, depth)
    assert frames.shape == (2, 4, 128, 128)
    assert moving.sum() == 400
    assert (frames[:, 3:][~moving] == 1).all()
    nearer = (np.exp(0.5) - 1) / (np.e - 1)
    assert frames[0, 3, 50, 50].item() == pytest.approx(nearer, rel=1e-4)


def test_weights_rise_and_rates_fall_by_shares_of_the_training() -> None:
    assert [ramp(at, (0.2, 0.4)) for at in (0.1, 0.3, 0.9)] == pytest.approx([0, 0.5, 1])
    left = [halvings((0.25, 0.75), step, 8) for step in range(8)]
    assert left == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_what_does_not_fit_is_named(street: Path, tmp_path: Path) -> None:
    split, frames = two_frames(street, tmp_path)
    with pytest.raises(InputError, match="loops must name the phases"):
        PixelwiseConfig({"rigid": LOOP})
    with pytest.raises(InputError, match="use multiples of 32 from 128 on"):
        PixelwiseConfig(dict.fromkeys(PHASES, LOOP), 100, 160)
    with pytest.raises(InputError, match="holds no finished stage 1"):
        TrainedPixelwise(tmp_path)
    with pytest.raises(InputError, match=r"masks: has no masks of the 2 frames"):
        import_masks(street, split, tmp_path / "out", MasksConfig(str(tmp_path / "masks")))
    path = tmp_path / "masks" / frames[0].segment / f"{frames[0].index:06d}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no image")
    config = MasksConfig(str(tmp_path / "masks"))
    with pytest.raises(InputError, match=r"\.png: is not readable as a PNG"):
        import_masks(street, split, tmp_path / "out", config)
    cv2.imwrite(str(path), np.full((96, 400), 255, np.uint8))
    with pytest.raises(InputError, match="another aspect"):
        import_masks(street, split, tmp_path / "out", config)
