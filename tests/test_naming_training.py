"""Training of the paper's three networks: clips, schedules, and trainings that continue exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moduv.engine import checkpoint
from moduv.engine.config import load_preset
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.loop import LoopConfig
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import write_split
from moduv.naming.contacts import Prompts
from moduv.naming.encoders import CONFIG, load_encoder
from moduv.naming.locate import Localiser, LocateConfig, locate, prompts
from moduv.naming.patch_clip import TowerConfig, build_patch_clip
from moduv.naming.slots import GroupingConfig, build_grouping
from moduv.naming.training import videomae as pretraining
from moduv.naming.training.clips import ClipConfig, VideoClips, choose_frames, crop_places
from moduv.naming.training.encoder import TINY
from moduv.naming.training.patch_clip import PatchTrainingConfig, crop_box, train_patches
from moduv.naming.training.slots import GroupingTrainingConfig, train_slots
from moduv.naming.training.slots import rate as slots_rate
from moduv.naming.training.videomae import PretrainingConfig, decay_groups, pretrain
from moduv.naming.videomae import TransformerConfig, build_pretraining, normalise
from moduv.naming.vocabulary import Vocabulary
from moduv.naming.weights import load_patch_clip

pytest.importorskip("timm", reason="the package timm is not installed")
pytest.importorskip("open_clip", reason="the package open_clip_torch is not installed")

ENCODER, DECODER = TransformerConfig(48, 1, 3), TransformerConfig(24, 1, 3)
LOOP = LoopConfig(4, 2, 1e-3, warmup=2, halve_every=4, save_every=2, log_every=1)
CLIPS = ClipConfig(2, (1, 2), 32)
TOWER = TowerConfig(width=32, layers=2, heads=2, output=16, image=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments of frames of different sizes, and their split."""
    root = tmp_path_factory.mktemp("clips")
    refs = []
    for segment, size, count in (("a", (40, 60), 6), ("b", (48, 36), 3)):
        for n in range(count):
            refs.append(FrameRef(segment, n))
            noise = np.random.default_rng(n).integers(0, 255, (*size, 3))
            write_image(refs[-1].file(root, ".png"), noise.astype(np.uint8))
    write_split(root / "split.txt", refs)
    return root


@given(st.integers(1, 40), st.integers(1, 8), st.sampled_from([1, 2, 4, 8]), st.integers(0, 99))
def test_clips_are_frames_at_a_step_and_end_where_the_video_does(
    count: int, frames: int, step: int, seed: int
) -> None:
    chosen = choose_frames(count, frames, step, np.random.default_rng(seed))
    assert len(chosen) == frames
    assert 0 <= min(chosen) <= max(chosen) < count
    distances = np.diff(chosen).tolist()
    moving = distances.index(0) if 0 in distances else len(distances)
    assert distances == [step] * moving + [0] * (len(distances) - moving)
    if count >= frames * step:
        assert moving == len(distances)


def test_frames_keep_their_aspect_and_fill_patches(world: Path) -> None:
    clips = VideoClips(
        world, [FrameRef(*w) for w in (("a", 0), ("a", 1), ("b", 0))], replace(CLIPS, per_sample=3)
    )
    assert [clips[n, 5].shape for n in (0, 1)] == [(3, 3, 2, 32, 48), (3, 3, 2, 48, 32)]
    assert torch.equal(clips[0, 5], clips[0, 5])
    assert normalise(torch.full((3, 1, 1, 1), 255, dtype=torch.uint8))[0].item() == pytest.approx(
        (1 - 0.485) / 0.229
    )


@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 999))
def test_crops_lie_in_the_image(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = crop_places(height, width, rng)
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width
    left, top, right, bottom = crop_box(height, width, 0.9, rng)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) * (bottom - top) >= 0.85 * height * width


def test_the_pretraining_schedule_and_its_groups_are_the_published_ones() -> None:
    config = PretrainingConfig().loop
    rates = [pretraining.rate(config, step) for step in (0, config.warmup, config.steps)]
    assert rates == pytest.approx([2e-6, 3e-4, 2e-5])
    model = build_pretraining(ENCODER, DECODER)
    decayed, kept = (group["params"] for group in decay_groups(model))
    assert len(decayed) + len(kept) == len(list(model.parameters()))
    assert all(p.ndim >= 2 for p in decayed)
    assert any(p is model.mask_token for p in kept)


def pretraining_config() -> PretrainingConfig:
    return PretrainingConfig(replace(LOOP, optimizer="adamw"), CLIPS, 0.5, ENCODER, DECODER)


def grouping_config() -> GroupingTrainingConfig:
    network = GroupingConfig(2, 2, 3, 16, 2, 32, 24, ENCODER)
    return GroupingTrainingConfig(LOOP, replace(CLIPS, per_sample=2), network)


