"""Weights and training states from anywhere: plain tensors that fit, or one sentence; no pickle runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_world import damaged, quick, sentence
from hypothesis import example, given
from torch import Tensor, nn

from moduv.depth.networks.resnet import ResNetEncoder
from moduv.depth.weights import load_initial_weights, read_module
from moduv.detector.config import detector_config
from moduv.detector.model import build_detector
from moduv.detector.weights import load_backbone, load_detector
from moduv.engine import checkpoint
from moduv.engine.config import to_dict
from moduv.engine.files import read_npz
from moduv.engine.log import read_log
from moduv.engine.loop import LoopConfig, StepState, fit
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


# --- training states --------------------------------------------------------------------------------


class Ones:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return torch.ones(3)

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples)


def resume(run: Path, optimizer: str = "adam", stop_at: int | None = None) -> nn.Module:
    """Train a line for 6 steps, from the state in a folder if there is one."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def step(batch: Tensor, state: StepState) -> dict[str, Tensor]:
        if state.step == stop_at:
            raise KeyboardInterrupt
        return {"loss": network(batch).square().mean()}

    config = LoopConfig(
        steps=6, batch_size=2, learning_rate=1e-2, optimizer=optimizer, save_every=4, log_every=3
    )
    fit(network, step, Ones(), config, run, label="line")
    return network


def change(**values: object) -> Callable[[dict], object]:
    """A state with other values; those that are None are taken out."""
    return lambda state: {k: v for k, v in {**state, **values}.items() if v is not None}


def change_moments(**values: object) -> Callable[[dict], object]:
    def changed(state: dict) -> dict:
        moments = {n: {**tensors, **values} for n, tensors in state["optimizer"]["state"].items()}
        kept = {n: {k: v for k, v in m.items() if v is not None} for n, m in moments.items()}
        return {**state, "optimizer": {**state["optimizer"], "state": kept}}

    return changed


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        *(
            (change(**{key: None}), f"lacks '{key}'")
            for key in ("step", "modules", "optimizer", "sums")
        ),
        (change(config=None), "other settings"),
        (change(optimizer={}), "'optimizer' is empty"),
        (change(optimizer=[]), "'optimizer' is empty"),
        (change(optimizer={"state": {}, "param_groups": []}), "'optimizer' is empty"),
        (change(optimizer={"state": {0: []}}), "another one's"),
        (change(optimizer={"state": {"a": {}}}), "another one's"),
        (change(optimizer={"state": {9: {}}}), "another one's"),
        (change_moments(exp_avg=None, momentum_buffer=None), "another one's"),
        (change_moments(surprise=torch.ones(1)), "another one's"),
        (change_moments(exp_avg=torch.ones(7), momentum_buffer=torch.ones(7)), "another"),
        (change_moments(exp_avg=3, momentum_buffer=3), "no flat state dict|another one's"),
        (change(step="5"), "its step is '5' of 6"),
        (change(step=-1), "its step is -1 of 6"),
        (change(step=0), "its step is 0 of 6"),
        (change(step=7), "its step is 7 of 6"),
        (change(step=9999), "its step is 9999 of 6"),
        (change(step=4.0), "its step is 4.0 of 6"),
        (change(step=True), "its step is True of 6"),
        (change(step=torch.tensor(4)), "its step is tensor"),
        (change(step=[4]), "its step is"),
        (change(sums=[1]), "'sums' are no finite numbers"),
        (change(sums={"loss": "much"}), "'sums' are no finite numbers"),
        (change(sums={"loss": float("nan")}), "'sums' are no finite numbers"),
        (change(sums={1: 1.0}), "'sums' are no finite numbers"),
        (change(modules={}), "2 missing"),
        (change(modules=[1]), "no flat state dict"),
        (
            change(modules={"weight": torch.full((1, 3), torch.nan), "bias": torch.ones(1)}),
            "finite",
        ),
        (lambda state: [state], "other settings"),
        (lambda state: None, "other settings"),
    ],
)
def test_a_state_of_other_content_is_refused(
    tmp_path: Path, changed: Callable[[dict], object], words: str, optimizer: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, optimizer, stop_at=5)
    path = tmp_path / "train_state.pt"
    checkpoint.save(path, changed(checkpoint.load(path)))
    before = path.read_bytes()
    assert re.search(words, sentence(lambda: resume(tmp_path, optimizer), path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_whole_state_goes_on_as_if_nothing_had_happened(tmp_path: Path, optimizer: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "killed", optimizer, stop_at=5)
    resumed, whole = (resume(tmp_path / name, optimizer) for name in ("killed", "whole"))
    assert torch.equal(resumed.weight, whole.weight)


def test_any_bytes_as_state(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path, stop_at=5)
    path = tmp_path / "train_state.pt"

    @quick
    @given(damaged(path.read_bytes()))
    def refused_or_resumed(content: bytes) -> None:
        path.write_bytes(content)
        sentence(lambda: resume(tmp_path), path)

    refused_or_resumed()


@pytest.mark.parametrize(
    "line", ["7", "[1]", "{}", '{"step": "a"}', "[" * 99_999, "9" * 5000, "\udcff"]
)
def test_a_log_is_read_up_to_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n'.encode(errors="surrogateescape"))
    assert read_log(path) == [{"step": 1}]
