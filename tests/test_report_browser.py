"""The report page does in a real browser what its buttons say, offline and without errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from moduv.visual.figures import bar_chart, line_chart, score_histograms, size_histograms
from moduv.visual.page import Clip, Column, Frame, Headline, Report, Table, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
COLOURS = {
    "frame": (200, 200, 200),
    "motion": (220, 40, 40),
    "L0": (30, 60, 220),
    "final": (20, 160, 60),
}
LAYERS = list(COLOURS)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((60, 100, 3), colour, np.uint8)


def darker(colour: tuple[int, int, int], times: int) -> tuple[int, int, int]:
    """The colour of a later moment of a clip."""
    red, green, blue = (round(value * 0.75**times) for value in colour)
    return red, green, blue


def report() -> Report:
    """Pictures of one colour each: of a layer, and in clips of a moment."""
    layers = {name: flat(colour) for name, colour in COLOURS.items()}
    without_l0 = {name: picture for name, picture in layers.items() if name != "L0"}
    reel = {n: [flat(darker(c, t)) for t in range(4)] for n, c in COLOURS.items()}
    return Report(
        "Browser",
        frames=[
            Frame("val/a 1", layers, "first note", "most labels"),
            Frame("val/a 2", layers, "second note", "most labels"),
            Frame("val/b 7", without_l0, "", "worst"),
        ],
        clips=[Clip("val/a", reel), Clip("val/b", {n: r[:2] for n, r in reel.items()})],
        charts=[
            line_chart("final", {"loss": [(0, 2.0), (10, 1.0), (20, 0.5)]}),
            line_chart("precision", {"mask": [(0.0, 1.0), (1.0, 0.1)]}),
        ],
        histograms=[
            size_histograms({"L0": [12.0, 30.0]}, {}),
            score_histograms({"L1": [0.2, 0.9]}),
        ],
        timings={"motion": 3.0},
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=program,
            headless=True,
            args=FLAGS,
            offline=True,
            viewport={"width": 1280, "height": 900},
            reduced_motion="reduce",
        )
        context.set_default_timeout(30_000)
        yield context
        context.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", report()).as_uri()


@pytest.fixture
def troubles() -> list[str]:
    return []


@pytest.fixture
def page(browser: Any, address: str, troubles: list[str]) -> Iterator[Any]:
    """The open report; at the end, the console must be silent and nothing asked of a network."""
    tab = browser.new_page()
    tab.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on(
        "request", lambda request: troubles.append(request.url) if is_remote(request.url) else None
    )
    tab.goto(address)
    yield tab
    tab.close()
    assert not troubles


def is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


def colours(page: Any, section: str, *shares: float) -> list[np.ndarray]:
    """What the stage of a section shows at shares of its width, half-way down."""
    shot = page.locator(f"{section} .stage").screenshot()
    image = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    height, width = image.shape[:2]
    return [image[height // 3, int(share * width)] for share in shares]


def shows(page: Any, section: str, colour: tuple[int, int, int]) -> bool:
    return bool(abs(colours(page, section, 0.5)[0] - colour).max() < 12)


@pytest.mark.parametrize("section", ["#frames", "#clips"])
def test_a_click_on_a_layer_shows_it(page: Any, section: str) -> None:
    for layer in [*LAYERS, *reversed(LAYERS)]:
        page.locator(f"{section} [data-switch='{layer}']").click()
        assert shows(page, section, COLOURS[layer])
        chosen = page.locator(f"{section} .layers .on")
        assert chosen.get_attribute("data-switch") == layer


def test_frames_are_chosen_by_thumbnail_arrow_and_contact_sheet(page: Any) -> None:
    name, note = page.locator("#frames .item-name"), page.locator("#frames .item-note")
    page.locator("#frames .strip button").nth(1).click()
    assert (name.text_content(), note.text_content()) == ("val/a 2", "second note")
    page.locator("#frames .stage").hover()
    page.locator("#frames .next").click()
    assert name.text_content() == "val/b 7"
    page.locator("#frames .next").click()
    page.locator("#frames .previous").click()
    assert name.text_content() == "val/b 7"
    # A layer that a frame lacks cannot be chosen.
    assert page.locator("#frames [data-switch='L0']").is_disabled()
    page.locator(
        "#frames img[alt='val/a 1: motion'].on, .contact img[alt='val/a 1: motion']"
    ).click()
    assert name.text_content() == "val/a 1"
    assert shows(page, "#frames", COLOURS["motion"])
    assert page.locator("#frames .strip .group").all_text_contents() == ["most labels", "worst"]


def test_the_scrubber_moves_through_a_clip_in_every_layer(page: Any) -> None:
    scrubber, time = page.locator("#clips input[type=range]"), page.locator("#clips .time")
    page.locator("#clips [data-switch='motion']").click()
    for moment in (2, 3, 0):
        scrubber.fill(str(moment))
        assert shows(page, "#clips", darker(COLOURS["motion"], moment))
        assert time.text_content() == f"{moment + 1} / 4"
    scrubber.focus()
    page.keyboard.press("ArrowRight")
    assert time.text_content() == "2 / 4"
    page.locator("#clips [data-switch='L0']").click()
    assert shows(page, "#clips", darker(COLOURS["L0"], 1))
    page.locator("#clips .strip button").nth(1).click()
    assert (time.text_content(), scrubber.get_attribute("max")) == ("1 / 2", "1")
    assert page.locator("#clips .item-name").text_content() == "val/b"


def test_clips_play_and_pause(page: Any) -> None:
    time, play = page.locator("#clips .time"), page.locator("#clips .play")
    assert time.text_content() == "1 / 4"
    play.click()
    page.wait_for_function("document.querySelector('#clips .time').textContent !== '1 / 4'")
    play.click()
    paused = time.text_content()
    page.wait_for_timeout(400)
    assert time.text_content() == paused


def test_clips_run_when_seen_unless_stillness_is_preferred(page: Any) -> None:
    page.locator("#clips .stage").scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    assert page.locator("#clips .time").text_content() == "1 / 4"
    page.emulate_media(reduced_motion="no-preference")
    page.reload()
    page.locator("#clips .stage").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#clips .time').textContent !== '1 / 4'")


def test_keys_switch_layers_and_frames(page: Any) -> None:
    page.locator("#frames .browser").scroll_into_view_if_needed()
    page.evaluate(
        "document.querySelector('#frames .stage').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    for number, layer in enumerate(LAYERS, 1):
        page.keyboard.press(str(number))
        assert shows(page, "#frames", COLOURS[layer])
    page.keyboard.press("ArrowRight")
    assert page.locator("#frames .item-name").text_content() == "val/a 2"
    page.keyboard.down(" ")
    assert shows(page, "#frames", COLOURS["frame"])
    page.keyboard.up(" ")
    assert shows(page, "#frames", COLOURS["final"])
    assert page.locator("#clips .time").text_content() == "1 / 4"


def test_sweeping_compares_with_the_plain_frame(page: Any) -> None:
    page.locator("#frames .wipe input").check()
    box = page.locator("#frames .stage").bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    left, right = colours(page, "#frames", 0.4, 0.8)
    assert abs(left - COLOURS["frame"]).max() < 12
    assert abs(right - COLOURS["final"]).max() < 12
    page.locator("#frames .wipe input").uncheck()
    assert abs(colours(page, "#frames", 0.4)[0] - COLOURS["final"]).max() < 12


def test_charts_tell_their_values_under_the_pointer(page: Any) -> None:
    plot = page.locator("#training .plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 0.98 * box["width"], box["y"] + 0.5 * box["height"])
    assert page.locator("#readout").text_content() == "20\nloss  0.5"
    page.mouse.move(0, 0)
    assert not page.locator("#readout").is_visible()


def test_the_theme_switches(page: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.locator("#theme").click()
    assert page.evaluate(background) != before
    page.locator("#theme").click()
    assert page.evaluate(background) == before


def test_a_narrow_window_scrolls_only_downwards(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#frames [data-switch='L0']").click()
    assert shows(page, "#frames", COLOURS["L0"])


def test_an_empty_report_is_silent(page: Any, tmp_path: Path) -> None:
    page.goto(write_report(tmp_path / "empty.html", Report("Nothing yet")).as_uri())
    page.keyboard.press("ArrowRight")
    page.locator("#theme").click()
    assert page.locator("h1").text_content() == "Nothing yet"


SCRIPTS = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "'><svg onload='window.hacked = 3'>",
    "</title></style></script><script>window.hacked = 4</script>",
    "{{ 6 * 7 }}{% include 'page.py' %}",
    'javascript:window.hacked = 5" onmouseover="window.hacked = 6',
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_are_shown_and_never_run(page: Any, tmp_path: Path, name: str) -> None:
    picture = flat(COLOURS["frame"])
    points, bars = [(0.0, 1.0), (1.0, 0.5)], {name: {name: 0.5}}
    hostile = Report(
        name,
        subtitle=name,
        headlines=[Headline(name, name, name)],
        tables=[Table(name, [Column("a", name, name)], {name: {"a": 0.5}}, note=name)],
        bars=[bar_chart(name, bars, name, name)],
        frames=[Frame(name, {name: picture, "other": picture}, name, name)],
        layer_notes={name: name},
        clips=[Clip(name, {name: [picture, picture]})],
        charts=[line_chart(name, {name: points}, name, name)],
        histograms=[size_histograms({name: [12.0, 30.0]}, {name: 20.0})],
        timings={name: 3.0},
        environment={name: name},
        config=name,
    )
    page.goto(write_report(tmp_path / "hostile.html", hostile).as_uri())
    for section in ("#frames", "#clips"):
        page.locator(f"{section} .layers button").first.click()
        page.locator(f"{section} .stage").hover()
    plot = page.locator("#training .plot").first
    plot.scroll_into_view_if_needed()
    plot.hover()
    for key in ("ArrowRight", "1", "2", " "):
        page.keyboard.press(key)
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").text_content() == name
    assert page.locator("#clips .item-name").text_content() == name
    assert page.locator("script").count() == 1
