"""The numbers of a measured run: the console's table, and the page's headlines, tables and bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from moduv.engine.log import say
from moduv.evaluation.tables import format_table
from moduv.runs.chains import DETECTORS, FINAL, LABEL_SETS, UPPER_BOUND
from moduv.visual.figures import Figure, bar_chart
from moduv.visual.page import Column, Headline, Table

Metrics = Mapping[str, Mapping[str, float]]

AVERAGES = (
    Column("box/AP50", "AP50"),
    Column("box/AP", "AP"),
    Column("mask/AP50", "mask AP50"),
)
RECALLS = (
    Column("box/recall", "recall", "share of objects found at IoU 0.5"),
    Column("box/recall_moving", "moving", "recall of objects that move"),
    Column("box/recall_static", "static", "recall of objects that are parked or stand"),
    Column("box/recall_small", "small"),
    Column("box/recall_medium", "medium"),
    Column("box/recall_large", "large"),
)
PRECISION = Column("box/precision_at_score", "precision")
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
STAGE1 = (
    Column("motion/AP", "mask AP"),
    Column("motion/base_rate", "base rate", better=""),
    Column("motion/best_F1", "best F1"),
    Column("depth/abs_rel", "abs rel", "after median scaling", better="low"),
    Column("depth/d1", "δ < 1.25"),
)
COLUMNS = {column.key: column.title for column in (*AVERAGES, *RECALLS, PRECISION)}
"""Of the console's table with ground truth."""
LABEL_COLUMNS = {column.key: column.title for column in (*COUNTS, *AGREEMENT)}
"""Without ground truth: counts, and how each set agrees with the one before."""


def print_table(metrics: Metrics) -> None:
    """The table of rounds: label sets, detectors, the final detector's share of the upper bound."""
    motion = metrics.get("motion", {})
    if "motion/AP" in motion:
        say(
            f"motion masks: AP {motion['motion/AP']:.3f} (base rate {motion['motion/base_rate']:.3f}), "
            f"best F1 {motion['motion/best_F1']:.3f} above {motion['motion/best_threshold']:.2f}"
        )
    if "depth/abs_rel" in motion:
        say(f"depth: abs_rel {motion['depth/abs_rel']:.3f}")
    rows = {name: metrics[name] for name in (*LABEL_SETS, *DETECTORS) if name in metrics}
    measured = any("box/AP50" in values for values in rows.values())
    say(format_table(rows, COLUMNS if measured else LABEL_COLUMNS))
    share = ratio_to_upper_bound(metrics)
    if share is not None:
        say(f"{FINAL} / supervised upper bound, AP50: {share:.2f}")


def ratio_to_upper_bound(metrics: Metrics) -> float | None:
    """The final detector's AP50 as a share of that of the detector trained on ground truth.

    None where one of them was not measured, or the upper bound is zero.
    """
    final, bound = (metrics.get(name, {}).get("box/AP50") for name in (FINAL, UPPER_BOUND))
    return final / bound if final is not None and bound and bound > 0 else None


def headlines(metrics: Metrics, described: Metrics) -> list[Headline]:
    """The numbers at the top of the page: quality where it was measured, else counts (`described`)."""
    found = []
    if "motion/AP" in metrics.get("motion", {}):
        base = f"base rate {metrics['motion']['motion/base_rate']:.3f}"
        found.append(Headline("motion-mask AP", f"{metrics['motion']['motion/AP']:.3f}", base))
    for name, detail in (("Moving2Mobile", "first detector"), (FINAL, "after the last round")):
        for values in _measured(metrics, [name]).values():
            found.append(Headline(f"{name} AP50", f"{values['box/AP50']:.3f}", detail))
    share = ratio_to_upper_bound(metrics)
    if share is not None:
        detail = "same network, same budget, ground truth"
        found.append(Headline("of the supervised AP50", f"{share:.2f}", detail))
    if found:
        return found
    for name, numbers in described.items():
        kept = numbers.get("labels/kept", -1)
        agreement = f"{100 * kept:.0f} % of the set before are kept" if kept >= 0 else ""
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
    made = {
        # `measure` follows labels through time and names the last set by its detector.
        name: {**metrics.get(FINAL if name == "final" else name, {}), **numbers}
        for name, numbers in described.items()
    }
    frames = Column("labels/frames", "frames", bar=False, better="")
    stage1 = {"Stage 1": metrics["motion"]} if "motion" in metrics else {}
    every = [
        Table("Motion and depth", STAGE1, stage1),
        Table(
            "Label sets",
            [PRECISION, *RECALLS],
            _measured(metrics, LABEL_SETS),
            "All labels count, whatever their score.",
        ),
        Table(
            "Detectors",
            [*AVERAGES, *RECALLS],
            _measured(metrics, DETECTORS),
            "Up to 100 detections a frame.",
            upper_bound=UPPER_BOUND,
            ratio_of="box/AP50",
        ),
        Table(
            "From round to round",
            [*COUNTS, *AGREEMENT],
            made,
            "What each round finds on the held-out frames, and how it agrees with the one before "
            "(masks at IoU 0.5). No truth is needed for it.",
        ),
        Table("Labels that were trained on", [frames, *COUNTS], trained_on),
    ]
    return [_without_empty_columns(table) for table in every if table.rows]


def _measured(metrics: Metrics, names: Iterable[str]) -> dict[str, Mapping[str, float]]:
    """Metrics of those that were compared with ground truth."""
    return {name: metrics[name] for name in names if "box/AP50" in metrics.get(name, {})}


def _without_empty_columns(table: Table) -> Table:
    """Leave out what no row knows, such as the recall of moving objects where none is marked."""
    rows = table.rows.values()
    known = [c for c in table.columns if any(row.get(c.key, -1) >= 0 for row in rows)]
    return replace(table, columns=known)


def recall_bars(metrics: Metrics) -> list[Figure]:
    """Recall of moving, static, small and large objects from round to round."""
    kinds = ("moving", "static", "small", "large")
    groups = {
        name: {kind: values[f"box/recall_{kind}"] for kind in kinds}
        for name, values in _measured(metrics, (*LABEL_SETS, FINAL)).items()
    }
    note = "Share of the held-out objects of each kind that are found at box IoU 0.5."
    return [bar_chart("Recall, " + " → ".join(groups), groups, "recall", note)] if groups else []


def detector_bars(metrics: Metrics) -> list[Figure]:
    """AP50 of boxes and masks of each detector."""
    groups = {
        name.replace("Large2Small, ", "L2S "): {
            "boxes": values["box/AP50"],
            "masks": values.get("mask/AP50", -1.0),
        }
        for name, values in _measured(metrics, DETECTORS).items()
    }
    return [bar_chart("AP50 of the detectors", groups, "AP50")] if groups else []
