"""What an annotation says twice: its box and its mask."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from moduv.instances import rle
from moduv.instances.masks import OTHER_BOX, contradictions

SIZE = (96, 160)
Corners = tuple[int, int, int, int]


def corners() -> st.SearchStrategy[Corners]:
    """Left, top, right, bottom of a rectangle inside the image."""
    return st.tuples(
        st.integers(0, 100), st.integers(0, 60), st.integers(104, 160), st.integers(64, 96)
    )


def annotation(inner: Corners, box: list[float]) -> dict[str, object]:
    mask = np.zeros(SIZE, bool)
    left, top, right, bottom = inner
    mask[top:bottom, left:right] = True
    return {"bbox": box, "segmentation": rle.encode(mask)}


@given(corners(), st.tuples(*[st.floats(0, 3)] * 4))
@example((1, 1, 28, 42), (0.03, 1.0, 2.4, 0.3))
@example((0, 0, 40, 40), (0.0, 0.0, 2.9, 2.9))
@example((0, 3, 6, 22), (0.0, 0.0, 0.0, 4.1))
@example((0, 3, 6, 22), (-0.9, -0.1, 0.0, 4.1))
def test_a_predicted_box_around_its_mask_contradicts_nothing(
    inner: Corners, wider: tuple[float, float, float, float]
) -> None:
    left, top = max(inner[0] - wider[0], 0.0), max(inner[1] - wider[1], 0.0)
    right, bottom = min(inner[2] + wider[2], SIZE[1]), min(inner[3] + wider[3], SIZE[0])
    entry = annotation(inner, [left, top, right - left, bottom - top])
    assert not list(contradictions(entry, SIZE, predicted=True))


@given(corners().filter(lambda c: c[0] + c[1] > 20))
def test_a_box_of_corners_is_seen(inner: Corners) -> None:
    kinds = [kind for kind, _ in contradictions(annotation(inner, [*inner]), SIZE, predicted=True)]
    assert kinds == [OTHER_BOX]
