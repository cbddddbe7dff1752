"""Labels reach the frames beside labelled ones, and are dropped and counted where the way back disagrees."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from correspondence_world import write_network

from moduv.commands.cli import main
from moduv.correspondence.weights import NetworkConfig
from moduv.engine.errors import InputError
from moduv.engine.stages import read_manifest
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.splits import SPLIT, read_split, write_split
from moduv.instances.instances import Instances
from moduv.instances.store import is_labelled, read_labels, write_labels
from moduv.labels.carried import GONE, LOST, Carried, FlowWay, carry, join
from moduv.rounds import carried as stage
from moduv.rounds.carried import ALONE, CarriedConfig, propagate_labels

SIZE = HEIGHT, WIDTH = 64, 96
CLIPS = ("train/a", "train/b")
LABELLED = [FrameRef(clip, index) for clip in CLIPS for index in (1, 2, 3)]


def box(top: int, left: int, height: int = 16, width: int = 20) -> np.ndarray:
    """A mask (H, W) of a rectangle, cut at the frame's edges."""
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, max(0, left) : max(0, left + width)] = True
    return mask


def steady(x: float, y: float = 0.0) -> FlowWay:
    """The same motion everywhere, and back."""
    forward = np.broadcast_to(np.array([x, y], np.float32), (*SIZE, 2))
    return FlowWay(forward, -forward)


