"""The detector's networks: official weights, strict loading, regions read from the pyramid."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from moduv.detector.config import detector_config
from moduv.detector.model import build_detector
from moduv.detector.pooling import TableRoIAlign
from moduv.detector.predictor import Detector
from moduv.detector.weights import ENCODER, load_backbone, load_weights
from moduv.engine import checkpoint
from moduv.engine.errors import InputError


@pytest.fixture(scope="module")
def golden(shared: Path) -> Iterator[Path]:
    sys.path.insert(0, str(shared / "golden"))
    yield shared / "golden" / "detector"
    sys.path.remove(str(shared / "golden"))


@pytest.fixture(scope="module")
def official_state(golden: Path) -> dict[str, Tensor]:
    """The official checkpoint's keys and shapes, filled with the golden values."""
    from fill import fill_state_dict  # type: ignore[import-not-found]

    shapes = json.loads((golden / "state_dict.json").read_text())
    counters = {key for key in shapes if key.endswith("num_batches_tracked")}
    return fill_state_dict(
        {
            key: torch.zeros(shape, dtype=torch.long if key in counters else torch.float32)
            for key, shape in shapes.items()
        }
    )


def test_official_weights_give_the_official_detections(
    golden: Path, official_state: dict[str, Tensor], tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "moduv_final.pth", official_state)
    model = build_detector("paper")
    load_weights(model, tmp_path / "moduv_final.pth")
    expected = np.load(golden / "waymo_frame.npz")
    extra = json.loads((golden / "waymo_frame.json").read_text())

    found = Detector(model).predictions([expected["image"]], score=extra["score_threshold"])[0]

    assert len(found) == len(expected["boxes"])
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.5)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-3)
    masks = coco_mask.decode(extra["masks"]).transpose(2, 0, 1).astype(bool)
    ours = (found.masks > 0.5).numpy()
    union = (masks | ours).sum((1, 2))
    assert union.all()
    assert ((masks & ours).sum((1, 2)) / union).min() > 0.98


def test_paper_detector_trains_what_the_paper_trains() -> None:
    model = build_detector("paper")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in frozen)
    assert len(trained) == 84  # of the official code's 95 tensors


def test_wrong_weights_are_refused_and_change_nothing(tmp_path: Path) -> None:
    model = build_detector("street")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = dict(before)
    state["roi_heads.surplus"] = torch.zeros(1)
    state["rpn.head.cls_logits.bias"] = torch.zeros(7)
    del state["backbone.stem.0.weight"]
    checkpoint.save(tmp_path / "weights.pth", {k: v + 1 for k, v in state.items()})
    with pytest.raises(
        InputError, match=r"weights\.pth.*1 missing: backbone\.stem\.0\.weight"
    ) as e:
        load_weights(model, tmp_path / "weights.pth")
    assert "1 unexpected: roi_heads.surplus" in str(e.value)
    assert "rpn.head.cls_logits.bias (7,) for (3,)" in str(e.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def moco_checkpoint(path: Path, *, prefix: str = ENCODER, drop: str = "") -> dict[str, Tensor]:
    """Write a checkpoint as MoCo-v2 saves it; returns the encoder's tensors."""
    from torchvision.models import resnet50

    encoder = resnet50(weights=None).state_dict()
    state = {f"{prefix}{k}": v for k, v in encoder.items() if not k.startswith("fc.") and k != drop}
    state |= {f"{prefix}fc.{n}.weight": torch.zeros(2, 2) for n in (0, 2)}
    state |= {"module.encoder_k.conv1.weight": torch.zeros(64, 3, 7, 7)}
    checkpoint.save(path, {"epoch": 800, "arch": "resnet50", "state_dict": state})
    return encoder


def test_moco_weights_fill_the_whole_backbone(tmp_path: Path) -> None:
    encoder = moco_checkpoint(tmp_path / "moco.pth.tar")
    model = build_detector("paper")
    load_backbone(model.backbone, tmp_path / "moco.pth.tar")
    body = model.backbone.get_submodule("body").state_dict()
    assert len(body) == 265  # 53 convolutions, 53 norms of four tensors
    assert all(torch.equal(value, encoder[key]) for key, value in body.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": "module.backbone."}, "holds no 'module.encoder_q"),
        ({"drop": "layer3.0.conv1.weight"}, r"1 missing: layer3\.0\.conv1\.weight"),
    ],
)
def test_other_backbones_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    moco_checkpoint(tmp_path / "moco.pth.tar", **change)
    with pytest.raises(InputError, match=rf"moco\.pth\.tar.*{message}"):
        load_backbone(build_detector("paper").backbone, tmp_path / "moco.pth.tar")


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(InputError, match=r"'huge' does not exist; choose one of"):
        build_detector("huge")


