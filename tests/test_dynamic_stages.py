"""The stages of depth in moving regions: the arrays and losses of the reference's own trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dynamic_golden import arrays, expected, fill, filled, tensors
from torch import Tensor

from moduv import geometry
from moduv.dynamic_depth import alignment
from moduv.dynamic_depth.masks.ground import ground_losses
from moduv.dynamic_depth.masks.rules import clean_masks, slot_labels
from moduv.dynamic_depth.masks.slots import slot_losses
from moduv.dynamic_depth.networks import build
from moduv.dynamic_depth.networks.ground import ground_inputs
from moduv.dynamic_depth.objects import is_ahead
from moduv.dynamic_depth.pixelwise.model import pseudo_depth_term, triplet_losses
from moduv.dynamic_depth.pixelwise.residual import (
    camera_poses,
    euler_pose,
    moving_pixels,
    object_flow,
    residual_flow,
)
from moduv.dynamic_depth.schedules import warm_then_halved
from moduv.dynamic_depth.shapes import ObjectNetworks, neighbour_masks, object_losses
from moduv.dynamic_depth.weights import own_names

SIDES = (0, 1)
NAMES = ("-1", "1")
"""Of the neighbours, in our order."""


def bits(shared: Path, name: str) -> np.ndarray:
    return np.unpackbits(arrays(shared, "stages")[name], axis=-1).astype(bool)


def pyramid(field: Tensor, mode: str) -> list[Tensor]:
    options = {} if mode == "area" else {"align_corners": False}
    sizes = [(192 >> scale, 512 >> scale) for scale in range(4)]
    return [F.interpolate(field, size, mode=mode, **options) for size in sizes]


class World:
    """What the trainers were given: a triplet, depth and camera motion in place of the networks'."""

    def __init__(self, shared: Path) -> None:
        self.case, self.numbers = tensors(shared, "stages"), expected(shared, "stages")
        self.frames, self.K = self.case["images"][None], self.case["K"]
        small = self.case["scene_depth_small"]
        self.depth = F.interpolate(small, (192, 512), mode="bilinear", align_corners=False)
        angles, translation = self.case["rotation"], self.case["translation"]
        both = [euler_pose(angles, translation, invert=back) for back in (True, False)]
        self.poses = torch.stack(both, 1)
        self.raft = build("raft")
        keys = expected(shared, "state_dict_trainer")["raft"]
        state = {
            key: torch.zeros(shape, dtype=torch.float32 if shape else torch.int64)
            for key, shape in keys.items()
        }
        self.raft.load_state_dict(own_names(fill(shared, state)))
        self.raft.eval()
        with torch.no_grad():
            self.residuals = {sparse: self.residual(sparse) for sparse in (False, True)}

    def residual(self, sparse: bool) -> Tensor:
        return residual_flow(self.raft, self.frames, self.depth, self.K, self.poses, sparse=sparse)


@pytest.fixture(scope="module")
def world(shared: Path) -> World:
    return World(shared)


def close(found: Tensor, wanted: float, rel: float = 1e-3) -> bool:
    return found.item() == pytest.approx(wanted, rel=rel)


def share_off(found: Tensor, wanted: Tensor, tolerance: float) -> float:
    return ((found - wanted).abs() > tolerance).float().mean().item()


# --- stage 1 -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_flow_is_the_references(world: World) -> None:
    flow = world.raft(world.frames[:, 1], world.frames[:, 2])
    assert torch.allclose(flow[..., ::4, ::4], world.case["raft_flow"], atol=1e-4)


@torch.no_grad()
def test_camera_poses_are_the_references(world: World, shared: Path) -> None:
    found = camera_poses(filled(shared, build("pose_net")), world.frames)
    for side, name in zip(SIDES, NAMES, strict=True):
        assert torch.allclose(found[:, side], world.case[f"cam_T_cam_{name}"], atol=1e-6)


def test_the_centre_is_moved_as_by_the_reference(world: World) -> None:
    image, depth = geometry.forward_warp(
        world.frames[:, 1], world.depth, world.K, world.poses[:, 1]
    )
    case = world.case
    assert share_off(image[..., ::4, ::4], case["forward_warped_1"], 1e-3) < 1e-3
    assert share_off(depth[..., ::2, ::2], case["forward_depth_1"], 1e-3) < 1e-3


def test_residual_flow_is_the_references(world: World) -> None:
    for epoch, sparse in ((1, False), (2, True)):
        for side, name in zip(SIDES, NAMES, strict=True):
            found = world.residuals[sparse][:, side, :, ::2, ::2]
            assert share_off(found, world.case[f"residual_epoch{epoch}_{name}"], 1e-3) < 1e-3
    kept = (world.residuals[True] != 0).any(2).float().mean((0, 2, 3)).tolist()
    assert kept == pytest.approx([world.numbers["kept_share"][name] for name in NAMES], abs=1e-3)


def test_flow_of_objects_is_the_references(world: World) -> None:
    found = object_flow(world.depth, world.K, world.poses, world.residuals[True])
    for side, name in zip(SIDES, NAMES, strict=True):
        wanted = world.case[f"stored_flow_{name}"]
        assert share_off(found[:, side, :, ::2, ::2], wanted, 1e-3) < 1e-3


