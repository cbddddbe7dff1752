"""Label sets leave as COCO JSON, are edited elsewhere, and come back as they are meant."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.commands.cli import main
from moduv.commands.show import show_labels
from moduv.engine.errors import InputError
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import write_split
from moduv.instances import rle
from moduv.instances.exported import export_labels, to_coco, with_polygons
from moduv.instances.imported import frame_names, import_labels, read_coco
from moduv.instances.instances import Instances
from moduv.instances.masks import to_polygons, to_rle
from moduv.instances.store import check, read_labels, write_labels
from moduv.visual.drawing import grid_size

HEIGHT, WIDTH = 24, 36
FRAMES = [FrameRef("train/a", 3), FrameRef("train/a", 4), FrameRef("train/b", 12)]


def rectangle(left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def scored(*scores: float) -> Instances:
    masks = [rle.encode(rectangle(3 + 9 * i, 4, 7, 5)) for i in range(len(scores))]
    boxes = np.array([[3.25 + 9 * i, 4.5, 10.75 + 9 * i, 9] for i in range(len(scores))])
    return Instances(masks, boxes.reshape(-1, 4), np.array(scores))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two objects, none, and one."""
    for frame, instances in zip(FRAMES, (scored(0.5, 0.75), scored(), scored(0.9)), strict=True):
        write_labels(tmp_path / "L1", frame, instances)
    return tmp_path / "L1"


def exported(labels: Path) -> dict[str, Any]:
    return to_coco(labels, FRAMES, (HEIGHT, WIDTH))


