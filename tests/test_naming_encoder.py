"""The encoder: open_clip models of local files, and the small one that is trained on named objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naming_world import draw

from moduv.commands.cli import main
from moduv.commands.name import find_file
from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_json
from moduv.engine.loop import LoopConfig
from moduv.evaluation.naming import measure_names
from moduv.frames.images import write_image
from moduv.instances import rle
from moduv.naming.encoders import CONFIG, Description, OpenClipEncoder, load_encoder
from moduv.naming.training.crops import CaptionConfig, NamedCrops
from moduv.naming.training.encoder import (
    TINY,
    EncoderTrainingConfig,
    contrastive_loss,
    train_encoder,
)
from moduv.street.dataset import StreetConfig, render_dataset

pytest.importorskip("open_clip", reason="the package open_clip_torch is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    checkpoint.save_weights(folder / "weights.pth", TINY.build().state_dict())
    images = {"mean": [0.5] * 3, "std": [0.5] * 3}
    write_json(folder / CONFIG, {"model_cfg": TINY.model, "preprocess_cfg": images})
    return folder


def test_a_folder_and_wrapped_weights_give_the_same_vectors(model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(f"open_clip:{model}", "cpu")
    crops = [np.full((32, 32, 3), value, np.uint8) for value in range(40)]
    found = encoder.images(crops)
    assert found.shape == (40, 48)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(encoder.images(crops[35:]), found[35:], atol=1e-5)
    words = encoder.text(["a photo of a car", "ein Straßenbahnwagen"])
    assert np.allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
    assert encoder.images([]).shape == encoder.text([]).shape == (0, 48)
    state = {f"module.{k}": v for k, v in checkpoint.load_weights(model / "weights.pth").items()}
    checkpoint.save(tmp_path / "wrapped.pt", {"state_dict": state, "epoch": 3})
    wrapped = OpenClipEncoder(TINY, tmp_path / "wrapped.pt", torch.device("cpu"))
    assert np.array_equal(wrapped.images(crops[:2]), encoder.images(crops[:2]))
    assert wrapped.identity != encoder.identity


def test_normalisation_is_that_of_the_weights() -> None:
    assert Description.of_name("ViT-B-32-quickgelu").mean[0] == pytest.approx(0.48145466)
    assert Description.of_name("MobileCLIP-S1").std == (1, 1, 1)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("clip", "open_clip:ARCHITECTURE:WEIGHTS_FILE"),
        ("open_clip:", "open_clip:ARCHITECTURE:WEIGHTS_FILE"),
        ("open_clip:ViT-B-32", "names no weights"),
        ("open_clip:ViT-Z:file.pt", "no architecture 'ViT-Z'"),
        ("open_clip:ViT-B-16-SigLIP:file.pt", "needs files of a model hub"),
        ("open_clip:{empty}", CONFIG),
    ],
)
def test_other_encoders_are_one_sentence(spec: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        load_encoder(spec.format(empty=tmp_path), "cpu")


def test_weights_of_another_architecture_are_refused(model: Path, tmp_path: Path) -> None:
    other = Description("other", {**TINY.model, "embed_dim": 32})
    with pytest.raises(InputError, match="do not fit the network"):
        OpenClipEncoder(other, model / "weights.pth", torch.device("cpu"))
    with pytest.raises(InputError, match="no such checkpoint"):
        OpenClipEncoder(other, tmp_path / "missing.pt", torch.device("cpu"))
    write_json(tmp_path / CONFIG, {"model_cfg": {**TINY.model, "colour": 3}})
    with pytest.raises(InputError, match="cannot build it"):
        Description.of_file(tmp_path / CONFIG).build()
    both = {**checkpoint.load_weights(model / "weights.pth"), "module.logit_scale": torch.zeros(())}
    checkpoint.save(tmp_path / "both.pt", both)
    with pytest.raises(InputError, match=r"holds both 'logit_scale' and the same with 'module\.'"):
        OpenClipEncoder(TINY, tmp_path / "both.pt", torch.device("cpu"))


@pytest.mark.parametrize(
    ("model_cfg", "images", "sentence"),
    [
        ({"text_cfg": []}, {}, "lacks 'model_cfg' with vision_cfg and text_cfg"),
        ({"vision_cfg": None}, {}, "lacks 'model_cfg' with vision_cfg and text_cfg"),
        ({"vision_cfg": {"layers": -1, "width": 1 << 40}}, {}, "cannot build it"),
        ({}, {"mean": 3}, "not three numbers"),
        ({}, {"mean": [0.5, float("nan"), 0.5]}, "not three numbers"),
        ({}, {"std": [0.5, 0.0, 0.5]}, "'std' above 0"),
    ],
)
def test_descriptions_that_are_none_are_one_sentence(
    model_cfg: dict, images: dict, sentence: str, tmp_path: Path
) -> None:
    content = {"model_cfg": {**TINY.model, **model_cfg}, "preprocess_cfg": images}
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        Description.of_file(tmp_path / CONFIG).build()


def test_of_several_weights_it_is_said_which_are_taken(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("weights.pth", CONFIG):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    checkpoint.save(tmp_path / "open_clip_pytorch_model.bin", TINY.build().state_dict())
    load_encoder(f"open_clip:{tmp_path}", "cpu")
    assert "open_clip_pytorch_model.bin is taken, not weights.pth" in capsys.readouterr().out


# Training


def write_truth(folder: Path) -> Path:
    """Four images with a red van and a green car, and a sliver."""
    images, entries = [], []
    for number in range(1, 5):
        image, masks = draw([("red", 5 * number, 5), ("green", 40, 30), ("blue", 60, 5)])
        write_image(folder / f"{number}.png", image)
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
        for name, mask in zip(("red van", "green car", "blue car"), masks, strict=True):
            entry = {"id": len(entries) + 1, "image_id": number, "category_id": 1, "name": name}
            box, sliver = list(rle.box(mask)), int(name == "blue car")
            entries.append({**entry, "segmentation": mask, "bbox": box, "ignore": sliver})
    write_json(folder / "truth.json", {"images": images, "annotations": entries})
    return folder / "truth.json"


def crops_of(truth: Path, captions: CaptionConfig | None = None) -> NamedCrops:
    tokens = lambda texts: torch.zeros(len(texts), 2)  # noqa: E731
    find = lambda name: find_file(truth.parent, name)  # noqa: E731
    return NamedCrops(truth, find, 16, captions or CaptionConfig(), tokens)


def test_captions_say_what_crops_show(tmp_path: Path) -> None:
    data = crops_of(write_truth(tmp_path))
    samples = [data[0, seed] for seed in range(200)]
    seen: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        seen.setdefault(sample.caption.removeprefix("a photo of a "), []).append(sample.pixels)
    assert set(seen) == {"red van", "van", "green car", "car", "street"}
    middles = {
        name: np.mean([c[6:10, 6:10].mean((0, 1)) for c in crops], 0)
        for name, crops in seen.items()
    }
    assert middles["van"].argmax() == middles["red van"].argmax() == 0
    assert middles["car"].argmax() == middles["green car"].argmax() == 1
    assert np.ptp(middles["street"]) < 30
    assert 15 < len(seen["street"]) < 55
    again = crops_of(tmp_path / "truth.json")[3, 7]
    assert np.array_equal(again.pixels, data[0, 7].pixels)
    pixels, _, captions = data.collate(samples[:20])
    assert pixels.shape == (20, 3, 16, 16)
    same = [[a.caption == b.caption for a in samples[:20]] for b in samples[:20]]
    assert (captions[:, None] == captions).tolist() == same


def test_objects_without_a_mask_are_no_background(tmp_path: Path) -> None:
    content = read_json(write_truth(tmp_path))
    whole = {"category_id": 1, "bbox": [0, 0, 80, 60]}
    everywhere = [{**whole, "id": 100 + n, "image_id": n} for n in range(1, 5)]
    write_json(
        tmp_path / "boxes.json",
        {**content, "annotations": [*content["annotations"], *everywhere]},
    )
    data = crops_of(tmp_path / "boxes.json", CaptionConfig(background_share=0.9))
    assert len(data) == 8
    assert not any(data[0, seed].caption.endswith("street") for seed in range(20))


def test_a_truth_without_names_is_refused(tmp_path: Path) -> None:
    content = read_json(write_truth(tmp_path))
    for entry in content["annotations"]:
        del entry["name"]
    write_json(tmp_path / "bare.json", content)
    with pytest.raises(InputError, match="has a 'name' and a mask"):
        crops_of(tmp_path / "bare.json")


def test_the_loss_counts_equal_captions_as_positives() -> None:
    captions = torch.tensor([0, 0, 1])
    same = (captions[:, None] == captions).float()
    perfect = contrastive_loss(100 * same, captions)
    assert perfect.item() == pytest.approx(2 / 3 * np.log(2), abs=1e-4)
    assert contrastive_loss(torch.zeros(3, 3), captions).item() == pytest.approx(np.log(3))
    logits = torch.randn(3, 3)
    assert torch.allclose(contrastive_loss(logits, captions), contrastive_loss(logits.T, captions))


def test_a_killed_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    config = EncoderTrainingConfig(
        LoopConfig(4, 8, 1e-3, optimizer="adamw", save_every=2), cache_bytes=0
    )
    find = lambda name: find_file(tmp_path, name)  # noqa: E731
    whole = train_encoder(truth, find, tmp_path / "whole", config)
    asked = 0

    def dies(name: str) -> Path:
        nonlocal asked
        asked += 1
        if asked > 20:
            raise KeyboardInterrupt
        return find_file(tmp_path, name)

    with pytest.raises(KeyboardInterrupt):
        train_encoder(truth, dies, tmp_path / "killed", config)
    resumed = train_encoder(truth, find, tmp_path / "killed", config)
    assert resumed.identity == whole.identity
    loaded = load_encoder(f"open_clip:{tmp_path / 'whole'}", "cpu")
    assert loaded.identity["weights_sha256"] == whole.identity["weights_sha256"]


@pytest.mark.slow
def test_the_street_worlds_objects_are_named(tmp_path: Path) -> None:
    """The loose bars of a small budget: kinds beat the commonest one, paints beat permuted names."""
    data = tmp_path / "street"
    render_dataset(data, StreetConfig(train_clips=96, val_clips=16, frames_per_clip=4))
    truth = [data / "annotations" / f"{split}.json" for split in ("train", "val")]
    train_encoder(
        truth[0], lambda name: find_file(data, name), tmp_path / "model", EncoderTrainingConfig()
    )

    def named(vocabulary: str) -> dict[str, Any]:
        fixed = ["--images", str(data), "--encoder", f"open_clip:{tmp_path / 'model'}"]
        out = tmp_path / vocabulary
        main(["name", str(truth[1]), *fixed, "--vocabulary", vocabulary, "--out", str(out)])
        return measure_names(truth[1], out / "val.json")

    kinds, paints = named("street"), named("street_paints")
    assert kinds["name/kind_accuracy_macro"] >= 0.5  # of four kinds, some of them rare
    assert kinds["name/kind_accuracy"] >= kinds["name/majority"] + 0.1
    assert paints["name/accuracy"] >= 0.45
    assert kinds["name/flips"] == 0
