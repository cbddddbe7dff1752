"""The report page is whole, safe, and opens without a network."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from moduv.engine.errors import InputError
from moduv.runs.report import training_charts
from moduv.visual.figures import bar_chart, line_chart, size_histograms
from moduv.visual.page import Clip, Column, Frame, Headline, Report, Table, write_report


class Page(html.parser.HTMLParser):
    """Collects addresses and pictures, and checks that elements close in order."""

    EMPTY = frozenset({"img", "meta", "input", "br", "col"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.pictures: dict[str, str] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[key] or "" for key in ("src", "href") if key in values]
        if tag == "img" and values.get("alt"):
            self.pictures[values["alt"] or ""] = values["src"] or ""
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def street(seed: int, height: int = 72, width: int = 120) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (9, 15, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def full_report() -> Report:
    columns = [Column("box/AP50", "AP50", "at IoU 0.5"), Column("count", "objects", bar=False)]
    rows = {
        "L0": {"box/AP50": 0.125, "count": 1234},
        "L1": {"box/AP50": 0.25, "count": -1},
        "Oracle": {"box/AP50": 0.5},
    }
    layers = ("frame", "motion", "L0", "final")
    return Report(
        title="A street <run>",
        subtitle="what each round adds",
        headlines=[Headline("final", "0.25", "50 % of the oracle")],
        tables=[Table("Detectors", columns, rows, "A note & more.", "Oracle", ratio_of="box/AP50")],
        bars=[bar_chart("recall", {"L0": {"moving": 0.2}})],
        frames=[
            Frame(f"val/c {i}", {name: street(10 * i + j) for j, name in enumerate(layers)}, "note")
            for i in range(3)
        ],
        layer_notes={"motion": "from three frames"},
        clips=[Clip("val/c", {name: [street(i) for i in range(4)] for name in ("frame", "final")})],
        charts=[
            line_chart("final", {"loss": [(0, 2.0), (10, 1.0)]}, log=True),
            line_chart("precision", {"mask": [(0.0, 1.0), (1.0, 0.1)]}),
        ],
        histograms=[size_histograms({"L0": [12.0, 30.0], "truth": [5.0, 50.0]}, {"medium": 16.0})],
        timings={"motion": 300.0, "L0": 2.5},
        environment={"torch": "2.14"},
        config="steps: 3",
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    path = write_report(tmp_path_factory.mktemp("report") / "deep" / "report.html", full_report())
    text = path.read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    return text, parsed


def test_report_is_well_formed_and_says_everything(page: tuple[str, Page]) -> None:
    _, parsed = page
    assert parsed.open == []
    text = " ".join(" ".join(parsed.text).split())
    for words in (
        "A street <run>",
        "0.125",
        "1,234",
        "25 %",
        "100 %",
        "A note & more.",
        "steps: 3",
    ):
        assert words in text
    for words in ("5 min 00 s", "logarithmic", "from three frames", "torch", "val/c 2"):
        assert words in text


def test_report_holds_every_picture(page: tuple[str, Page]) -> None:
    _, parsed = page
    report = full_report()
    for frame in report.frames:
        for layer, picture in frame.layers.items():
            assert_same_picture(parsed.pictures[f"{frame.name}: {layer}"], picture)
    for clip in report.clips:
        for layer, pictures in clip.layers.items():
            for number, picture in enumerate(pictures, start=1):
                assert_same_picture(parsed.pictures[f"{clip.name}: {layer}, {number}"], picture)


def assert_same_picture(address: str, picture: np.ndarray) -> None:
    kind, _, content = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    decoded = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).mean() < 6


def test_report_needs_no_network(page: tuple[str, Page]) -> None:
    text, parsed = page
    assert all(a.startswith(("data:image/", "#")) for a in parsed.addresses)
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.[a-z]+/", text)


def test_report_escapes_what_it_is_told(page: tuple[str, Page]) -> None:
    assert "<run>" not in page[0]


def test_report_script_is_valid(page: tuple[str, Page], tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (script,) = re.findall(r"<script>(.*?)</script>", page[0], re.DOTALL)
    (tmp_path / "script.js").write_text(script)
    done = subprocess.run([node, "--check", tmp_path / "script.js"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_best_value_is_marked_and_the_supervised_is_not(page: tuple[str, Page]) -> None:
    best = re.findall(r'<td class="best">.*?class="number">([^<]*)<', page[0])
    assert best == ["0.250"]


def test_empty_report_is_a_page(tmp_path: Path) -> None:
    parsed = Page()
    parsed.feed(write_report(tmp_path / "report.html", Report("Nothing yet")).read_text())
    assert parsed.open == []
    assert "Nothing yet" in parsed.text
    assert parsed.pictures == {}


def test_pictures_shrink_to_the_budget(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (600, 960, 3)).astype(np.uint8) for _ in range(3)]
    report = Report("Large", frames=[Frame(str(i), {"frame": p}) for i, p in enumerate(noise)])
    free = write_report(tmp_path / "free.html", report, budget_mb=50).stat().st_size
    bound = write_report(tmp_path / "bound.html", report, budget_mb=1.0).stat().st_size
    assert bound < 1.2e6 < free
    with pytest.raises(InputError, match="show fewer frames"):
        write_report(tmp_path / "none.html", report, budget_mb=0.01)
    assert not (tmp_path / "none.html").exists()


def test_curves_come_from_training_logs(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 10, "learning_rate": 0.1, "mask": 1.5, "loss": 2.0}\n'
        '{"step": 20, "loss": 0.01, "mask": 1, "val/depth/d1": 0.5, "val/depth/rmse": 9}\n'
        '{"step": 3'
    )
    training, held_out = training_charts({"final": log, "gone": tmp_path / "none.jsonl"})
    assert (training.title, training.names) == ("final", ["loss", "mask"])
    assert training.detail == "logarithmic"
    assert json.loads(training.readout)["series"] == {
        "loss": [[10, 2.0], [20, 0.01]],
        "mask": [[10, 1.5], [20, 1]],
    }
    assert (held_out.title, held_out.names) == ("final, held-out depth", ["d1"])