def test_the_chain_of_trainings_continues_exactly(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = world / "split.txt"
    pretrain(world, split, tmp_path / "encoder", pretraining_config())
    weights = tmp_path / "encoder/weights.pth"
    train_slots(weights, world, split, tmp_path / "whole", grouping_config())
    read = VideoClips.__getitem__
    asked = 0

    def dies(self: VideoClips, item: tuple[int, int]) -> torch.Tensor:
        nonlocal asked
        asked += 1
        if asked > 5:
            raise KeyboardInterrupt
        return read(self, item)

    with monkeypatch.context() as patched:
        patched.setattr(VideoClips, "__getitem__", dies)
        with pytest.raises(KeyboardInterrupt):
            train_slots(weights, world, split, tmp_path / "killed", grouping_config())
    train_slots(weights, world, split, tmp_path / "killed", grouping_config())
    whole, resumed = (
        checkpoint.load_weights(tmp_path / name / "weights.pth") for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    encoder = checkpoint.load_weights(weights)
    assert torch.equal(
        whole["model.patch_embed.proj.weight"], encoder["encoder.patch_embed.proj.weight"]
    )


def test_patches_are_trained_beside_a_frozen_tower(world: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tower = build_patch_clip(TOWER).model.state_dict()
    checkpoint.save_weights(tmp_path / "clip.pt", {f"visual.{k}": v for k, v in tower.items()})
    loop = LoopConfig(2, 4, 0.1, optimizer="sgd", cosine=True)
    config = PatchTrainingConfig(loop, network=TOWER)
    train_patches(tmp_path / "clip.pt", world, tmp_path / "out", config)
    model = build_patch_clip(TOWER)
    load_patch_clip(model, tmp_path / "out/weights.pth")
    assert all(torch.equal(model.model.state_dict()[key], value) for key, value in tower.items())


def locate_config() -> LocateConfig:
    return LocateConfig(grouping_config().network, replace(TOWER, output=48), size=32)


def test_slots_and_patches_name_what_they_find(world: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = locate_config()
    grouping, patches = build_grouping(config.network), build_patch_clip(config.tower)
    for name, model in (("slots", grouping), ("patches", patches), ("clip/weights", TINY.build())):
        checkpoint.save_weights(tmp_path / f"{name}.pth", model.state_dict())
    write_json(tmp_path / "clip" / CONFIG, {"model_cfg": TINY.model})
    files = tmp_path / "slots.pth", tmp_path / "patches.pth"
    place = (world, world / "split.txt", "street", f"open_clip:{tmp_path / 'clip'}")
    locate(*files, *place, tmp_path / "out", config)
    content = read_json(tmp_path / "out/detections.json")
    assert len(content["images"]) == 9
    names = {"car", "van", "truck", "pedestrian", "__background__"}
    seen: dict[int, set[str]] = {}
    for entry in content["annotations"]:
        assert entry["name"] in names
        seen.setdefault(entry["track_id"], set()).add(entry["name"])
        x, y, width, height = entry["bbox"]
        assert x + width <= 60
        assert y + height <= 48
    assert seen
    assert all(len(called) == 1 for called in seen.values())
    again = Localiser(grouping, patches, *localiser_parts(tmp_path / "clip"))
    with pytest.raises(InputError, match="clips of 2"):
        again.video([np.zeros((32, 32, 3), np.uint8)])
    words, other, device = localiser_parts(tmp_path / "clip")
    with pytest.raises(InputError, match="have 48 numbers and patches 16"):
        Localiser(grouping, patches, words, replace(other, tower=TOWER), device)
    faster = Localiser(grouping, patches, words, replace(other, bf16=True), device)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3), np.uint8))
    for one, other_one in (
        (again.alphas(pixels), faster.alphas(pixels)),
        (again.spoken(pixels), faster.spoken(pixels)),
    ):
        assert one.dtype == other_one.dtype == np.float32
        assert 0 < np.abs(one - other_one).max() < 0.03 * np.abs(one).max()
    found = again.video([np.full((40, 60, 3), n, np.uint8) for n in range(3)])
    assert len(found) == 3
    assert all(one.size == (40, 60) for one in found)


def localiser_parts(folder: Path) -> tuple[Prompts, LocateConfig, torch.device]:
    words = prompts(Vocabulary.load("street"), load_encoder(f"open_clip:{folder}", "cpu"))
    assert words.names[0] == "__background__"
    assert np.array_equal(np.unique(words.classes), np.arange(6))
    assert np.allclose(np.linalg.norm(words.vectors, axis=1), 1, atol=1e-5)
    return words, locate_config(), torch.device("cpu")


def test_slots_learn_without_a_rise_or_a_decay() -> None:
    plain = LoopConfig(10, 2, 3e-3)
    assert [slots_rate(plain, step) for step in (0, 9)] == [3e-3, 3e-3]
    assert slots_rate(replace(plain, warmup=4), 1) == pytest.approx(3e-3 / 4)
    assert slots_rate(replace(plain, halve_every=5), 5) == pytest.approx(1.5e-3)


def test_presets_fit_and_contradictions_are_refused(world: Path, tmp_path: Path) -> None:
    for preset in ("paper", "street"):
        load_preset(PretrainingConfig, preset, "name_pretrain")
        load_preset(GroupingTrainingConfig, preset, "name_slots")
    assert load_preset(GroupingTrainingConfig, "paper", "name_slots") == GroupingTrainingConfig()
    for broken in (
        lambda: ClipConfig(0, (1,)),
        lambda: ClipConfig(2, ()),
        lambda: ClipConfig(2, (1,), 100),
        lambda: PretrainingConfig(hidden=1.0),
        lambda: GroupingTrainingConfig(clips=CLIPS),
        lambda: GroupingConfig(slots=0),
        lambda: TransformerConfig(768, 12, 7),
        lambda: TowerConfig(patch=15),
    ):
        with pytest.raises(InputError):
            broken()
    with pytest.raises(InputError, match="fewer than two images"):
        train_patches(
            tmp_path / "x", tmp_path, tmp_path / "out", PatchTrainingConfig(network=TOWER)
        )
    checkpoint.save_weights(tmp_path / "other.pt", {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="no image tower"):
        train_patches(
            tmp_path / "other.pt", world, tmp_path / "out", PatchTrainingConfig(network=TOWER)
        )
    split = world / "split.txt"
    with pytest.raises(InputError, match="no encoder of a VideoMAE"):
        train_slots(tmp_path / "other.pt", world, split, tmp_path / "slots", grouping_config())
