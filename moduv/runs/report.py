"""The report of a run: pictures of the same held-out frames after every stage, curves, and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moduv.engine.errors import InputError
from moduv.engine.files import MEND, read_text
from moduv.engine.hardware import environment
from moduv.engine.log import read_log, say
from moduv.engine.stages import MANIFEST, read_manifest
from moduv.evaluation.agreement import describe_sets, root_areas
from moduv.evaluation.detection import AREAS
from moduv.frames.images import write_image
from moduv.motion.phases import PHASES
from moduv.runs.chains import DETECTORS, LABEL_SETS, folder, stage_folders
from moduv.runs.findings import Findings, read_findings
from moduv.runs.measure import read_metrics, with_motion
from moduv.runs.report_pictures import Pictures
from moduv.runs.tables import detector_bars, headlines, recall_bars, tables
from moduv.visual.drawing import picture_grid
from moduv.visual.figures import Figure, line_chart, score_histograms, size_histograms
from moduv.visual.page import Report, write_report

HELD_OUT = (
    *("val/depth/abs_rel", "val/depth/d1"),
    *("val/motion/AP", "val/motion/best_F1"),
    "val/odometry/ATE",
)
"""What is drawn of the metrics that stage 1 measures while it is trained."""
LAYER_NOTES = {
    "motion": "What moves by itself, by the mask of stage 1 or by measured flow: the brighter, the surer.",
    "depth": "Depth of stage 1, near is bright; learnt from the same clips.",
    "depth after": "Depth of stage 1 after moving objects have taught it.",
    "true depth": "True depth, near is bright.",
    "error before": "Error of depth, bright: twice or half the true one.",
    "error after": "The same after moving objects have taught it.",
    "L0": "Initial labels: clusters of moving pixels.",
    "L1": "Moving2Mobile: what a detector trained briefly on L0 finds.",
    "L2": "Large2Small: the large-scale and the small-scale detector, merged.",
    "final": "The final detector above a score of {score:g}.",
    "truth": "The true objects, moving and parked.",
}

OVERVIEW_ROWS = 4


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows."""

    frames: int = 8
    """Frames with most objects."""
    extremes: int = 4
    """Best and worst frames, of each."""
    clips: int = 3
    clip_frames: int = 24
    """Frames of each clip, at most."""
    score: float = 0.5
    """Detections above it are drawn."""
    width: int = 480
    """Small frames are enlarged to at least this width in pixels."""
    budget_mb: float = 20.0
    """Pictures are shrunk until the page is within it."""