def losses_by_scale(world: World, residual: Tensor | None, sparse: bool) -> list[dict[str, Tensor]]:
    return [
        triplet_losses(world.frames, [depth], world.K, world.poses, residual, sparse=sparse)
        for depth in pyramid(world.depth, "bilinear")
    ]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_losses_of_stage_1_are_the_references(world: World, epoch: int) -> None:
    residual = (None, world.residuals[False], world.residuals[True])[epoch]
    wanted = world.numbers["stage1"][f"epoch_{epoch}"]
    scales = losses_by_scale(world, residual, sparse=epoch == 2)
    for scale, found in enumerate(scales):
        # Where an image is saturated, what is rounded decides about structure.
        assert close(found["photometric"], wanted[f"photometric_loss_{scale}"], 2e-3)
        assert close(found["smoothness"] / 2**scale, wanted[f"depth_smooth_{scale}"])
    photometric = torch.stack([found["photometric"] for found in scales]).mean()
    assert close(photometric, wanted["final_photometric_loss"])
    sparsity = scales[0].get("sparsity", torch.zeros(()))
    assert close(sparsity, wanted["final_motion_sparsity_loss"])


def test_all_scales_count_alike(world: World) -> None:
    depths = pyramid(world.depth, "bilinear")[2:]
    both = triplet_losses(world.frames, depths, world.K, world.poses, None, sparse=False)
    each = losses_by_scale(world, None, sparse=False)[2:]
    assert close(both["photometric"], sum(found["photometric"].item() for found in each) / 2)
    # The weight of smoothness is halved from scale to scale.
    expected = (each[0]["smoothness"] + each[1]["smoothness"] / 2) / 2
    assert close(both["smoothness"], expected.item())


def test_losses_of_stage_4_are_the_references(world: World, shared: Path) -> None:
    wanted = world.numbers["stage4"]
    mask = torch.from_numpy(bits(shared, "object_masks")[:3].any(0))[None, None]
    pseudo = torch.where(mask, world.depth / 2, world.depth * 2)
    # The second frame has no pseudo-depth.
    masks = torch.cat([mask, torch.zeros_like(mask)])
    labels = torch.cat([pseudo, world.depth])
    depths = pyramid(world.depth.expand(2, -1, -1, -1), "bilinear")
    for scale, depth in enumerate(depths):
        found = 0.1 * pseudo_depth_term([depth], labels, masks, bilinear=True)
        assert close(found, wanted[f"dynamic_depth_loss_{scale}"])
    total = 0.1 * pseudo_depth_term(depths, labels, masks, bilinear=True)
    assert close(total, wanted["final_dynamic_depth_loss"])


# --- ground, slots, objects ----------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_ground_and_its_losses_are_the_references(world: World, shared: Path) -> None:
    net = filled(shared, build("ground_segmentation"))
    inputs = ground_inputs(world.frames[:, 1], 1 / world.depth)
    assert torch.allclose(net(inputs)[..., ::4, ::4], world.case["ground_probability"], atol=1e-4)
    level = geometry.level_surfaces(geometry.back_project(world.depth, world.K.inverse()))
    label = torch.from_numpy(bits(shared, "ground_label"))
    assert (level[0, 0] != label).float().mean() < 1e-3
    for step, own, noisy in ((20_000, 0.25, 1.0), (47_500, 0.5, 0.625)):
        wanted = world.numbers["ground"][str(step)]
        found = ground_losses(net, inputs, level, own=own, noisy=noisy)
        assert close(found["label"], wanted["mask_loss"])
        assert close(found["smoothness"], wanted["smooth_loss"])
        assert close(found["own"], wanted["self_supervision_loss"])
        assert close(found["enlarged"], wanted["bottom_mask_loss"])
        assert close(found["enlarged_smoothness"], wanted["bottom_smooth_loss"])
        total = wanted["total_loss"] + wanted["self_supervision_total_loss"]
        assert close(found["loss"], total)
    alone, wanted = ground_losses(net, inputs, level), world.numbers["ground"]["0"]
    assert close(alone["loss"], wanted["total_loss"])


@torch.no_grad()
def test_losses_of_slots_are_the_references(world: World, shared: Path) -> None:
    net, case = filled(shared, build("slot_attention")), world.case
    frames = F.interpolate(case["slot_source"], (128, 128), mode="bilinear", align_corners=False)
    frames[:, :3] = 2 * frames[:, :3] - 1
    noise = torch.cat([case["slot_noise_background"], case["slot_noise"]], 1)
    stages: dict[str, dict[str, Any]] = {
        "plain": {"background": False},
        "background": {"background": True},
        # From 20,000 to 120,000 steps the weight rises to 0.002.
        "presence": {"background": True, "presence": 0.002 * (70_000 - 20_000) / 100_000},
    }
    for name, options in stages.items():
        found = net(frames, noise, by_presence="presence" in options)
        terms = slot_losses(found, frames, frames[:, 3:] > 0.5, logits=True, **options)
        wanted = world.numbers["slot"][name]
        for ours, theirs in {
            **{"flow": "flow", "depth": "depth", "background_flow": "background_flow"},
            **{"background_depth": "background_depth", "background_mask": "background_mask"},
            **{"background_rest": "background_mask_rest", "presence": "presence"},
        }.items():
            assert close(terms.get(ours, torch.zeros(())), wanted[theirs])
    for step, factor in world.numbers["slot_lr_factor"].items():
        assert warm_then_halved(int(step), 1000) == pytest.approx(factor)


