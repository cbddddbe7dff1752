"""The report of a run: pictures of the same held-out frames after every stage, curves, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import read_json, read_npz
from moduv.engine.log import progress, say
from moduv.engine.stages import environment
from moduv.evaluation.coco import select_images
from moduv.frames.clip import FrameRef
from moduv.frames.images import read_image, write_image
from moduv.frames.splits import read_split
from moduv.labels.instances import Instances
from moduv.labels.store import read_labels
from moduv.rounds.measure import DETECTORS, LABEL_SETS, ratio_to_yardstick, seconds_of
from moduv.visual.drawing import (
    draw_depth,
    draw_instances,
    draw_motion,
    enlarge,
    picture_grid,
    shared_colors,
)
from moduv.visual.figures import Chart
from moduv.visual.report import (
    Clip,
    Column,
    Frame,
    Headline,
    Report,
    Row,
    Table,
    read_curves,
    write_report,
)

PHASES = ("1_disp_init", "2_motion_init", "3_mask_init", "4_fine_tune")
STAGES = {
    "Motion: train": "motion",
    "Motion: predict": "motion_outputs",
    "L0": "L0_pseudo_labels",
    "Moving2Mobile": "R1_M2M",
    "L1": "L1_pseudo_labels",
    "Large2Small, large": "R2_L2S_large",
    "Large2Small, small": "R2_L2S_small",
    "L2": "L2_pseudo_labels",
    "Final": "R3_Final",
    "Yardstick": "yardstick",
    "Measure": "evaluation",
}
LAYER_NOTES = {
    "motion": "Motion mask of stage 1: the brighter, the surer that the pixel moves by itself.",
    "depth": "Depth of stage 1, near is bright; learnt from the same clips.",
    "L0": "Initial labels: clusters of moving pixels.",
    "L1": "Moving2Mobile: what a detector trained briefly on L0 finds.",
    "L2": "Large2Small: the large-scale and the small-scale detector, merged.",
    "final": "The final detector above a score of 0.5.",
    "truth": "The rendered objects, moving and parked.",
}

OVERVIEW_ROWS = 4


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows."""

    frames: int = 8
    clips: int = 3
    score: float = 0.5
    """Detections above it are drawn."""
    width: int = 480
    """Width of the pictures in pixels."""


