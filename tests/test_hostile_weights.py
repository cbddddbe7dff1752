"""Weights and training states from anywhere: plain tensors that fit, or one sentence; no pickle runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_world import damaged, quick, resume, sentence
from hypothesis import example, given
from torch import Tensor, nn

from moduv.depth.networks.resnet import ResNetEncoder
from moduv.depth.weights import load_initial_weights, read_module
from moduv.detector.config import detector_config
from moduv.detector.model import build_detector
from moduv.detector.weights import load_backbone, load_detector
from moduv.engine import checkpoint
from moduv.engine.config import to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import read_npz
from moduv.motion.weights import find_trained


class Evil:
    """Makes a folder called `owned` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("owned",))


class EvilState:
    """The same, through the state of an object."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("__import__('os').mkdir('owned')",))


def torch_file(content: object, *, new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def with_record(whole: bytes, name: str, content: bytes, form: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch's with another record in place of one."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w", form) as new:
        for member in old.namelist():
            new.writestr(member, content if member.endswith(name) else old.read(member))
    return file.getvalue()


LINEAR = {"weight": torch.ones(1, 3), "bias": torch.ones(1)}
PLAIN = torch_file(LINEAR)
HOSTILE = {
    "object": torch_file(Evil()),
    "in a dictionary": torch_file({"weight": Evil()}),
    "beside tensors": torch_file({**LINEAR, "more": EvilState()}),
    "of the old form": torch_file({"weight": Evil()}, new=False),
    "as a key": torch_file({(1, Evil()): 1}),
    "without torch": pickle.dumps(Evil()),
    "oldest pickle": pickle.dumps(Evil(), protocol=0),
    "newest pickle": pickle.dumps({"weight": Evil()}, protocol=5),
    "another record": with_record(PLAIN, "data.pkl", pickle.dumps(Evil(), protocol=2)),
    "a whole network": torch_file(nn.Linear(3, 1)),
    "an array of objects": torch_file(np.array([Evil()], object)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_pickle_runs(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = ("weights.pth", "depth_enc.pth", "train_state.pt", "x.npz", "weights.safetensors")
    for name in places:
        Path(name).write_bytes(content)
    weights, motion, state, arrays, safe = map(Path, places)
    assert "not readable as a checkpoint" in sentence(lambda: checkpoint.load(weights), weights)
    assert sentence(lambda: load_detector(weights, "cpu"), weights)
    assert sentence(lambda: load_backbone(nn.Linear(1, 1), weights), weights)
    assert sentence(lambda: load_initial_weights(resnet(), weights), weights)
    assert sentence(lambda: read_module(motion), motion)
    assert sentence(lambda: resume(Path()), state)
    assert sentence(lambda: read_npz(arrays, ("depth",)), arrays)
    assert sentence(lambda: checkpoint.load_weights(safe), safe)
    assert sorted(os.listdir()) == sorted(places)


def test_arrays_of_objects_are_not_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x.npz")
    np.savez(path, depth=np.array([Evil()], object))
    assert "not readable as npz" in sentence(lambda: read_npz(path, ("depth",)), path)
    assert os.listdir() == ["x.npz"]


def resnet() -> nn.Module:
    model = nn.Module()
    model.depth_enc = ResNetEncoder(2)
    return model


def load_linear(path: Path) -> nn.Module:
    network = nn.Linear(3, 1)
    checkpoint.load_strict(network, checkpoint.load_weights(path), path)
    return network


@quick
@given(damaged(PLAIN))
@example(torch_file(LINEAR, new=False))
@example(with_record(PLAIN, "data.pkl", b"\x80\x02]q\x00."))
@example(with_record(PLAIN, "byteorder", b"middle"))
@example(with_record(PLAIN, "data/0", b""))
def test_any_bytes_as_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    read: list[nn.Module] = []
    told = sentence(lambda: read.append(load_linear(path)), path)
    assert bool(told) != bool(read)
    assert all(weight.isfinite().all() for network in read for weight in network.parameters())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**LINEAR, "bias": torch.tensor([float("nan")])}, "holds numbers that are not finite"),
        ({**LINEAR, "bias": torch.tensor([float("inf")])}, "holds numbers that are not finite"),
        ({**LINEAR, "bias": torch.tensor([1e300]).double()}, "holds numbers that are not finite|"),
        (
            {**LINEAR, "bias": torch.ones(1, dtype=torch.int64)},
            "bias torch.int64 for torch.float32",
        ),
        ({**LINEAR, "bias": torch.ones(1, dtype=torch.bool)}, "bias torch.bool for torch.float32"),
        ({**LINEAR, "bias": torch.ones(1, dtype=torch.complex64)}, "bias torch.complex64 for"),
        ({**LINEAR, "bias": torch.ones(1).to_sparse()}, "no flat state dict"),
        ({**LINEAR, "weight": torch.ones(1, 3).to_sparse_csr()}, "no flat state dict"),
        ({**LINEAR, "bias": torch.ones(1, device="meta")}, "no flat state dict"),
        ({**LINEAR, "bias": torch.ones(1).expand(1 << 40)}, "no flat state dict"),
        (
            {**LINEAR, "bias": torch.quantize_per_tensor(torch.ones(1), 1.0, 0, torch.quint8)},
            "state",
        ),
        ({**LINEAR, 3: torch.ones(1)}, "no flat state dict"),
        ({**LINEAR, ("a", 1): torch.ones(1)}, "no flat state dict"),
        ({**LINEAR, None: torch.ones(1)}, "no flat state dict"),
        ({0: torch.ones(1)}, "no flat state dict"),
        ({**LINEAR, "more": torch.ones(1)}, "1 unexpected: more"),
        ({**LINEAR, "x" * 5000: torch.ones(1)}, "1 unexpected: xxx"),
        ({"weight": LINEAR["weight"]}, "1 missing: bias"),
        ({}, "2 missing: weight, bias"),
        ({**LINEAR, "bias": torch.ones(2)}, r"1 of another shape: bias \(2,\) for \(1,\)"),
        ({**LINEAR, "bias": torch.ones(())}, "1 of another shape"),
        ({**LINEAR, "bias": torch.ones(0)}, "1 of another shape"),
        ({**LINEAR, "bias": [1.0]}, "no flat state dict"),
        ({**LINEAR, "bias": 1.0}, "no flat state dict"),
        ({**LINEAR, "bias": None}, "no flat state dict"),
        ({"state": LINEAR}, "no flat state dict"),
        ([LINEAR], "no flat state dict"),
        (torch.ones(3), "no flat state dict"),
        (7, "no flat state dict"),
        ("weights", "no flat state dict"),
        (None, "no flat state dict"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert re.search(words, sentence(lambda: load_linear(path), path))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path: Path, kind: torch.dtype) -> None:
    path = tmp_path / "weights.pth"
    torch.save({key: value.to(kind) for key, value in LINEAR.items()}, path)
    assert load_linear(path).weight.tolist() == [[1, 1, 1]]


def test_a_small_file_does_not_become_large(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    zeros = torch_file({"weight": torch.zeros(1 << 24)})
    path.write_bytes(with_record(zeros, "none", b"", zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 20
    assert "its records are compressed" in sentence(lambda: checkpoint.load(path), path)


# --- networks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> dict[str, Tensor]:
    return build_detector("street").state_dict()


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("[1]", "write a mapping"),
        ("7", "write a mapping"),
        ("null", "write a mapping"),
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"widths": 3}', "is not of type tuple"),
        ('{"widths": ["a"]}', "is not of type int"),
        ('{"fpn_channels": 1000000000000}', "choose a number from 0"),
        ('{"fpn_channels": -1}', "choose a number from 0"),
        ('{"rpn_match": NaN}', "give a finite number"),
        ('{"fpn_channels": 0}', "describes no network|do not fit"),
        ('{"anchor_sizes": []}', "describes no network|do not fit"),
        ('{"box_hidden": 8192, "fpn_channels": 8192}', "do not fit the network, which has"),
        ('{"backbone": "other"}', "other"),
        ('{"surprise": 1}', "unknown key 'surprise'"),
    ],
)
def test_a_description_of_no_network_is_one_sentence(
    tmp_path: Path, description: str, words: str, detector: dict[str, Tensor]
) -> None:
    checkpoint.save_weights(tmp_path / "weights.pth", detector)
    given = description
    if description.startswith('{"'):
        given = json.dumps(to_dict(detector_config("street")) | json.loads(description))
    (tmp_path / "detector.json").write_text(given)
    told = sentence(lambda: load_detector(tmp_path, "cpu"), tmp_path)
    assert re.search(words, told)


def test_a_detector_of_nan_is_refused(tmp_path: Path, detector: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    nan = {k: v * float("nan") if v.is_floating_point() else v for k, v in detector.items()}
    checkpoint.save_weights(path, nan)
    assert "not finite" in sentence(lambda: load_detector(path, "cpu"), path)
    checkpoint.save_weights(path, {k: v.to(torch.int64) for k, v in detector.items()})
    assert "of another type" in sentence(lambda: load_detector(path, "cpu"), path)


@pytest.mark.parametrize(
    "content",
    [
        {"height": 96, "width": torch.ones(3), **LINEAR},
        {"height": "high", "width": 160, **LINEAR},
        {"height": float("nan"), "width": 160, **LINEAR},
        {"height": -96, "width": 160, **LINEAR},
        {"height": 10**30, "width": 160, **LINEAR},
        {"height": [96], "width": {}, **LINEAR},
        {"height": 96, "width": 160, "bias": "text"},
        {1: torch.ones(1)},
        [1],
    ],
)
def test_modules_of_other_content_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "depth_enc.pth"
    torch.save(content, path)
    assert sentence(lambda: read_module(path), path)
    for name in ("depth_dec", "pose_enc", "pose_dec", "motion_enc", "motion_dec", "motion_mask"):
        torch.save({}, tmp_path / f"{name}.pth")
    assert sentence(lambda: find_trained(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"state_dict": [1]},
        {"state_dict": {1: torch.ones(1)}},
        {"state_dict": {"module.encoder_q.conv1.weight": 3}},
        {"state_dict": {}},
        {"conv1.weight": torch.ones(3)},
        {"conv1.weight": torch.ones(1, dtype=torch.complex64)},
        {"conv1.weight": torch.ones(1).expand(64, 3, 7, 7)},
        {"model": {2: torch.ones(1)}},
    ],
)
def test_initial_weights_of_other_content_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "initial.pth"
    torch.save(content, path)
    assert sentence(lambda: load_backbone(nn.Linear(1, 1), path), path)
    assert sentence(lambda: load_initial_weights(resnet(), path), path)


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; give the file of weights in it"):
        checkpoint.load(tmp_path)
