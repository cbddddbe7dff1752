"""L0 by measured flow, over files: the same labels whatever the processes and interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evidence_world import CAMERA, CONFIG, HEIGHT, NOISE, WIDTH, turn
from torchvision.models.optical_flow import raft_small

from moduv.engine import compiled
from moduv.engine.config import to_dict
from moduv.engine.errors import InputError
from moduv.engine.files import read_json, write_npz
from moduv.engine.stages import read_manifest
from moduv.evaluation.agreement import compare
from moduv.frames.camera import Intrinsics
from moduv.frames.clip import FrameRef
from moduv.frames.images import write_image
from moduv.frames.layouts import camera_poses
from moduv.frames.splits import read_split, write_split
from moduv.instances import rle
from moduv.instances.instances import Instances
from moduv.instances.store import read_labels
from moduv.labels.evidence.config import EvidenceConfig
from moduv.labels.initial import InitialConfig
from moduv.motion.raft import Raft
from moduv.rounds.evidence import with_errors_of
from moduv.rounds.labelling import label_motion


@pytest.fixture(scope="module")
def motion(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Motion outputs as stage 1 writes them, with true depth, poses a little off, and no mask."""
    out = tmp_path_factory.mktemp("outputs")
    rng = np.random.default_rng(0)
    for frame in read_split(street / "splits/train_files.txt"):
        truth = np.load(frame.file(street / "truth", ".npz"))
        poses = camera_poses(street / "truth", frame.segment)
        assert poses is not None
        relative = [
            turn(*rng.normal(0, 0.002, 3), (0.01, 0.0, 0.0))
            @ np.linalg.inv(poses[frame.index + offset])
            @ poses[frame.index]
            for offset in (-1, 1)
        ]
        camera = Intrinsics.from_cam_json(street / frame.segment / "cam.json", WIDTH, HEIGHT)
        arrays = {"depth": truth["depth"], "inv_K": camera.inverse4(), "pose": np.stack(relative)}
        write_npz(frame.file(out, ".npz"), **arrays)
    return out


def movers(street: Path, frame: FrameRef) -> Instances:
    truth = np.load(frame.file(street / "truth", ".npz"))
    masks = [truth["instances"] == number for number in truth["ids"][truth["moving"]]]
    masks = [mask for mask in masks if mask.sum() >= 60]
    return Instances(
        [rle.encode(m) for m in masks], np.zeros((len(masks), 4)), size=(HEIGHT, WIDTH)
    )


@pytest.fixture(scope="module")
def labelled(street: Path, motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("L0") / "labels"
    label_motion(street / "splits/train_files.txt", motion, out, CONFIG, street)
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("0*.json"))}


def test_what_moves_in_the_street_is_found_without_a_mask(street: Path, labelled: Path) -> None:
    pairs = found = true = 0
    for frame in read_split(street / "splits/train_files.txt"):
        labels, truth = read_labels(labelled, frame), movers(street, frame)
        pairs += compare(labels, truth).pairs
        found, true = found + len(labels), true + len(truth)
    assert true >= 10
    assert pairs / true > 0.4
    assert pairs / found > 0.5
    noise = read_manifest(labelled)["results"]["noise"]
    assert read_json(labelled / "noise.json") == noise
    assert 0.01 < noise["flow"] < 0.2
    assert noise["inverse_depth"] < 0.05  # depth is true here
    assert 0.5 <= noise["grey"] < 6


def test_the_number_of_processes_changes_nothing(
    street: Path, motion: Path, labelled: Path, tmp_path: Path
) -> None:
    split = street / "splits/train_files.txt"
    label_motion(split, motion, tmp_path / "two", replace(CONFIG, workers=2), street)
    assert contents(tmp_path / "two") == contents(labelled)


@pytest.mark.parametrize("left", [(0, 1, 2), (3, 6)])
def test_what_was_interrupted_ends_with_the_same_bytes(
    street: Path, motion: Path, labelled: Path, tmp_path: Path, left: tuple[int, ...]
) -> None:
    out = tmp_path / "labels"
    for number, (name, content) in enumerate(contents(labelled).items()):
        if number in left:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
    (out / "noise.json").write_bytes((labelled / "noise.json").read_bytes())
    label_motion(street / "splits/train_files.txt", motion, out, CONFIG, street)
    assert contents(out) == contents(labelled)


def test_known_errors_are_not_estimated(street: Path, motion: Path, tmp_path: Path) -> None:
    known = replace(CONFIG, flow=EvidenceConfig(noise=NOISE))
    write_split(tmp_path / "split.txt", read_split(street / "splits/train_files.txt")[:2])
    label_motion(tmp_path / "split.txt", motion, tmp_path / "out", known, street)
    assert not (tmp_path / "out/noise.json").exists()
    assert read_manifest(tmp_path / "out")["results"]["noise"]["grey"] == NOISE.grey


