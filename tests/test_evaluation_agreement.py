"""Label sets are compared without truth: what stays, what is new, what fits."""

from __future__ import annotations

import numpy as np
import pytest

from moduv.evaluation.agreement import (
    Agreement,
    compare,
    compare_sets,
    describe_sets,
    root_areas,
    without_ignored,
)
from moduv.instances import rle
from moduv.instances.instances import Instances

HEIGHT, WIDTH = 40, 60


def squares(
    *corners: tuple[int, int], side: int = 10, scores: list[float] | None = None
) -> Instances:
    masks, boxes = [], []
    for left, top in corners:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + side, left : left + side] = True
        masks.append(rle.encode(mask))
        boxes.append([left, top, left + side, top + side])
    scored = None if scores is None else np.array(scores)
    return Instances(masks, np.array(boxes).reshape(-1, 4), scored, (HEIGHT, WIDTH))


@pytest.mark.parametrize("boxes", [False, True])
def test_instances_pair_once_with_the_largest_overlap(boxes: bool) -> None:
    # The second square of the first set overlaps the same partner less and stays alone.
    first = squares((0, 0), (2, 0), (40, 20))
    second = squares((0, 0), (20, 20))
    found = compare(first, second, boxes=boxes)
    assert found == Agreement(first=3, second=2, pairs=1, overlap=1.0)
    assert (found.kept, found.new, found.f1) == (pytest.approx(1 / 3), 0.5, pytest.approx(0.4))
    assert compare(second, first, boxes=boxes).pairs == 1


def test_pairs_overlap_by_half() -> None:
    # 10 x 10 squares shifted by 3 share 70 of 130 pixels, by 4 only 60 of 140.
    near, far = squares((3, 0)), squares((4, 0))
    assert compare(squares((0, 0)), near).iou == pytest.approx(70 / 130)
    assert compare(squares((0, 0)), far) == Agreement(1, 1)
    assert compare(squares((0, 0)), far).iou == -1


def test_nothing_to_compare_is_undefined() -> None:
    nothing = compare_sets([squares()], [squares()])
    assert (nothing.kept, nothing.new, nothing.f1, nothing.iou) == (-1, -1, -1, -1)
    assert compare(squares(), squares((0, 0))).new == 1
    assert compare(squares((0, 0)), squares()).kept == 0


def test_masks_of_another_size_are_compared_at_the_same_scale() -> None:
    small = squares((4, 4))
    large = small.resized(2 * HEIGHT, 2 * WIDTH)
    assert compare(small, large) == Agreement(1, 1, 1, 1.0)
    assert root_areas({"L0": [small], "L1": [large]}) == {"L0": [20.0], "L1": [20.0]}


def test_label_sets_are_described() -> None:
    before = [squares((0, 0), (20, 0)), squares((0, 20)), squares()]
    after = [squares((0, 0), scores=[0.5]), squares((0, 20), (40, 20), scores=[0.7, 0.9])]
    after.append(squares(scores=[]))
    described = describe_sets({"L0": before, "L1": after})
    assert described["L0"] == {
        "labels/count": 3,
        "labels/per_frame": 1.0,
        "labels/empty": pytest.approx(1 / 3),
        "labels/size": 10.0,
        "labels/score": -1.0,
    }
    assert described["L1"]["labels/score"] == pytest.approx(0.7)
    agreement = [described["L1"][f"labels/{name}"] for name in ("kept", "new", "iou")]
    assert agreement == [pytest.approx(2 / 3), pytest.approx(1 / 3), 1.0]


def test_detections_in_ignored_regions_do_not_count() -> None:
    found = squares((0, 0), (30, 20), scores=[0.5, 0.9])
    crowd = squares((0, 0), side=24)
    assert without_ignored(found, crowd).boxes.tolist() == [[30, 20, 40, 30]]
    assert without_ignored(found, squares()) is found
