"""J and F are those of the DAVIS benchmark, from arrays and from files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moduv.commands.cli import main
from moduv.engine.errors import InputError
from moduv.evaluation import segmentation
from moduv.evaluation.segmentation import evaluate_sequence
from moduv.evaluation.vos import evaluate_vos, overall_scores
from moduv.instances.indexed import read_indices, write_indices


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden/correspondence"


@pytest.mark.parametrize("name", ["bike-packing", "gold-fish", "blackswan", "edge"])
def test_sequences_have_the_official_numbers(name: str, golden: Path) -> None:
    told = json.loads((golden / "davis_metrics.json").read_text())[name]
    with np.load(golden / "davis_metrics.npz") as arrays:
        truth, result = arrays[f"{name}_truth"], arrays[f"{name}_result"]
    scores = evaluate_sequence(truth, result)
    assert len(scores) == len(told)
    for score, wanted in zip(scores, told, strict=True):
        np.testing.assert_allclose(score.J, wanted["J"], atol=1e-12)
        np.testing.assert_allclose(score.F, wanted["F"], atol=1e-12)


def test_pairs_of_masks_have_the_official_numbers(golden: Path) -> None:
    told = json.loads((golden / "more_measures.json").read_text())
    with np.load(golden / "more_measures.npz") as arrays:
        size = tuple(arrays["size"])

        def mask(name: str) -> np.ndarray:
            return np.unpackbits(arrays[name])[: size[0] * size[1]].reshape(size)

        for pair in told["pairs"]:
            truth, result = mask(f"{pair['name']}_truth"), mask(f"{pair['name']}_result")
            scores = segmentation.measure_frame(truth, result, 1)[0]
            np.testing.assert_allclose(
                scores, [pair["J"], pair["F"]], atol=1e-12, err_msg=pair["name"]
            )
            edge = segmentation.contour(truth.astype(bool))
            assert (edge == mask(f"{pair['name']}_boundary_truth")).all()


def test_statistics_are_the_official_ones_and_right_where_those_are_none(golden: Path) -> None:
    told = json.loads((golden / "more_measures.json").read_text())
    for case in told["statistics"]:
        found = segmentation.statistics(np.array(case["values"]))
        for value, wanted in zip(found, case["mean_recall_decay"], strict=True):
            assert np.isfinite(value)
            assert wanted is None or abs(value - wanted) < 1e-12
    falling = segmentation.statistics(np.linspace(1, 0, 401))
    assert falling.decay == pytest.approx(0.75)
    for case in told["boundary_radius"]:
        assert segmentation.contour_radius(*case["size"]) == case["radius"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.permutations([1, 2, 3]))
def test_names_of_objects_and_empty_surroundings_change_nothing(
    seed: int, order: list[int]
) -> None:
    random = np.random.default_rng(seed)
    truth, result = random.integers(0, 4, (2, 4, 6, 9)).repeat(3, 2).repeat(3, 3)
    for masks in (truth, result):
        masks[:, [0, -1]] = masks[:, :, [0, -1]] = 0
    truth[0, 0, :3] = 1, 2, 3
    scores = evaluate_sequence(truth, result)
    renamed = np.array([0, *order])
    others = evaluate_sequence(renamed[truth], renamed[result])
    assert [others[new - 1] for new in order] == scores
    for index in (1, 2, 3):
        true, found = truth[1] == index, result[1] == index
        around = [np.pad(mask, ((4, 3), (7, 0))) for mask in (true, found)]
        alone = segmentation.contour_accuracy(true, found, 2)
        assert segmentation.contour_accuracy(*around, 2) == alone


def test_identical_masks_score_one_and_lost_objects_zero() -> None:
    truth = np.zeros((5, 40, 60), np.uint8)
    truth[:, 5:15, 5:20], truth[:, 20:35, 30:50] = 1, 2
    (same, _) = evaluate_sequence(truth, truth)
    assert same == ((1, 1, 0), (1, 1, 0))
    (kept, lost) = evaluate_sequence(truth, np.where(truth == 2, 0, truth))
    assert kept.J.mean == 1
    assert lost == ((0, 0, 0), (0, 0, 0))


def test_void_pixels_and_objects_of_later_frames_do_not_count() -> None:
    truth = np.zeros((4, 20, 30), np.uint8)
    truth[:, 2:9, 2:9] = 1
    result = truth.copy()
    truth[:, 15:, 20:], truth[2, 10, 10] = 255, 3
    assert evaluate_sequence(truth, result) == [((1, 1, 0), (1, 1, 0))]


@pytest.mark.parametrize(
    ("truth", "result", "sentence"),
    [
        ((5, 8, 9), (5, 8, 8), "the truth is"),
        ((2, 8, 9), (2, 8, 9), "has 2 frames"),
        ((0, 8, 9), (0, 8, 9), "has 0 frames"),
    ],
)
def test_other_shapes_are_one_sentence(truth: tuple, result: tuple, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate_sequence(np.ones(truth, np.uint8), np.ones(result, np.uint8))


def test_indices_that_the_truth_lacks_are_one_sentence() -> None:
    truth = np.ones((4, 8, 9), np.uint8)
    with pytest.raises(InputError, match="has the index 2, and the truth has 1 objects"):
        evaluate_sequence(truth, 2 * truth)
    assert evaluate_sequence(truth, np.where(np.arange(4)[:, None, None] == 3, 2, truth))
    with pytest.raises(InputError, match="the first frame has no object"):
        evaluate_sequence(0 * truth, truth)


@pytest.fixture
def davis(tmp_path: Path) -> tuple[Path, Path]:
    """A small DAVIS with two sequences, and results."""
    root, results = tmp_path / "DAVIS", tmp_path / "res4_vos"
    random = np.random.default_rng(0)
    for name, objects in (("bear", 1), ("dogs", 2)):
        for frame in range(5):
            truth = random.integers(0, objects + 1, (4, 6)).repeat(8, 0).repeat(8, 1)
            truth[0, :objects] = np.arange(objects) + 1
            truth = truth.astype(np.uint8)
            result = np.where(random.random(truth.shape) < 0.02, 0, truth).astype(np.uint8)
            file = f"{name}/{frame:05d}.png"
            write_indices(root / "Annotations/480p" / file, truth)
            if 0 < frame < 4:
                write_indices(results / file, result)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("bear\ndogs\n")
    return root, results


def test_files_give_what_arrays_give_in_any_number_of_processes(
    davis: tuple[Path, Path], tmp_path: Path
) -> None:
    root, results = davis
    overall = evaluate_vos(root, results, workers=1)
    tables = {path.name: path.read_text() for path in results.glob("*.csv")}
    assert (
        evaluate_vos(root / "Annotations/480p", results, out=tmp_path / "out", workers=2) == overall
    )
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == tables
    scores = []
    for name in ("bear", "dogs"):
        truth = [read_indices(p) for p in sorted((root / "Annotations/480p" / name).iterdir())]
        found = [read_indices(p) for p in sorted((results / name).iterdir())]
        scores += evaluate_sequence(np.stack(truth), np.stack([found[0], *found, found[0]]))
    assert overall == overall_scores(scores)
    assert overall["J-Mean"] == pytest.approx(np.mean([s.J.mean for s in scores]))
    head, *rows = tables["per-sequence_results-val.csv"].splitlines()
    assert head == "Sequence,J-Mean,F-Mean"
    assert rows[2] == f"dogs_2,{scores[2].J.mean:.3f},{scores[2].F.mean:.3f}"
    assert tables["global_results-val.csv"].startswith(",".join(overall) + "\n")


def test_measuring_needs_no_torch() -> None:
    """Which takes seconds and half a gigabyte in each process."""
    code = "import sys, moduv.commands.cli, moduv.evaluation.vos; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def broken(davis: tuple[Path, Path], kind: str) -> None:
    root, results = davis
    frame = results / "dogs/00002.png"
    if kind == "no frame":
        frame.unlink()
    elif kind == "size":
        write_indices(frame, np.ones((8, 9), np.uint8))
    elif kind == "index":
        write_indices(frame, np.full((32, 48), 3, np.uint8))
    elif kind == "colours":
        Image.open(frame).convert("RGB").save(frame)
    elif kind == "no picture":
        frame.write_bytes(b"PNG")
    elif kind == "no sequence":
        shutil.rmtree(results / "dogs")
    elif kind == "list":
        (root / "ImageSets/2017/val.txt").write_text("cats\n")
    elif kind == "list twice":
        (root / "ImageSets/2017/val.txt").write_text("bear dogs bear\n")
    elif kind == "list outside":
        (root / "ImageSets/2017/val.txt").write_text("../480p/bear\n")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no frame", "dogs/00002.png: no such mask, nor 0 others of 3"),
        ("size", "dogs/00002.png: is 9 x 8 and the truth 48 x 32"),
        ("index", "dogs/00002.png: has the index 3, and the truth has 2 objects"),
        ("colours", "dogs/00002.png: is a picture of kind RGB, and object indices are needed"),
        ("no picture", "dogs/00002.png: is not readable as a PNG"),
        ("no sequence", "res4_vos: lacks 1 of 2 sequences, first 'dogs'"),
        ("list", "val.txt: names 'cats'"),
        ("list twice", "val.txt: names 'bear' twice"),
        ("list outside", "val.txt: names '../480p/bear' twice, or outside"),
    ],
)
def test_bad_files_are_one_sentence(
    davis: tuple[Path, Path], kind: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(davis, kind)
    words = ["evaluate", "vos", "--truth", str(davis[0]), "--results", str(davis[1])]
    with pytest.raises(SystemExit) as left:
        main([*words, "--workers", "1"])
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not list(davis[1].glob("*.csv"))


def test_results_stay_in_their_folder_and_what_does_not_count_is_told(
    davis: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, results = davis
    with pytest.raises(InputError, match=r"subset is '\.\./x'; give a name without folders"):
        evaluate_vos(root, results, "../x", workers=1)
    before = evaluate_vos(root, results, workers=1)
    for name in ("bear/._00001.png", "bear/9.png", "cats/00001.png"):
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_bytes(b"none")
    (root / "Annotations/480p/bear/._00000.png").write_bytes(b"none")
    capsys.readouterr()
    assert evaluate_vos(root, results, workers=1) == before
    assert "2 masks are of no frame of the truth, first bear/9.png" in capsys.readouterr().out


def test_masks_on_disk_have_the_palette_of_davis(golden: Path, tmp_path: Path) -> None:
    indices = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_indices(tmp_path / "mask.png", indices)
    assert (read_indices(tmp_path / "mask.png") == indices).all()
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        told = json.loads((golden / "more_palette.json").read_text())["evaluation_palette"]
        assert np.reshape(picture.getpalette(), (-1, 3)).tolist() == told
    Image.fromarray(indices).save(tmp_path / "grey.png")
    assert (read_indices(tmp_path / "grey.png") == indices).all()
