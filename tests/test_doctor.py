"""The doctor sees what is broken and what is merely absent, and proposes a preset."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moduv.commands import doctor as examined
from moduv.commands.cli import main
from moduv.commands.doctor import OPTIONAL, doctor, required_packages
from moduv.engine import hardware
from moduv.engine.errors import InputError
from moduv.engine.hardware import Gpu, choose_device, half_type, propose_preset

ROOT = Path(__file__).parents[1]


def test_a_sound_installation_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "moduv_final.pth").write_bytes(b"PK\x03\x04")
    main(["doctor", "--ckpts", str(tmp_path)])
    told = capsys.readouterr().out
    assert "PROBLEM" not in told
    assert "not looked at" not in told
    assert re.search(r"^packages +torch \d+\.\d+", told, re.M)
    assert re.search(r"torch \S+ and torchvision \S+ work together", told)
    assert re.search(rf"^processors +{hardware.cores()}, \d+ GiB of memory$", told, re.M)
    assert "moduv_final: here" in told
    name, reason = propose_preset()
    assert f"{name}: {reason}" in told


def test_needed_packages_are_those_of_the_requirements() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    named = {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    assert set(required_packages()) == named
    project = (ROOT / "pyproject.toml").read_text()
    parts = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^dev", project, re.M | re.S)
    assert parts is not None
    listed = {
        part: re.findall(r'"(\w+)>', line) for part, line in re.findall(r"(\w+) = (.*)", parts[1])
    }
    assert {part: required_packages(part) for part in OPTIONAL} == listed


@pytest.mark.parametrize(
    ("package", "failure", "sentence"),
    [
        (
            "torchvision",
            "RuntimeError('operator torchvision::nms does not exist')",
            "torchvision cannot be imported (operator torchvision::nms does not exist)",
        ),
        (
            "torch",
            "OSError('libcudart.so.13: cannot open shared object file')",
            "torch cannot be imported (libcudart.so.13: cannot open shared object file)",
        ),
    ],
)
def test_a_broken_package_ends_with_a_sentence(
    tmp_path: Path, package: str, failure: str, sentence: str
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise {failure}\n")
    done = subprocess.run(
        [sys.executable, "-m", "moduv.commands.cli", "doctor"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("moduv: error:")]
    assert sentence in told
    assert "pip install -e ." in told
    assert "disk" in done.stdout  # it goes on looking


def test_missing_optional_parts_are_no_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("av", "nbclient"):
        monkeypatch.setitem(sys.modules, module, None)
    doctor()
    told = capsys.readouterr().out
    assert re.search(r"nbclient is missing .*demo\.ipynb; pip install -e '\.\[notebook\]'", told)
    assert re.search(r"av is missing .*video files; pip install -e '\.\[video\]'", told)


def test_a_missing_package_ends_any_command_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 2
    assert "the package 'jsonargparse' is missing" in capsys.readouterr().err


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examined, "LEAST_DISK", 1e9)
    with pytest.raises(InputError, match=r"GiB are free; make room"):
        doctor()


def test_a_gpu_that_torch_cannot_use_is_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "version").touch()
    monkeypatch.setattr(examined, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(hardware, "gpus", lambda: [])
    doctor()
    assert "an NVIDIA driver is here, and torch is built for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "preset", "reason"),
    [
        ([], "street", "no GPU"),
        ([Gpu("Small", 4.0, True)], "street", "Small has 4 GiB"),
        ([Gpu("Small", 4.0, True), Gpu("Large", 80.0, True)], "paper", "Large with 80 GiB"),
    ],
)
def test_the_preset_follows_the_largest_gpu(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    found: list[Gpu],
    preset: str,
    reason: str,
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: found)
    name, why = propose_preset()
    assert name == preset
    assert reason in why
    doctor(tmp_path)
    told = capsys.readouterr().out
    assert ("it starts from moco, resnet18, litemono, not in" in told) == (preset == "paper")
    assert all(f"{gpu.name}, {gpu.memory:.0f} GiB, with bfloat16" in told for gpu in found)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99", "cpu:0"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}'"):
        choose_device(name)


def test_the_processor_is_always_there_and_has_no_half_precision() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type in {"cpu", "cuda"}
    with pytest.raises(InputError, match="half precision needs a CUDA device"):
        half_type(choose_device("cpu"))