def report_run(
    run: Path,
    data: Path,
    split: Path,
    out: Path,
    config: ReportConfig,
    annotations: Path | None = None,
) -> None:
    """Write `report.html` and an overview picture of a measured run.

    Args:
        run: folder of the run, measured before.
        data: folder of the frames.
        split: the held-out frames that were measured.
        out: receives `report.html` and `overview.jpg`.
        config: how many frames and clips.
        annotations: the frames' true objects, COCO JSON; without them the rounds are compared with one
            another.

    Raises:
        InputError: when the run has not been measured.
    """
    metrics = read_metrics(folder(run, "evaluation"))
    frames = with_motion(folder(run, "motion_val"), split)
    findings = read_findings(run, data, frames, annotations, config.score)
    pictures = Pictures(run, data, findings, config.width)
    written = write_report(
        out / "report.html",
        build_report(run, findings, pictures, metrics, config),
        budget_mb=config.budget_mb,
    )
    rows = [
        picture_grid(pictures.layers(frame), columns=8, width=config.width // 2)
        for frame in findings.representative_frames()[:OVERVIEW_ROWS]
    ]
    write_image(out / "overview.jpg", np.vstack(rows))
    say(f"report: {written}")


def build_report(
    run: Path,
    findings: Findings,
    pictures: Pictures,
    metrics: Mapping[str, Mapping[str, float]],
    config: ReportConfig,
) -> Report:
    """Everything on the page."""
    described = describe_sets(findings.found)
    telling = findings.representative_frames()
    timings = {
        name: float(read_manifest(path).get("seconds", 0.0))
        for name, path in stage_folders(run).items()
    }
    measured = read_manifest(folder(run, "evaluation"))
    areas = AREAS.get(str(measured.get("config", {}).get("areas")), AREAS["coco"])
    return Report(
        title=f"moduv: {run.name}",
        subtitle="From raw video to a detector of everything that can move, without a single label.",
        headlines=headlines(metrics, described),
        tables=tables(metrics, described, training_labels(run)),
        bars=[*recall_bars(metrics), *detector_bars(metrics)],
        frames=pictures.frames(telling[: config.frames], config.extremes),
        layer_notes={n: note.format(score=config.score) for n, note in LAYER_NOTES.items()},
        clips=pictures.clips(telling[: config.clips], config.clip_frames),
        charts=training_charts(training_logs(run)),
        histograms=histograms(findings, {n: low**0.5 for n, (low, _) in areas.items() if low > 0}),
        timings={name: seconds for name, seconds in timings.items() if seconds},
        environment=environment(),
        config=configurations(run),
    )


def training_logs(run: Path) -> dict[str, Path]:
    """Training logs by the name of the training."""
    found = {
        f"motion, {name}": folder(run, "motion") / phase.folder / "log.jsonl"
        for name, phase in PHASES.items()
    }
    found |= {name: folder(run, step.name) / "log.jsonl" for name, step in DETECTORS.items()}
    return {name: path for name, path in found.items() if path.is_file()}


def training_labels(run: Path) -> dict[str, dict[str, float]]:
    """What the label stages counted on the training frames."""
    found = {}
    for name, step in LABEL_SETS.items():
        counted = read_manifest(folder(run, step.name)).get("results", {})
        if not counted.get("frames"):
            continue
        try:
            found[name] = _shares(counted)
        except (LookupError, TypeError) as error:
            path = folder(run, step.name) / MANIFEST
            raise InputError(f"{path}: its 'results' are no counts ({error}); {MEND}.") from None
    return found


def _shares(counted: Mapping[str, Any]) -> dict[str, float]:
    """What a label stage counted, a frame where that says more."""
    quantiles, score = counted["root_area_quantiles"], counted["mean_score"]
    return {
        "labels/frames": counted["frames"],
        "labels/count": counted["instances"],
        "labels/per_frame": counted["instances"] / counted["frames"],
        "labels/empty": counted["empty_frames"] / counted["frames"],
        "labels/size": quantiles[2] if quantiles else -1.0,
        "labels/score": -1.0 if score is None else score,
    }


def training_charts(logs: Mapping[str, Path]) -> list[Figure]:
    """Charts of trainings from their logs: the loss with its terms, and metrics on held-out frames.

    Logarithmic where values span more than a factor of 30.
    """
    charts = []
    for training, path in logs.items():
        entries = read_log(path)
        names = dict.fromkeys(name for entry in entries for name in entry)
        terms = [n for n in names if "/" not in n and n not in {"step", "learning_rate", "loss"}]
        groups = {training: ["loss", *terms]}
        for name in HELD_OUT:
            kind = name.split("/")[1]
            groups.setdefault(f"{training}, held-out {kind}", []).append(name)
        for title, scalars in groups.items():
            series = {
                scalar.rpartition("/")[2]: [(e["step"], e[scalar]) for e in entries if scalar in e]
                for scalar in scalars
            }
            values = [y for points in series.values() for _, y in points if math.isfinite(y)]
            log = bool(values) and 0 < 30 * min(values) < max(values)
            if any(series.values()):
                charts.append(line_chart(title, series, "step", log=log, smooth=True))
    return charts


def histograms(findings: Findings, marks: Mapping[str, float]) -> list[Figure]:
    """Sizes of all that was found and of the truth; scores, also of detections above a tenth.

    `marks` are the lower bounds of the size classes by name, pixels.
    """
    sizes = root_areas(findings.layers)
    sets = {name: found for name, found in findings.found.items() if name != "final"}
    if findings.detections:
        sets["final, above 0.1"] = [found.above(0.1) for found in findings.detections]
    scores = {
        name: [s for found in frames if found.scores is not None for s in found.scores.tolist()]
        for name, frames in sets.items()
    }
    scores = {name: values for name, values in scores.items() if values}
    drawn = [size_histograms(sizes, marks)] if sizes else []
    return drawn + ([score_histograms(scores, list(sizes))] if scores else [])


def configurations(run: Path) -> str:
    """The resolved settings of every stage, one after the other."""
    files = {name: path / "config.yaml" for name, path in stage_folders(run).items()}
    parts = [f"# {name}\n{read_text(path)}" for name, path in files.items() if path.is_file()]
    return "\n".join(parts)