def save(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def label_files(root: Path) -> dict[str, Any]:
    """Content of all label files, without the ids that an import adds."""
    files = {p.relative_to(root).as_posix(): json.loads(p.read_text()) for p in root.glob("*/*/*")}
    for content in files.values():
        content.pop("ids", None)
    return files


@st.composite
def label_sets(draw: st.DrawFn) -> list[Instances]:
    """Labels of every frame: any masks, with scores and boxes around them or, as L0, without scores."""
    sets = []
    for _ in FRAMES:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        masks = rng.random((draw(st.integers(0, 3)), HEIGHT, WIDTH)) < rng.random() / 2
        masks[:, rng.integers(HEIGHT), rng.integers(WIDTH)] = True
        found = Instances.from_dense(masks)
        if draw(st.booleans()):
            # As predicted, boxes miss their mask a little, but end with the image.
            moved = found.boxes + rng.uniform(-1.5, 1.5, found.boxes.shape)
            boxes = np.clip(moved, 0, np.array([WIDTH, HEIGHT] * 2)).astype(np.float32)
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
            score = st.floats(0, 1, width=32)
            scores = draw(st.lists(score, min_size=len(found), max_size=len(found)))
            found = replace(found, boxes=boxes, scores=np.array(scores))
        sets.append(found)
    return sets


@settings(max_examples=30, deadline=None)
@given(sets=label_sets(), data=st.data())
def test_round_trip_changes_nothing_but_what_was_edited(
    sets: list[Instances], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("round_trip")
    for frame, instances in zip(FRAMES, sets, strict=True):
        write_labels(root / "before", frame, instances)
    content = exported(root / "before")
    import_labels(save(root / "all.json", content), root / "same")
    assert label_files(root / "same") == label_files(root / "before")

    removed = data.draw(st.sets(st.sampled_from([a["id"] for a in content["annotations"]] or [0])))
    edited = copy.deepcopy(content)
    edited["annotations"] = [a for a in content["annotations"] if a["id"] not in removed]
    import_labels(save(root / "edited.json", edited), root / "after")
    assert exported(root / "after") == edited
    for frame, instances in zip(FRAMES, sets, strict=True):
        image_id = FRAMES.index(frame) + 1
        ids = [a["id"] for a in content["annotations"] if a["image_id"] == image_id]
        expected = instances[np.array([i not in removed for i in ids], bool)]
        found = read_labels(root / "after", frame)
        assert found.columns["id"].tolist() == [i for i in ids if i not in removed]
        assert replace(found, columns={}).to_json() == expected.to_json()


def test_new_annotations_join_and_ids_stay(labels: Path, tmp_path: Path) -> None:
    content = exported(labels)
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    polygon = [[10.0, 6.0, 20.0, 6.0, 20.0, 14.0, 10.0, 14.0]]
    new = {"id": 70, "image_id": 2, "category_id": 5, "segmentation": polygon}
    content["annotations"] = [content["annotations"][2], content["annotations"][0], new]
    import_labels(save(tmp_path / "edited.json", content), tmp_path / "L1_edited")
    added = read_labels(tmp_path / "L1_edited", FRAMES[1])
    assert (added.decode()[0] == rectangle(10, 6, 10, 8)).all()
    assert added.boxes.tolist() == [[10, 6, 20, 14]]
    assert added.scores is not None
    assert added.scores.tolist() == [1]
    again = exported(tmp_path / "L1_edited")
    assert [a["id"] for a in again["annotations"]] == [1, 70, 3]
    assert again["annotations"][2] == content["annotations"][0]


def test_masks_in_every_form_are_the_same(labels: Path, tmp_path: Path) -> None:
    content = exported(labels)
    mask = rectangle(3, 4, 7, 5)
    counts = [3 * HEIGHT + 4, *[5, HEIGHT - 5] * 6, 5]
    text = rle.encode(mask)["counts"]
    forms: list[Any] = [
        *({"size": [HEIGHT, WIDTH], "counts": form} for form in (text, text.encode())),
        {"size": [HEIGHT, WIDTH], "counts": [*counts, HEIGHT * WIDTH - sum(counts)]},
        [[3, 4, 10, 4, 10, 9, 3, 9]],
        [[3, 4, 6, 4, 6, 9, 3, 9], [6, 4, 10, 4, 10, 9, 6, 9]],
    ]
    for number, form in enumerate(forms):
        assert (rle.decode(to_rle(form, (HEIGHT, WIDTH))) == mask).all()
        if number != 1:  # JSON holds no bytes
            content["annotations"] = [{"id": 8, "image_id": 1, "segmentation": form, "iscrowd": 1}]
            found = read_coco(save(tmp_path / f"{number}.json", content))[FRAMES[0]]
            assert (found.decode()[0] == mask).all()
            assert found.boxes.tolist() == [[3, 4, 10, 9]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cells=st.integers(2, 24))
def test_exact_polygons_filled_again_are_the_mask_with_its_holes(seed: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.random((cells, cells)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    mask = smooth > rng.random()
    polygons = to_polygons(rle.encode(mask))
    assert bool(polygons) == mask.any()
    if mask.any():
        assert (rle.decode(to_rle(polygons, (HEIGHT, WIDTH))) == mask).all()


def test_a_hole_and_a_second_part_are_drawn_with_few_points() -> None:
    mask = rectangle(4, 4, 12, 10) | rectangle(20, 17, 5, 5)
    mask[7:10, 8:11] = False
    hollow, plain = to_polygons(rle.encode(mask))  # the larger one first
    assert sorted(zip(plain[::2], plain[1::2], strict=True)) == [
        (20, 17),
        (20, 22),
        (25, 17),
        (25, 22),
    ]
    # Four corners outside and four inside, and where the slit begins, twice.
    assert len(hollow) // 2 == 10
    assert set(zip(hollow[::2], hollow[1::2], strict=True)) >= {(8, 7), (11, 7), (11, 10), (8, 10)}


@pytest.mark.parametrize(("tolerance", "points"), [(0.0, 300), (1.0, 60)])
def test_polygons_overlap_the_masks_and_come_back(
    tmp_path: Path, tolerance: float, points: int
) -> None:
    masks = []
    for number in range(6):
        canvas = np.zeros((120, 160), np.uint8)
        cv2.ellipse(canvas, (70, 60), (12 + 6 * number, 9 + 5 * number), 20 * number, 0, 360, 1, -1)
        cv2.circle(canvas, (70, 60), number, 0, -1)
        masks.append(rle.encode(canvas))
    boxes = np.array([[1.5, 2, 140.25, 118]] * 6)
    labels = Instances(masks, boxes, np.linspace(0.4, 0.9, 6))
    write_labels(tmp_path / "L1", FRAMES[0], labels)
    runs = to_coco(tmp_path / "L1", FRAMES[:1])
    content = with_polygons(runs, tolerance)
    for entry, before in zip(content["annotations"], runs["annotations"], strict=True):
        same = ("id", "area", "bbox", "score", "iscrowd")
        assert [entry[key] for key in same] == [before[key] for key in same]
        assert sum(len(ring) // 2 for ring in entry["segmentation"]) < points
    import_labels(save(tmp_path / "polygons.json", content), tmp_path / "back")
    back = read_labels(tmp_path / "back", FRAMES[0])
    overlap = np.diag(back.iou(labels))
    assert labels.areas().min() > 100
    assert (overlap == 1).all() if tolerance == 0 else (0.9 < overlap.min() < 1)
    assert back.boxes.tolist() == labels.boxes.tolist()
    assert back.scores is not None
    assert back.scores.tolist() == pytest.approx(np.linspace(0.4, 0.9, 6))


def test_labels_of_smaller_masks_come_back_at_the_size_of_the_images(tmp_path: Path) -> None:
    labels, data, split = tmp_path / "L0", tmp_path / "data", tmp_path / "split.txt"
    boxes = np.array([[3, 4, 10, 9]])
    write_labels(labels, FRAMES[0], Instances([rle.encode(rectangle(3, 4, 7, 5))], boxes))
    write_image(FRAMES[0].image_path(data), np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8))
    write_split(split, FRAMES[:1])
    export_labels(labels, split, data, tmp_path / "L0.json")
    import_labels(tmp_path / "L0.json", tmp_path / "back", split=split)
    found = read_labels(tmp_path / "back", FRAMES[0])
    assert found.scores is None
    assert found.size == (2 * HEIGHT, 2 * WIDTH)
    assert found.boxes.tolist() == [[6, 8, 20, 18]]
    again = to_coco(tmp_path / "back", FRAMES[:1])
    assert again == json.loads((tmp_path / "L0.json").read_text())


def test_boxes_that_labels_without_scores_cannot_hold_are_kept(tmp_path: Path) -> None:
    write_labels(
        tmp_path,
        FRAMES[0],
        Instances([rle.encode(rectangle(3, 4, 7, 5))], np.array([[3, 4, 10, 9]])),
    )
    content = to_coco(tmp_path, FRAMES[:1])
    content["annotations"][0]["bbox"] = [3, 4, 6.5, 5]
    import_labels(save(tmp_path / "edited.json", content), tmp_path / "back")
    again = to_coco(tmp_path / "back", FRAMES[:1])
    assert again["annotations"] == content["annotations"]


def test_images_of_other_names_are_mapped(labels: Path, tmp_path: Path) -> None:
    content = exported(labels)
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"upload-{number}.png"
    coco = save(tmp_path / "tool.json", content)
    with pytest.raises(InputError, match=r"images\[0\]: 'upload-0.png' is not named as exported"):
        import_labels(coco, tmp_path / "none")
    lines = ["train/a 3", "train/a 4", "train/b 12"]
    names = save(tmp_path / "names.json", {f"upload-{i}.png": line for i, line in enumerate(lines)})
    import_labels(coco, tmp_path / "mapped", names)
    assert len(read_labels(tmp_path / "mapped", FRAMES[0])) == 2
    assert len(read_labels(tmp_path / "mapped", FrameRef("train/b", 12))) == 1
    for wrong in ("train/a", "train/a x", "../a 3", 7):
        path = save(tmp_path / "wrong.json", {"upload-0.png": wrong})
        with pytest.raises(InputError, match=r"'upload-0\.png' is given as"):
            frame_names(path)
    few = save(tmp_path / "few.json", {"upload-0.png": "train/a 3"})
    with pytest.raises(InputError, match=r"'upload-1\.png' is not among --names"):
        import_labels(coco, tmp_path / "none", few)


def test_names_with_backslashes_are_read(labels: Path, tmp_path: Path) -> None:
    content = exported(labels)
    content["images"][0]["file_name"] = "train\\a\\000003.jpg"
    assert list(read_coco(save(tmp_path / "windows.json", content))) == FRAMES


def test_ignored_annotations_are_left_out_unless_wanted(labels: Path, tmp_path: Path) -> None:
    content = exported(labels)
    content["annotations"][0]["ignore"] = 1
    coco = save(tmp_path / "edited.json", content)
    assert list(map(len, read_coco(coco).values())) == [1, 0, 1]
    assert list(map(len, read_coco(coco, ignored=True).values())) == [2, 0, 1]


def test_commands_export_and_import(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = FRAMES[:2]
    for frame in frames:
        write_image(frame.image_path(tmp_path / "data"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    write_split(tmp_path / "split.txt", frames)
    coco, back = str(tmp_path / "L1.json"), str(tmp_path / "back")
    split = ["--split", str(tmp_path / "split.txt")]
    main(
        [
            "labels",
            "export",
            "--labels",
            str(labels),
            *split,
            "--data",
            str(tmp_path / "data"),
            "--out",
            coco,
        ]
    )
    command = ["labels", "import", "--coco", coco, "--out", back, *split]
    main(command)
    assert "2 instances in 2 frames" in capsys.readouterr().out
    assert check(back, frames) == []
    # Labels that a detector was trained on do not change under it.
    content = json.loads(Path(coco).read_text())
    content["annotations"].pop()
    save(Path(coco), content)
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    assert "made with another inputs" in capsys.readouterr().err
    assert len(read_labels(back, frames[0])) == 2


def test_the_command_exports_polygons_without_empty_masks(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = rle.encode(np.zeros((HEIGHT, WIDTH), bool))
    found = Instances([nothing, *scored(0.5).masks], np.ones((2, 4)), np.array([0.5, 0.6]))
    write_labels(labels, FRAMES[0], found)
    write_image(FRAMES[0].image_path(tmp_path / "data"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    write_split(tmp_path / "split.txt", FRAMES[:1])
    files = {"labels": labels, "split": tmp_path / "split.txt", "data": tmp_path / "data"}
    command = ["labels", "export", *(f"--{name}={path}" for name, path in files.items())]
    main([*command, f"--out={tmp_path / 'L1.json'}", "--polygons", "true"])
    (entry,) = json.loads((tmp_path / "L1.json").read_text())["annotations"]
    (ring,) = entry["segmentation"]
    assert sorted(zip(ring[::2], ring[1::2], strict=True)) == [(3, 4), (3, 9), (10, 4), (10, 9)]
    assert (entry["iscrowd"], entry["area"]) == (0, 35)
    assert "1 instances in 1 frames; 1 without pixels are left out" in capsys.readouterr().out
    for wrong in (["--polygons", "true", "--tolerance=-1"], ["--tolerance=2"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, f"--out={tmp_path / 'none.json'}", *wrong])
        assert stopped.value.code == 2
        assert "--tolerance is" in capsys.readouterr().err


@pytest.fixture
def world(labels: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Labels, a split and grey frames."""
    for frame in FRAMES:
        grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        write_image(frame.image_path(tmp_path / "data").with_suffix(".png"), grey)
    write_split(tmp_path / "split.txt", FRAMES)
    return labels, tmp_path / "split.txt", tmp_path / "data"


def test_labels_are_drawn_where_they_are(world: tuple[Path, Path, Path], tmp_path: Path) -> None:
    show_labels(*world, tmp_path / "shown", count=0, width=WIDTH)
    shown = tmp_path / "shown"
    names = sorted(path.relative_to(shown).as_posix() for path in shown.rglob("*.jpg"))
    assert names == ["train/a/000003.jpg", "train/a/000004.jpg", "train/b/000012.jpg"]
    first, empty = (read_image(shown / name).astype(int) for name in names[:2])
    assert abs(empty - 90).max() < 12
    for left in (3, 12):
        assert (abs(first[6:8, left + 2 : left + 5] - 90).max(-1) > 40).all()
    assert abs(first[18:, 24:] - 90).max() < 30


def test_a_sheet_shows_chosen_frames_and_sure_labels(
    world: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheets = []
    for number, score in enumerate((0.0, 0.6, 0.95)):
        out = tmp_path / f"sheet{number}.png"
        show_labels(*world, out, frames="train/a 3,  train/b 12", score=score, width=72, columns=2)
        sheets.append(read_image(out).astype(int))
    assert sheets[0].shape[1] == 2 * 72 + 3 * 8
    assert "2 of 3 labelled frames" in capsys.readouterr().out
    coloured = [(np.ptp(sheet, axis=-1) > 30).sum() for sheet in sheets]
    assert coloured[0] > coloured[1] > coloured[2] == 0
    with pytest.raises(InputError, match="has no labelled frame 'train/a 9'"):
        show_labels(*world, tmp_path / "none", frames="train/a 9")
    with pytest.raises(InputError, match="--columns is 0"):
        show_labels(*world, tmp_path / "none.png", columns=0)


def test_a_sheet_larger_than_picture_files_is_refused_before_it_is_drawn(
    world: tuple[Path, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    show_labels(*world, tmp_path / "high.png", count=0, width=32, columns=1)
    height, width = read_image(tmp_path / "high.png").shape[:2]
    assert grid_size(3, (HEIGHT, WIDTH, 3), columns=1, width=32) == (height, width)
    with pytest.raises(
        InputError, match=r"a sheet of 3 frames would be 40016 x \d+ pixels"
    ) as told:
        show_labels(*world, tmp_path / "sheet.jpg", count=0, width=40_000, columns=1)
    for word in ("JPEG", "65500", "--count", "--width", "--columns", "folder"):
        assert word in str(told.value)
    assert "ERROR" not in capfd.readouterr().err
    assert not (tmp_path / "sheet.jpg").exists()
