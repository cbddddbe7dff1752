"""The report's numbers: headlines, tables and bars of a measured run, as far as there is truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from moduv.runs.chains import DETECTORS, FINAL, LABEL_SETS, UPPER_BOUND
from moduv.runs.measure import ratio_to_upper_bound
from moduv.visual.bars import BarChart
from moduv.visual.page import Column, Headline, Row, Table

Metrics = Mapping[str, Mapping[str, float]]

COUNTS = (
    Column("labels/count", "labels", bar=False, better=""),
    Column("labels/per_frame", "a frame", digits=2, bar=False, better=""),
    Column("labels/empty", "empty", "share of frames without any", better=""),
    Column("labels/size", "size", "median √area in pixels", digits=1, bar=False, better=""),
    Column("labels/score", "score", "mean", better=""),
)
AGREEMENT = (
    Column("labels/kept", "kept", "share of the set before that is found again", better=""),
    Column("labels/new", "new", "share that the set before lacks", better=""),
    Column("labels/iou", "IoU", "mean overlap of masks that are in both", better=""),
    Column("labels/consistency", "in time", "share found again in the next frame", better=""),
)


RECALLS = (
    Column("box/recall", "recall", "share of objects found at IoU 0.5"),
    Column("box/recall_moving", "moving", "recall of objects that move"),
    Column("box/recall_static", "static", "recall of objects that are parked or stand"),
    Column("box/recall_small", "small"),
    Column("box/recall_medium", "medium"),
    Column("box/recall_large", "large"),
)
AVERAGES = (
    Column("box/AP50", "AP50"),
    Column("box/AP", "AP"),
    Column("mask/AP50", "mask AP50"),
)
STAGE1 = (
    Column("motion/AP", "mask AP"),
    Column("motion/base_rate", "base rate", better=""),
    Column("motion/best_F1", "best F1"),
    Column("depth/abs_rel", "abs rel", "after median scaling", better="low"),
    Column("depth/d1", "δ < 1.25"),
)


def headlines(metrics: Metrics, described: Metrics) -> list[Headline]:
    """The numbers at the top of the page: quality where it was measured, counts otherwise.

    Args:
        metrics: what `measure` wrote.
        described: `describe_sets` of what the run found.
    """
    found = []
    if "motion/AP" in metrics.get("motion", {}):
        base = f"base rate {metrics['motion']['motion/base_rate']:.3f}"
        found.append(Headline("motion-mask AP", f"{metrics['motion']['motion/AP']:.3f}", base))
    for name, detail in (("Moving2Mobile", "first detector"), (FINAL, "after the last round")):
        if _is_measured(metrics, name):
            found.append(Headline(f"{name} AP50", f"{metrics[name]['box/AP50']:.3f}", detail))
    share = ratio_to_upper_bound(metrics)
    if share is not None:
        detail = "same network, same budget, ground truth"
        found.append(Headline("of the supervised AP50", f"{share:.2f}", detail))
    return found or _count_headlines(described)


def _count_headlines(described: Metrics) -> list[Headline]:
    found = []
    for name, numbers in described.items():
        agreement = ""
        if numbers.get("labels/kept", -1) >= 0:
            agreement = f"{100 * numbers['labels/kept']:.0f} % of the set before are kept"
        a_frame = f"{numbers['labels/per_frame']:.1f}"
        found.append(Headline(f"{name}, objects a frame", a_frame, agreement))
    return found


def tables(metrics: Metrics, described: Metrics, trained_on: Metrics) -> list[Table]:
    """Motion, label sets and detectors against the truth, as far as there is one; then counts.

    Args:
        metrics: what `measure` wrote.
        described: `describe_sets` of what the run found on the held-out frames.
        trained_on: counts of the training frames' label sets.
    """
    sets = [Row(name, metrics[name]) for name in LABEL_SETS if _is_measured(metrics, name)]
    detectors = [
        Row(name, metrics[name], upper_bound=name == UPPER_BOUND)
        for name in DETECTORS
        if _is_measured(metrics, name)
    ]
    precision = Column("box/precision_at_score", "precision")
    stage1 = [Row("Stage 1", metrics["motion"])] if "motion" in metrics else []
    made = [
        # `measure` follows labels through time and names the last set by its detector.
        Row(name, {**metrics.get(FINAL if name == "final" else name, {}), **numbers})
        for name, numbers in described.items()
    ]
    trained = [Row(name, numbers) for name, numbers in trained_on.items()]
    frames = Column("labels/frames", "frames", bar=False, better="")
    every = [
        Table("Motion and depth", STAGE1, stage1),
        Table("Label sets", [precision, *RECALLS], sets, "All labels count, whatever their score."),
        Table(
            "Detectors",
            [*AVERAGES, *RECALLS],
            detectors,
            "Up to 100 detections a frame.",
            ratio_of="box/AP50",
        ),
        Table(
            "From round to round",
            [*COUNTS, *AGREEMENT],
            made,
            "What each round finds on the held-out frames, and how it agrees with the one before "
            "(masks at IoU 0.5). No truth is needed for it.",
        ),
        Table("Labels that were trained on", [frames, *COUNTS], trained),
    ]
    return [_without_empty_columns(table) for table in every if table.rows]


def _is_measured(metrics: Metrics, name: str) -> bool:
    return "box/AP50" in metrics.get(name, {})


def _without_empty_columns(table: Table) -> Table:
    """Leave out what no row knows, such as the recall of moving objects where none is marked."""
    known = [c for c in table.columns if any(row.values.get(c.key, -1) >= 0 for row in table.rows)]
    return replace(table, columns=known)


def recall_bars(metrics: Metrics) -> list[BarChart]:
    """Recall of moving, static, small and large objects from round to round."""
    rounds = [name for name in (*LABEL_SETS, FINAL) if _is_measured(metrics, name)]
    kinds = ("moving", "static", "small", "large")
    groups = {n: {kind: metrics[n][f"box/recall_{kind}"] for kind in kinds} for n in rounds}
    note = "Share of the held-out objects of each kind that are found at box IoU 0.5."
    return [BarChart("Recall, " + " → ".join(rounds), groups, "recall", note)] if groups else []


def detector_bars(metrics: Metrics) -> list[BarChart]:
    """AP50 of boxes and masks of each detector."""
    groups = {
        name.replace("Large2Small, ", "L2S "): {
            "boxes": metrics[name]["box/AP50"],
            "masks": metrics[name].get("mask/AP50", -1.0),
        }
        for name in DETECTORS
        if _is_measured(metrics, name)
    }
    return [BarChart("AP50 of the detectors", groups, "AP50")] if groups else []
