"""The ground: whole files or none, honest checkpoints, logs and processes."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from moduv.engine import checkpoint
from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, json_list, read_json, read_npz, write_json, write_npz
from moduv.engine.log import prefixed_bars, progress_bar, read_log
from moduv.engine.parallel import process_map


def test_atomic_path_keeps_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    target = tmp_path / "labels.json"
    write_json(target, {"old": 1})

    def fail_half_way() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert read_json(target) == {"old": 1}
    assert os.listdir(tmp_path) == ["labels.json"]


@pytest.mark.parametrize("parts", [[], [[]], [[{"a": 1}], [], [2, "b"]]])
def test_a_list_written_in_parts_is_that_written_at_once(tmp_path: Path, parts: list[list]) -> None:
    with json_list(tmp_path / "parts.json") as add:
        for part in parts:
            add(part)
    write_json(tmp_path / "whole.json", [entry for part in parts for entry in part])
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_json_refuses_nan_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_broken_npz_and_json_name_the_file(tmp_path: Path, content: bytes) -> None:
    for reader, suffix in ((lambda p: read_npz(p, ("depth",)), ".npz"), (read_json, ".json")):
        path = tmp_path / f"000003{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"000003\..* not readable"):
            reader(path)


def test_json_that_is_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("{}")
    for path, reason in (("folder.json", "Is a directory"), ("file/a.json", "Not a directory")):
        with pytest.raises(InputError, match=rf"{path}: not readable \({reason}\); give a file"):
            read_json(tmp_path / path)
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(Path, "open", Mock(side_effect=refused))
    with pytest.raises(InputError, match=r"file: not readable \(Permission denied\)"):
        read_json(tmp_path / "file")


def test_npz_names_the_missing_array(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", depth=np.ones(3))
    with pytest.raises(InputError, match=r"a\.npz: lacks the array 'mot_mask'"):
        read_npz(tmp_path / "a.npz", ("depth", "mot_mask"))


def test_checkpoint_refuses_pickled_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"weights": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: not readable as a checkpoint"):
        checkpoint.load(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no checkpoint at all"])
def test_broken_checkpoint_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: not readable as a checkpoint"):
        checkpoint.load_weights(tmp_path / "w.pth")


def test_same_content_is_the_same_file(tmp_path: Path) -> None:
    for name in ("one.pth", "two.pth"):
        checkpoint.save(tmp_path / name, {"weight": torch.arange(3.0)})
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_mismatched_weights_name_the_keys_and_change_nothing() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.detach().clone()
    with pytest.raises(
        InputError, match=r"1 missing: bias; 1 unexpected: scale; 1 of another shape: weight"
    ):
        checkpoint.load_strict(
            module, {"weight": torch.zeros(3, 3), "scale": torch.zeros(1)}, "w.pth"
        )
    assert torch.equal(module.weight, before)


def test_log_cut_by_a_kill_is_read_up_to_the_cut(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "loss": 2.0}]


def test_bars_tell_where_in_the_run_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with prefixed_bars("[2/13]"):
        for _ in progress_bar(range(4), desc="motion", delay=0, mininterval=0, miniters=1):
            time.sleep(0.01)
    assert "[2/13] motion:  50%" in capsys.readouterr().err
    assert "[2/13]" not in str(progress_bar(range(4), desc="alone"))


MARK = ["as imported"]


def seen_by_a_worker(number: int) -> tuple[int, str]:
    return number, MARK[0]


def test_processes_start_afresh_and_keep_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_engine.MARK", ["changed since"])
    alone = list(process_map(seen_by_a_worker, range(5), 1))
    assert alone == [(number, "changed since") for number in range(5)]
    shared = list(process_map(seen_by_a_worker, range(5), 2))
    assert shared == [(number, "as imported") for number in range(5)]
