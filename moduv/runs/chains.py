"""The chains of this library: the only place that names the folders of a run.

`python -m moduv.runs.chains STEP … --run save/street --data data/street` runs steps of the chain on
prepared frames; the numbered scripts are faces of it. It needs nothing installed to print what it would do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from moduv.engine.errors import InputError
from moduv.engine.pipeline import Place, Step, command_lines, execute, select, without
from moduv.runs.catalogue import COMMANDS

JUDGE = "judge"
"""Option that names a detector which makes no labels, but helps to choose their thresholds."""
RENDER = Step("street", "street render", "", "Street world", takes=("root",), out="")
ROUNDS = (
    Step("motion", "motion train", "motion", "Motion: train"),
    Step(
        *("motion_outputs", "motion predict", "motion_outputs", "Motion: predict"),
        reads={"weights": "motion"},
    ),
    Step(
        *("L0", "labels initial", "L0_pseudo_labels", "L0"),
        reads={"motion": "motion_outputs"},
    ),
    Step(
        *("L0_carried", "labels propagate", "L0_carried_labels", "L0, carried"),
        reads={"labels": "L0"},
        optional=True,
        usual=False,
    ),
    Step(
        *("moving2mobile", "round moving2mobile", "R1_M2M", "Moving2Mobile"),
        reads={"labels": "L0_carried", "split": "L0_carried"},
    ),
    Step(
        *("L1", "labels mobile", "L1_pseudo_labels", "L1"),
        reads={"detector": "moving2mobile"},
    ),
    Step("large", "round large", "R2_L2S_large", "Large2Small, large", reads={"labels": "L1"}),
    Step(
        *("small", "round small", "R2_L2S_small", "Large2Small, small"),
        reads={"labels": "L1"},
        optional=True,
    ),
    Step(
        *("L2", "labels aggregated", "L2_pseudo_labels", "L2"),
        reads={"large": "large", "small": "small", JUDGE: "moving2mobile"},
    ),
    Step("final", "round final", "R3_Final", "Final", reads={"labels": "L2"}),
)
"""MOD-UV: from raw frames to the final detector."""
SUPERVISED = (
    Step(
        *("true_labels", "labels true", "true_labels", "Ground-truth labels"),
        takes=("split", "annotations"),
    ),
    Step(
        *("supervised", "round final", "supervised", "Supervised"),
        reads={"labels": "true_labels"},
        former="yardstick",
    ),
)
"""The same detector and budget on ground truth: how far better labels could lead."""
EVALUATION = (
    Step(
        *("motion_val", "motion predict", "motion_val", "Motion: predict held-out"),
        reads={"weights": "motion"},
        on="val",
    ),
    Step(
        *("evaluation", "measure", "evaluation", "Evaluation"),
        takes=("run", "data", "split", "annotations"),
        on="val",
    ),
    Step(
        *("report", "report", "", "Report"),
        takes=("run", "data", "split", "annotations"),
        on="val",
    ),
)
MODUV = (*ROUNDS, *SUPERVISED, *EVALUATION)
DEPTH = (
    Step(
        *("depth_objects", "depth objects", "depth_objects", "Depth: objects"),
        reads={"labels": "L2", "moved": "L0"},
        takes=("split",),
    ),
    Step(
        *("depth_alignment", "depth align", "depth_alignment", "Depth: alignment"),
        reads={"motion": "motion_outputs", "objects": "depth_objects"},
    ),
    Step(
        *("pseudo_depth", "depth pseudo", "pseudo_depth", "Depth: pseudo-depth"),
        reads={"motion": "motion_outputs", "objects": "depth_objects"},
        takes=("split",),
    ),
    Step(
        *("depth", "depth train", "depth", "Depth: train"),
        reads={"weights": "motion", "pseudo": "pseudo_depth"},
    ),
    Step(
        *("depth_outputs", "motion predict", "depth_outputs", "Depth: predict"),
        reads={"weights": "depth"},
    ),
    Step(
        *("depth_val", "motion predict", "depth_val", "Depth: predict held-out"),
        reads={"weights": "depth"},
        on="val",
    ),
)
"""Depth that holds on what moves, after MODUV. Its outputs serve as those of stage 1 do."""
FOLLOW = (
    Step(
        *("correspondence", "correspondence train", "correspondence", "Correspondences: train"),
        takes=("data",),
    ),
    Step(
        *("L2_tracked", "labels track", "L2_tracked_labels", "L2, tracked"),
        reads={"labels": "L2", "follow": "correspondence"},
    ),
)
"""Correspondences learned from a run's frames, and identities of its labels by them, after MODUV."""
PIXELWISE = (
    Step("pixelwise", "depth pixelwise", "pixelwise", "Pixel-wise: train"),
    Step("scenes", "depth scenes", "scenes", "Pixel-wise: predict", reads={"weights": "pixelwise"}),
)
ALIGNED = (
    Step(
        *("objects", "depth objects", "objects", "Objects"),
        reads={"labels": "masks", "moved": "scenes", "road": "road"},
        takes=("split",),
    ),
    Step(
        *("shapes", "depth shapes", "shapes", "Object depth"),
        reads={"weights": "pixelwise", "objects": "objects"},
    ),
    Step(
        *("alignment", "depth align", "alignment", "Depth-scale alignment"),
        reads={"motion": "scenes", "objects": "objects", "road": "road", "shapes": "shapes"},
    ),
    Step(
        *("pseudo", "depth pseudo", "pseudo", "Pseudo-depth"),
        reads={
            **{"motion": "scenes", "objects": "objects", "alignment": "alignment"},
            **{"road": "road", "shapes": "shapes"},
        },
    ),
    Step(
        *("final", "depth final", "final", "Final depth"),
        reads={"weights": "pixelwise", "pseudo": "pseudo"},
    ),
    *(
        Step(
            *(f"{name}_val", "depth scenes", f"{name}_val", f"{title}: predict held-out"),
            reads={"weights": name},
            on="val",
        )
        for name, title in (("pixelwise", "Pixel-wise"), ("final", "Final depth"))
    ),
)


