"""Label sets get identities, by boxes or by propagated masks, and stay what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correspondence_world import write_network

from moduv.commands.cli import main
from moduv.correspondence.weights import NetworkConfig
from moduv.engine.errors import InputError
from moduv.engine.stages import read_manifest
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.instances import exported
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels, write_labels
from moduv.rounds.tracked import TrackedConfig, track_labels

FRAMES = [FrameRef(f"train/{name}", index) for name in ("a", "b") for index in range(4)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips in which a red square jumps further than it is wide, and their labels with scores."""
    for frame in FRAMES:
        image, mask = np.full((48, 128, 3), 110, np.uint8), np.zeros((1, 48, 128), bool)
        left = 30 * frame.index
        image[10:30, left : left + 20] = 250, 20, 20
        mask[0, 10:30, left : left + 20] = True
        write_image(tmp_path / f"data/{frame.segment}/{frame.index:06d}.png", image)
        write_labels(tmp_path / "L1", frame, Instances.from_dense(mask, scores=np.array([0.9])))
    (tmp_path / "split.txt").write_text("".join(f"{frame.line()}\n" for frame in FRAMES))
    return tmp_path / "data"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write_network(tmp_path / "network.pth", NetworkConfig(width=8, stride=4))


@pytest.mark.parametrize("follows", [False, True])
def test_labels_keep_what_they_are_and_get_identities(
    follows: bool, data: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    root, out = tmp_path, tmp_path / "tracked"
    words = ["--labels", root / "L1", "--split", root / "split.txt", "--data", data, "--out", out]
    more = ["--follow", network] if follows else []
    main(["labels", "track", *map(str, [*words, *more])])
    for frame in FRAMES:
        before, after = read_labels(root / "L1", frame), read_labels(out, frame)
        assert (after.decode() == before.decode()).all()
        assert after.scores is not None
        assert after.columns["track"].tolist() == [1 if follows else 1 + frame.index]
    labelled = exported.to_coco(out, FRAMES)
    assert [a["track_id"] for a in labelled["annotations"]] == [
        1 if follows else 1 + f.index for f in FRAMES
    ]
    assert "track_id" not in exported.to_coco(root / "L1", FRAMES)["annotations"][0]
    results = {"frames": 8, "clips": 2, "objects": 2 if follows else 8}
    assert read_manifest(out)["results"] == results


def test_a_clip_that_is_done_is_not_done_again(
    data: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, split = tmp_path / "tracked", tmp_path / "split.txt"
    arguments = (tmp_path / "L1", split, data, out, TrackedConfig())
    (data / "train/b/000003.png").rename(tmp_path / "away.png")
    with pytest.raises(InputError, match="000003"):
        track_labels(*arguments)
    written = sorted(out.rglob("*.json"))
    times = {path: path.stat().st_mtime_ns for path in written if "/a/" in path.as_posix()}
    assert len(times) == 4
    (tmp_path / "away.png").rename(data / "train/b/000003.png")
    track_labels(*arguments)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len([path for path in out.rglob("*.json") if path.parent.name in "ab"]) == 8


def test_the_label_set_itself_is_no_place_for_them(data: Path, tmp_path: Path) -> None:
    labels = tmp_path / "L1"
    with pytest.raises(InputError, match="is the label set itself"):
        track_labels(labels, tmp_path / "split.txt", data, labels, TrackedConfig())
