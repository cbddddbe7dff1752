"""`moduv run`: from video files to a detector, a report and a diagnosis."""

from __future__ import annotations

import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from moduv.commands.cli import main
from moduv.datasets.aspects import ASPECT_TOLERANCE
from moduv.engine.config import read_preset
from moduv.engine.files import read_json
from moduv.frames.images import write_image
from moduv.frames.splits import read_split
from moduv.instances.store import read_labels
from moduv.runs.diagnosis import DiagnosisLimits
from moduv.runs.run import Run, RunConfig, motion_size


def write_video(path: Path, step: int, frames: int = 9, brightness: float = 1.0) -> None:
    """A textured street that shifts by `step` of 160 pixels a frame, with a square that moves more."""
    noise = np.random.default_rng(len(path.name)).integers(0, 255, (12, 60, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (800, 96), interpolation=cv2.INTER_CUBIC)
    square = cv2.resize(noise[:6, :6, ::-1], (30, 30), interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.bit_rate = 160, 96, 4_000_000
        for index in range(frames):
            image = wide[:, step * index : step * index + 160].copy()
            inside = image[40:70, 20 + 9 * index : 50 + 9 * index]
            inside[:] = square[:, : inside.shape[1]]
            image = (image * brightness).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 12)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of a few steps, in which whatever the networks say becomes a label."""
    sections = read_preset("street")
    motion = sections["motion"]
    loops = {
        name: {**loop, "steps": 2, "batch_size": 2, "halve_every": 0, "warmup": 0}
        for name, loop in motion["loops"].items()
    }
    sections["motion"] = {**motion, "height": 64, "width": 96, "loops": loops}
    everything = {"motion_threshold": 0.0, "eps": 1e6, "min_samples": 1, "snap": False}
    sections["initial_labels"] = {**sections["initial_labels"], **everything, "workers": 1}
    for name in ("moving2mobile", "large", "small", "final"):
        sections[name] = {**sections[name]}
        sections[name]["loop"] = {**sections[name]["loop"], "steps": 2, "batch_size": 2}
    sections["mobile_labels"]["score_threshold"] = 0.02
    sections["aggregated_labels"] |= {"large_score": 0.02, "small_score": 0.02}
    limits = {"triplets": 8, "covered": 1.1, "relief": 0.0, "labels": 0.0}
    sections["run"] = {"max_width": 480, "score": 0.1, "limits": limits}
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, step in (("morning", 3), ("evening drive", 4)):
        write_video(folder / f"{name}.mp4", step)
    return folder


@pytest.fixture(scope="module")
def finished(videos: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "mine"
    main(["run", str(videos), "--out", str(out), "--preset", str(tiny), "--every", "1"])
    return out


def test_videos_become_a_detector_labels_and_a_report(finished: Path) -> None:
    detections = read_json(finished / "detections.json")
    frames = read_split(finished / "frames/splits/train_files.txt")
    names = {image["file_name"] for image in detections["images"]}
    assert names == {f"{frame.segment}/{frame.index:06d}.jpg" for frame in frames}
    assert (finished / "R3_Final/weights.pth").is_file()
    metrics = read_json(finished / "evaluation/metrics.json")
    assert {"L0", "L1", "L2", "Final"} <= set(metrics)
    assert -1 <= metrics["L0"]["labels/consistency"] <= 1
    page = (finished / "report.html").read_text()
    assert "moduv: mine" in page
    assert "https://" not in page


def test_held_out_frames_are_not_trained_on(finished: Path) -> None:
    train, val = (read_split(finished / f"splits/{name}_files.txt") for name in ("train", "val"))
    assert val
    assert not set(train) & set(val)
    labelled = {p.stem for p in (finished / "L1_pseudo_labels").rglob("0*.json")}
    assert labelled == {f"{frame.index:06d}" for frame in train}


def test_the_same_command_again_changes_nothing(
    finished: Path, videos: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (finished / "R3_Final/weights.pth").stat().st_mtime_ns
    arguments = ["run", str(videos), "--out", str(finished), "--every", "1"]
    main([*arguments, "--preset", str(tiny)])
    told = capsys.readouterr().out
    assert "round train: finished before" in told
    assert "[12/12] Report: open" in told
    assert (finished / "R3_Final/weights.pth").stat().st_mtime_ns == weights
    assert refused([*arguments, "--preset", "paper"], capsys).count("was started with preset") == 1


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("moduv: error: ")
    return told


def test_a_dry_run_lists_the_steps_and_writes_nothing(
    finished: Path, videos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(videos), "--preset", str(tiny), "--dry-run"]
    main([*arguments, "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "nothing is missing" in told
    assert "2 clips, up to 18 frames of 160 x 96 pixels" in told
    steps = told.splitlines()[2:-1]
    assert len(steps) == 12
    assert steps[1].split() == ["Motion:", "train", "2", "steps"]
    assert steps[-4].split() == ["Final", "2", "steps"]
    assert steps[-3].split() == ["Detections", "18", "frames"]
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    main([*arguments, "--out", str(finished)])
    assert re.search(r"Final +2 steps +finished in \d+ s", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("clip", "sentence"),
    [
        ({"step": 0}, "the camera moves in only 0%"),
        ({"step": 3, "frames": 6}, "only 4 frames have both neighbours"),
        ({"step": 3, "brightness": 0.1}, "frames are darker than grey level 25"),
    ],
)
def test_unsuitable_videos_are_refused_with_their_figure(
    clip: dict,
    sentence: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / "in/clip.mp4", **{"frames": 12, **clip})
    out = tmp_path / "out"
    published = tmp_path / "published.yaml"
    published.write_text(f"extends: {tiny}\ninitial_labels: {{evidence: mask}}\n")
    arguments = ["run", str(tmp_path / "in"), "--out", str(out), "--preset", str(published)]
    told = refused([*arguments, "--every", "1"], capsys)
    assert sentence in told
    assert "--insist" in told
    assert not (out / "motion").exists()


def test_measured_flow_labels_clips_of_a_standing_camera(tiny: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "in/clip.mp4", 0, frames=12)
    out = tmp_path / "out"
    main(
        ["run", str(tmp_path / "in"), "--out", str(out), "--preset", str(tiny), "--every", "1"],
    )
    found = [
        (frame, read_labels(out / "L0_pseudo_labels", frame))
        for frame in read_split(out / "splits/train_files.txt")
    ]
    # Masks have the size of stage 1's frames.
    scale = torch.tensor([96 / 160, 64 / 96] * 2)
    squares = [scale * torch.tensor([20 + 9 * f.index, 40, 50 + 9 * f.index, 70]) for f, _ in found]
    overlaps = [
        float(box_iou(torch.tensor(labels.boxes).float(), square[None]).max())
        for square, (_, labels) in zip(squares, found, strict=True)
        if len(labels)
    ]
    assert len(overlaps) == len(found)
    assert np.median(overlaps) > 0.5


def test_missing_weights_are_named_before_any_work(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(["run", str(videos), "--out", "out", "--preset", "paper"], capsys)
    assert "ckpts/" in told
    assert "0_download_ckpts.sh" in told
    assert not (tmp_path / "out").exists()


def test_clips_of_the_same_name_from_two_sources_are_kept_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from moduv.datasets.clips import name_clips

    for folder in ("one", "two"):
        write_video(tmp_path / folder / "drive.mp4", 3, frames=3)
    named = name_clips([tmp_path / "one", tmp_path / "two"])
    assert set(named) == {"one-drive", "two-drive"}
    told = refused(["run", str(tmp_path / "none"), "--out", str(tmp_path / "out")], capsys)
    assert "no such folder or video" in told


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        ((96, 160), (96, 160)),
        ((1080, 1920), (96, 160)),
        ((1920, 1080), (160, 96)),
        ((480, 640), (96, 128)),
        ((1080, 1080), (128, 128)),
    ],
)
def test_stage_1_sees_frames_in_about_their_aspect(
    frame: tuple[int, int], size: tuple[int, int]
) -> None:
    assert motion_size((96, 160), frame) == size
    assert motion_size((320, 480), (1280, 1920)) == (320, 480)
    assert motion_size((320, 480), (720, 1280)) == (288, 512)


@given(aspect=st.floats(0.4, 2.6), preset=st.sampled_from([(96, 160), (320, 480), (192, 640)]))
def test_stage_1_never_leaves_an_aspect_by_more_than_labels_may(
    aspect: float, preset: tuple[int, int]
) -> None:
    height, width = motion_size(preset, (1000, round(1000 * aspect)))
    assert abs(width / height / aspect - 1) < ASPECT_TOLERANCE


def test_other_settings_of_a_begun_run_are_refused_in_its_own_words(
    finished: Path,
    videos: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(finished, out)
    arguments = ["run", str(videos), "--out", str(out), "--every", "1", "--preset", str(tiny)]
    told = refused([*arguments, "--field_of_view", "80"], capsys)
    assert "field_of_view: 60.0 instead of 80.0" in told
    assert f"move {out} away to begin again" in told
    # Frames of another camera under the same names: nothing that was learned is theirs.
    shutil.rmtree(out / "frames")
    told = refused([*arguments, "--field_of_view", "80"], capsys)
    assert "frames: " in told
    assert f"move {out} away to begin again" in told


def test_frames_are_replaced_as_long_as_nothing_was_learned_from_them(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = tmp_path / "in/clip.mp4", tmp_path / "out"
    arguments = ["run", str(tmp_path / "in"), "--out", str(out), "--preset", str(tiny)]
    write_video(clip, 3, frames=6)
    assert "only 4 frames" in refused([*arguments, "--every", "1"], capsys)
    write_video(clip, 3, frames=24, brightness=0.1)
    with pytest.raises(SystemExit):
        main([*arguments, "--every", "2"])
    captured = capsys.readouterr()
    assert "frames of another call are replaced" in captured.out
    assert "frames are darker" in captured.err
    assert len(read_split(out / "splits/train_files.txt")) < 10


def test_a_run_that_finds_nothing_says_so_and_goes_on(
    finished: Path, videos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "Final_pseudo_labels")
    run = Run([videos], out, str(tiny), 60.0, 1, False, False, RunConfig(score=0.9999))
    told = run.parts()["Detections"]()
    assert told.startswith("0 instances in ")
    assert "finds nothing above a score of 0.9999" in capsys.readouterr().out
    assert read_json(out / "detections.json")["annotations"] == []


def test_outputs_in_the_source_and_other_aspects_do_not_stop_a_run(
    videos: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    shutil.copytree(videos, source)
    noise = np.random.default_rng(0).integers(0, 255, (12, 60, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (400, 160), interpolation=cv2.INTER_CUBIC)
    for index in range(6):
        write_image(source / f"upright/{index}.png", wide[:, 4 * index : 4 * index + 96])
    config = RunConfig(limits=DiagnosisLimits(triplets=8))
    run = Run([source], source / "out", str(tiny), 60.0, 1, False, False, config)
    frames = run.parts()["Frames"]
    told = frames()
    write_image(run.out / "motion/pictures/0.png", wide)
    assert frames() == told
    said = capsys.readouterr().out
    assert "1 clips cropped to the aspect ratio of the others, 5:3" in said
    assert "finished before" in said
    main(["run", str(source), "--out", str(run.out), "--preset", str(tiny), "--dry-run"])
    assert "3 clips, up to 24 frames" in capsys.readouterr().out
