"""Slots on small discs, squares and triangles, two of which may share a colour, beside what could have won.

    python benchmarks/slots.py --out FOLDER [--seeds 2] [--steps 2500] [--world DATA]

Every row is of the same held-out clips and of the same tokens, the mean colours of patches. `pairs split` is the share
of two objects of one colour that different segments have. No single column says that objects were found: a grid has a
high FG-ARI, k-means of colours a high ARI and mBO, and splits no pair. `same colour`: touching tokens of like colour.
With a street world, the same on its held-out clips, where `moving` are parts that differ from frame to frame.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn import functional as F

from moduv.engine.files import read_json
from moduv.engine.loop import LoopConfig, StepState, fit
from moduv.evaluation.masks import mask_measures
from moduv.frames.images import read_image
from moduv.instances import rle
from moduv.naming.slots import SlotAttention

SIZE, FRAMES, PATCH, NOISE = 48, 2, 4, 0.03
COLOURS = np.array(
    [
        [0.9, 0.2, 0.2],
        [0.2, 0.8, 0.3],
        [0.2, 0.3, 0.9],
        [0.9, 0.8, 0.2],
        [0.8, 0.3, 0.8],
        [0.2, 0.8, 0.8],
    ]
)
SLOTS, WIDTH, HIDDEN, ITERATIONS = 4, 64, 128, 3
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)
POSITION_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
COLOUR_STEPS = (0.2, 0.35, 0.5, 0.8)
SMALLEST = 6
"""Tokens of a part that stands alone."""


@dataclass(frozen=True)
class Clip:
    """What is told apart, and what is known of it."""

    tokens: np.ndarray
    """(T, h, w, C)."""
    labels: np.ndarray
    """(T, h, w): the object that most of a token is of, 0 the background."""
    pair: tuple[int, int] | None = None
    """Two objects of one colour."""


Segments = Callable[[Clip], np.ndarray]
"""Labels (T, h, w) of a clip."""


def draw_clip(rng: np.random.Generator) -> Clip:
    """Two or three objects that move and bounce over a nearly plain ground; later ones are in front."""
    count = int(rng.integers(2, 4))
    colours = rng.permutation(len(COLOURS))[:count]
    pair = None
    if rng.random() < 0.5:
        colours[1], pair = colours[0], (1, 2)
    radius, kind = rng.uniform(6, 10, count), rng.integers(3, size=count)
    place, speed = rng.uniform(8, SIZE - 8, (count, 2)), rng.uniform(-4, 4, (count, 2))
    ground = rng.uniform(0.3, 0.6) + rng.uniform(-0.04, 0.04, 3)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    pixels = np.tile(ground, (FRAMES, SIZE, SIZE, 1))
    labels = np.zeros((FRAMES, SIZE, SIZE), int)
    for frame in range(FRAMES):
        for n in range(count):
            down, right = rows - place[n, 0], columns - place[n, 1]
            inside = (
                np.hypot(down, right) < radius[n],
                np.maximum(abs(down), abs(right)) < 0.85 * radius[n],
                (down < 0.7 * radius[n]) & (down > 2 * abs(right) - radius[n]),
            )[kind[n]]
            pixels[frame][inside], labels[frame][inside] = COLOURS[colours[n]], n + 1
        place += speed
        speed = np.where((place < 6) | (place > SIZE - 6), -speed, speed)
    pixels = pixels + NOISE * rng.standard_normal(pixels.shape)
    side = SIZE // PATCH
    cut = (FRAMES, side, PATCH, side, PATCH)
    tokens = pixels.reshape(*cut, 3).mean((2, 4))
    shares = np.eye(count + 1)[labels].reshape(*cut, -1).sum((2, 4))
    kept = shares.argmax(-1)
    seen = pair is not None and all((kept == n).any() for n in pair)
    return Clip(tokens, kept, pair if seen else None)


def draw_clips(count: int, seed: int) -> list[Clip]:
    """Clips that follow from the seed."""
    return [draw_clip(np.random.default_rng([seed, n])) for n in range(count)]


def standardised(clips: Sequence[Clip], by: Sequence[Clip]) -> list[Clip]:
    """Clips whose tokens have the mean and deviation of the training clips."""
    every = np.concatenate([clip.tokens.reshape(-1, clip.tokens.shape[-1]) for clip in by])
    mean, scale = every.mean(0), every.std(0)
    return [Clip((clip.tokens - mean) / scale, clip.labels, clip.pair) for clip in clips]


# Slots


class Miniature(nn.Module):
    """The published grouping, small, with what short trainings need.

    Every slot has a learned start, positions are an input, and a slot's colour knows no position: with the published
    joint decoder slots tile the plane in so few steps.
    """

    def __init__(self, size: tuple[int, int, int], channels: int, slots: int) -> None:
        super().__init__()
        count = int(np.prod(size))
        places = torch.from_numpy(fourier(size)).float()
        self.register_buffer("places", places, persistent=False)
        self.embed = perceptron(channels, HIDDEN, WIDTH)
        self.place_in = nn.Linear(places.shape[1], WIDTH)
        self.start = nn.Parameter(torch.randn(1, slots, WIDTH))
        self.attention = SlotAttention(WIDTH, WIDTH, WIDTH, HIDDEN, iterations=ITERATIONS)
        for layer in (self.attention.to_q, self.attention.to_k):
            nn.init.orthogonal_(layer.weight, 1.5)
        self.paint = perceptron(WIDTH, WIDTH, WIDTH, channels)
        self.place_out = nn.Linear(places.shape[1], WIDTH)
        self.learned = nn.Parameter(0.02 * torch.randn(count, WIDTH))
        self.alpha = perceptron(WIDTH, WIDTH, WIDTH, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention and alphas (B, K, N), and rebuilt tokens (B, N, C), of tokens (B, N, C)."""
        seen = self.embed(tokens) + 0.5 * self.place_in(self.places)
        slots, attention = self.attention(seen, self.start.expand(len(tokens), -1, -1))
        where = self.learned + self.place_out(self.places)
        alphas = self.alpha(slots[:, :, None] + where)[..., 0].softmax(1)
        return attention, alphas, alphas.transpose(1, 2) @ self.paint(slots)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fourier(size: tuple[int, int, int]) -> np.ndarray:
    """Positions (T h w, F): waves over rows and columns, and the time."""
    time_, row, column = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    waves = [
        wave(2 * np.pi * f * axis)
        for axis in (row, column)
        for f in FREQUENCIES
        for wave in (np.sin, np.cos)
    ]
    return np.stack([*waves, time_], -1).reshape(time_.size, -1)


