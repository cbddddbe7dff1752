"""Pseudo-labels beside the straightforward ways to compute them: time, peak memory, same result.

    python benchmarks/labels.py [--motion-output FILE.npz ...] [--repeat 5]

L0 is compared with DBSCAN on a sparse graph of all pixels, built with whole-array operations and
clustered by compiled code, as scikit-learn does it; with scikit-learn itself where it is installed.
L2 is compared with the same merge on dense float masks. Every result must be the same.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numba
import numpy as np
import torch
from scipy import sparse

from moduv.engine.files import read_npz
from moduv.instances import rle
from moduv.instances.instances import Instances, Predictions
from moduv.labels.aggregated import aggregate_predictions
from moduv.labels.initial import extract_instances, ranges

HEIGHT, WIDTH = 320, 480
FULL_HEIGHT, FULL_WIDTH = 1280, 1920
Work = Callable[[], Instances]
Row = tuple[str, str, float, float, float, float]


def street_scene(seed: int, movers: int) -> dict[str, np.ndarray]:
    """A motion output at 320 x 480: ellipses at their ranges before a far background."""
    rng = np.random.default_rng(seed)
    mask, depth = (
        np.zeros((HEIGHT, WIDTH), np.float32),
        np.full((HEIGHT, WIDTH), 2.0, np.float32),
    )
    for distance in sorted(rng.uniform(0.2, 1.0, movers), reverse=True):
        shape = np.zeros((HEIGHT, WIDTH), np.uint8)
        centre = (int(rng.uniform(0, WIDTH)), int(rng.uniform(120, 260)))
        axes = (int(8 / distance + 12), int(5 / distance + 8))
        cv2.ellipse(shape, centre, axes, 0, 0, 360, 1, cv2.FILLED)
        mask[shape > 0], depth[shape > 0] = 0.95, distance
    inverse = np.linalg.inv(np.array([[518.0, 0, 238], [0, 518.0, 164], [0, 0, 1]]))
    return {"mot_mask": mask, "depth": depth, "inv_K": inverse}


def graph_instances(mot_mask: np.ndarray, depth: np.ndarray, inv_K: np.ndarray) -> Instances:
    """L0 by DBSCAN on the sparse graph of neighbours over all pixels."""
    graph = neighbour_graph(mot_mask, ranges(depth, inv_K))
    counts = np.diff(graph.indptr)
    labels = _grow_clusters(graph.indptr, graph.indices, counts >= 100).reshape(depth.shape)
    return _instances(labels)


def sklearn_instances(mot_mask: np.ndarray, depth: np.ndarray, inv_K: np.ndarray) -> Instances:
    """L0 by scikit-learn's DBSCAN."""
    from sklearn.cluster import DBSCAN

    graph = neighbour_graph(mot_mask, ranges(depth, inv_K))
    clustering = DBSCAN(eps=float(np.float32(0.03)), min_samples=100, metric="precomputed")
    return _instances(clustering.fit(graph).labels_.reshape(depth.shape))


def neighbour_graph(mot_mask: np.ndarray, distance: np.ndarray) -> sparse.csr_matrix:
    """Differences of range (H W, H W) between moving pixels of a window of 10 x 10, up to eps."""
    height, width = distance.shape
    moving = mot_mask > 0.1
    index = np.arange(height * width).reshape(height, width)
    rows, columns, values = [], [], []
    for dy in range(-5, 5):
        for dx in range(-5, 5):
            here = (_shifted(height, -dy), _shifted(width, -dx))
            there = (_shifted(height, dy), _shifted(width, dx))
            difference = np.abs(distance[here] - distance[there])
            chosen = moving[here] & moving[there] & (difference <= np.float32(0.03))
            rows.append(index[here][chosen])
            columns.append(index[there][chosen])
            values.append(difference[chosen])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(index.size, index.size))


def _shifted(length: int, offset: int) -> slice:
    return slice(max(0, offset), length + min(0, offset))


