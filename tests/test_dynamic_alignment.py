"""Depth-scale alignment: the reference's inputs and scales, what parked objects teach, stages that go on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dynamic_golden import arrays, filled, tensors
from torchvision.models import resnet18

from moduv.dynamic_depth.alignment import (
    WEIGHTS,
    Aligned,
    AlignmentConfig,
    StaticObjects,
    alignment_inputs,
    road_mask,
    train_alignment,
)
from moduv.dynamic_depth.mining import make_pseudo_depth
from moduv.dynamic_depth.networks import build
from moduv.dynamic_depth.networks.alignment import DepthScaleAlignment
from moduv.dynamic_depth.objects import ObjectsConfig, find_objects
from moduv.dynamic_depth.pseudo import ObjectDepth, PseudoDepth, compose, read_pseudo_depth
from moduv.dynamic_depth.scales import ScaleConfig
from moduv.dynamic_depth.weights import load_alignment_resnet
from moduv.engine.errors import InputError
from moduv.engine.files import write_json, write_npz
from moduv.engine.loop import LoopConfig
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.instances.instances import Instances
from moduv.instances.store import write_labels

SIZE = (64, 96)
CAMERA = Intrinsics(70, 70, 47.5, 24, 96, 64)
LOOP = LoopConfig(steps=2, batch_size=2, learning_rate=1e-3, save_every=1, log_every=1)


# --- the reference --------------------------------------------------------------------------------------


@torch.no_grad()
def test_scales_and_pseudo_depth_are_the_references(shared: Path) -> None:
    case, raw = tensors(shared, "stages"), arrays(shared, "stages")
    image = case["images"][1:2]
    scene = F.interpolate(case["scene_depth_small"], (192, 512), mode="bilinear")[0, 0].numpy()
    road = np.unpackbits(raw["road"], axis=-1).astype(bool)
    objects = np.unpackbits(raw["object_masks"], axis=-1).astype(bool)[:3] & ~road
    masks = np.concatenate([np.zeros_like(objects[:1]), objects])  # first a placeholder
    stacked = torch.from_numpy(masks)[:, None].float()
    depths = filled(shared, build("depth_net"))(image * stacked)[0][:, 0].numpy()
    inputs = [alignment_inputs(scene, road, m, d) for m, d in zip(masks, depths, strict=True)]
    roads, shapes = (torch.from_numpy(np.stack(x))[:, None] for x in zip(*inputs, strict=True))
    assert torch.allclose(roads[1:2, :, ::2, ::2], case["road_depth_of_0"], atol=1e-4)
    assert torch.allclose(shapes[:, :, ::2, ::2], case["normalised_depth"], atol=1e-4)
    net = filled(shared, build("depth_scale_alignment"))
    found = net(image.expand(4, -1, -1, -1), stacked, roads, shapes)
    assert torch.allclose(found, case["scales"], atol=1e-4)
    scaled = [
        ObjectDepth(0, 0, mask, factor * shape, factor)
        for mask, factor, shape in zip(
            masks[1:], (0.9, 0.7, 1.3), shapes[1:, 0].numpy(), strict=True
        )
    ]
    composed = compose(scene, PseudoDepth((192, 512), tuple(scaled)))
    assert np.allclose(composed[None, ::2, ::2], raw["pseudo_depth_given_scales"], rtol=1e-4)


# --- our own --------------------------------------------------------------------------------------------


def road_scene() -> np.ndarray:
    """Depth (H, W) of a road 1.5 below the camera, and a wall at 40."""
    rows = np.arange(SIZE[0], dtype=np.float32)[:, None]
    below = np.maximum(rows - CAMERA.cy, 1e-3)
    return np.broadcast_to(np.minimum(CAMERA.fy * 1.5 / below, 40), SIZE).astype(np.float32).copy()


def test_the_road_is_what_lies_on_the_plane() -> None:
    depth = road_scene()
    box = np.zeros(SIZE, bool)
    box[26:40, 20:40] = True
    depth[box] = depth[40, 0]
    road = road_mask(depth, CAMERA.inverse4())
    assert road[45:].all()
    assert not road[:24].any()
    assert not road[26:36, 20:40].any(), "an object stands on the road"


def world(root: Path) -> tuple[Path, Path]:
    """Frames with a mover and a parked object; returns the split and the motion outputs."""
    frames = [FrameRef("train/clip_0000", index) for index in (1, 2, 3)]
    rng = np.random.default_rng(0)
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 30:44, 10:30], masks[1, 28:38, 60:80] = True, True
    for frame in frames:
        depth = road_scene()
        depth[masks[0]], depth[masks[1]] = 2 * depth[44, 0], depth[38, 0]
        known = {"inv_K": CAMERA.inverse4()}
        write_npz(frame.file(root / "motion", ".npz"), depth=depth, **known)
        write_image(frame.file(root / "data", ".jpg"), rng.integers(0, 255, (*SIZE, 3), np.uint8))
        write_labels(root / "labels", frame, Instances.from_dense(masks))
        write_labels(root / "L0", frame, Instances.from_dense(masks[:1]))
    write_json(root / "motion" / "manifest.json", {"config": {}, "results": {}})
    write_split(root / "split.txt", frames)
    split = root / "split.txt"
    find_objects(split, root / "labels", root / "L0", root / "objects", ObjectsConfig())
    return split, root / "motion"


def test_only_what_stands_still_teaches(tmp_path: Path) -> None:
    split, motion = world(tmp_path)
    train_alignment(
        tmp_path / "data",
        split,
        motion,
        tmp_path / "objects",
        tmp_path / "out",
        AlignmentConfig(LOOP),
    )
    frames = [FrameRef("train/clip_0000", 1)]
    data = StaticObjects(
        tmp_path / "data", motion, tmp_path / "objects", frames, AlignmentConfig(LOOP, flip=0.0)
    )
    assert len(data) == 1
    sample = data[0, 0]
    parked = np.zeros(SIZE, bool)
    parked[28:38, 60:80] = True
    assert np.array_equal(sample["mask"][0].numpy() > 0, parked)
    assert (sample["road"][0].numpy()[parked] == 0).all()
    assert sample["shape"][0].numpy()[parked] == pytest.approx(1.0, abs=1e-4)
    assert sample["depth"][0].numpy()[parked] == pytest.approx(road_scene()[38, 0], rel=1e-4)
    mirrored = StaticObjects(
        tmp_path / "data", motion, tmp_path / "objects", frames, AlignmentConfig(LOOP, flip=1.0)
    )[0, 0]
    assert all(torch.equal(sample[key].flip(-1), mirrored[key]) for key in sample)


def test_an_alignment_tells_the_depths_of_movers(tmp_path: Path) -> None:
    split, motion = world(tmp_path)
    objects, out, data = tmp_path / "objects", tmp_path / "out", tmp_path / "data"
    train_alignment(data, split, motion, objects, out, AlignmentConfig(LOOP, flat=True))
    make_pseudo_depth(
        split, motion, objects, tmp_path / "pseudo", ScaleConfig(flat=True), out, data
    )
    frame = FrameRef("train/clip_0000", 2)
    (item,) = read_pseudo_depth(frame.file(tmp_path / "pseudo", ".npz")).objects
    mover = np.zeros((1, *SIZE), bool)
    mover[0, 30:44, 10:30] = True
    (field,) = Aligned(out, data, motion).depths(frame, mover)
    assert item.depth[item.mask] == pytest.approx(field[mover[0]], rel=1e-3)
    assert np.ptp(field[mover[0]]) < 1e-4, "it faces the camera"
    assert field[mover[0]].min() > 0
    assert not field[~mover[0]].any()
    with pytest.raises(InputError, match="holds no finished alignment"):
        Aligned(objects, data, motion)
    for option in ("shapes", "road"):
        with pytest.raises(InputError, match=f"was trained without --{option}"):
            Aligned(out, data, motion, **{option: tmp_path / option})
    with pytest.raises(InputError, match="give --alignment and --data together"):
        make_pseudo_depth(split, motion, objects, tmp_path / "p", ScaleConfig(), out)


def test_an_interrupted_alignment_ends_with_the_same_weights(tmp_path: Path) -> None:
    split, motion = world(tmp_path)
    folders = tmp_path / "data", split, motion, tmp_path / "objects"
    train_alignment(*folders, tmp_path / "whole", AlignmentConfig(LOOP))
    train_alignment(*folders, tmp_path / "half", AlignmentConfig(replace(LOOP, steps=1)))
    assert (tmp_path / "half" / WEIGHTS).read_bytes() != (tmp_path / "whole" / WEIGHTS).read_bytes()
    (tmp_path / "whole" / "manifest.json").rename(tmp_path / "whole" / ".manifest.json")
    before = (tmp_path / "whole" / WEIGHTS).read_bytes()
    (tmp_path / "whole" / WEIGHTS).unlink()
    train_alignment(*folders, tmp_path / "whole", AlignmentConfig(LOOP))
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == before


def test_alignment_starts_from_imagenet_and_its_rate_is_halved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    imagenet = resnet18(weights=None)
    for module in imagenet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight)
    torch.save(imagenet.state_dict(), tmp_path / "resnet18.pth")
    net = DepthScaleAlignment()
    first = net.all_feature_extractor[0].weight.clone()
    load_alignment_resnet(net, tmp_path / "resnet18.pth")
    assert torch.equal(net.all_feature_extractor[0].weight, first), "it sees other channels"
    assert torch.equal(net.all_feature_extractor[1].weight, imagenet.bn1.weight)
    assert torch.equal(
        net.all_feature_extractor[7][1].conv2.weight, imagenet.layer4[1].conv2.weight
    )
    split, motion = world(tmp_path)
    folders = tmp_path / "data", split, motion, tmp_path / "objects"
    config = AlignmentConfig(LOOP, resnet_weights=str(tmp_path / "resnet18.pth"), halved=(0.5,))
    train_alignment(*folders, tmp_path / "out", config)
    lines = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == [1e-3, 5e-4]
    missing = AlignmentConfig(LOOP, resnet_weights=str(tmp_path / "none.pth"))
    with pytest.raises(InputError, match=r"none\.pth"):
        train_alignment(*folders, tmp_path / "none", missing)


def test_nothing_that_stands_still_is_said(tmp_path: Path) -> None:
    split, motion = world(tmp_path)
    find_objects(split, tmp_path / "L0", tmp_path / "L0", tmp_path / "movers", ObjectsConfig())
    with pytest.raises(InputError, match="none of its objects stands still"):
        train_alignment(
            tmp_path / "data",
            split,
            motion,
            tmp_path / "movers",
            tmp_path / "a",
            AlignmentConfig(LOOP),
        )