def report_run(
    run: Path, data: Path, split: Path, annotations: Path, out: Path, config: ReportConfig
) -> None:
    """Write `report.html` and an overview picture of a measured run.

    Args:
        run: folder of the run, measured before.
        data: folder of the frames.
        split: the held-out frames that were measured.
        annotations: their true objects, COCO JSON.
        out: receives `report.html` and `overview.jpg`.
        config: how many frames and clips.

    Raises:
        InputError: when the run has not been measured.
    """
    path = run / "evaluation" / "metrics.json"
    if not path.is_file():
        raise InputError(f"{path}: the run is not measured yet; run 'moduv measure' first.")
    metrics: dict[str, dict[str, float]] = read_json(path)
    frames = [f for f in read_split(split) if f.file(run / "motion_val", ".npz").is_file()]
    pictures = Pictures(run, data, frames, annotations, config)
    chosen = pictures.telling(config.frames)
    shown = [
        Frame(f.line(), pictures.layers(f)) for f in progress(chosen, desc="report", unit="frame")
    ]
    report = Report(
        title=f"moduv: {run.name}",
        subtitle="From raw video to a detector of everything that can move, without a single label.",
        headlines=headlines(metrics),
        tables=tables(metrics),
        frames=shown,
        layer_notes=LAYER_NOTES,
        clips=pictures.clips(),
        curves=dict(read_curves(logs(run))),
        charts=gains(metrics),
        sizes=dict(sizes(run, frames)),
        size_marks={"medium": 14.0, "large": 28.0},
        timings={name: seconds_of(run / folder) for name, folder in STAGES.items()},
        environment=environment(),
        config=(run / "motion" / "config.yaml").read_text(),
    )
    written = write_report(out / "report.html", report)
    rows = [
        picture_grid(pictures.layers(frame), columns=8, width=config.width // 2)
        for frame in chosen[:OVERVIEW_ROWS]
    ]
    if rows:
        write_image(out / "overview.jpg", np.vstack(rows))
    say(f"report: {written}")


class Pictures:
    """Draws the held-out frames of a run, layer by layer."""

    def __init__(
        self, run: Path, data: Path, frames: list[FrameRef], annotations: Path, config: ReportConfig
    ) -> None:
        self.run, self.data, self.frames, self.config = run, data, frames, config
        names = [frame.image_path(data).relative_to(data).as_posix() for frame in frames]
        truth = select_images(annotations, names)
        self.image_ids = {
            Path(image["file_name"]).with_suffix("").as_posix(): image["id"]
            for image in truth["images"]
        }
        self.truth = group_by_image(a for a in truth["annotations"] if not a["ignore"])
        final = run / "evaluation" / f"{DETECTORS['Final']}.json"
        self.final = group_by_image(read_json(final)) if final.is_file() else {}

    def telling(self, count: int) -> list[FrameRef]:
        """Frames of different clips, those with most moving and parked objects first."""

        def objects(frame: FrameRef) -> tuple[int, int]:
            known = self.truth.get(self._image_id(frame), [])
            moving = sum(a.get("moving", 0) and a["area"] > 150 for a in known)
            static = sum(not a.get("moving", 0) and a["area"] > 150 for a in known)
            return min(moving, static), moving + static

        best: dict[str, FrameRef] = {}
        for frame in self.frames:
            if frame.segment not in best or objects(frame) > objects(best[frame.segment]):
                best[frame.segment] = frame
        return sorted(best.values(), key=objects, reverse=True)[:count]

    def layers(self, frame: FrameRef) -> dict[str, np.ndarray]:
        """Frame, depth, motion mask, label sets, detections and truth as pictures."""
        image = enlarge(read_image(frame.image_path(self.data)), self.config.width)
        output = read_npz(frame.file(self.run / "motion_val", ".npz"), ("mot_mask", "depth"))
        layers = {
            "frame": image,
            "depth": enlarge(draw_depth(output["depth"].astype(np.float32)), self.config.width),
            "motion": draw_motion(image, output["mot_mask"].astype(np.float32)),
        }
        sets: dict[str, Instances] = {}
        for name in LABEL_SETS:
            if frame.file(self.run / "evaluation" / name, ".json").is_file():
                sets[name] = read_labels(self.run / "evaluation" / name, frame)
        found = self.final.get(self._image_id(frame), [])
        sets["final"] = coco_instances([a for a in found if a["score"] > self.config.score])
        sets["truth"] = coco_instances(self.truth.get(self._image_id(frame), []))
        colours = shared_colors(list(sets.values()))
        for (name, instances), colour in zip(sets.items(), colours, strict=True):
            layers[name] = draw_instances(image, instances, colors=colour)
        return layers

    def clips(self) -> list[Clip]:
        """A few clips with their motion masks and final detections."""
        clips = []
        for chosen in self.telling(self.config.clips):
            frames = [frame for frame in self.frames if frame.segment == chosen.segment]
            drawn = [self.layers(frame) for frame in frames]
            layers = {name: [d[name] for d in drawn] for name in ("frame", "motion", "final")}
            clips.append(Clip(chosen.segment, layers))
        return clips

    def _image_id(self, frame: FrameRef) -> Any:
        return self.image_ids[f"{frame.segment}/{frame.index:06d}"]


def group_by_image(annotations: Any) -> dict[Any, list[dict[str, Any]]]:
    """COCO annotations by the image they belong to."""
    grouped: dict[Any, list[dict[str, Any]]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped


def coco_instances(annotations: list[dict[str, Any]]) -> Instances:
    """COCO annotations or results of one image as instances."""
    boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = (
        np.array([a["score"] for a in annotations]) if "score" in (annotations or [{}])[0] else None
    )
    return Instances([a["segmentation"] for a in annotations], boxes, scores)


def headlines(metrics: Mapping[str, Mapping[str, float]]) -> list[Headline]:
    """The numbers at the top of the page."""
    found = []
    if "motion" in metrics:
        motion = metrics["motion"]
        base = f"base rate {motion['motion/base_rate']:.3f}"
        found.append(Headline("motion-mask AP", f"{motion['motion/AP']:.3f}", base))
    for name, detail in (("Moving2Mobile", "first detector"), ("Final", "after the last round")):
        if name in metrics:
            found.append(Headline(f"{name} AP50", f"{metrics[name]['box/AP50']:.3f}", detail))
    if "Final" in metrics and "Yardstick" in metrics:
        share = f"{ratio_to_yardstick(dict(metrics)):.2f}"  # type: ignore[arg-type]
        found.append(
            Headline("of the supervised AP50", share, "same network, same budget, true labels")
        )
    return found


def tables(metrics: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Motion, label sets and detectors."""
    recalls = [
        Column("box/recall", "recall", "share of objects found at IoU 0.5"),
        Column("box/recall_moving", "moving"),
        Column("box/recall_static", "static"),
        Column("box/recall_small", "small"),
        Column("box/recall_medium", "medium"),
        Column("box/recall_large", "large"),
    ]
    precision = Column("box/precision_at_score", "precision")
    sets = [Row(name, metrics[name]) for name in LABEL_SETS if name in metrics]
    detectors = [
        Row(name, metrics[name], yardstick=name == "Yardstick")
        for name in DETECTORS
        if name in metrics
    ]
    average = [Column("box/AP50", "AP50"), Column("box/AP", "AP"), Column("mask/AP50", "mask AP50")]
    result = [
        Table("Label sets", [precision, *recalls], sets, "All labels count, whatever their score."),
        Table(
            "Detectors",
            [*average, *recalls],
            detectors,
            "Up to 100 detections.",
            ratio_of="box/AP50",
        ),
    ]
    if "motion" in metrics:
        columns = [
            Column("motion/AP", "mask AP"),
            Column("motion/base_rate", "base rate", better=""),
            Column("motion/best_F1", "best F1"),
            Column("depth/abs_rel", "abs rel", "after median scaling", better="low"),
            Column("depth/d1", "δ < 1.25"),
        ]
        result.insert(0, Table("Motion and depth", columns, [Row("Stage 1", metrics["motion"])]))
    return result


def gains(metrics: Mapping[str, Mapping[str, float]]) -> list[Chart]:
    """Recall of moving, static and small objects from round to round."""
    rounds = [name for name in ("L0", "L1", "L2", "Final") if name in metrics]
    series = {
        kind: [(float(i), metrics[name][f"box/recall_{kind}"]) for i, name in enumerate(rounds)]
        for kind in ("moving", "static", "small", "large")
    }
    return [Chart("Recall, " + " → ".join(rounds), series, x_label="round", y_label="recall")]


def logs(run: Path) -> dict[str, Path]:
    """Training logs by the name of the training."""
    found = {f"motion, {phase[2:]}": run / "motion" / phase / "log.jsonl" for phase in PHASES}
    found |= {name: run / folder / "log.jsonl" for name, folder in DETECTORS.items()}
    return {name: path for name, path in found.items() if path.is_file()}


def sizes(run: Path, frames: list[FrameRef]) -> dict[str, list[float]]:
    """Square roots of the areas of each label set's instances, in pixels."""
    found: dict[str, list[float]] = {}
    for name in LABEL_SETS:
        if (run / "evaluation" / name).is_dir():
            areas = [read_labels(run / "evaluation" / name, frame).areas() for frame in frames]
            found[name] = np.sqrt(np.concatenate(areas)).tolist()
    return found
