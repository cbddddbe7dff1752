"""The Python face: three lines for what most people want."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from detector_world import HEIGHT, WIDTH, instances_of, write_detectors, write_world
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import moduv
from moduv.engine.errors import InputError
from moduv.frames.images import read_image
from moduv.frames.video_writer import write_video
from moduv.instances.tracks import NOT_FOLLOWED


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("face")
    write_detectors(root, "R3_Final")
    write_world(root, 3)
    return root


@pytest.fixture(scope="module")
def picture(world: Path) -> Path:
    return world / "frames/train/clip_0000/000000.png"


def test_importing_loads_no_torch_until_it_is_used() -> None:
    words = "import sys, moduv; assert 'torch' not in sys.modules; dir(moduv); moduv.Instances"
    words += "; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True, timeout=120)
    assert set(moduv.__all__) <= set(dir(moduv))
    assert all(getattr(moduv, name) is not None for name in moduv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        moduv.nothing  # noqa: B018


def test_a_path_an_array_and_a_pil_image_are_found_the_same(world: Path, picture: Path) -> None:
    detector = moduv.load_detector(str(world / "R3_Final"))
    array = moduv.read_image(picture)
    given = [str(picture), picture, array, Image.fromarray(array)]
    alone = detector.predict(picture, score=0.4)
    assert isinstance(alone, moduv.Instances)
    assert alone.size == (HEIGHT, WIDTH)
    assert len(alone) > 0
    found = detector.predict(given, score=0.4)
    assert [one.masks for one in found] == [alone.masks] * 4
    assert detector.predict([], score=0.4) == []
    assert alone.scores is not None
    assert (alone.scores > 0.4).all()
    assert len(alone[alone.scores > 2]) == 0


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 7]
)
def test_other_images_are_one_sentence(world: Path, image: object) -> None:
    detector = moduv.load_detector(world / "R3_Final")
    with pytest.raises(InputError, match=r"an image is .*; give") as refused:
        detector.predict(image)  # type: ignore[call-overload]
    assert len(str(refused.value).splitlines()) == 1


def test_a_turned_photo_is_turned_upright(world: Path, tmp_path: Path) -> None:
    turned = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "a.jpg", exif=exif)
    detector = moduv.load_detector(world / "R3_Final")
    assert detector.predict(Image.open(tmp_path / "a.jpg")).size == (40, 20)
    assert detector.predict(tmp_path / "a.jpg").size == (40, 20)


def test_objects_of_a_video_have_tracks(world: Path, tmp_path: Path) -> None:
    frame = read_image(world / "frames/train/clip_0000/000000.png")
    write_video(tmp_path / "clip.mp4", [(0.1 * t, frame) for t in range(3)], Fraction(10))
    detector = moduv.load_detector(world / "R3_Final")
    found = [one for _, one in detector.video(tmp_path / "clip.mp4", score=0.4)]
    tracks = [set(one.columns["track"].tolist()) for one in found]
    assert len(found) == 3
    assert all(tracks)
    assert len(tracks[0] & tracks[2]) > 0.5 * len(tracks[0])  # the same picture three times


def test_drawing_changes_the_picture_and_writes_it(picture: Path, tmp_path: Path) -> None:
    found = instances_of([(10, 10, 60, 60)]).with_columns(track=[4])
    drawn = moduv.draw(picture, found, tmp_path / "out.png")
    assert np.array_equal(read_image(tmp_path / "out.png"), drawn)
    assert (drawn != read_image(picture)).any()
    assert not np.array_equal(drawn, moduv.draw(picture, found.with_columns(track=[5])))


def test_initial_labels_take_intrinsics_or_their_inverse() -> None:
    mask = np.zeros((40, 60), np.float32)
    mask[5:25, 10:30] = 1
    depth, K = (
        np.ones((40, 60), np.float32),
        np.array([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]]),
    )
    options = {"relative": True, "eps": 0.1}
    given = [{"K": K}, {"K": np.linalg.inv(K)}, {"inv_K": np.linalg.inv(K)}]
    found = [moduv.initial_labels(mask, depth, **one, **options) for one in given]
    assert [one.boxes.tolist() for one in found] == [[[10, 5, 30, 25]]] * 3
    with pytest.raises(InputError, match="give K or inv_K"):
        moduv.initial_labels(mask, depth)
    normalised = K / np.array([[60], [40], [1]])
    with pytest.raises(InputError, match="multiply its rows by width and height"):
        moduv.initial_labels(mask, depth, normalised)
    with pytest.raises(InputError, match="cannot be inverted"):
        moduv.initial_labels(mask, depth, np.diag([50.0, 0, 1]))
    with pytest.raises(TypeError):
        moduv.initial_labels(mask, depth, K, no_such_option=1)


def test_a_round_is_trained_and_loaded(world: Path, tmp_path: Path) -> None:
    (tmp_path / "split.txt").write_text("train/clip_0000 0\ntrain/clip_0000 1\n")
    loop = {"steps": 1, "batch_size": 1}
    places = (world / "frames", tmp_path / "split.txt", world / "labels", tmp_path / "run")
    out = moduv.train_round("final", *places, preset="street", loop=loop)
    assert len(moduv.load_detector(out).predict(np.zeros((96, 160, 3), np.uint8), 0.0)) >= 0


# --- Instances ----------------------------------------------------------------------------------------

boxes = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 60), st.integers(1, 40), st.integers(1, 30)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=4,
)


@settings(deadline=None)
@given(boxes)
def test_conversions_return_the_same_objects(placed: list[tuple[int, int, int, int]]) -> None:
    columns = {"track": np.arange(len(placed)), "moving": np.ones(len(placed), int)}
    found = instances_of(placed).with_columns(**columns)
    back = moduv.Instances.from_json(found.to_json())
    assert back.to_json() == found.to_json()
    dense = moduv.Instances.from_torchvision(found.to_torchvision())
    assert dense.masks == found.masks
    assert np.array_equal(dense.boxes, found.boxes)
    fitted = moduv.Instances.from_dense(found.decode())
    assert np.array_equal(fitted.boxes, found.boxes)
    again = moduv.Instances.from_coco(found.to_coco(), found.size)
    assert again.masks == found.masks
    assert np.array_equal(again.boxes, found.boxes)
    results = found.to_coco(3)
    assert [entry["image_id"] for entry in results] == [3] * len(placed)
    assert [entry["area"] for entry in results] == found.areas().tolist()


def test_identities_and_names_reach_coco_and_return() -> None:
    found = instances_of([(0, 0, 9, 9), (20, 20, 40, 40)])
    named = found.with_columns(track=[7, NOT_FOLLOWED], name=["car", "bus"], moving=[1, 0])
    first, second = named.to_coco()
    assert (first["track_id"], first["name"], second["name"]) == (7, "car", "bus")
    assert "track_id" not in second
    assert not {"track_id", "name", "moving"} & found.to_coco()[0].keys()
    back = moduv.Instances.from_coco(named.to_coco(), named.size)
    assert {name: values.tolist() for name, values in back.columns.items()} == {
        "name": ["car", "bus"]
    }


def test_instances_are_shown_in_a_line() -> None:
    found = instances_of([(0, 0, 9, 9), (20, 20, 40, 40)]).with_columns(track=[7, 8])
    assert repr(found).startswith("Instances(2 objects; size ")
    assert "columns track" in repr(found)
    assert "counts" not in repr(found)
    scored = dataclasses.replace(found, scores=[0.25, 0.5])
    assert "scores 0.25 to 0.50" in repr(scored)
    assert repr(scored[[]]).startswith("Instances(0 objects; size ")


def test_columns_follow_selections_and_concatenations() -> None:
    found = instances_of([(0, 0, 9, 9), (20, 20, 40, 40)]).with_columns(name=["car", "bus"])
    assert found[[1]].columns["name"].tolist() == ["bus"]
    joined = moduv.Instances.concatenate([found, found[:1]])
    assert joined.columns["name"].tolist() == ["car", "bus", "car"]
    assert joined.resized(48, 80).columns["name"].tolist() == ["car", "bus", "car"]
    with pytest.raises(ValueError, match="columns"):
        moduv.Instances.concatenate([found, instances_of([(0, 0, 9, 9)])])
    with pytest.raises(ValueError, match="different lengths"):
        found.with_columns(track=[1])


@pytest.mark.parametrize("value", [[1], [1, None], [[1], [2]], ["a", 2]])
def test_columns_that_do_not_fit_are_refused(value: list) -> None:
    content = instances_of([(0, 0, 9, 9), (20, 20, 40, 40)]).to_json()
    with pytest.raises(InputError, match=r"'track' is not one value per mask"):
        moduv.Instances.from_json({**content, "track": value})
    others = {"note": "free text", "sources": ["a", "b", "c"]}
    assert not moduv.Instances.from_json({**content, **others}).columns


def test_supervision_knows_the_same_objects() -> None:
    supervision = pytest.importorskip("supervision", reason="an optional package")
    found = instances_of([(0, 0, 9, 9), (20, 20, 40, 40)]).with_columns(
        track=[7, 8], name=["a", "b"]
    )
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.tracker_id.tolist() == [7, 8]
    assert detections["class_name"].tolist() == ["a", "b"]
    back = moduv.Instances.from_supervision(detections)
    assert back.masks == found.masks
    assert back.columns["name"].tolist() == ["a", "b"]
    nothing = moduv.Instances.from_supervision(found[[]].to_supervision())
    assert len(moduv.Instances.concatenate([found, nothing.with_columns(name=[])])) == 2


def test_predictions_become_instances() -> None:
    masks = torch.zeros(2, 8, 10)
    masks[0, 2:5, 3:7], masks[1, 0, 0] = 0.9, 0.6
    found = moduv.Predictions.from_dense(
        masks, torch.tensor([[3.0, 2, 7, 5], [0, 0, 1, 1]]), torch.tensor([0.75, 0.25])
    )
    assert found.to_instances(0.5).areas().tolist() == [12]
    assert found.to_instances(mask_threshold=0.8).areas().tolist() == [12, 0]
