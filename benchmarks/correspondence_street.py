"""Dense correspondences on the street world: J&F of held-out clips against what needs no training; sample speed.

    python benchmarks/correspondence_street.py table --world data/street_clips --davis data/street_fresh/davis
    python benchmarks/correspondence_street.py samples

`table` trains with the seeds 0, 1 and 2 and follows the true first masks of
every held-out clip; baselines follow the same masks. Settings were chosen on held-out clips of the default world, so
measure on those of another one, which shares no clip with it:

    moduv street render --preset street_clips --root data/street_fresh --config.seed 1 --config.train_clips 1
    moduv street sequences --root data/street_fresh --out data/street_fresh/davis

`samples` compares training samples with the plain pipeline
of PIL and torchvision, both on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import functional as plain

from moduv.correspondence.augmentation import Similarity
from moduv.correspondence.data import ClipConfig, Clips
from moduv.correspondence.network import CorrespondenceNet, read_network
from moduv.correspondence.propagation import PropagationConfig, first_planes, propagate
from moduv.correspondence.train import CorrespondenceConfig, make_network, train_correspondence
from moduv.correspondence.videos import Video, find_videos
from moduv.engine.config import load_preset
from moduv.engine.stages import read_manifest
from moduv.evaluation.segmentation import ObjectScores, evaluate_sequence
from moduv.evaluation.vos import overall_scores
from moduv.runs.watch_correspondence import held_out

Follow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Frames (T, H, W, 3) and the first mask (H, W) to indices (T, H, W)."""
CELL = 4