def street(seed: int) -> np.ndarray:
    """A dull, uneven picture."""
    coarse = np.random.default_rng(seed).integers(70, 150, (8, 12, 3), np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def frame_of(seed: int, index: int) -> np.ndarray:
    """A clip's frame: a reddish object on a street that stands."""
    image = street(seed)
    image[place(index)] = (street(9)[:16, :20] + [100, -60, -60]).reshape(-1, 3)
    return image


def place(index: int) -> np.ndarray:
    """Where the object of a clip is in a frame."""
    return box(20, 20 + 4 * index)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips of five frames with an object that moves, labelled in the middle three."""
    for number, clip in enumerate(CLIPS):
        for index in range(5):
            picture = frame_of(number, index)
            write_image(tmp_path / f"data/{clip}/{index:06d}.png", picture)
    for frame in LABELLED:
        labels = Instances.from_dense(place(frame.index)[None], scores=np.array([0.75]))
        write_labels(tmp_path / "L1", frame, labels.with_columns(track=np.array([7])))
    write_split(tmp_path / "split.txt", LABELLED)
    return tmp_path / "data"


def pan_away(data: Path) -> None:
    """In the last frame of the first clip the camera has turned further than flow can follow."""
    write_image(data / "train/a/000004.png", np.roll(frame_of(0, 4), -40, 1))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return write_network(tmp_path / "network.pth", NetworkConfig(width=16, stride=4))


def overlap(found: Instances, truth: np.ndarray) -> float:
    (mask,) = found.decode()
    return float((mask & truth).sum() / (mask | truth).sum())


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.suffix in (".json", ".txt")]
    kept = [path for path in files if path.name != "manifest.json"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}


# --- one frame's labels ----------------------------------------------------------------------------


def test_masks_go_where_motion_takes_them_and_keep_what_is_known_of_them() -> None:
    masks = np.stack([box(4, 10), box(40, 50)])
    labels = Instances.from_dense(masks, scores=np.array([0.5, 0.9]), columns={"track": [3, 4]})
    found = carry(labels, steady(5, 2))
    assert (found.labels.decode() == np.stack([box(6, 15), box(42, 55)])).all()
    assert found.labels.boxes.tolist() == [[15, 6, 35, 22], [55, 42, 75, 58]]
    assert found.labels.scores is not None
    assert found.labels.scores.tolist() == pytest.approx([0.5, 0.9])
    assert found.labels.columns["track"].tolist() == [3, 4]
    assert found.agreement.tolist() == [1, 1]
    assert not found.dropped


def test_what_leaves_the_frame_is_dropped_and_what_leaves_in_part_is_cut() -> None:
    """Of 20 columns 6 leave, then 14, then all."""
    labels = Instances.from_dense(np.stack([box(4, 8), box(24, 0), box(44, -8)]))
    found = carry(labels, steady(-14))
    assert found.dropped == {LOST: 1, GONE: 1}
    (mask,) = found.labels.decode()
    assert (mask == box(4, -6)).all()


@pytest.mark.parametrize(("miss", "kept"), [(4, 1), (12, 0)])
def test_the_way_back_decides(miss: int, kept: int) -> None:
    """Of 20 columns 4 that are missed leave an IoU of 0.67, 12 one of 0.25."""
    way = steady(8)
    astray = FlowWay(way.forward, way.backward + np.array([miss, 0], np.float32))
    found = carry(Instances.from_dense(box(20, 30)[None]), astray)
    assert len(found.labels) == kept
    assert found.dropped == ({} if kept else {LOST: 1})


def test_of_two_frames_the_labels_that_agree_best_are_taken_once() -> None:
    worse = Instances.from_dense(np.stack([box(20, 30), box(0, 60)]))
    better = Instances.from_dense(box(20, 32)[None])
    parts = [
        Carried(worse, np.array([0.6, 0.7]), carry(worse, steady(0)).dropped),
        Carried(better, np.array([0.9]), carry(better, steady(0)).dropped),
    ]
    assert (join(parts).decode() == np.stack([box(0, 60), box(20, 32)])).all()


def test_flow_of_large_frames_is_measured_on_smaller_ones() -> None:
    size = (640, 960)
    image = cv2.resize(street(0), size[::-1], interpolation=cv2.INTER_CUBIC)
    way = stage._by_flow(image, np.roll(image, 24, 1), size)
    mask = np.zeros(size, bool)
    mask[200:360, 300:500] = True
    assert (way.there(mask) ^ np.roll(mask, 24, 1)).mean() < 0.005
    assert (way.back(np.roll(mask, 24, 1)) ^ mask).mean() < 0.005


# --- a label set -----------------------------------------------------------------------------------


@pytest.mark.parametrize("follows", [False, True])
def test_first_and_last_frames_get_labels(
    follows: bool, data: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    out, split = tmp_path / "carried", tmp_path / "split.txt"
    words = ["--labels", tmp_path / "L1", "--split", split, "--data", data, "--out", out]
    # An untrained network knows where an object is, not its outline.
    coarse = ["--config.propagation.radius", 3, "--config.carry.again", 0.3]
    more = ["--follow", network, *coarse] if follows else []
    main(["labels", "propagate", *map(str, [*words, *more])])
    for frame in LABELLED:
        assert read_labels(out, frame).to_json() == read_labels(tmp_path / "L1", frame).to_json()
    everything = [FrameRef(clip, index) for clip in CLIPS for index in range(5)]
    assert read_split(out / SPLIT) == read_split(out) == everything
    for frame in everything:
        found = read_labels(out, frame)
        assert overlap(found, place(frame.index)) > (0.5 if follows else 0.8)
        assert found.scores is not None
        assert (found.scores.tolist(), found.columns["track"].tolist()) == ([0.75], [7])
    results = read_manifest(out)["results"]
    expected = {"frames": 10, "instances": 10, "new_frames": 4, "carried": 4, "dropped": {}}
    assert expected.items() <= results.items()


def test_what_is_not_there_any_more_is_counted_and_its_frame_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pan_away(data)
    propagate_labels(
        tmp_path / "L1", tmp_path / "split.txt", data, tmp_path / "out", CarriedConfig()
    )
    assert not is_labelled(tmp_path / "out", FrameRef("train/a", 4))
    assert FrameRef("train/a", 4) not in read_split(tmp_path / "out")
    results = read_manifest(tmp_path / "out")["results"]
    assert (results["new_frames"], results["carried"]) == (3, 3)
    assert results["dropped"] == {LOST: 1, ALONE: 1}
    assert f"3 labels carried to 3 frames; 1 {ALONE}; 1 {LOST}" in capsys.readouterr().out


def test_a_gap_between_labelled_frames_is_filled_once(data: Path, tmp_path: Path) -> None:
    frames = [frame for frame in LABELLED if frame.index != 2]
    for clip in CLIPS:
        FrameRef(clip, 2).file(tmp_path / "L1", ".json").unlink()
    propagate_labels(
        tmp_path / "L1", tmp_path / "split.txt", data, tmp_path / "out", CarriedConfig()
    )
    assert len(read_split(tmp_path / "out")) == len(frames) + 6
    assert overlap(read_labels(tmp_path / "out", FrameRef("train/a", 2)), place(2)) > 0.8


def test_beside_a_frame_without_objects_there_are_none(data: Path, tmp_path: Path) -> None:
    empty = Instances([], np.zeros((0, 4)), np.zeros(0))
    write_labels(tmp_path / "L1", FrameRef("train/b", 3), empty)
    propagate_labels(
        tmp_path / "L1", tmp_path / "split.txt", data, tmp_path / "out", CarriedConfig()
    )
    assert len(read_labels(tmp_path / "out", FrameRef("train/b", 4))) == 0
    assert len(read_labels(tmp_path / "out", FrameRef("train/b", 0))) == 1


def test_a_killed_stage_goes_on_and_counts_as_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pan_away(data)
    labels, split = tmp_path / "L1", tmp_path / "split.txt"
    propagate_labels(labels, split, data, tmp_path / "whole", CarriedConfig())
    real, seen = stage.carry, list[int]()

    def killed(*arguments: object) -> Carried:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stage, "carry", killed)
        with pytest.raises(KeyboardInterrupt):
            propagate_labels(labels, split, data, tmp_path / "out", CarriedConfig())
        seen.clear()
        propagate_labels(labels, split, data, tmp_path / "out", CarriedConfig())
        assert len(seen) == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    counted = [read_manifest(tmp_path / name)["results"] for name in ("out", "whole")]
    assert counted[0] == counted[1]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one process")
def test_two_processes_carry_what_one_carries(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--labels", tmp_path / "L1", "--split", tmp_path / "split.txt", "--data", data]
    command = ["labels", "propagate", *map(str, words), "--out"]
    monkeypatch.setenv("WORLD_SIZE", "1")
    main([*command, str(tmp_path / "one")])
    monkeypatch.delenv("WORLD_SIZE")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        main([*command, str(tmp_path / "two")])
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_cannot_be_is_one_sentence(data: Path, tmp_path: Path) -> None:
    labels, split = tmp_path / "L1", tmp_path / "split.txt"
    with pytest.raises(InputError, match="is the label set itself"):
        propagate_labels(labels, split, data, labels, CarriedConfig())
    with pytest.raises(InputError, match="has no labels"):
        propagate_labels(tmp_path / "L9", split, data, tmp_path / "out", CarriedConfig())
    with pytest.raises(InputError, match=r"has no image of the 6 labelled .*; check --data"):
        propagate_labels(labels, split, tmp_path / "other", tmp_path / "out", CarriedConfig())
    (data / "train/a/000001.png").unlink()
    with pytest.raises(InputError, match="no such image"):
        propagate_labels(labels, split, data, tmp_path / "out", CarriedConfig())
    with pytest.raises(InputError, match="no such split file"):
        read_split(labels)