class Tokens:
    """Clips as training samples."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        flat = [clip.tokens.reshape(-1, clip.tokens.shape[-1]) for clip in clips]
        self.tokens = torch.from_numpy(np.stack(flat)).float()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return self.tokens[item[0]]

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples)


def train(clips: Sequence[Clip], slots: int, steps: int, seed: int, out: Path) -> Miniature:
    """Slots that learned to rebuild the tokens of clips; continues where it was interrupted."""
    torch.manual_seed(seed)
    shape = clips[0].tokens.shape
    model = Miniature(shape[:3], shape[3], slots)

    def step(batch: Tensor, _: StepState) -> dict[str, Tensor]:
        return {"loss": F.mse_loss(model(batch)[2], batch)}

    config = LoopConfig(steps, 16, 3e-3, warmup=50, cosine=True, clip_norm=1.0, seed=seed)
    fit(model, step, Tokens(clips), config, out, label=out.name)
    return model.eval()


def segments_of(model: Miniature, which: int) -> Segments:
    """The slot of each token by attention (0) or by the decoder's alphas (1)."""

    @torch.inference_mode()
    def segment(clip: Clip) -> np.ndarray:
        shares = model(Tokens([clip]).tokens)[which]
        return shares[0].argmax(0).numpy().reshape(clip.labels.shape)

    return segment


# Baselines


def grid(clip: Clip, rows: int, columns: int) -> np.ndarray:
    """Equal cells."""
    _, height, width = clip.labels.shape
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.broadcast_to(row[:, None] * columns + column, clip.labels.shape)


def clusters(clip: Clip, count: int, weight: float) -> np.ndarray:
    """K-means of tokens and, weighted, their positions from -1 to 1."""
    size = clip.labels.shape
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    places = np.stack(axes[1:], -1).reshape(clip.labels.size, 2)
    points = np.concatenate([clip.tokens.reshape(len(places), -1), weight * places], 1)
    return kmeans2(points, count, minit="++", rng=0)[1].reshape(size)


def like_colours(clip: Clip, limit: float) -> np.ndarray:
    """Neighbours in space, and tokens at one place in time, that differ by less than a limit; small parts are ground."""
    numbers = np.arange(clip.labels.size).reshape(clip.labels.shape)
    ends = []
    for axis in range(3):
        before, after = (
            np.take(numbers, range(*part), axis).ravel()
            for part in ((0, numbers.shape[axis] - 1), (1, numbers.shape[axis]))
        )
        flat = clip.tokens.reshape(numbers.size, -1)
        alike = np.linalg.norm(flat[before] - flat[after], axis=1) < limit
        ends.append(np.stack([before[alike], after[alike]]))
    row, column = np.concatenate(ends, 1)
    graph = coo_array((np.ones(len(row)), (row, column)), shape=(numbers.size, numbers.size))
    parts = connected_components(graph, directed=False)[1]
    counts = np.bincount(parts)
    return np.where(counts[parts] < SMALLEST, counts.argmax(), parts).reshape(numbers.shape)


def moving(clip: Clip, limit: float) -> np.ndarray:
    """Connected parts whose tokens differ from the other frame's; the rest is ground."""
    difference = np.linalg.norm(np.diff(clip.tokens, axis=0), axis=-1) > limit
    changed = np.concatenate([difference[:1], difference])
    return ndimage.label(changed)[0]


