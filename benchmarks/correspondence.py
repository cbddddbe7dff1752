"""Masks carried through a video and measured, beside the plain ways: time, peak memory, same result.

    python benchmarks/correspondence.py propagation [--frames 22] [--peer FOLDER]
    python benchmarks/correspondence.py measures --peer FOLDER

Propagation is compared with products of every pixel with all pixels of the context, of which those out of
reach are masked afterwards; and with dense-ulearn-vos, where its checkout is given. Measures are compared with
davis2017-evaluation, whose checkout is the folder; it needs scikit-image. Every side runs in a process of its own with one thread, and both must say the same.
The last of the frames is timed; with 22 its context of 20 is full, with
fewer the first frame stands for those before it. Memory is what a process holds at most, beyond its libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

CHANNELS, CELLS, SIZE = 512, (60, 107), (480, 854)
CONTEXT, RADIUS, TOP_K, TEMPERATURE = 20, 12, 10, 0.05
QUERIES = 100
"""Pixels that the plain way takes at once, as the reference does."""
FRAMES, OBJECTS, DAVIS_SIZE = 69, 2, (480, 910)
Result = dict[str, Any]


def peak() -> float:
    """MB that this process has held at most; unlike `ru_maxrss` not what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def feature(frame: int) -> Any:
    """Features (C, h, w) of one frame of a scene that changes slowly."""
    import torch

    scene = torch.randn(CHANNELS, *CELLS, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(frame + 1)
    for channel in scene:  # one by one, for what is in memory here counts for both sides
        channel.add_(torch.randn(CELLS, generator=random), alpha=0.7)
    return scene.div_(scene.norm(dim=0))


def mask() -> np.ndarray:
    """Three objects."""
    indices = np.zeros(SIZE, np.uint8)
    indices[100:200, 200:300], indices[250:300, 400:700], indices[300:400, 100:200] = 1, 2, 3
    return indices


def propagate_ours(store: Path, frames: int) -> Result:
    """Go through the frames, of which the last is timed; keeps all planes in `store`."""
    import torch

    from moduv.correspondence.propagation import Memory, PropagationConfig, first_planes

    config = PropagationConfig(CONTEXT, RADIUS, TOP_K, TEMPERATURE)
    tiny = Memory(2, config)
    for given in (torch.ones(2, 32, 32), None):  # compiles
        tiny.advance(torch.ones(4, 16, 16), given)
    libraries = peak()
    given = first_planes({0: mask()})
    memory = Memory(len(given[0]), config)
    planes = np.empty((frames, len(given[0]), *CELLS), np.float32)
    seconds = 0.0
    for frame in range(frames):
        x = feature(frame)
        begin = time.process_time()
        planes[frame] = memory.advance(x, given.get(frame)).numpy()
        seconds = time.process_time() - begin
        del x
    np.save(store, planes)
    return {"seconds": seconds, "MB": peak() - libraries}


def propagate_plainly(store: Path, frames: int) -> Result:
    """The same last frame, from the context that `propagate_ours` has kept."""
    return _last_frame(store, frames, all_pixels_then_masked)


def propagate_officially(store: Path, frames: int) -> Result:
    """The same by the reference's own code, on the CPU."""
    import torch
    from labelprop.common import LabelPropVOS_CRW

    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    names = {"CXT_SIZE": CONTEXT, "RADIUS": RADIUS, "TEMP": TEMPERATURE, "KNN": TOP_K}
    propagation = LabelPropVOS_CRW(SimpleNamespace(TEST=SimpleNamespace(**names)))

    def predict(past: Sequence[Any], planes: Sequence[Any], query: Any) -> Any:
        return propagation.predict([x[None] for x in past], [x[None] for x in planes], query[None])[
            0
        ]

    return _last_frame(store, frames, predict)


def _last_frame(store: Path, frames: int, predict: Callable[..., Any]) -> Result:
    import torch

    planes = torch.from_numpy(np.load(store))
    libraries = peak()
    last = frames - 1
    context = [0, *(max(0, frame) for frame in range(last - CONTEXT, last))]
    known, query = {frame: feature(frame) for frame in sorted(set(context))}, feature(last)
    past = [known[frame] for frame in context]
    begin = time.process_time()
    found = predict(past, [planes[frame] for frame in context], query)
    seconds = time.process_time() - begin
    wanted = planes[last]
    difference = float((found - wanted).abs().max())
    other = int((found.argmax(0) != wanted.argmax(0)).sum())
    return {
        "seconds": seconds,
        "MB": peak() - libraries,
        "difference": difference,
        "other indices": other,
    }


def all_pixels_then_masked(past: Sequence[Any], planes: Sequence[Any], query: Any) -> Any:
    """Planes (K, h, w) of a frame by the affinity with all pixels of all frames; the first is not masked."""
    import torch

    height, width = CELLS
    keys = torch.stack(list(past)).flatten(2)  # (T, C, h w)
    labels = torch.stack(list(planes), 1).flatten(1)  # (K, T h w)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    barred = torch.where(torch.cdist(places, places) < RADIUS, 0.0, -1e10)
    found = []
    for start in range(0, height * width, QUERIES):
        some = query.flatten(1)[:, start : start + QUERIES]
        affinity = keys.transpose(1, 2) @ some  # (T, h w, queries)
        affinity[1:] += barred[:, start : start + QUERIES]
        best, chosen = (affinity / TEMPERATURE).flatten(0, 1).topk(TOP_K, dim=0)
        found.append((labels[:, chosen] * best.softmax(0)).sum(1))
    return torch.cat(found, 1).view(-1, height, width)


def write_davis(root: Path) -> tuple[Path, Path]:
    """A DAVIS with one sequence of two objects that move and turn, and results that lag behind."""
    import cv2

    from moduv.instances.indexed import write_indices

    results = root / "results"
    for frame in range(FRAMES):
        for folder, lag in ((root / "Annotations/480p", 0), (results, 3)):
            indices = np.zeros(DAVIS_SIZE, np.uint8)
            for index in range(1, OBJECTS + 1):
                centre = (150 * index + 5 * frame - lag, 100 * index + 2 * frame + lag)
                axes = (90 - lag, 40 + frame // 2)
                cv2.ellipse(indices, centre, axes, 4.0 * frame, 0, 360, index, cv2.FILLED)
            write_indices(folder / "sequence" / f"{frame:05d}.png", indices)
        image = root / "JPEGImages/480p/sequence" / f"{frame:05d}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()  # the official tool asks for images and does not read them
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("sequence\n")
    return root, results


def measure_ours(root: Path, _: int) -> Result:
    from moduv.evaluation.vos import evaluate_vos

    libraries = peak()
    begin = time.process_time()
    overall = evaluate_vos(root, root / "results", workers=1)
    seconds = time.process_time() - begin
    return {"seconds": seconds, "MB": peak() - libraries, "all MB": peak(), "scores": overall}


def measure_officially(root: Path, _: int) -> Result:
    from davis2017.evaluation import DAVISEvaluation

    libraries = peak()
    begin = time.process_time()
    found = DAVISEvaluation(davis_root=str(root), task="semi-supervised", gt_set="val").evaluate(
        str(root / "results")
    )
    seconds = time.process_time() - begin
    values = [np.mean(found[kind][key]) for kind in "JF" for key in "MRD"]
    scores = [(values[0] + values[3]) / 2, *values]
    return {"seconds": seconds, "MB": peak() - libraries, "all MB": peak(), "scores": scores}


SIDES = {
    "propagate_ours": propagate_ours,
    "propagate_plainly": propagate_plainly,
    "propagate_officially": propagate_officially,
    "measure_ours": measure_ours,
    "measure_officially": measure_officially,
}


def run_side(side: str, place: Path, more_paths: Sequence[Path] = (), frames: int = 0) -> Result:
    """What a side says, from a process of its own."""
    paths = os.pathsep.join(map(str, [*more_paths, *filter(None, sys.path)]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    words = [sys.executable, __file__, "side", "--side", side, "--place", str(place)]
    words += ["--frames", str(frames)]
    environment = {**os.environ, **threads, "PYTHONPATH": paths}
    output = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def show(title: str, ours: Result, plain: Result, name: str) -> None:
    print(f"{title:<14} {'ours':>10} {name:>10} {'ratio':>8}")
    for key in ours.keys() & plain.keys() - {"scores"}:
        print(f"{key:<14} {ours[key]:10.2f} {plain[key]:10.2f} {plain[key] / ours[key]:8.1f}")


def propagation(peer: Path | None, frames: int) -> None:
    sides = {"propagate_plainly": []} | ({"propagate_officially": [peer]} if peer else {})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "planes.npy"
        ours = run_side("propagate_ours", store, frames=frames)
        for side, paths in sides.items():
            plain = run_side(side, store, paths, frames)
            show("one frame", ours, plain, side.removeprefix("propagate_"))
            print(f"difference {plain['difference']:.1e}, other indices {plain['other indices']}")


def measures(peer: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, _ = write_davis(Path(folder))
        ours = run_side("measure_ours", root)
        official = run_side("measure_officially", root, [peer])
    show("69 frames", ours, official, "officially")
    apart = np.abs(np.array([*ours["scores"].values()]) - official["scores"]).max()
    print(f"largest difference {apart:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["propagation", "measures", "side"])
    parser.add_argument("--peer", type=Path, help="checkout of the code to compare with")
    parser.add_argument("--frames", type=int, default=CONTEXT + 2)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "side":
        print(json.dumps(SIDES[given.side](given.place, given.frames)))
    elif given.what == "propagation":
        propagation(given.peer, given.frames)
    elif given.peer is None:
        parser.error("measures need --peer, a checkout of davis2017-evaluation")
    else:
        measures(given.peer)


if __name__ == "__main__":
    main()
