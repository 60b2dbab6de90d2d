from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.query import Logged
from comptroller_audit.report import Now, Report, TaskEnd, Tasks, TaskSeen, Waiting
from comptroller_audit.report_calls import Bins, Calls
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_server.reporting.gates import judged, parsed
from comptroller_server.reporting.page import page_of
from comptroller_server.reporting.plots import WIDTH, Series, Words, columns, points, rows, spans
from tests.audit.storekit import NOON

HOSTILE = '</title></svg><script src="https://example.org/x.js">alert(1)</script>\'"&'
VOID = frozenset({"meta"})
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_S_MAX = 60


class Tags(HTMLParser):
    """Every element with its attributes, and a demand that what opens closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def report(tool: str = "issue_refund") -> Report:
    """Some calls of every kind, and tasks of every outcome."""
    bins = Bins.over(NOON, NOON + 7_200_000)
    calls, tasks = Calls(bins, lambda call: None), Tasks(bins)
    allow: JsonObject = {"verdict": "allow", "errors": []}
    took: JsonObject = {"total": 12.5, "run": 4.0}
    refusal: JsonObject = {"code": "denied", "class": "policy_violation"}
    read: JsonObject = {"tool": tool, "effect": "read", "decision": allow, "took_ms": took}
    kinds: list[tuple[RecordType, JsonObject]] = [
        (RecordType.READ, read),
        (RecordType.ACTION, {"tool": tool, "decision": allow}),
        (RecordType.AUDIT, {"state": "done", "outcome": {"effect": "done", "tries": 1}, "took_ms": took}),
        (RecordType.REFUSED, {"tool": tool, "effect": "create", "refusal": refusal}),
        (RecordType.PENDING, {"tool": tool}),
        (RecordType.REFUSED, {"tool": "made up", "effect": None, "refusal": refusal}),
    ]
    for at, (kind, packet) in enumerate(kinds):
        calls.take(Logged(at, kind, NOON + at * 600_000, {"call": f"call-{at // 3}"}, "", packet))
    for at, end in enumerate(TaskEnd):
        tasks.take(TaskSeen(NOON + at * 600_000, end, 250_000, 1_000, 400, 100))
    waits = Waiting(2, NOON)
    return Report(NOON, NOON + 7_200_000, calls, tasks, Now(waits, waits, waits, waits))


def empty() -> Report:
    bins = Bins.over(NOON, NOON + 1)
    waits = Waiting(0, None)
    return Report(
        NOON, NOON + 1, Calls(bins, lambda call: None), Tasks(bins), Now(waits, waits, waits, waits)
    )


def page() -> str:
    found = report()
    return page_of(found, judged(parsed("success>=0.9,containment=1"), found))


@pytest.mark.parametrize("found", [report(), empty()], ids=["full", "empty"])
def test_the_page_is_whole_and_asks_nobody_for_anything(found: Report) -> None:
    text = page_of(found)
    tags = Tags(text)
    names = {name for name, _ in tags.seen}
    assert not names & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "a",
        "base",
        "form",
        "use",
        "image",
    }
    for name, attributes in tags.seen:
        assert not {"src", "href", "style", "xlink:href"} & set(attributes), name
        assert not any(attribute.startswith("on") for attribute in attributes), name
    assert "url(" not in text and "@import" not in text and "//" not in text.split("<body>")[0]
    policies = [a.get("content") for _, a in tags.seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies and str(policies[0]).startswith("default-src 'none'")


def test_every_plot_says_in_words_what_it_shows_and_has_a_table_beside_it() -> None:
    text = page()
    tags = Tags(text)
    ids = [str(attributes["id"]) for _, attributes in tags.seen if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    plots = [attributes for name, attributes in tags.seen if name == "svg" and "role" in attributes]
    assert len(plots) == 6
    for plot in plots:
        assert set(str(plot["aria-labelledby"]).split()) <= set(ids)
    for section in text.split("<section>"):
        assert section.count('role="img"') <= section.count("<table>")
    assert text.count("<caption>") == text.count("<table>")


def test_names_from_elsewhere_stay_text() -> None:
    tags = Tags(page_of(report(HOSTILE)))
    assert not {name for name, _ in tags.seen} & {"script"}
    assert HOSTILE in tags.text


def test_a_page_without_data_says_so() -> None:
    told = "".join(Tags(page_of(empty())).text)
    for sentence in (
        "No task began in this time.",
        "There were none.",
        "no data",
        "None were made in this time.",
    ):
        assert sentence in told


def test_a_breached_gate_is_named_on_the_page() -> None:
    told = "".join(Tags(page()).text)
    assert "The gate is breached." in told
    assert "success>=0.9" in told


def test_what_is_not_whole_is_never_rounded_up_to_the_whole() -> None:
    found = report()
    found.calls.ran, found.calls.proved, found.calls.outside = 10_000_000, 9_999_999, 1
    assert ">100%<" in page_of(report())
    assert ">100%<" not in page_of(found)
    assert "RAN OUTSIDE POLICY" in page_of(found)


# -- geometry ---------------------------------------------------------------------------------------------------------

_amounts = st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1, max_size=12)


def boxes(svg: str) -> list[dict[str, float]]:
    drawn = [
        dict(re.findall(r'([a-z0-9]+)="([-0-9.e+]+)"', tag))
        for tag in re.findall(r"<(?:rect|circle)[^>]*>", svg)
    ]
    return [{name: float(value) for name, value in one.items()} for one in drawn]


@given(_amounts, _amounts)
def test_columns_stay_inside_the_picture_and_are_as_high_as_they_say(
    one: list[float], two: list[float]
) -> None:
    count = min(len(one), len(two))
    starts = [NOON + n * 60_000 for n in range(count)]
    series = [Series("a", "good", one[:count]), Series("b", "bad", two[:count])]
    found = boxes(columns(Words("x", "t", "d"), starts, 60_000, series, "tasks"))
    assert len(found) == sum(value > 0 for each in series for value in each.values)
    for box in found:
        assert box["x"] >= 0 and box["x"] + box["width"] <= WIDTH
        assert box["y"] >= 0 and box["y"] + box["height"] <= 240
    heights = sorted(box["height"] for box in found)
    values = sorted(value for each in series for value in each.values if value > 0)
    for at in range(1, len(values)):
        assert heights[at] >= heights[at - 1] - 0.02


@given(_amounts)
def test_dots_bars_and_spans_stay_inside_the_picture(values: list[float]) -> None:
    words, starts = Words("x", "t", "d"), [NOON + n * 60_000 for n in range(len(values))]
    drawn = [
        points(words, starts, 60_000, [None, *values[1:]], "USD"),
        rows(words, [("label", "good", value) for value in values]),
        spans(words, [("label", value / 4, value / 2, value) for value in values]),
    ]
    for svg in drawn:
        for box in boxes(svg):
            right = box["cx"] if "cx" in box else box["x"] + box["width"]
            assert 0 <= right <= WIDTH


# -- in a browser -----------------------------------------------------------------------------------------------------


def browser() -> str:
    """Chromium, or a skip that says so; with `COMPTROLLER_REQUIRE_CHROMIUM` its absence is a failure."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("COMPTROLLER_REQUIRE_CHROMIUM"):
            pytest.fail("COMPTROLLER_REQUIRE_CHROMIUM is set and no Chromium is on the path")
        pytest.skip("no Chromium on the path, so the page was rendered nowhere")
    return found


