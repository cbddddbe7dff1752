"""From raw frames to the report: the chain runs, resumes, survives kills, refuses bad input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from chain import Link, chain

from moduv.commands.cli import main
from moduv.engine.files import read_json, sha256, write_npz
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import read_split

TIMED = {"manifest.json", ".manifest.json", "log.jsonl", "report.html"}
"""Files that tell the time; everything else must not depend on kills."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chain")
    for link in chain(root):
        main(link.arguments)
    return root


def content(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        path.relative_to(root).as_posix(): sha256(path)
        for path in files
        if path.name not in TIMED and path.suffix != ".pt"
    }


def test_chain_ends_with_a_table_and_a_report(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = read_json(finished / "run/evaluation/metrics.json")
    rounds = {"Moving2Mobile", "Large2Small, large", "Large2Small, small", "Final", "Supervised"}
    assert {"motion", "L0", "L1", "L2", *rounds} == set(metrics)
    assert metrics["Supervised"]["count/objects"] > 0
    main(chain(finished)[-2].arguments)
    table = capsys.readouterr().out
    assert "finished before" in table
    assert "Supervised" in table
    page = (finished / "out/report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert read_image(finished / "out/overview.jpg").shape[2] == 3


def test_second_run_changes_nothing(finished: Path) -> None:
    before = content(finished)
    for link in chain(finished)[:-1]:
        main(link.arguments)
    assert content(finished) == before


def test_every_label_file_is_whole(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = str(finished / "street/splits/train_files.txt")
    for level in ("L0", "L1", "L2"):
        labels = str(finished / f"run/{level}_pseudo_labels")
        main(["labels", "check", "--labels", labels, "--split", split])
        main(["labels", "stats", "--labels", labels, "--split", split])
    assert "all 9 label files are whole" in capsys.readouterr().out


def run_until(link: Link, marker: str) -> bool:
    """Start a command and kill it as soon as `marker` exists; whether it was still running."""
    # Sums depend on the number of threads, so killed runs have as many as those they are compared with.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "moduv.commands.cli", *link.arguments]
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not any(link.out.glob(marker)):
        time.sleep(0.005)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kill_in_the_middle_of_every_stage_changes_nothing(finished: Path, tmp_path: Path) -> None:
    killed = 0
    for link in chain(tmp_path):
        killed += run_until(link, link.half_done)
        subprocess.run(
            [sys.executable, "-m", "moduv.commands.cli", *link.arguments],
            check=True,
            capture_output=True,
        )
    assert killed > 8
    expected, found = content(finished), content(tmp_path)
    different = [name for name in expected if expected[name] != found.get(name)]
    assert not different
    assert set(found) == set(expected)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must leave with 2 and one sentence; return the sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "moduv: error" in line]
    assert len(lines) == 1
    return lines[0]


def links_by_name(root: Path) -> dict[str, Link]:
    return {link.out.name: link for link in chain(root)}


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished chain that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_truncated_image_names_the_file(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_split(copy / "street/splits/train_files.txt")[0].image_path(copy / "street")
    frame.write_bytes(frame.read_bytes()[:900])
    shutil.rmtree(copy / "run/R1_M2M")
    sentence = fails(links_by_name(copy)["R1_M2M"].arguments, capsys)
    assert str(frame) in sentence
    assert "truncated" in sentence
    assert not (copy / "run/R1_M2M/weights.pth").exists()


def test_corrupt_labels_name_the_file(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_split(copy / "street/splits/train_files.txt")[0]
    labels = frame.file(copy / "run/true_labels", ".json")
    labels.write_text(labels.read_text()[:-20])
    shutil.rmtree(copy / "run/R1_M2M")
    sentence = fails(links_by_name(copy)["R1_M2M"].arguments, capsys)
    assert str(labels) in sentence
    assert "not readable as JSON" in sentence


@pytest.mark.parametrize("damage", ["cut", "nan"])
def test_corrupt_motion_output_names_the_file(
    copy: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = read_split(copy / "street/splits/train_files.txt")[0].file(
        copy / "run/motion_outputs", ".npz"
    )
    if damage == "cut":
        output.write_bytes(output.read_bytes()[:300])
    else:
        arrays = dict(np.load(output))
        arrays["depth"][3, 3] = np.nan
        write_npz(output, **arrays)
    shutil.rmtree(copy / "run/L0_pseudo_labels")
    sentence = fails(links_by_name(copy)["L0_pseudo_labels"].arguments, capsys)
    assert str(output) in sentence
    assert not (copy / "run/L0_pseudo_labels/manifest.json").exists()


def test_mask_and_image_of_another_aspect_are_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = read_split(copy / "street/splits/train_files.txt")[0].image_path(copy / "street")
    write_image(frame, np.zeros((96, 96, 3), np.uint8))
    shutil.rmtree(copy / "run/R1_M2M")
    assert "another aspect" in fails(links_by_name(copy)["R1_M2M"].arguments, capsys)


def test_missing_and_wrong_checkpoints_are_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mobile = links_by_name(copy)["L1_pseudo_labels"]
    shutil.rmtree(mobile.out)
    weights = copy / "run/R1_M2M/weights.pth"
    motion = copy / "run/motion/weights/depth_enc.pth"
    shutil.copy(motion, weights)
    assert "weights.pth" in fails(mobile.arguments, capsys)
    weights.unlink()
    assert "no such checkpoint" in fails(mobile.arguments, capsys)
    shutil.rmtree(copy / "run/R1_M2M")
    assert "run the stage that makes it first" in fails(mobile.arguments, capsys)
    assert not list((copy / "run/L1_pseudo_labels").rglob("*.json"))


def test_empty_split_and_missing_intrinsics_are_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motion = links_by_name(copy)["motion"]
    shutil.rmtree(motion.out)
    split = copy / "street/splits/train_files.txt"
    lines = split.read_text()
    split.write_text("")
    assert "the split is empty" in fails(motion.arguments, capsys)
    split.write_text(lines)
    (copy / "street/train/clip_0001/cam.json").unlink()
    assert "clip_0001/cam.json: no intrinsics" in fails(motion.arguments, capsys)
    assert not (motion.out / "weights").exists()


def test_a_run_without_truth_is_measured_and_reported(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / "run/evaluation")
    shutil.rmtree(copy / "street/truth")
    for link in chain(copy)[-2:]:
        position = link.arguments.index("--annotations")
        main(link.arguments[:position] + link.arguments[position + 2 :])
    table = capsys.readouterr().out
    assert "kept" in table
    assert "AP50" not in table
    metrics = read_json(copy / "run/evaluation/metrics.json")
    assert set(metrics) == {"L0", "L1", "L2", "Final"}
    assert metrics["L2"]["labels/count"] > 0
    assert len(read_json(copy / "run/evaluation/images.json")["images"]) == 3
    page = (copy / "out/report.html").read_text()
    assert "From round to round" in page
    assert 'data-switch="truth"' not in page


def test_unknown_commands_list_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["motion", "dance"])
    assert stopped.value.code == 2
    assert "motion train" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0


def test_demo_walks_folders_and_reports_broken_images(finished: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(finished / "street/val", images / "deep/val")
    broken = images / "deep/val/clip_0000/000002.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    demo = Path(__file__).parents[1] / "demo.py"
    weights, out = finished / "run/supervised/weights.pth", tmp_path / "out"
    command = [sys.executable, str(demo), "--load_ckpt", str(weights), "--vis_conf_thrd", "0.05"]
    done = subprocess.run(
        [*command, "--input", str(images), "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.count("moduv: error") == 1
    assert str(broken) in done.stderr
    names = sorted(path.name for path in out.glob("*.jpg"))
    assert names == [f"deep-val-clip_0000-{index:06d}.jpg" for index in (0, 1, 3, 4)]
    detections = read_json(out / "detections.json")
    assert len(detections["images"]) == 4
    missing = subprocess.run(
        [*command[:3], "none.pth", "--input", str(images)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert missing.returncode == 2
    assert "none.pth: no such checkpoint" in missing.stderr
