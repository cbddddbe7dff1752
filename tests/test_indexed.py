"""Indexed PNGs: what is written is read again, in the colours that evaluation tools expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correspondence_golden import expected
from PIL import Image

from moduv.engine.errors import InputError
from moduv.frames.indexed import PALETTE, read_indexed, write_indexed


def test_indices_survive_and_carry_the_palette(tmp_path: Path) -> None:
    indices = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_indexed(tmp_path / "00000.png", indices)
    assert np.array_equal(read_indexed(tmp_path / "00000.png"), indices)
    with Image.open(tmp_path / "00000.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image.convert("RGB")).reshape(256, 3), PALETTE)


def test_palette_is_that_of_the_evaluation_tool(shared: Path) -> None:
    colours = expected(shared, "more_palette")["evaluation_palette"]
    assert np.array_equal(
        np.array(colours).reshape(-1, 3), PALETTE[: len(np.array(colours).reshape(-1, 3))]
    )


def test_grey_masks_are_read_as_indices(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3], [1, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_indexed(tmp_path / "grey.png").tolist() == [[0, 3], [1, 255]]


@pytest.mark.parametrize("kind", ["colour", "cut", "text", "missing"])
def test_masks_without_indices_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mask.png"
    if kind == "colour":
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    elif kind == "cut":
        write_indexed(path, np.random.default_rng(0).integers(0, 256, (64, 64)))
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "text":
        path.write_text("mask")
    with pytest.raises(InputError, match=r"mask\.png"):
        read_indexed(path)