def moving(shared: Path) -> np.ndarray:
    both = [arrays(shared, "stages")[f"flow_{name}_small"] for name in ("neg", "pos")]
    flow = torch.from_numpy(np.kron(np.stack(both), np.ones((16, 16), np.float32)))[None]
    return moving_pixels(flow)[0, 0].numpy()


def test_objects_of_slots_and_of_predictions_are_the_references(world: World, shared: Path) -> None:
    road, moved = bits(shared, "road"), moving(shared)
    found = slot_labels(bits(shared, "slot_masks_in"), road, moved)
    assert np.array_equal(found, bits(shared, "slot_labels"))
    assert found.sum((1, 2)).tolist() == world.numbers["slot_label_areas"]
    cleaned = clean_masks(bits(shared, "clean_in"), road)
    assert np.array_equal(cleaned, bits(shared, "clean_out"))


def test_what_moves_is_the_references(world: World, shared: Path) -> None:
    masks, road, moved = bits(shared, "object_masks"), bits(shared, "road"), moving(shared)
    dynamic = [bool(moved[mask].mean() >= 0.5 or is_ahead(mask)) for mask in masks]
    assert ["dynamic" if each else "static" for each in dynamic] == world.numbers["labels"]
    large = [number for number, mask in enumerate(masks) if mask.mean() > 0.005]
    assert large == world.numbers["object_files"]
    left = [n for n in large if dynamic[n] and (masks[n] & ~road).mean() > 0.005]
    assert world.numbers["dynamic_files"] == [
        f"aachen aachen_000000_000019 -1,{','.join(map(str, left))}"
    ]


# --- object depth, alignment ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects(shared: Path) -> ObjectNetworks:
    model = ObjectNetworks()
    for network in model.children():
        filled(shared, network)
    return model.eval()


def test_objects_are_followed_as_by_the_reference(world: World, shared: Path) -> None:
    mask = torch.from_numpy(bits(shared, "object_masks")[:1, None]).float()
    found = neighbour_masks(mask, world.depth, world.K, world.poses, world.residuals[True])
    for side, name in ((0, "-1"), (2, "1")):
        wanted = torch.from_numpy(bits(shared, f"neighbour_mask_{name}"))
        assert ((found[0, side, 0] > 0) != wanted).float().mean() < 1e-3


@pytest.mark.slow
@torch.no_grad()
def test_object_depth_and_its_losses_are_the_references(
    world: World, objects: ObjectNetworks, shared: Path
) -> None:
    mask = torch.from_numpy(bits(shared, "object_masks")[:1, None]).float()
    masks = torch.stack([mask.roll(4 * side, -1) for side in (-1, 0, 1)], 1)
    depth = objects.depth(world.frames[:, 1], mask)
    assert torch.allclose(depth[..., ::2, ::2], world.case["object_depth"], rtol=1e-4)
    poses = camera_poses(objects.pose_net, world.frames * masks)
    assert torch.allclose(poses[:, 1], world.case["object_pose_1"], atol=1e-6)
    found, wanted = object_losses(objects, world.frames, masks, world.K), world.numbers["stage2"]
    assert close(found["photometric"], wanted["final_photometric_loss"])
    assert close(found["smoothness"], wanted["final_depth_smooth"])


@pytest.mark.slow
@torch.no_grad()
def test_alignment_is_taught_as_by_the_reference(
    world: World, objects: ObjectNetworks, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In training, the reference hides an object's box as it is, without surroundings.
    monkeypatch.setattr(alignment, "BORDER", 0)
    road, depth = bits(shared, "road"), world.depth[0, 0].numpy()
    masks = bits(shared, "object_masks")[[0, 4]] & ~road
    roads = [alignment.alignment_inputs(depth, road, mask, depth)[0] for mask in masks]
    batch = {
        "image": world.frames[:, 1].expand(2, -1, -1, -1),
        "mask": torch.from_numpy(masks)[:, None].float(),
        "road": torch.from_numpy(np.stack(roads))[:, None],
        "depth": world.depth.expand(2, -1, -1, -1),
    }
    batch = alignment.with_shape(batch, objects)
    net, wanted = filled(shared, build("depth_scale_alignment")), world.numbers["stage3"]
    scales = net(*(batch[name] for name in ("image", "mask", "road", "shape")))
    assert scales.flatten().tolist() == pytest.approx(wanted["scales"], abs=1e-4)
    found = alignment.alignment_losses(net, batch, logarithm=False)
    assert close(found["loss"], wanted["loss"])
