"""The page of `tvcodec report` in a real browser: Chromium, without a window."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, browser
from report_banks import hostile_bank, many_tasks

from tvcodec.file.archive import Archive
from tvcodec.report import build

CHROMIUM = shutil.which("chromium") or ""  # conftest.py: without one, this file is not collected
TAB, ENTER = ("Tab", 9), ("Enter", 13, "\r")
FOCUSABLE = "a[href], summary, [tabindex='0']"
VISIBLE = f'[...document.querySelectorAll("{FOCUSABLE}")].filter(e => e.checkVisibility())'


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a hostile file and of one of many tasks."""
    directory = tmp_path_factory.mktemp("pages")
    found = []
    for make in (hostile_bank, many_tasks):
        archive = Archive(make(directory / f"{make.__name__}.tvq"))
        target = directory / f"{make.__name__}.html"
        target.write_bytes(build.report(archive, "bank.tvq").page())
        archive.close()
        found.append(target)
    return found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_is_asked_for_and_nothing_overflows(
    tab: Page, pages: list[Path], width: int, scheme: str
) -> None:
    for path in pages:
        tab.show(path, width, scheme=scheme)
        for opened in ("false", "true"):
            tab.value(f"document.querySelectorAll('details').forEach(d => d.open = {opened})")
            assert tab.value("document.documentElement.scrollWidth") <= width
        sent = [
            found["request"]["url"]
            for method, found in tab.events
            if method == "Network.requestWillBeSent"
        ]
        assert [url for url in sent if not url.startswith("data:")] == [path.resolve().as_uri()]
        complaints = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        assert [found for method, found in tab.events if method in complaints] == []
        assert tab.value("document.title") == "Report on bank.tvq"
        assert tab.value("document.scripts.length") == 0


def test_charts_show_something_inside_their_frames(tab: Page, pages: list[Path]) -> None:
    for path, charts in zip(pages, (5, 3), strict=True):
        tab.show(path, 1280)
        drawn = tab.value(
            "[...document.querySelectorAll('.chart svg')].map(svg => {"
            "  const outer = svg.getBoundingClientRect();"
            "  const texts = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect());"
            "  const outside = texts.filter(t => t.left < outer.left - 1 ||"
            "    t.right > outer.right + 1 || t.top < outer.top - 1 ||"
            "    t.bottom > outer.bottom + 1);"
            "  const marks = [...svg.querySelectorAll('path, image, use')].filter(e => {"
            "    const box = e.getBoundingClientRect(); return box.width + box.height > 0; });"
            "  return [outer.height, marks.length, outside.length]; })"
        )
        assert len(drawn) == charts
        for height, marks, outside in drawn:
            assert height > 100
            assert marks >= 3
            assert outside == 0


def test_ink_stands_out_from_paper_in_light_and_dark(tab: Page, pages: list[Path]) -> None:
    for scheme in ("light", "dark"):
        tab.show(pages[0], 1280, scheme=scheme)
        panel = luminance(tab, "document.querySelector('.chart')", "backgroundColor")
        assert (panel > 0.5) == (scheme == "light")
        for selector in ("p", "dt", "a[href='#size']", "thead th"):
            text = luminance(tab, f'document.querySelector("{selector}")', "color")
            assert contrast(text, panel) >= 4.5, selector
        text = luminance(tab, "document.querySelector('.chart text')", "fill")
        assert contrast(text, panel) >= 4.5
        for number in range(10):
            tab.value(f"document.body.style.outlineColor = 'var(--series-{number})'")
            assert contrast(luminance(tab, "document.body", "outlineColor"), panel) >= 3, number


def luminance(tab: Page, element: str, of: str) -> float:
    """Relative luminance of a colour as it came out, by WCAG."""
    text = tab.value(f"getComputedStyle({element}).{of}")
    values = [int(part) / 255 for part in text.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_tab_reaches_everything_there_is_to_use(tab: Page, pages: list[Path]) -> None:
    tab.show(pages[0], 360)
    wanted = tab.value(f"{VISIBLE}.length")
    assert wanted > 15
    reached = []
    for _ in range(wanted):
        tab.press(*TAB)
        reached.append(tab.value(f"{VISIBLE}.indexOf(document.activeElement)"))
        outline = tab.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert reached == list(range(wanted))
    assert tab.value(f"{VISIBLE}[0].textContent") == "Skip to the content"


def test_a_table_opens_by_keyboard_and_the_skip_link_skips(tab: Page, pages: list[Path]) -> None:
    tab.show(pages[0], 360)
    tab.press(*TAB)
    tab.press(*ENTER)
    assert tab.value("document.activeElement.id") == "main"
    tab.value("document.querySelector('summary').focus()")
    tab.press(*ENTER)
    assert tab.value("document.querySelector('details').open")
    assert tab.value("document.documentElement.scrollWidth") <= 360