@numba.njit(cache=True)
def _grow_clusters(starts: np.ndarray, neighbours: np.ndarray, is_core: np.ndarray) -> np.ndarray:
    labels = np.full(len(is_core), -1, np.int64)
    stack, count = [0], 0
    for seed in range(len(is_core)):
        if labels[seed] >= 0 or not is_core[seed]:
            continue
        stack.append(seed)
        labels[seed] = count
        while len(stack) > 1:
            pixel = stack.pop()
            if is_core[pixel]:
                for other in neighbours[starts[pixel] : starts[pixel + 1]]:
                    if labels[other] < 0:
                        labels[other] = count
                        stack.append(other)
        count += 1
    return labels


def _instances(labels: np.ndarray) -> Instances:
    masks, boxes = [], []
    for number in range(labels.max() + 1):
        mask = labels == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows[-1] - rows[0] > 5 and columns[-1] - columns[0] > 5:
            masks.append(rle.encode(mask))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return Instances(masks, np.array(boxes), size=labels.shape)


def soft_detections(seed: int, count: int, smallest: float, largest: float) -> Predictions:
    """Soft masks at 1280 x 1920 as a mask head gives them: positive on nearly the whole box."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(count, FULL_HEIGHT, FULL_WIDTH)
    boxes = []
    axis = np.linspace(-1, 1, 28)
    template = 1 / (1 + np.exp(8 * (np.hypot(*np.meshgrid(axis, axis)) - 0.85)))
    for mask in masks:
        width, height = (int(side) for side in rng.uniform(smallest, largest, 2))
        left, top = rng.integers(FULL_WIDTH - width), rng.integers(FULL_HEIGHT - height)
        soft = cv2.resize(template.astype(np.float32), (width, height))
        mask[top : top + height, left : left + width] = torch.from_numpy(soft)
        boxes.append([left, top, left + width, top + height])
    scores = torch.from_numpy(np.sort(rng.uniform(0.9, 1, count))[::-1].astype(np.float32))
    return Predictions.from_dense(masks, torch.tensor(np.array(boxes), dtype=torch.float32), scores)


def dense_aggregate(
    large: Predictions, small: Predictions, masks_large: torch.Tensor, masks_small: torch.Tensor
) -> Instances:
    """L2 on dense float masks (N, H, W), all pairs at once."""
    kept_large, kept_small = _dense_clean(masks_large, True), _dense_clean(masks_small, False)
    first, second = (masks_large[kept_large] > 0.5).float(), (masks_small[kept_small] > 0.5).float()
    common = (first[:, None] * second[None]).sum((2, 3))
    areas = first.sum((1, 2))[:, None] + second.sum((1, 2))[None]
    iou = common / (areas - common + 1e-6)
    won_large: set[int] = set()
    won_small: set[int] = set()
    met_large: set[int] = set()
    met_small: set[int] = set()
    while iou.numel() and iou.max() > 0.5:
        i, j = divmod(int(iou.argmax()), iou.shape[1])
        iou[i, j] = 0
        met_large.add(i)
        met_small.add(j)
        if large.scores[kept_large[i]] >= small.scores[kept_small[j]]:
            won_large.add(i)
        else:
            won_small.add(j)
    rest = [i for i in range(len(first)) if i not in met_large]
    rest_large = _dense_uncovered(first, rest, second)
    survivors = torch.cat([first[sorted(won_large)], second[sorted(won_small)], first[rest_large]])
    rest = [j for j in range(len(second)) if j not in met_small]
    rest_small = _dense_uncovered(second, rest, survivors)
    chosen = torch.cat([survivors, second[rest_small]])
    origin_large = [kept_large[i] for i in sorted(won_large)]
    origin_small = [kept_small[j] for j in sorted(won_small)]
    origin_rest = [kept_large[i] for i in rest_large], [kept_small[j] for j in rest_small]
    boxes = [large.boxes[origin_large], small.boxes[origin_small]]
    boxes += [large.boxes[origin_rest[0]], small.boxes[origin_rest[1]]]
    return Instances(
        [rle.encode(mask.numpy()) for mask in chosen],
        torch.cat(boxes).numpy(),
        size=(FULL_HEIGHT, FULL_WIDTH),
    )


def _dense_clean(masks: torch.Tensor, by_larger: bool) -> list[int]:
    support, sums = (masks > 0).float(), masks.sum((1, 2))
    order = sums.argsort(descending=by_larger).tolist()
    kept = []
    for place, index in enumerate(order):
        union = support[order[:place]].sum(0) > 0
        if (support[index] * union).sum() / sums[index] <= 0.75:
            kept.append(index)
    return sorted(kept)


def _dense_uncovered(masks: torch.Tensor, rest: list[int], others: torch.Tensor) -> list[int]:
    union = others.sum(0) > 0
    return [i for i in rest if (masks[i] * union).sum() / masks[i].sum() < 0.5]


def measure(work: Work, repeat: int) -> tuple[Instances, float, float]:
    """Result, median processor seconds of a warm call, and the MB it takes beyond its input."""
    result = work()
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    memory = float("nan")
    if clear.exists():  # Linux: give back what is free, forget the highest memory so far
        ctypes.CDLL(None).malloc_trim(0)
        clear.write_text("5")
        before = _kilobytes(status, "VmRSS")
        work()
        memory = (_kilobytes(status, "VmHWM") - before) / 1000
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return result, float(np.median(seconds)), memory


def _kilobytes(status: Path, key: str) -> int:
    return next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith(key))


def compare(title: str, ours: Work, baselines: dict[str, Work], repeat: int) -> list[Row]:
    """A row a baseline; raises AssertionError when the results differ."""
    result, seconds, memory = measure(ours, 3 * repeat)
    rows = []
    for name, baseline in baselines.items():
        expected, slow, much = measure(baseline, repeat)
        assert result.masks == expected.masks, f"{title}: {name} gives other masks"
        assert np.allclose(result.boxes, expected.boxes), f"{title}: {name} gives other boxes"
        rows.append((f"{title}, {len(result)} instances", name, seconds, slow, memory, much))
    return rows


def print_table(rows: Sequence[Row]) -> None:
    print(f"\n{'case':<44}{'baseline':<16}{'ours':>10}{'baseline':>12}{'ratio':>8}", end="")
    print(f"{'ours':>10}{'baseline':>12}")
    for title, name, fast, slow, little, much in rows:
        times = f"{fast * 1e3:>7.1f} ms{slow * 1e3:>9.0f} ms{slow / fast:>8.0f}"
        print(f"{title:<44}{name:<16}{times}{little:>7.0f} MB{much:>9.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--motion-output", type=Path, nargs="*", default=[], help="npz files")
    parser.add_argument("--repeat", type=int, default=5, help="warm calls of a baseline")
    options = parser.parse_args()
    torch.set_num_threads(1)

    scenes = {
        path.stem: read_npz(path, ("mot_mask", "depth", "inv_K")) for path in options.motion_output
    }
    scenes |= {"street, 6 movers": street_scene(0, 6), "street, 60 movers": street_scene(1, 60)}
    baselines: dict[str, Callable[..., Instances]] = {"sparse graph": graph_instances}
    if importlib.util.find_spec("sklearn"):
        baselines["scikit-learn"] = sklearn_instances
    rows = []
    for name, scene in scenes.items():
        arrays = (scene["mot_mask"], scene["depth"], scene["inv_K"])
        others: dict[str, Work] = {
            key: functools.partial(work, *arrays) for key, work in baselines.items()
        }
        ours = functools.partial(extract_instances, *arrays)
        rows += compare(f"L0 {name}", ours, others, options.repeat)
    pair = soft_detections(0, 15, 80, 600), soft_detections(1, 20, 30, 300)
    dense = [found.masks for found in pair]
    rows += compare(
        "L2 1280 x 1920, 15 + 20 masks",
        functools.partial(aggregate_predictions, *pair),
        {"dense floats": functools.partial(dense_aggregate, *pair, *dense)},
        options.repeat,
    )
    print_table(rows)


if __name__ == "__main__":
    main()