def _detected(number: int, training: str, labels: str, cleaned: str) -> tuple[Step, ...]:
    """A detector trained on labels, what it finds, and what of that looks like objects."""
    finder, found, title = f"finder_{number}", f"found_{number}", f"Detector {number}"
    return (
        Step(finder, training, finder, title, reads={"labels": labels}),
        Step(found, "labels mobile", found, f"{title}: predict", reads={"detector": finder}),
        Step(
            *(cleaned, "depth clean", cleaned, f"{title}: clean"),
            reads={"labels": found, "road": "road"},
            takes=("split",),
        ),
    )


GIVEN_MASKS = (
    *PIXELWISE,
    Step("masks", "depth masks", "masks", "Masks"),
    Step("road", "depth roadmasks", "road", "Road"),
    *ALIGNED,
)
"""Nguyen et al. 2024 with masks that another program made."""
UNSUPERVISED = (
    *PIXELWISE,
    Step("ground", "depth ground", "ground", "Ground: train", reads={"motion": "scenes"}),
    Step("road", "depth road", "road", "Road", reads={"motion": "scenes", "ground": "ground"}),
    Step("slots", "depth slots", "slots", "Slots", reads={"motion": "scenes"}, takes=("split",)),
    Step(
        *("candidates", "depth candidates", "candidates", "Candidates"),
        reads={"motion": "scenes", "slots": "slots", "road": "road"},
        takes=("split",),
    ),
    *_detected(1, "round moving2mobile", "candidates", "cleaned"),
    *_detected(2, "round final", "cleaned", "masks"),
    *ALIGNED,
)
"""Nguyen et al. 2024 from raw frames alone.

Their detector of objects also sees stage 1's disparity and the road. Ours is that of the other rounds, which sees the
image alone: a detector of images is what this library trains, checks and exports, and finds parked objects by their looks
as moving ones, while disparity is wrong exactly on what moves. The road, which theirs may learn to leave out, is
taken from its labels by `depth clean`. They train one detector for ten epochs and take its predictions for labels after
each of the first nine; here two are trained, the second from its start on the cleaned finds of the first.
"""

CHAINS = {
    "moduv": (RENDER, *MODUV, *DEPTH, *FOLLOW),
    "given_masks": GIVEN_MASKS,
    "unsupervised": UNSUPERVISED,
}

DETECTORS = {step.title: step for step in MODUV if step.command.startswith("round ")}
"""Steps that train a detector, by the name they have in metrics and tables."""
LABEL_SETS = {step.title: step for step in ROUNDS if step.name in ("L0", "L1", "L2")}
"""Steps that make labels of any frames without ground truth."""
FINAL, UPPER_BOUND = "Final", "Supervised"
"""The detectors whose ratio says how much is learnt without labels."""
FRAMES = "frames"
"""Folder of imported frames, of runs on the user's own clips."""
DETECTIONS = "Final_pseudo_labels"
"""Folder of what the final detector finds on all frames of such a run."""


def chain_of(preset: str, more: tuple[Step, ...] = ()) -> tuple[Step, ...]:
    """All steps and some `more` that follow them, but for those that a preset leaves out."""
    from moduv.engine.config import read_preset  # a chain can be printed where nothing is installed

    return without((RENDER, *MODUV, *more), read_preset(preset).get("steps", {}))


def folder(run: Path, name: str) -> Path:
    """The output folder of a step in a run, by the step's name."""
    (step,) = select((*MODUV, *DEPTH, *FOLLOW), [name])
    return step.output(run)


def stage_folders(run: Path) -> dict[str, Path]:
    """Folders of all stages of a run by their titles, in order."""
    steps = [step for step in MODUV if step.folder]
    found = {"Frames": run / FRAMES} | {step.title: folder(run, step.name) for step in steps}
    return found | {"Detections": run / DETECTIONS}


def main(words: list[str] | None = None) -> int:
    """Run or print steps; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m moduv.runs.chains", description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="by default all")
    parser.add_argument("--chain", choices=CHAINS, default="moduv")
    for name in ("run", "data", "train", "val"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--truth", type=Path, help="COCO JSON of the held-out split")
    parser.add_argument("--true-labels", type=Path, help="COCO JSON of the training split")
    parser.add_argument("--report", type=Path, default=Path("out"))
    parser.add_argument("--preset", default="street")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(words)
    annotations = {"train": given.true_labels, "val": given.truth}
    place = Place(
        given.run,
        given.data,
        {"train": given.train, "val": given.val},
        {on: path for on, path in annotations.items() if path},
        given.report,
    )
    chain = CHAINS[given.chain]
    try:
        wanted = {step.name for step in select(chain, given.steps or [s.name for s in chain])}
        if given.chain == "moduv":
            chain = chain_of(given.preset, (*DEPTH, *FOLLOW))
    except InputError as error:
        parser.exit(2, f"moduv: error: {error}\n")
    except ModuleNotFoundError:
        # Nothing is installed; what a preset leaves out is printed, too.
        chain = without(chain, {})
    steps = [step for step in chain if step.name in wanted]
    lines = command_lines(steps, chain, place, COMMANDS, given.preset, given.processes)
    if given.dry_run:
        for line in lines:
            print("+", *line)
        return 0
    return execute(lines)


if __name__ == "__main__":
    sys.exit(main())
