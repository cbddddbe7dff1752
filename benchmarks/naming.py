"""Names of the street world's held-out objects by the small encoder, for true boxes and for detections.

    python benchmarks/naming.py --world DATA --out FOLDER [--detector WEIGHTS] [--seeds 3] [--annotations FOLDER]

An encoder a seed is trained on the objects of the training clips, unless FOLDER has it. `frames` are the detections
named one by one, `tracks` one name a track. `permuted`: the same names, dealt out anew among the vocabulary.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moduv.commands.detect import image_file
from moduv.commands.name import CocoFile, Namer
from moduv.detector.weights import load_detector
from moduv.engine.files import read_json, write_json
from moduv.evaluation.naming import measure_names
from moduv.frames.images import read_image
from moduv.instances.tracks import NOT_FOLLOWED, Tracker
from moduv.naming.describe import NamingConfig
from moduv.naming.training.encoder import EncoderTrainingConfig, train_encoder
from moduv.naming.vocabulary import Vocabulary

COLUMNS = {
    "kind_accuracy": "kind",
    "kind_accuracy_macro": "macro",
    "majority": "majority",
    "accuracy": "name",
    "unknown": "unknown",
    "kind_flips": "kind flips",
    "flips": "name flips",
    "kind_accuracy@0.7": "kind of the surest 70 %",
    "kind_auroc": "kind AUROC",
    "kind_auroc_score": "of scores",
    "auroc": "name AUROC",
}


def detect(world: Path, truth: Path, weights: Path, out: Path) -> tuple[Path, Path]:
    """Detections above 0.5 of the held-out clips, with tracks and without, unless the folder has them."""
    if (out / "frames.json").is_file():
        return out / "tracks.json", out / "frames.json"
    content, detector = read_json(truth), load_detector(weights, "cpu")
    clips: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in content["images"]:
        clips[image["file_name"].rpartition("/")[0]].append(image)
    annotations: list[dict[str, Any]] = []
    images, first = [], 1
    for video, members in enumerate(clips.values(), 1):
        tracker = Tracker(first=first)
        frames = ((None, read_image(world / image["file_name"])) for image in members)
        followed = detector.follow(frames, tracker, 0.5)
        for index, (image, (_, found)) in enumerate(zip(members, followed, strict=True)):
            images.append({**image, "video_id": video, "frame_index": index})
            seen = found[found.columns["track"] != NOT_FOLLOWED]
            tracks = seen.columns["track"].tolist()
            for entry, track in zip(seen.to_coco(image["id"]), tracks, strict=True):
                annotations.append({"id": len(annotations) + 1, **entry, "track_id": track})
        first = tracker.next_identity
    alone = [{k: v for k, v in a.items() if k != "track_id"} for a in annotations]
    for name, entries in (("tracks", annotations), ("frames", alone)):
        write_json(out / f"{name}.json", {"images": images, "annotations": entries})
    return out / "tracks.json", out / "frames.json"


def permuted(named: Path, seed: int = 0) -> dict[str, Any]:
    """A named file whose names were dealt out anew."""
    content = read_json(named)
    names = sorted({a["name"] for a in content["annotations"] if "name" in a})
    other = dict(zip(names, np.random.default_rng(seed).permutation(names).tolist(), strict=True))
    for entry in content["annotations"]:
        if "name" in entry:
            entry["name"] = other[entry["name"]]
    return content


def main() -> None:
    """Train, name, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", type=Path)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    places = given.annotations or given.world / "annotations"
    truth = places / "val.json"
    files = [truth]
    if given.detector is not None:
        files += detect(given.world, truth, given.detector, given.out)
    print(f"| seed | objects | words | {' | '.join(COLUMNS.values())} | permuted |")
    for seed in range(given.seeds):
        config = EncoderTrainingConfig()
        config = replace(config, loop=replace(config.loop, seed=seed))
        encoder = train_encoder(
            places / "train.json",
            lambda name: image_file(given.world, name),
            given.out / f"encoder_{seed}",
            config,
        )
        for words in ("street", "street_paints"):
            namer = Namer(Vocabulary.load(words), encoder, NamingConfig())
            for file in files:
                target = given.out / f"{words}_{seed}" / file.name
                namer.name(CocoFile(file, given.world), target)
                found = measure_names(truth, target)
                control = measure_names(truth, permuted(target))["name/accuracy"]
                cells = " | ".join(f"{found[f'name/{key}']:.3f}" for key in COLUMNS)
                print(f"| {seed} | {file.stem} | {words} | {cells} | {control:.3f} |")


if __name__ == "__main__":
    main()