def pixels(picture: bytes) -> list[tuple[int, ...]]:
    """The pixels of a PNG with 8 bits a channel (PNG, third edition, sections 7 and 9)."""
    width, height, depth, color = struct.unpack(">IIBB", picture[16:26])
    assert (depth, color in (2, 6)) == (8, True)
    step = 3 if color == 2 else 4
    at, packed = 8, b""
    while at < len(picture):
        (length,) = struct.unpack(">I", picture[at : at + 4])
        if picture[at + 4 : at + 8] == b"IDAT":
            packed += picture[at + 8 : at + 8 + length]
        at += length + 12
    raw, before, found = zlib.decompress(packed), bytes(width * step), list[tuple[int, ...]]()
    for row in range(height):
        kind, *line = raw[row * (width * step + 1) : (row + 1) * (width * step + 1)]
        for n in range(len(line)):
            left, above = line[n - step] if n >= step else 0, before[n]
            corner = before[n - step] if n >= step else 0
            line[n] = (line[n] + _predicted(kind, left, above, corner)) & 255
        before = bytes(line)
        found += [tuple(line[n : n + 3]) for n in range(0, len(line), step)]
    return found


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 4:
        near = left + above - corner
        return min((left, above, corner), key=lambda value: abs(near - value))
    return (0, left, above, (left + above) // 2)[kind]


@pytest.mark.parametrize(
    ("setting", "paper", "good"),
    [(1, (0xFF, 0xFF, 0xFF), (0x2A, 0x7A, 0x4B)), (0, (0x12, 0x17, 0x1D), (0x58, 0xB9, 0x81))],
    ids=["light", "dark"],
)
def test_a_browser_draws_the_page_in_the_readers_colours(
    tmp_path: Path, setting: int, paper: tuple[int, ...], good: tuple[int, ...]
) -> None:
    program = browser()
    (tmp_path / "report.html").write_text(page_of(report()), encoding="utf-8")
    picture = tmp_path / "picture.png"
    words = [
        "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={setting}", "--window-size=700,720",
        f"--screenshot={picture}", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    ended = subprocess.run([program, *words], capture_output=True, timeout=BROWSER_S_MAX, check=False)
    assert picture.exists(), ended.stderr[-2_000:]
    drawn: Any = Counter(pixels(picture.read_bytes()))
    assert drawn.most_common(1)[0][0] == paper
    assert drawn[good] > 100  # the column of tasks that succeeded