# Measures


def measure(clips: Sequence[Clip], segment: Segments) -> dict[str, float]:
    """ARI, FG-ARI, mBO and the share of pairs that are split."""
    found = [segment(clip) for clip in clips]
    measured = mask_measures([clip.labels for clip in clips], found)
    split = [
        len({int(np.bincount(labels[clip.labels == n]).argmax()) for n in clip.pair}) > 1
        for clip, labels in zip(clips, found, strict=True)
        if clip.pair
    ]
    return {**measured, "pairs split": float(np.mean(split)) if split else float("nan")}


def baselines(slots: int) -> Iterable[tuple[str, list[Segments]]]:
    """Segmentations without training; of several settings the best ARI counts."""
    rows = int(np.sqrt(slots))
    yield "grid", [partial(grid, rows=rows, columns=slots // rows)]
    yield "k-means", [partial(clusters, count=slots, weight=0.0)]
    others = [w for w in POSITION_WEIGHTS if w]
    yield "k-means with positions", [partial(clusters, count=slots, weight=w) for w in others]
    yield "same colour", [partial(like_colours, limit=limit) for limit in COLOUR_STEPS]
    yield "moving", [partial(moving, limit=limit) for limit in COLOUR_STEPS]


def table(
    train_clips: Sequence[Clip], test: Sequence[Clip], slots: int, steps: int, seeds: int, out: Path
) -> dict[str, dict[str, float]]:
    """The measures of every row; those of trained slots are named `attention SEED` and `alphas SEED`."""
    found: dict[str, dict[str, float]] = {}
    for name, settings in baselines(slots):
        found[name] = max((measure(test, one) for one in settings), key=lambda m: m["ARI"])
    for seed in range(seeds):
        torch.manual_seed(seed)
        shape = test[0].tokens.shape
        fresh = Miniature(shape[:3], shape[3], slots).eval()
        found[f"untrained {seed}"] = measure(test, segments_of(fresh, 0))
        begun = time.process_time()
        model = train(train_clips, slots, steps, seed, out / f"seed_{seed}")
        seconds = time.process_time() - begun
        for which, name in enumerate(("attention", "alphas")):
            row = measure(test, segments_of(model, which))
            found[f"{name} {seed}"] = {**row, "seconds": seconds}
    return found


def read_street(world: Path, part: str, patch: int = 8) -> list[Clip]:
    """Pairs of neighbouring frames as means and deviations of patches, and the objects in them."""
    content = read_json(world / f"annotations/{part}.json")
    objects = defaultdict(list)
    for entry in content["annotations"]:
        objects[entry["image_id"]].append(entry)
    segments = defaultdict(list)
    for image in sorted(content["images"], key=lambda entry: entry["file_name"]):
        segments[Path(image["file_name"]).parent].append(image)
    clips = []
    for images in segments.values():
        for pair in list(pairwise(images))[::2]:
            frames = [_street_frame(world, image, objects[image["id"]], patch) for image in pair]
            tokens, labels = (np.stack(part) for part in zip(*frames, strict=True))
            clips.append(Clip(tokens, labels))
    return clips


def _street_frame(
    world: Path, image: dict, objects: Sequence[dict], patch: int
) -> tuple[np.ndarray, np.ndarray]:
    pixels = read_image(world / image["file_name"]) / 255.0
    labels = np.zeros(pixels.shape[:2], int)
    for entry in objects:
        labels[rle.decode(entry["segmentation"])] = entry["track_id"]
    rows, columns = labels.shape[0] // patch, labels.shape[1] // patch
    cut = pixels[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, 3)
    tokens = np.concatenate([cut.mean((1, 3)), cut.std((1, 3))], -1)
    size = (columns, rows)
    shares = [
        cv2.resize((labels == n).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        for n in np.unique(labels)
    ]
    return tokens, np.unique(labels)[np.argmax(shares, 0)]


def show(found: dict[str, dict[str, float]]) -> None:
    """Print rows as a table."""
    columns = ("ARI", "FG-ARI", "mBO", "pairs split", "seconds")
    print(f"| segments | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in found.items():
        cells = (f"{row[key]:.3f}" if key in row else "" for key in columns[:4])
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        print(f"| {name} | {' | '.join(cells)} | {seconds} |")


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--world", type=Path)
    given = parser.parse_args()
    plain = draw_clips(600, 1)
    clips = standardised(plain, plain)
    test = standardised(draw_clips(64, 2), plain)
    show(table(clips, test, SLOTS, given.steps, given.seeds, given.out))
    if given.world is not None:
        plain, held_out = (read_street(given.world, part) for part in ("train", "val"))
        clips, test = standardised(plain, plain), standardised(held_out, plain)
        show(table(clips, test, 8, given.steps, given.seeds, given.out / "street"))


if __name__ == "__main__":
    main()
