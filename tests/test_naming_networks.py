"""VideoMAE, slots and patch-CLIP: the published keys, outputs and gradients, and files that load."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from naming_golden import Golden, agree, gradients_agree, shapes_of
from torch.nn import functional as F

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.naming.patch_clip import Spoken, TowerConfig, alignment_loss, build_patch_clip, pool
from moduv.naming.slots import GroupingConfig, SlotAttention, build_grouping, schedule
from moduv.naming.videomae import (
    TransformerConfig,
    build_pretraining,
    pixel_targets,
    reconstruction_loss,
    sine_table,
    tube_mask,
)
from moduv.naming.weights import (
    load_encoder_weights,
    load_grouping,
    load_patch_clip,
    load_pretraining,
)

pytest.importorskip("timm", reason="the package timm is not installed")
pytest.importorskip("open_clip", reason="the package open_clip_torch is not installed")

TINY = TransformerConfig(48, 1, 3)
SMALL_GROUPING = GroupingConfig(
    frames=2, base=2, slots=3, dim=16, slot_hidden=32, decoder_hidden=24, encoder=TINY
)
SMALL_TOWER = TowerConfig(width=32, layers=2, heads=2, output=16, image=64)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared)


def small_transformers(config: dict[str, Any]) -> tuple[TransformerConfig, TransformerConfig]:
    encoder, decoder = (TransformerConfig(**config[key]) for key in ("encoder", "decoder"))
    return encoder, decoder


def test_keys_and_shapes_are_the_published_ones(golden: Golden) -> None:
    with torch.device("meta"):
        for model, name in (
            (build_pretraining(), "videomae"),
            (build_grouping(), "grouping"),
            (build_patch_clip(), "patch_clip"),
        ):
            assert shapes_of(model) == golden.keys(name)


# VideoMAE


def test_positions_of_a_width_that_three_does_not_divide(golden: Golden) -> None:
    expected = golden.arrays("positions")
    agree(sine_table(*expected["size"].tolist()), expected["table"], 1e-6)


def test_pretraining_is_the_references(golden: Golden) -> None:
    content, arrays = golden.numbers("videomae_small"), golden.arrays("videomae_small")
    config = content["config"]
    model = golden.fill(build_pretraining(*small_transformers(config)))
    assert shapes_of(model) == content["state_dict"]
    names = [f"public_pretrain_small_{n}" for n in (0, 1)]
    clip = golden.clip(names, config["frames"], config["image"], config["image"])
    mask = torch.from_numpy(arrays["masks"]).bool()
    agree(model.encode(clip, mask), arrays["encoded"])
    prediction = model(clip, mask)
    agree(prediction[:, torch.from_numpy(arrays["rows"])], arrays["prediction"])
    loss = reconstruction_loss(prediction, clip, mask)
    assert loss.item() == pytest.approx(content["loss"], rel=1e-5)
    loss.backward()
    gradients_agree(model, content["gradient_norms"])


@pytest.mark.slow
def test_pretraining_at_full_size_is_the_references(golden: Golden) -> None:
    arrays = golden.arrays("videomae_full")
    model = golden.fill(build_pretraining())
    clip = golden.clip(["public_pretrain_full"], 16, 224, 224)
    mask = torch.from_numpy(arrays["mask"]).bool()[None]
    rows = torch.from_numpy(arrays["rows"])
    with torch.inference_mode():
        agree(
            model.encode(clip, mask)[0, torch.from_numpy(arrays["visible_rows"])], arrays["encoded"]
        )
        prediction = model(clip, mask)
        agree(prediction[0, rows], arrays["prediction"])
        targets = pixel_targets(clip)[mask.repeat(1, 16)]
        agree(targets[rows[:8]], arrays["target"])
        found = reconstruction_loss(prediction, clip, mask).item()
        none = reconstruction_loss(torch.zeros_like(prediction), clip, mask).item()
    assert found == pytest.approx(float(arrays["loss"]), rel=1e-5)
    assert none == pytest.approx(float(arrays["loss_none"]), rel=1e-5)


def test_masks_hide_the_same_patches_of_all_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = tube_mask(196, 0.9, generator)
    assert mask.sum() == 176
    assert not torch.equal(mask, tube_mask(196, 0.9, generator))


# Slots


@pytest.mark.parametrize(
    ("name", "heads", "iterations"), [("one_head", 1, 3), ("four_heads", 4, 2)]
)
def test_slot_attention_is_the_references(
    name: str, heads: int, iterations: int, golden: Golden
) -> None:
    arrays = {k: torch.from_numpy(v) for k, v in golden.arrays(f"slot_attention_{name}").items()}
    module = golden.fill(SlotAttention(24, 32, 16, 128, heads, iterations, bias=True))
    slots, attention = module(arrays["features"], arrays["slots"])
    agree(slots, arrays["slots_out"].numpy())
    agree(attention, arrays["attention"].numpy())


def test_grouping_is_the_references(golden: Golden) -> None:
    content, arrays = golden.numbers("grouping_small"), golden.arrays("grouping_small")
    told = content["config"]
    dim, frames = told["slot_dim"], told["frames"]
    encoder = TransformerConfig(**told["encoder"])
    config = GroupingConfig(frames, 14, told["slots"], dim, 3, 4 * dim, encoder=encoder)
    model = golden.fill(build_grouping(config))
    assert shapes_of(model) == content["state_dict"]
    names = [f"public_grouping_small_{n}" for n in (0, 1)]
    clip = golden.clip(names, frames, told["height"], told["width"])
    slots = golden.normal("public_grouping_small_slots", 2, config.slots, dim)
    found = model(clip, slots=slots)
    for name in ("features", "projected", "slots", "attention", "reconstruction", "alphas"):
        agree(getattr(found, name), arrays[name])
    frame = found.alphas[0, :1].unflatten(2, (told["height"] // 16, -1))
    bigger = F.interpolate(frame, scale_factor=16, mode="bilinear", align_corners=False)
    agree(bigger[0], arrays["upsampled_frame"])
    assert found.loss.item() == pytest.approx(content["loss"], rel=1e-5)
    found.loss.backward()
    gradients_agree(model, content["gradient_norms"])


@pytest.mark.slow
def test_grouping_at_full_size_is_the_references(golden: Golden) -> None:
    arrays = golden.arrays("grouping_full_wide")
    model = golden.fill(build_grouping())
    clip = golden.clip(["public_grouping_wide"], *arrays["size"].tolist())
    rows = torch.from_numpy(arrays["rows"])
    with torch.inference_mode():
        found = model(clip, slots=golden.normal("public_grouping_wide_slots", 1, 15, 128))
    for name in ("features", "projected", "reconstruction"):
        agree(getattr(found, name)[0, rows], arrays[name])
    agree(found.slots[0], arrays["slots"])
    agree(found.attention[0][:, rows], arrays["attention"])
    agree(found.alphas[0].transpose(0, 1).flatten(1)[:, rows], arrays["alphas"])
    assert found.loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)
    assert found.features.std().item() == pytest.approx(float(arrays["feature_std"]), rel=1e-4)


@pytest.mark.parametrize("width", [32, 48])
def test_the_masks_alone_are_those_of_the_whole(width: int) -> None:
    torch.manual_seed(0)
    model = build_grouping(SMALL_GROUPING).eval()
    clip, noise = torch.randn(2, 3, 2, 32, width), torch.randn(2, 3, 16)
    agree(model.alphas(clip, noise), model(clip, noise).alphas.detach().numpy(), 1e-5)


def test_grouping_learns_with_a_frozen_encoder_and_refuses_other_clips() -> None:
    model = build_grouping(SMALL_GROUPING).train()
    assert not model.model.training
    assert not any(p.requires_grad for p in model.model.parameters())
    with pytest.raises(InputError, match="give 2 frames"):
        model(torch.zeros(1, 3, 1, 32, 32))
    with pytest.raises(InputError, match="multiples of 16"):
        model(torch.zeros(1, 3, 2, 32, 40))


def test_the_learning_rate_is_the_published_one(golden: Golden) -> None:
    content = golden.numbers("grouping_schedule")
    assert [schedule(step) for step in content["iterations"]] == pytest.approx(content["factor"])


# Patch-CLIP


def test_patch_clip_is_the_references(golden: Golden) -> None:
    content, arrays = golden.numbers("patch_clip_small"), golden.arrays("patch_clip_small")
    told = content["config"]
    config = TowerConfig(told["width"], told["layers"], told["heads"], told["output"])
    model = golden.fill(build_patch_clip(config))
    assert shapes_of(model) == content["state_dict"]
    images = golden.frames("public_patch_clip_small", *arrays["size"].tolist())
    tokens, found = model.tokens(images), model(images)
    agree(tokens, arrays["tokens"])
    agree(found.query, arrays["query"])
    agree(found.patches, arrays["patch_features"])
    agree(model.own_patches(tokens), arrays["own_patch_features"])
    weights, pooled = pool(found.query, found.patches)
    agree(weights, arrays["weights"])
    agree(pooled, arrays["pooled"])
    loss = alignment_loss(found)
    assert loss.item() == pytest.approx(content["loss"], rel=1e-5)
    loss.backward()
    gradients_agree(model, content["gradient_norms"])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["square", "wide"])
def test_patch_clip_at_full_size_is_the_references(shape: str, golden: Golden) -> None:
    arrays = golden.arrays(f"patch_clip_full_{shape}")
    model = golden.fill(build_patch_clip())
    images = golden.frames(f"public_patch_clip_{shape}", *arrays["size"].tolist())
    rows = torch.from_numpy(arrays["rows"])
    with torch.inference_mode():
        found = model(images)
        agree(found.query, arrays["query"])
        agree(found.patches[:, rows], arrays["patch_features"])
        agree(model.own_patches(model.tokens(images))[:, rows], arrays["own_patch_features"])
        weights, pooled = pool(found.query, found.patches)
    agree(weights, arrays["weights"])
    agree(pooled, arrays["pooled"])
    assert alignment_loss(found).item() == pytest.approx(float(arrays["loss"]), rel=1e-5)


def test_pooling_and_loss_alone(golden: Golden) -> None:
    arrays = golden.arrays("patch_clip_loss")
    query, patches = (torch.from_numpy(arrays[name]) for name in ("query", "patch_features"))
    weights, pooled = pool(query, patches)
    agree(weights, arrays["weights"])
    agree(pooled, arrays["pooled"])
    found = alignment_loss(Spoken(query, patches)).item()
    assert found == pytest.approx(float(arrays["loss"]), rel=1e-5)
    with pytest.raises(InputError, match="two or more"):
        alignment_loss(Spoken(query[:1], patches[:1]))


# Files


def test_published_files_load_however_they_are_wrapped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = build_pretraining(TINY, TransformerConfig(24, 1, 3))
    options = argparse.Namespace(lr=1e-3)
    content = {"model": trained.state_dict(), "epoch": 3, "args": options}
    torch.save(content, tmp_path / "pretraining.pth")
    load_pretraining(
        build_pretraining(TINY, TransformerConfig(24, 1, 3)), tmp_path / "pretraining.pth"
    )
    model = build_grouping(SMALL_GROUPING)
    load_encoder_weights(model, tmp_path / "pretraining.pth")
    name = "blocks.0.attn.q_bias"
    assert torch.equal(model.model.state_dict()[name], trained.encoder.state_dict()[name])

    state = model.state_dict()
    flat = {**state, "decoder.pos_embed": state["decoder.pos_embed"].flatten(0, 1)}
    checkpoint.save(tmp_path / "old.pth", flat)
    other = build_grouping(SMALL_GROUPING)
    load_grouping(other, tmp_path / "old.pth")
    assert torch.equal(other.decoder.pos_embed, model.decoder.pos_embed)

    clip = build_patch_clip(SMALL_TOWER)
    state = {f"module.{key}": value for key, value in clip.state_dict().items()}
    checkpoint.save(
        tmp_path / "patch.pth.tar", {"epoch": 1, "arch": "resnet18", "state_dict": state}
    )
    loaded = build_patch_clip(SMALL_TOWER)
    load_patch_clip(loaded, tmp_path / "patch.pth.tar")
    images = torch.randn(2, 3, 64, 48)
    assert torch.equal(loaded.eval()(images).patches, clip.eval()(images).patches)

    for load, network in ((load_grouping, other), (load_encoder_weights, other)):
        with pytest.raises(InputError, match=r"patch.pth.tar"):
            load(network, tmp_path / "patch.pth.tar")