def copied(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The first mask in every frame."""
    return np.repeat(mask[None], len(frames), 0)


def by_flow(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask of each frame taken from where OpenCV's optical flow says its pixels come from."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    carried = [mask]
    for before, after in itertools.pairwise(greys):
        back = flow.calc(after, before, None)
        source = columns + back[..., 0], rows + back[..., 1]
        carried.append(cv2.remap(carried[-1], *source, cv2.INTER_NEAREST))
    return np.stack(carried)


def by_features(
    extract: Callable[[torch.Tensor], torch.Tensor], config: PropagationConfig
) -> Follow:
    """By the library's propagation over features (T, C, h, w) of images (T, 3, H, W) in [0, 1]."""

    @torch.inference_mode()
    def follow(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
        features = extract(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
        indices, _ = propagate(features, first_planes({0: mask}), mask.shape, **asdict(config))
        return indices.numpy()

    return follow


def mean_colour(images: torch.Tensor) -> torch.Tensor:
    """The mean colour of each cell against that of the clip, and a constant, of unit length."""
    colours = F.avg_pool2d(images, CELL)
    colours = (colours - colours.mean((0, 2, 3), keepdim=True)) / colours.std()
    return F.normalize(F.pad(colours, (0, 0, 0, 0, 0, 1), value=1.0), dim=1)


def of_network(net: CorrespondenceNet, feature: str) -> Callable[[torch.Tensor], torch.Tensor]:
    net = net.eval()
    return lambda images: getattr(net(images), feature)


def score(follow: Follow, sequences: list) -> dict[str, float]:
    """The measures of DAVIS over all objects of all sequences, in percent."""
    scores: list[ObjectScores] = []
    for sequence in sequences:
        truth = sequence.truth()
        scores += evaluate_sequence(truth, follow(np.stack(list(sequence.images())), truth[0]))
    return {name: 100 * value for name, value in overall_scores(scores).items()}


def show(name: str, runs: list[dict[str, float]], note: str = "") -> None:
    cells = []
    for measure in ("J&F-Mean", "J-Mean", "F-Mean", "J-Decay"):
        values = [run[measure] for run in runs]
        spread = f" ± {np.std(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.1f}{spread}")
    print(f"| {name} | {' | '.join(cells)} | {note} |", flush=True)


def table(given: argparse.Namespace) -> None:
    sequences = held_out(given.davis, given.clips)
    config = load_preset(CorrespondenceConfig, given.preset, "correspondence")
    print(
        f"{len(sequences)} held-out clips\n\n| | J&F | J | F | decay of J | |\n|---|---|---|---|---|---|"
    )
    show("first mask copied", [score(copied, sequences)])
    show("carried by optical flow (OpenCV, DIS)", [score(by_flow, sequences)])
    carried = config.propagation
    show("mean colour of a cell", [score(by_features(mean_colour, carried), sequences)])
    seeds = [seeded(config, seed) for seed in given.seeds]
    for feature in ("key", "res4"):
        runs = [
            score(by_features(of_network(make_network(seed), feature), carried), sequences)
            for seed in seeds
        ]
        show(f"untrained network, {feature}", runs)
    nets, minutes = [], []
    for seed, chosen in zip(given.seeds, seeds, strict=True):
        run = given.out / f"seed_{seed}"
        train_correspondence(given.world, run, chosen)
        minutes.append(read_manifest(run)["seconds"] / 60)
        nets.append(read_network(run).net)
    for feature in ("key", "res4"):
        runs = [score(by_features(of_network(net, feature), carried), sequences) for net in nets]
        show(f"trained network, {feature}", runs, f"{np.mean(minutes):.1f} min")


def seeded(config: CorrespondenceConfig, seed: int) -> CorrespondenceConfig:

    return replace(config, schedule=replace(config.schedule, seed=seed))


MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def plain_sample(video: Video, config: ClipConfig, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both views as PIL and torchvision make them, with the same draws: normalised (T, 3, crop, crop) each."""
    rng, views, crop = np.random.default_rng(seed), config.views, config.views.crop
    frames = [
        Image.open(video.path(position)).convert("RGB") for position in config.draw(len(video), rng)
    ]
    side = int(rng.integers(*views.smallest))
    frames = [plain.resize(frame, side) for frame in frames]
    width, height = frames[0].size
    top, left = (
        int(share * (size - crop + 1))
        for share, size in zip(rng.random(2), (height, width), strict=True)
    )
    flip = rng.random() < views.flip
    main = [plain.crop(frame, top, left, crop, crop) for frame in frames]
    main = [plain.hflip(view) for view in main] if flip else main
    how = Similarity.draw(crop, crop, views, rng)
    window = int(how.scale * crop)
    second = [plain.hflip(view) for view in main] if how.flip else main
    second = [
        plain.resized_crop(view, how.top, how.left, window, window, [crop, crop]) for view in second
    ]
    return normalised(main), normalised(second)


def normalised(views: list[Image.Image]) -> torch.Tensor:
    return torch.stack([plain.normalize(plain.to_tensor(view), MEAN, DEVIATION) for view in views])


def samples(given: argparse.Namespace) -> None:
    videos = find_videos(given.frames, given.frames / "unpacked", 720)
    config = ClipConfig()
    clips = Clips(videos, config)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    items = [(index, seed) for seed in range(given.rounds) for index in range(len(videos))]
    seconds, differences = {"plain": [], "ours": []}, []
    for index, seed in items:  # in turns, for the machine may be busy
        begin = time.process_time()
        main, second = plain_sample(videos[index], config, seed)
        middle = time.process_time()
        sample = clips[index, seed]
        ours = time.process_time()
        seconds["plain"].append(middle - begin)
        seconds["ours"].append(ours - middle)
        for theirs, view in ((main, "main"), (second, "second")):
            levels = plain.normalize(sample[view].float() / 255, MEAN, DEVIATION) - theirs
            differences.append(float(levels.abs().mean()) * 255 * np.mean(DEVIATION))
    medians = {name: 1000 * np.median(values) for name, values in seconds.items()}
    print(
        f"{len(items)} samples of {config.frames} frames: plain {medians['plain']:.1f} ms, ours "
        f"{medians['ours']:.1f} ms of CPU time each, {medians['plain'] / medians['ours']:.1f} times; mean "
        f"difference {np.mean(differences):.2f} grey levels"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("table")
    measured.add_argument("--world", type=Path, required=True, help="of moduv street render")
    measured.add_argument("--davis", type=Path, required=True, help="of moduv street sequences")
    measured.add_argument("--out", type=Path, default=Path("save/correspondence_street"))
    measured.add_argument("--preset", default="street")
    measured.add_argument("--clips", type=int, default=12, help="held out, at even distances")
    measured.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measured.set_defaults(work=table)
    sampled = commands.add_parser("samples")
    sampled.add_argument(
        "--frames", type=Path, required=True, help="folder of videos, 720p is usual"
    )
    sampled.add_argument("--rounds", type=int, default=10)
    sampled.set_defaults(work=samples)
    given = parser.parse_args()
    given.work(given)


if __name__ == "__main__":
    main()
