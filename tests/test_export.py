"""Exported detectors give what PyTorch gives, at any size, without this library."""

from __future__ import annotations

import builtins
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from moduv.cli import main
from moduv.detector.config import PAPER, DetectorConfig, detector_config
from moduv.detector.export import (
    Difference,
    ExportConfig,
    Run,
    compare,
    export_detector,
    to_input,
    write_onnx,
    write_torchscript,
)
from moduv.detector.model import build_detector
from moduv.detector.portable import PortableDetector, resize
from moduv.detector.weights import load_detector
from moduv.engine import checkpoint
from moduv.engine.config import to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import write_json
from moduv.frames.images import read_image, write_image
from moduv.street.dataset import StreetConfig
from moduv.street.render import render
from moduv.street.scene import Scene

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
safetensors_torch = pytest.importorskip("safetensors.torch")

DOCS = Path(__file__).resolve().parents[1] / "docs/export.md"
STREET = detector_config("street")
SMALL_PAPER = replace(
    PAPER, min_size=128, max_size=224, proposals_test=100, max_detections=20, box_hidden=64
)
"""The published network on small images."""


def street_frame(seed: int = 5) -> np.ndarray:
    return render(Scene(seed, 1), 0, StreetConfig().camera())[0]


def detector(architecture: DetectorConfig) -> MaskRCNN:
    """Random weights that find something everywhere, with spread scores and decided masks."""
    torch.manual_seed(3)
    model = build_detector(architecture).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    torch.nn.init.normal_(model.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def street() -> MaskRCNN:
    return detector(STREET)


@pytest.fixture(scope="module")
def folder(street: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a round."""
    folder = tmp_path_factory.mktemp("round")
    checkpoint.save_weights(folder / "weights.pth", street.state_dict())
    write_json(folder / "detector.json", to_dict(STREET))
    return folder


@pytest.fixture(scope="module")
def exported(street: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the street detector as `detector.onnx` and `detector.pt`."""
    out = tmp_path_factory.mktemp("exported")
    export_detector(street, STREET, out / "detector.onnx", "onnx", street_frame())
    export_detector(street, STREET, out / "detector.pt", "torchscript", street_frame())
    return out


def run_onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        found = session.run(None, {"image": np.ascontiguousarray(image.transpose(2, 0, 1))})
        boxes, scores, masks = (torch.from_numpy(x) for x in found)
        return boxes, scores, masks

    return run


@torch.inference_mode()
def difference(model: MaskRCNN, run: Run, image: np.ndarray) -> Difference:
    return compare(model([to_input(image, "uint8")])[0], run(image))


def assert_same(found: Difference) -> None:
    assert found.objects > 5
    assert found.unmatched <= 0.05 * found.objects
    box, score, _ = found.largest
    assert box < 1e-4
    assert score < 1e-3
    assert found.mean_mask < 2e-3


def test_onnx_detects_the_same_in_street_frames_of_any_size(
    street: MaskRCNN, exported: Path
) -> None:
    run = run_onnx(exported / "detector.onnx")
    frame = street_frame(7)
    for image in (frame, frame[:70], frame[:, :90], np.rot90(frame), np.tile(frame, (2, 3, 1))):
        assert_same(difference(street, run, image))


def test_torchscript_detects_the_same_in_both_types(street: MaskRCNN, exported: Path) -> None:
    module = torch.jit.load(str(exported / "detector.pt"))
    frame = street_frame(7)
    for image in (frame, frame[:70]):
        assert_same(difference(street, lambda x: module(to_input(x, "uint8")), image))
        assert_same(difference(street, lambda x: module(to_input(x, "float32")), image))


def test_real_frames(street: MaskRCNN, exported: Path, shared: Path) -> None:
    images = [
        next((shared / "real/demo_images" / name).rglob("*.*g"))
        for name in ("coco", "kitti", "nuscenes", "waymo")
    ]
    onnx_run = run_onnx(exported / "detector.onnx")
    module = torch.jit.load(str(exported / "detector.pt"))
    for path in images:
        image = read_image(path)
        assert_same(difference(street, onnx_run, image))
        assert_same(difference(street, lambda x: module(to_input(x, "uint8")), image))


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_small_masks_and_float_input(street: MaskRCNN, tmp_path: Path, format: str) -> None:
    config = ExportConfig(input="float32", masks="box")
    found = export_detector(street, STREET, tmp_path / "d", format, street_frame(), config)
    assert_same(found)
    image = to_input(street_frame(), "float32")
    if format == "onnx":
        session = onnxruntime.InferenceSession(tmp_path / "d", providers=["CPUExecutionProvider"])
        masks = session.run(["masks"], {"image": image.numpy()})[0]
    else:
        masks = torch.jit.load(str(tmp_path / "d"))(image)[2]
    assert masks.shape[1:] == (2 * STREET.mask_resolution,) * 2


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_the_published_network(tmp_path: Path, format: str) -> None:
    model = detector(SMALL_PAPER)
    assert_same(export_detector(model, SMALL_PAPER, tmp_path / "d", format, street_frame()))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torchscript", "safetensors"])
def test_the_published_network_at_its_size(tmp_path: Path, format: str) -> None:
    out = tmp_path / f"d.{format}"
    assert_same(export_detector(detector(PAPER), PAPER, out, format, street_frame()))


def test_an_image_without_objects_gives_empty_outputs(tmp_path: Path) -> None:
    architecture = replace(STREET, score_threshold=1.0)
    portable = PortableDetector(detector(architecture), architecture)
    image = street_frame()
    write_onnx(portable, tmp_path / "d.onnx", to_input(image, "uint8"), {})
    write_torchscript(portable, tmp_path / "d.pt", {})
    scripted = torch.jit.load(str(tmp_path / "d.pt"))
    for found in (run_onnx(tmp_path / "d.onnx")(image), scripted(to_input(image, "uint8"))):
        assert [tuple(x.shape) for x in found] == [(0, 4), (0,), (0, *image.shape[:2])]


def test_the_network_s_size_is_torchvision_s() -> None:
    transform = build_detector(SMALL_PAPER).transform.eval()
    rng = np.random.default_rng(0)
    for height, width in rng.integers(20, 900, (60, 2)):
        image = torch.zeros(3, height, width)
        expected = transform.resize(image)[0].shape
        assert resize(image, transform.min_size[-1], transform.max_size).shape == expected


def test_export_leaves_the_model_alone(tmp_path: Path) -> None:
    model = detector(STREET).train()
    before = {name: id(value) for name, value in model.named_parameters()}
    wanted = [value.requires_grad for value in model.parameters()]
    export_detector(model, STREET, tmp_path / "d.pt", "torchscript", street_frame())
    assert model.training
    assert {name: id(value) for name, value in model.named_parameters()} == before
    assert [value.requires_grad for value in model.parameters()] == wanted


def test_safetensors_load_with_their_library_and_ours(tmp_path: Path) -> None:
    # Neither of the two networks that a loader can tell by their keys.
    architecture = replace(STREET, anchor_ratios=(0.5, 2.0), max_detections=7)
    model, path = detector(architecture), tmp_path / "d.safetensors"
    export_detector(model, architecture, path, "safetensors", street_frame())
    state = safetensors_torch.load_file(path)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    loaded = load_detector(path, "cpu").model
    image = [to_input(street_frame(), "uint8")]
    for key, value in model(image)[0].items():
        assert torch.equal(loaded(image)[0][key], value)
    facts = checkpoint.metadata(path)
    assert json.loads(facts["architecture"])["max_detections"] == 7
    assert json.loads(facts["input_size"]) == {"short_side": 96, "long_side_max": 160}
    assert json.loads(facts["normalisation"])["mean"] == [0.485, 0.456, 0.406]


def test_the_facts_are_in_every_file(exported: Path) -> None:
    graph = onnx.load(exported / "detector.onnx")
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    extra = {"moduv.json": ""}
    torch.jit.load(str(exported / "detector.pt"), _extra_files=extra)
    for told in (facts, json.loads(extra["moduv.json"])):
        assert json.loads(told["architecture"]) == json.loads(json.dumps(to_dict(STREET)))
        assert json.loads(told["masks"]) == "image"


def test_the_documented_example_runs_without_this_library(exported: Path) -> None:
    write_image(exported / "frame.jpg", street_frame())
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(
        [*blocks, "import sys", "assert 'moduv' not in sys.modules", "print(len(boxes))"]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=exported, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *objects, count = done.stdout.strip().splitlines()
    assert int(count) > 0
    assert all(line.endswith("pixels") for line in objects)
    assert objects


@pytest.mark.parametrize("name", ["d.onnx", "d.pt", "d.safetensors"])
def test_the_command_says_the_largest_difference(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    format = {"d.onnx": "onnx", "d.pt": "torchscript"}.get(name, "safetensors")
    out = tmp_path / name
    main(["export", "--load_ckpt", str(folder), "--format", format, "--out", str(out)])
    assert out.is_file()
    assert "largest difference in" in "".join(capsys.readouterr())
    if format == "safetensors":
        again = tmp_path / "again.pt"
        arguments = ["--load_ckpt", str(out), "--format", "torchscript", "--out", str(again)]
        main(["export", *arguments])
        assert again.is_file()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of a command that leaves with 2."""
    with pytest.raises(SystemExit) as left:
        main(["export", *arguments])
    assert left.value.code == 2
    sentence = capsys.readouterr().err.strip()
    assert sentence.startswith("moduv: error: ")
    assert len(sentence.splitlines()) == 1
    return sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--load_ckpt": "absent.pth"}, ["absent.pth", "--load_ckpt"]),
        ({"--format": "tflite"}, ["tflite", "onnx", "torchscript", "safetensors"]),
        ({"--format": "safetensors"}, ["d.onnx", ".safetensors"]),
        ({"--input": "int8"}, ["int8", "float32"]),
        ({"--masks": "none"}, ["none", "box"]),
        ({"--sample": "absent.jpg"}, ["absent.jpg", "--sample"]),
        ({"--out": "."}, ["folder", "--out"]),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    words: list[str],
) -> None:
    options = {"--load_ckpt": str(folder), "--format": "onnx", "--out": str(tmp_path / "d.onnx")}
    arguments = [word for pair in {**options, **changes}.items() for word in pair]
    sentence = refused(arguments, capsys)
    assert all(word in sentence for word in words)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "onnxruntime"), ("safetensors", "safetensors")]
)
def test_a_missing_package_is_named(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    package: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *x: None if name == package else find(name, *x)
    )
    out = str(tmp_path / f"d.{format}")
    sentence = refused(["--load_ckpt", str(folder), "--format", format, "--out", out], capsys)
    assert package in sentence
    assert ".[export]" in sentence


def test_safetensors_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "d.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"d\.safetensors: not readable"):
        checkpoint.load_weights(broken)
    foreign = tmp_path / "foreign.safetensors"
    safetensors_torch.save_file({"a": torch.zeros(1)}, foreign, {"architecture": "{"})
    with pytest.raises(InputError, match=r"foreign\.safetensors: its 'architecture'"):
        load_detector(foreign, "cpu")
    imported = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "safetensors":
            raise ModuleNotFoundError(name=name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs the package 'safetensors'"):
        checkpoint.load_weights(broken)


def test_a_file_that_detects_something_else_is_not_written(
    street: MaskRCNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(model: PortableDetector, path: Path, example: Tensor, facts: Any) -> None:
        other = detector(STREET)
        other.roi_heads.box_predictor.bbox_pred.bias.data += 0.5
        write_onnx(PortableDetector(other, STREET), path, example, facts)

    monkeypatch.setattr("moduv.detector.export.write_onnx", shifted)
    with pytest.raises(InputError, match="is not the same"):
        export_detector(street, STREET, tmp_path / "d.onnx", "onnx", street_frame())
    assert not [*tmp_path.iterdir()]


def test_a_sample_without_objects_checks_nothing(tmp_path: Path) -> None:
    model = detector(STREET)
    model.roi_heads.score_thresh = 1.0
    with pytest.raises(InputError, match="--sample"):
        export_detector(model, STREET, tmp_path / "d.pt", "torchscript", street_frame())
    assert not [*tmp_path.iterdir()]


def test_differences_are_found_by_place_not_by_order() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]])
    masks = torch.zeros(2, 8, 8)
    masks[0, :4, :4] = masks[1, 4:, 4:] = 1
    expected = {"boxes": boxes, "scores": torch.tensor([0.5, 0.5]), "masks": masks[:, None]}
    same = compare(expected, (boxes.flip(0), torch.tensor([0.5, 0.5]), masks.flip(0)))
    assert (same.objects, same.unmatched, same.largest) == (2, 0, [0, 0, 0])
    assert same.is_small
    other = masks.clone()
    other[0, :4, :1] = 0
    found = compare(expected, (boxes + 0.05, torch.tensor([0.5, 0.4]), other))
    assert found.largest == pytest.approx([0.05 / 8, 0.1, 0.25], abs=1e-5)
    lone = compare(expected, (boxes[:1], torch.tensor([0.5]), masks[:1]))
    assert lone.unmatched == 1
    assert not lone.is_small


@pytest.mark.parametrize(
    ("pair", "small"),
    [
        ((9e-4, 9e-3, 0.03), True),  # the other mask of two is the same
        ((2e-3, 0, 0), False),
        ((0, 0.02, 0), False),
        ((0, 0, 0.05), False),
    ],
)
def test_differences_are_refused_from_their_limits_on(
    pair: tuple[float, float, float], small: bool
) -> None:
    assert Difference(2, 0, torch.tensor([pair, (0, 0, 0)])).is_small == small
