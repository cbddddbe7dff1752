"""Results of video object segmentation against the truth, from folders of indexed PNG files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_text
from moduv.engine.log import progress, say
from moduv.engine.parallel import cores, process_map
from moduv.evaluation.segmentation import ObjectScores, count_objects, measure_frame, summarise
from moduv.frames.splits import is_inside
from moduv.instances.indexed import DAVIS_LISTS, DAVIS_MASKS, read_indices

MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


def evaluate_vos(
    truth: Path, results: Path, subset: str = "val", out: Path | None = None, workers: int = 0
) -> dict[str, float]:
    """Measure followed objects by J and F, as the semi-supervised task of DAVIS 2017 does.

    Args:
        truth: a folder with a folder of indexed PNG files for each sequence, or DAVIS itself, whose
            `ImageSets` name the sequences.
        results: the same of the results, such as `res4_vos` of `moduv correspondence propagate`.
        subset: of DAVIS; and the name under which the tables are written.
        out: receives `global_results-SUBSET.csv` and `per-sequence_results-SUBSET.csv`; by default
            the results' folder.
        workers: processes; 0: one for each core.

    Raises:
        InputError: for sequences and frames that are missing, masks of another size, and indices that
            the truth does not have.
    """
    if Path(subset).name != subset:
        raise InputError(f"subset is {subset!r:.80}; give a name without folders, such as val.")
    folder, names = find_sequences(truth, subset)
    missing = [name for name in names if not (results / name).is_dir()]
    if missing:
        raise InputError(
            f"{results}: lacks {len(missing)} of {len(names)} sequences, first {missing[0]!r}; give the folder "
            "that holds a folder for each."
        )
    _tell_others(folder, results, names)
    measure = functools.partial(_evaluate_folder, folder, results)
    measured = process_map(measure, names, workers or cores())
    found = list(progress(measured, desc="evaluate vos", total=len(names), unit="sequence"))
    scores = dict(zip(names, found, strict=True))
    overall = overall_scores([score for objects in found for score in objects])
    _write_tables(scores, overall, out or results, subset)
    return overall


def find_sequences(truth: Path, subset: str) -> tuple[Path, list[str]]:
    """The folder that holds the sequences' folders, and the names of those to measure.

    Raises InputError when there is none, or one that DAVIS names is not there.
    """
    folder = truth / DAVIS_MASKS
    if not folder.is_dir():
        names = sorted(path.name for path in truth.glob("[!.]*") if _masks(path))
        if not names:
            raise InputError(
                f"{truth}: holds no folder of PNG files; give the folder of the true masks' folders, or DAVIS."
            )
        return truth, names
    listed = truth / DAVIS_LISTS / f"{subset}.txt"
    names = read_text(listed).split()
    odd = [name for name in names if not is_inside(name) or names.count(name) > 1]
    if odd:
        raise InputError(
            f"{listed}: names {odd[0]!r:.80} twice, or outside of {folder}; name each sequence once."
        )
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing or not names:
        raise InputError(
            f"{listed}: names {missing[0] if missing else 'no sequence'!r}, and {folder} has no such folder; "
            "choose another subset, or complete the data set."
        )
    return folder, names


def _masks(folder: Path) -> list[Path]:
    """The PNG files of a folder in order, without hidden ones, which macOS puts beside others."""
    return sorted(folder.glob("[!.]*.png"))


def _tell_others(truth: Path, results: Path, names: list[str]) -> None:
    """Say how many results are of no sequence or of no frame that is measured, and do not count."""
    known = {f"{name}/{path.name}" for name in names for path in _masks(truth / name)}
    found = {f"{path.parent.name}/{path.name}" for path in results.glob("[!.]*/[!.]*.png")}
    others = sorted(found - known)
    if others:
        say(f"  {results}: {len(others)} masks are of no frame of the truth, first {others[0]}")


def _evaluate_folder(truth: Path, results: Path, name: str) -> list[ObjectScores]:
    """Scores of a sequence, frame by frame: memory does not grow with its length."""
    files = _masks(truth / name)
    if len(files) < 3:
        raise InputError(
            f"{truth / name}: has {len(files)} frames, of which first and last do not count; leave it out."
        )
    counted = files[1:-1]
    pairs = [(path, results / name / path.name) for path in counted]
    missing = [path for _, path in pairs if not path.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: no such mask, nor {len(missing) - 1} others of {len(pairs)}; name every frame's "
            "mask like the truth's."
        )
    objects = count_objects(read_indices(files[0]), str(files[0]))
    return summarise(
        measure_frame(read_indices(true), read_indices(found), objects, str(found))
        for true, found in pairs
    )


def overall_scores(objects: Iterable[ObjectScores]) -> dict[str, float]:
    """The seven measures, each the mean over all objects of all sequences."""
    scores = np.array([[*score.J, *score.F] for score in objects])
    means = scores.mean(0).tolist()
    return dict(zip(MEASURES, [(means[0] + means[3]) / 2, *means], strict=True))


def _write_tables(
    scores: Mapping[str, list[ObjectScores]],
    overall: Mapping[str, float],
    out: Path,
    subset: str,
) -> None:
    """Write the tables of the official tool, under its names, and show them."""
    rows = [
        (f"{name}_{index}", score.J.mean, score.F.mean)
        for name, objects in scores.items()
        for index, score in enumerate(objects, 1)
    ]
    width = max(len(name) for name, _, _ in rows)
    for name, region, contours in rows:
        say(f"{name:<{width}}  J {region:.3f}  F {contours:.3f}")
    say("  ".join(f"{name} {value:.3f}" for name, value in overall.items()))
    per_sequence = [f"{name},{region:.3f},{contours:.3f}" for name, region, contours in rows]
    tables = {
        "global_results": [",".join(MEASURES), ",".join(f"{v:.3f}" for v in overall.values())],
        "per-sequence_results": ["Sequence,J-Mean,F-Mean", *per_sequence],
    }
    for name, lines in tables.items():
        with atomic_path(out / f"{name}-{subset}.csv") as temporary:
            temporary.write_text("\n".join(lines) + "\n")
