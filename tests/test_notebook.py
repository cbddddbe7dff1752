"""The notebook runs from top to bottom and shows what it promises."""

from __future__ import annotations

import math
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from moduv.engine.files import read_json
from moduv.frames.images import read_image

NOTEBOOK = Path(__file__).parents[1] / "demo.ipynb"
PICTURES = (
    *("1_clip", "3_initial_labels", "4_moving2mobile", "5_large2small"),
    *("6_stages_1", "6_stages_2", "7_names", "8_own_image"),
)
ROUNDS = ("L0", "L1", "L2", "Moving2Mobile", "Final")


def execute(folder: Path, **variables: Path) -> nbformat.NotebookNode:
    """Run the notebook in a folder, with other values of its variables; returns it with its outputs."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for name, value in variables.items():
        assert f"\n{name} = " in f"\n{first.source}", f"the first cell does not set {name}"
        first.source += f"\n{name} = {str(value)!r}"
    folder.mkdir(exist_ok=True)
    where = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=1500, resources=where).execute()


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """All outputs of a kind, such as text/markdown."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nbformat.NotebookNode]:
    """The folder in which the notebook ran as it is, and the notebook with its outputs."""
    folder = tmp_path_factory.mktemp("notebook")
    return folder, execute(folder)


def assert_drawn(folder: Path) -> None:
    for name in PICTURES:
        picture = read_image(folder / f"out/notebook/pictures/{name}.png")
        assert picture.std() > 20, f"{name} is blank"
    assert (folder / "out/notebook/pictures/6_recall.svg").read_text().count("<rect") > 8


@pytest.mark.slow
@pytest.mark.timeout(1800)  # other programs may share the cores
def test_short_run_learns_and_shows_every_stage(
    finished: tuple[Path, nbformat.NotebookNode],
) -> None:
    folder, notebook = finished
    assert_drawn(folder)
    metrics = read_json(folder / "out/notebook/run/evaluation/metrics.json")
    learnt = shown(notebook, "text/markdown")[0].splitlines()[-1].split("|")
    assert 0 < float(learnt[2]) < 0.6
    values = [metrics[name]["box/AP50"] for name in ROUNDS]
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)
    assert metrics["Final"]["box/recall"] > 0.1
    assert metrics["Final"]["box/recall_static"] > metrics["L0"]["box/recall_static"]
    table, names = shown(notebook, "text/markdown")[-2:]
    assert all(f"| {name} " in table for name in ROUNDS)
    assert f"{metrics['Final']['box/AP50']:.3f}" in table
    kind, _, name, _ = (float(cell) for cell in names.splitlines()[-1].split("|")[2:6])
    assert 0.3 < kind <= 1
    assert 1 / 28 < name <= kind


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_finished_runs_and_own_images_are_shown_without_other_rounds(
    finished: tuple[Path, nbformat.NotebookNode], tmp_path: Path
) -> None:
    made = finished[0] / "out/notebook"
    image = next((made / "street/val/clip_0001").glob("*.jpg"))
    notebook = execute(tmp_path, RUN=made / "run", DATA=made / "street", IMAGE=image)
    assert_drawn(tmp_path)
    assert not (tmp_path / "out/notebook/run").exists()
    measured, expected = (
        [table for table in shown(one, "text/markdown") if "AP50" in table]
        for one in (notebook, finished[1])
    )
    assert measured == expected != []
    printed = "".join(
        o["text"] for c in notebook.cells for o in c.get("outputs", []) if "text" in o
    )
    assert " objects, scores [" in printed


def test_notebook_is_kept_small() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert NOTEBOOK.stat().st_size < 200_000
