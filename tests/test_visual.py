"""The pictures show what they are given, and the charts what is logged."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moduv.instances.instances import Instances
from moduv.visual import drawing
from moduv.visual.figures import (
    Axis,
    bar_chart,
    format_duration,
    line_chart,
    score_histograms,
    size_histograms,
)

GREY = np.full((60, 90, 3), 100, np.uint8)


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(GREY.shape[:2], bool)
    mask[top : top + height, left : left + width] = True
    return mask


def as_instances(masks: list[np.ndarray], scores: list[float] | None = None) -> Instances:
    if not masks:
        return Instances([], np.zeros((0, 4)))
    return Instances.from_dense(
        np.stack(masks), scores=None if scores is None else np.array(scores)
    )


# -------------------------------------------------------------------------------- drawing


def test_instance_colors_are_far_apart_and_stable() -> None:
    colors = np.array([drawing.instance_color(index) for index in range(12)], float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 60
    assert drawing.instance_color(7) == drawing.instance_color(7)


def test_instances_colour_their_pixels_and_nothing_else() -> None:
    mask = block(20, 30, 16, 24)
    before = GREY.copy()
    picture = drawing.draw_instances(GREY, as_instances([mask]), boxes=False)
    assert (before == GREY).all()
    changed = (picture != GREY).any(axis=-1)
    assert changed[mask].all()
    near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
    assert not changed[~near].any()


def test_masks_and_boxes_are_brought_to_the_size_of_the_image() -> None:
    large = np.full((240, 360, 3), 100, np.uint8)
    picture = drawing.draw_instances(large, as_instances([block(20, 30, 16, 24)]))
    ys, xs = np.nonzero((picture != large).any(axis=-1))
    assert (abs(ys.min() - 80), abs(ys.max() - 143)) <= (3, 3)
    assert abs(xs.min() - 120) <= 3
    assert abs(xs.max() - 215) <= 3


def test_small_masks_stay_visible_on_large_ones() -> None:
    small, large = block(25, 40, 6, 6), block(10, 10, 40, 70)
    pictures = [
        drawing.draw_instances(GREY, as_instances(order), boxes=False, colors=colors)
        for order, colors in (
            ([small, large], [(255, 0, 0), (0, 0, 255)]),
            ([large, small], [(0, 0, 255), (255, 0, 0)]),
        )
    ]
    assert (pictures[0] == pictures[1]).all()
    on_small, on_large = pictures[0][28, 43], pictures[0][20, 20]
    assert on_small[0] > on_small[2]
    assert on_large[2] > on_large[0]


def test_score_threshold_leaves_instances_out() -> None:
    weak, strong = block(5, 5, 10, 10), block(30, 50, 10, 10)
    instances = as_instances([weak, strong], [0.5, 0.9])
    changed = (drawing.draw_instances(GREY, instances, score_threshold=0.5) != GREY).any(axis=-1)
    assert changed[strong].all()
    assert not changed[weak].any()
    empty = as_instances([])
    assert (drawing.draw_instances(GREY, empty) == GREY).all()


@settings(max_examples=40, deadline=None)
@given(
    corner=st.tuples(st.floats(-50, 140), st.floats(-50, 140)),
    size=st.tuples(st.floats(0, 200), st.floats(0, 200)),
    image=st.tuples(st.integers(2, 70), st.integers(2, 120)),
)
def test_any_box_can_be_drawn(
    corner: tuple[float, float], size: tuple[float, float], image: tuple[int, int]
) -> None:
    box = np.array([[*corner, corner[0] + size[0], corner[1] + size[1]]])
    picture = np.zeros((*image, 3), np.uint8)
    found = Instances.from_dense(np.zeros((1, *image), bool), box, np.array([0.5]))
    drawn = drawing.draw_instances(picture, found)
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8


def test_objects_keep_their_colour_between_label_sets() -> None:
    car, van, bike = block(10, 5, 12, 20), block(30, 40, 20, 30), block(5, 70, 15, 8)
    shifted = np.roll(car, 2, axis=1)
    first, second, none = drawing.shared_colors(
        [as_instances([car, van]), as_instances([bike, van, shifted]), as_instances([])]
    )
    assert second[1] == first[1]
    assert second[2] == first[0]
    assert second[0] not in first
    assert none == []


def test_near_is_bright_in_a_depth_map() -> None:
    depth = np.tile(np.linspace(0.1, 2.0, 50), (20, 1))
    brightness = drawing.draw_depth(depth).astype(int).sum(axis=-1)
    assert (np.diff(brightness[0]) <= 0).all()
    assert brightness[0, 0] > brightness[0, -1]
    flat = drawing.colorize(np.full((4, 4), 3.0), "magma", 3.0, 3.0)
    assert (flat == flat[0, 0]).all()


def test_motion_overlay_colours_what_moves() -> None:
    mask = np.zeros((30, 45), np.float32)
    mask[10:20, 10:30] = 1
    picture = drawing.draw_motion(np.full((60, 90, 3), 120, np.uint8), mask).astype(int)
    still, moving = picture[5, 5], picture[30, 40]
    assert still[0] == still[1] == still[2]
    assert moving[0] > moving[2] + 60


def test_flow_colours_tell_directions_and_stillness() -> None:
    flow = np.zeros((2, 4, 4))
    flow[0, 0], flow[0, 1] = 1.0, -1.0
    picture = drawing.draw_flow(flow).astype(int)
    assert (picture[3, 3] == 255).all()
    assert picture[0, 0, 0] > picture[0, 0, 2]
    assert picture[1, 0, 2] > picture[1, 0, 0]
    complete = np.stack([flow[0], np.full((4, 4), 9.0), flow[1]])
    assert (drawing.draw_flow(complete) == picture).all()


def test_enlarge_and_grid_sizes() -> None:
    assert drawing.enlarge(GREY, 200).shape == (180, 270, 3)
    assert drawing.enlarge(GREY, 50).shape == GREY.shape
    wide = np.zeros((10, 90, 3), np.uint8)
    sheet = drawing.picture_grid({"a": GREY, "b": GREY, "c": wide}, columns=2, width=90)
    assert sheet.shape[1] == 2 * 98 + 8
    assert (sheet[8 + 20 + 10, 10] == 100).all()
    assert sheet.dtype == np.uint8


# -------------------------------------------------------------------------------- figures


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), log=st.booleans())
def test_ticks_are_few_round_and_inside(low: float, span: float, log: bool) -> None:
    low = abs(low) + 1e-3 if log else low
    axis = Axis(low, low + span, 0, 100, log=log, padded=True)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 14
    assert all(-1 <= axis(tick) <= 101 for tick in ticks)
    assert axis(low) < axis(low + span)


def test_charts_survive_what_trainings_log() -> None:
    points = [(0, 1.0), (10, float("nan")), (20, 0.5)]
    drawn = line_chart("loss", {"loss": points, "a <b>": [(5, 2.0)]}).__html__()
    data = json.loads(html.unescape(re.search(r'data-plot="([^"]*)"', drawn).group(1)))  # type: ignore[union-attr]
    assert data["series"]["loss"] == [[0, 1.0], [20, 0.5]]
    assert "<b>" not in drawn
    assert "nan" not in drawn.lower()
    assert "<polyline" in line_chart("flat", {"x": [(0, 3.0), (1, 3.0)]}).__html__()
    assert "nothing logged" in line_chart("none", {"x": []}).__html__()
    assert "nothing logged" in line_chart("log", {"x": [(0, 0.0)]}, log=True).__html__()


def test_bars_stand_for_values() -> None:
    groups = {"L0": {"moving": 0.2, "static": -1.0}, "L1": {"moving": 0.4}}
    drawn = bar_chart("recall", groups).__html__()
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)
    assert "nothing measured" in bar_chart("none", {"L0": {"moving": -1.0}}).__html__()


def test_a_chart_as_a_file_holds_its_legend_and_colours(tmp_path: Path) -> None:
    groups = {"L0": {"moving": 0.2, "a <b>": 0.4}}
    bar_chart("recall", groups).save(tmp_path / "recall.svg")
    drawn = ElementTree.parse(tmp_path / "recall.svg").getroot()
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[-2:] == ["moving", "a <b>"]
    assert "var(" not in (tmp_path / "recall.svg").read_text()
    line_chart("none", {}).save(tmp_path / "blank.svg")
    assert len(ElementTree.parse(tmp_path / "blank.svg").getroot()) == 1


def test_size_histograms_count_every_instance() -> None:
    drawn = size_histograms({"L0": [4.0, 16.0, 16.5], "empty": []}, {"medium": 16}).__html__()
    counts = [int(n) for n in re.findall(r"px: (\d+)</title>", drawn)]
    assert sum(counts) == 3
    assert "3 instances" in drawn
    assert "no instances" in size_histograms({"L0": []}, {}).__html__()


def test_score_histograms_count_every_score() -> None:
    drawn = score_histograms({"L1": [0.0, 0.5, 1.0, 1.0], "L0": []}).__html__()
    counts = {t: int(n) for t, n in re.findall(r"<title>([^:<]*): (\d+)</title>", drawn)}
    assert counts == {"0.00–0.04": 1, "0.48–0.52": 1, "0.96–1.00": 2}
    assert "no scores" in score_histograms({"L0": []}).__html__()


def test_a_single_value_has_a_single_tick() -> None:
    assert Axis(3, 3, 0, 100).ticks() == [3]


def test_durations_read_well() -> None:
    seconds = (0.84, 47.2, 365, 3600 * 2 + 600)
    assert [format_duration(s) for s in seconds] == ["0.8 s", "47 s", "6 min 05 s", "2 h 10 min"]


def test_the_error_of_depth_knows_no_unit() -> None:
    truth = np.full((20, 30), 10.0)
    truth[:, :3] = 0  # unknown
    depth = np.full((10, 15), 4.0)
    plain = drawing.draw_depth_error(depth, truth)
    assert (plain == plain[0, 0]).all(), "one colour, that of no error"
    depth[5:8, 6:9] = 8.0
    picture = drawing.draw_depth_error(depth, truth).astype(int)
    assert picture[13, 15].sum() > picture[2, 20].sum() + 200
    assert (picture[:, :3] == plain[0, 0]).all()
    assert drawing.draw_depth_error(depth, np.zeros((20, 30))).shape == (20, 30, 3)