@pytest.mark.parametrize("depth", [5.0, 80.0])
def test_a_standing_camera_needs_no_parallax(tmp_path: Path, depth: float) -> None:
    """A box walks through a still picture; depth says nothing, and the poses are a little off."""
    rng = np.random.default_rng(0)
    cells = [rng.integers(40, 220, (24, 40, 3)), rng.integers(40, 220, (8, 6, 3))]
    wall, box = (np.kron(c, np.ones((4, 4, 1))).astype(np.uint8) for c in cells)
    CAMERA.to_cam_json(tmp_path / "data/clip/cam.json")
    for index in range(4):
        image = wall.copy()
        image[40:72, 60 + 2 * index : 84 + 2 * index] = box
        write_image(tmp_path / f"data/clip/{index:06d}.png", image)
    frames = [FrameRef("clip", 1), FrameRef("clip", 2)]
    write_split(tmp_path / "split.txt", frames)
    pose = np.stack([turn(0.002, -0.001, 0, (0.01, 0, 0))] * 2)
    arrays = {"depth": np.full((HEIGHT, WIDTH), depth, np.float32), "inv_K": CAMERA.inverse4()}
    for frame in frames:
        write_npz(frame.file(tmp_path / "motion", ".npz"), **arrays, pose=pose)
    label_motion(
        tmp_path / "split.txt", tmp_path / "motion", tmp_path / "L0", CONFIG, tmp_path / "data"
    )
    for frame in frames:
        true = np.zeros((HEIGHT, WIDTH), bool)
        true[40:72, 60 + 2 * frame.index : 84 + 2 * frame.index] = True
        expected = Instances([rle.encode(true)], np.zeros((1, 4)), size=(HEIGHT, WIDTH))
        found = read_labels(tmp_path / "L0", frame)
        assert len(found) == 1
        assert found.iou(expected).max() > 0.75


def test_held_out_frames_are_labelled_with_the_errors_of_the_training_frames() -> None:
    results = {"instances": 3, "noise": to_dict(NOISE)}
    assert with_errors_of(CONFIG, results, "L0").flow.noise == NOISE
    assert with_errors_of(CONFIG, {"instances": 3}, "L0") == CONFIG
    assert with_errors_of(InitialConfig(), results, "L0") == InitialConfig()
    with pytest.raises(InputError, match=r"L0: noise: unknown key 'wind'"):
        with_errors_of(CONFIG, {"noise": {"wind": 1.0}}, "L0")


def test_bad_input_is_one_sentence(street: Path, motion: Path, tmp_path: Path) -> None:
    split = street / "splits/train_files.txt"
    with pytest.raises(InputError, match="'evidence: flow' needs the frames; give their folder"):
        label_motion(split, motion, tmp_path / "a", CONFIG)
    with pytest.raises(InputError, match="evidence is 'magic'; choose one of"):
        InitialConfig(evidence="magic")
    with pytest.raises(InputError, match=r"stages are \(4.0, 8.0\); give falling thresholds"):
        EvidenceConfig(stages=(4.0, 8.0))
    with pytest.raises(InputError, match="not finite and 0 or more; mend them"):
        replace(NOISE, flow=-1.0)
    frame = read_split(split)[0]
    good = dict(np.load(frame.file(motion, ".npz")))
    known = replace(CONFIG, flow=EvidenceConfig(noise=NOISE))
    write_split(tmp_path / "split.txt", [frame])
    for broken, sentence in (
        ({"pose": np.zeros((4, 4))}, r"'pose' \(4, 4\) or 'inv_K' \(4, 4\) is no finite"),
        ({"depth": -good["depth"]}, "'depth' is no image of numbers above 0; predict"),
    ):
        out = tmp_path / next(iter(broken))
        write_npz(frame.file(out / "motion", ".npz"), **{**good, **broken})
        with pytest.raises(InputError, match=sentence):
            label_motion(tmp_path / "split.txt", out / "motion", out / "labels", known, street)
    del good["pose"]
    write_npz(frame.file(tmp_path / "old", ".npz"), **good)
    with pytest.raises(InputError, match="lacks the array 'pose'"):
        label_motion(tmp_path / "split.txt", tmp_path / "old", tmp_path / "b", known, street)


def test_raft_measures_flow_where_its_weights_are(
    street: Path, motion: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "raft.pth"
    torch.save(raft_small(weights=None).state_dict(), weights)
    method = Raft(weights)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    prepared = method.prepare(image, 50, 70)
    assert prepared.shape == (100, 140, 3)
    assert method.measure(prepared, prepared).shape == (50, 70, 2)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="fits neither raft_large nor raft_small"):
        Raft(tmp_path / "other.pth")
    known = replace(CONFIG, flow=EvidenceConfig(noise=NOISE, raft=str(weights)))
    write_split(tmp_path / "split.txt", read_split(street / "splits/train_files.txt")[:1])
    label_motion(tmp_path / "split.txt", motion, tmp_path / "out", known, street)
    assert "raft.pth" in read_manifest(tmp_path / "out")["inputs"]


def test_compiled_functions_need_no_folder_that_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = compiled.numba.njit

    def njit(*args: object, cache: bool = False) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain(*args)

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.compiled(lambda x: x + 1)(2) == 3
