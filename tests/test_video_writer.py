"""Video files are written whole, with their times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.frames.video import read_clip
from moduv.frames.video_writer import frame_rate, write_video


def test_videos_keep_their_times_and_odd_sides_become_even(tmp_path: Path) -> None:
    times = [0.5, 0.54, 0.6, 1.0]
    images = [np.full((41, 61, 3), 60 * index, np.uint8) for index in range(4)]
    count = write_video(
        tmp_path / "v.mp4", list(zip(times, images, strict=True)), Fraction(30000, 1001)
    )
    assert count == 4
    read = list(read_clip(tmp_path / "v.mp4"))
    assert [time for time, _ in read] == pytest.approx([0, 0.04, 0.1, 0.5], abs=1e-4)
    assert [image.shape for _, image in read] == [(42, 62, 3)] * 4
    assert all(
        np.abs(image.astype(int) - 60 * index).max() < 4 for index, (_, image) in enumerate(read)
    )


def test_frames_without_times_follow_at_the_rate(tmp_path: Path) -> None:
    frames = [(time, np.zeros((40, 60, 3), np.uint8)) for time in (None, None, 0.01, None)]
    write_video(tmp_path / "v.mp4", frames, Fraction(25))
    assert [time for time, _ in read_clip(tmp_path / "v.mp4")] == pytest.approx(
        [0, 0.04, 0.08, 0.12], abs=1e-4
    )
    assert frame_rate(tmp_path / "v.mp4") == 25


def test_a_video_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield 0.0, np.zeros((40, 60, 3), np.uint8)
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        write_video(tmp_path / "v.mp4", broken(), Fraction(25))
    with pytest.raises(InputError, match="no frames"):
        write_video(tmp_path / "v.mp4", [], Fraction(25))
    with pytest.raises(InputError, match=r"v\.mp4: the video could not be encoded"):
        write_video(tmp_path / "v.mp4", [(0.0, np.zeros((4, 20_000, 3), np.uint8))], Fraction(25))
    assert not list(tmp_path.iterdir())
    assert "libx264" in av.codecs_available