def test_presets_build_their_anchors_for_every_level() -> None:
    for config in map(detector_config, ("paper", "street")):
        model = build_detector(config)
        levels = model.backbone(torch.zeros(1, 3, 64, 96))
        assert len(levels) == len(model.rpn.anchor_generator.sizes) == len(config.anchor_sizes)
        assert {level.shape[1] for level in levels.values()} == {config.fpn_channels}


box = st.tuples(*[st.floats(0, 100) for _ in range(2)], *[st.floats(2, 60) for _ in range(2)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(box, max_size=4), min_size=2, max_size=2).filter(any))
def test_table_look_up_is_aligned_roi_align(groups: list[list[tuple[float, ...]]]) -> None:
    torch.manual_seed(0)
    levels = {str(n): torch.randn(2, 3, 24 >> n, 40 >> n) for n in range(3)}
    pool = TableRoIAlign([*levels], 5, 1, canonical_scale=56, half_pixels=True)
    boxes = [
        torch.tensor([(x, y, x + w, y + h) for x, y, w, h in group]).reshape(-1, 4)
        for group in groups
    ]
    pooled = pool(levels, boxes, [(96, 160)] * 2)
    position = 0
    for image, group in enumerate(boxes):
        for region in group:
            size = float((region[2:] - region[:2]).prod().sqrt())
            level = int(np.clip(np.floor(2 + np.log2(size / 56)), 0, 2))
            features = levels[str(level)][image : image + 1]
            # A border of copies makes roi_align repeat the edge as the look-up does.
            padded = torch.nn.functional.pad(features, (99, 99, 99, 99), mode="replicate")
            moved = region / 4 / 2**level + 99
            expected = roi_align(padded, [moved[None]], 5, 1.0, 1, aligned=True)[0]
            torch.testing.assert_close(pooled[position], expected, atol=2e-4, rtol=1e-4)
            position += 1
    assert position == len(pooled)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(box, max_size=4), min_size=2, max_size=2).filter(any), st.integers(1, 3))
def test_table_look_up_is_the_published_roi_align_and_its_gradient(
    groups: list[list[tuple[float, ...]]], samples: int
) -> None:
    torch.manual_seed(0)
    boxes = [
        # Clipped to the image, as proposals are; some are then thinner than a cell.
        torch.tensor([(x, y, min(x + w, 160), min(y + h, 96)) for x, y, w, h in group if y < 96])
        for group in groups
    ]
    boxes = [group.reshape(-1, 4) for group in boxes]
    results = []
    for kind in (TableRoIAlign, MultiScaleRoIAlign):
        torch.manual_seed(1)
        levels = {str(n): torch.randn(2, 3, 24 >> n, 40 >> n, requires_grad=True) for n in range(3)}
        pooled = kind([*levels], 5, samples, canonical_scale=56)(levels, boxes, [(96, 160)] * 2)
        (pooled * torch.randn(pooled.shape)).sum().backward()
        results.append((pooled, *(level.grad for level in levels.values())))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
