"""Identities of the demo last as long as their objects, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from correspondence_world import write_network
from detector_world import HEIGHT, WIDTH, detections, shown, street, write_frames, write_weights
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou

from moduv.commands.cli import main
from moduv.commands.demo import DemoConfig, run_demo
from moduv.correspondence.weights import NetworkConfig
from moduv.engine.errors import InputError
from moduv.frames.images import write_image
from moduv.frames.video import read_clip
from moduv.visual.drawing import instance_color


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained street detector: it finds something everywhere, with spread scores."""
    return write_weights(tmp_path_factory.mktemp("round"), seed=3).parent


def test_identities_last_and_differ_between_videos_and_colours_follow_them(
    weights: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_frames(tmp_path / f"in/{name}.mp4", [street()] * 4)
    run_demo(weights, tmp_path / "in", tmp_path / "all", DemoConfig(batch_size=3))
    content = detections(tmp_path / "all")
    names = [str(tmp_path / f"in/{name}.mp4") for name in ("a", "b")]
    size = {"width": WIDTH, "height": HEIGHT}
    assert content["videos"] == [{"id": i, "name": n, **size} for i, n in enumerate(names, 1)]
    assert [image["frame_index"] for image in content["images"]] == [0, 1, 2, 3] * 2
    assert [image["time"] for image in content["images"][:4]] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert all(("track_id" in a) == (a["score"] > 0.5) for a in content["annotations"])
    found = [[item["track_id"] for item in frame] for frame in shown(content)]
    assert all(len(set(identities)) == len(identities) > 3 for identities in found)
    lasting = [set.intersection(*map(set, found[start : start + 4])) for start in (0, 4)]
    assert all(len(identities) > 3 for identities in lasting)
    assert not lasting[0] & lasting[1]

    # With the best detection alone, the first video's object is number 1, the second one's number 2.
    best, second = sorted((a["score"] for a in content["annotations"][:100]), reverse=True)[:2]
    run_demo(weights, tmp_path / "in", tmp_path / "best", DemoConfig(threshold=(best + second) / 2))
    for name, identity in (("a", 1), ("b", 2)):
        for _, picture in read_clip(tmp_path / f"best/{name}.mp4"):
            changed = np.abs(picture.astype(int) - street()).max(-1) > 60
            colours = picture[changed].astype(int)
            near = {i: (np.abs(colours - instance_color(i)).max(-1) < 40).mean() for i in range(4)}
            assert max(near, key=lambda i: near[i]) == identity
            assert near[identity] > 0.2


def test_a_cut_starts_new_identities(weights: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "cut.mp4", [street()] * 3 + [255 - street()] * 3)
    run_demo(weights, tmp_path / "cut.mp4", tmp_path / "out", DemoConfig())
    found = [{item["track_id"] for item in frame} for frame in shown(detections(tmp_path / "out"))]
    assert found[0] & found[2]
    assert found[3] & found[5]
    assert not found[2] & found[3]


def test_identities_by_propagated_masks_last_until_a_cut(weights: Path, tmp_path: Path) -> None:
    network = write_network(tmp_path / "network.pth", NetworkConfig(width=8, stride=8))
    write_frames(tmp_path / "cut.mp4", [street()] * 3 + [255 - street()] * 2)
    words = ["demo", "--load_ckpt", weights, "--input", tmp_path / "cut.mp4", "--follow", network]
    main([*map(str, words), "--out", str(tmp_path / "out")])
    found = [{item["track_id"] for item in frame} for frame in shown(detections(tmp_path / "out"))]
    assert len(found[0] & found[2]) > 3
    assert found[3] & found[4]
    assert not (found[0] | found[2]) & found[3]
    with pytest.raises(InputError, match="another network than one of correspondences"):
        run_demo(weights, tmp_path / "cut.mp4", tmp_path / "out", DemoConfig(follow=weights))


def test_a_network_that_has_no_video_to_follow_is_said(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "in/one.png", street())
    words = ["demo", "--load_ckpt", weights, "--input", tmp_path / "in", "--out", tmp_path / "out"]
    main([*map(str, words), "--follow", "network.pth"])
    told = capsys.readouterr().out
    assert "in: holds no video, so that --follow has nothing to follow" in told
    assert "1 image, " in told


def test_batches_change_nothing(weights: Path, tmp_path: Path) -> None:
    """Frames that share a batch are found the same objects; near-equal scores may change places."""
    write_frames(tmp_path / "drive.mp4", [street(seed) for seed in range(5)])
    for size in (1, 3):
        run_demo(weights, tmp_path / "drive.mp4", tmp_path / str(size), DemoConfig(batch_size=size))
    one, three = (detections(tmp_path / name)["annotations"] for name in ("1", "3"))
    assert len(one) > 100
    pairs = [pair for number in range(1, 6) for pair in matched(one, three, number)]
    # Suppression may keep the one or the other of two candidates with near-equal scores.
    assert len(pairs) >= 0.97 * max(len(one), len(three))
    for first, second in pairs:
        assert first["score"] == pytest.approx(second["score"], abs=1e-3)
    identities = {(a["track_id"], b["track_id"]) for a, b in pairs if {"track_id"} <= {*a} & {*b}}
    assert len(identities) <= 1.05 * len({first for first, _ in identities})


def matched(first: list[dict], second: list[dict], image: int) -> list[tuple[dict, dict]]:
    """Detections of an image with their counterparts, one to one, of a box IoU above 0.95."""
    ones, others = (
        [entry for entry in found if entry["image_id"] == image] for found in (first, second)
    )
    boxes = (
        torch.tensor([entry["bbox"] for entry in found]).reshape(-1, 4) for found in (ones, others)
    )
    overlaps = box_iou(*(box_convert(kind, "xywh", "xyxy") for kind in boxes)).numpy()
    rows, columns = linear_sum_assignment(-overlaps)
    return [
        (ones[i], others[j]) for i, j in zip(rows, columns, strict=True) if overlaps[i, j] > 0.95
    ]
