"""The networks of depth in moving regions: official keys, the reference's outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dynamic_golden import expected, filled, tensors

from moduv.dynamic_depth.networks import NETWORKS, build
from moduv.dynamic_depth.weights import own_names
from moduv.engine.errors import InputError


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dicts_are_the_official_ones(shared: Path, name: str) -> None:
    own = {key: list(value.shape) for key, value in build(name).state_dict().items()}
    reference = {**expected(shared, "state_dict"), **expected(shared, "state_dict_trainer")}[name]
    # Several GPUs put a word before every key, and RAFT has torchvision's names here.
    official = {f"module.{key}": torch.zeros(shape) for key, shape in reference.items()}
    assert own == {key: list(value.shape) for key, value in own_names(official).items()}
    if name != "raft":
        assert own == reference


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(InputError, match="network 'flow' is unknown; choose one of"):
        build("flow")


@torch.no_grad()
def test_depth_is_the_references(shared: Path) -> None:
    case = tensors(shared, "case")
    depths = filled(shared, build("depth_net"))(case["images"][:1])
    for scale, depth in enumerate(depths):
        assert torch.allclose(depth, case[f"depth_net_{scale}"], rtol=1e-3)


@torch.no_grad()
def test_poses_are_the_references(shared: Path) -> None:
    case = tensors(shared, "case")
    net = filled(shared, build("pose_net"))
    rotation, translation = net(case["images"][:1], case["images"][1:2])
    assert torch.allclose(rotation, case["pose_rotation"].flatten(1), atol=1e-6, rtol=1e-3)
    assert torch.allclose(translation, case["pose_translation"].flatten(1), atol=1e-6, rtol=1e-3)
    frames = tensors(shared, "stages")["images"]  # -1, 0, +1
    pairs = {"forward": frames[1:], "backward": frames[:2]}
    for name, pair in pairs.items():
        found = torch.cat(net(pair[:1], pair[1:]), 1)
        assert torch.allclose(found, tensors(shared, "stages")[f"pose_net_{name}"], atol=1e-6)


@torch.no_grad()
def test_scales_are_the_references(shared: Path) -> None:
    case = tensors(shared, "case")
    net = filled(shared, build("depth_scale_alignment"))
    maps = [case[f"dsa_{name}"] for name in ("object_mask", "road_depth", "object_depth")]
    assert torch.allclose(net(case["images"][:2], *maps), case["dsa_scale"], atol=1e-4)


@torch.no_grad()
def test_slots_are_the_references(shared: Path) -> None:
    net = filled(shared, build("slot_attention"))
    for name, by_presence in {"case": False, "stages": True}.items():
        case = tensors(shared, name)
        frames = F.interpolate(case["slot_source"], (128, 128), mode="bilinear")
        if by_presence:
            frames[:, :3] = 2 * frames[:, :3] - 1
        noise = torch.cat([case["slot_noise_background"], case["slot_noise"]], 1)
        found = net(frames, noise, by_presence=by_presence)
        masks = case["slot_masks_presence" if by_presence else "slot_masks"]
        assert torch.allclose(found.masks[..., ::4, ::4], masks, atol=1e-3)
        assert torch.allclose(found.presence, case["slot_presence"].view(2, 4), atol=1e-3)
        assert torch.allclose(found.masks.sum(1), torch.ones(()), atol=1e-5)
        if not by_presence:
            assert torch.allclose(found.slots, case["slots"], atol=1e-3)
            sparse = found.reconstruction[..., ::4, ::4]
            assert torch.allclose(sparse, case["slot_reconstruction"], atol=1e-3)
