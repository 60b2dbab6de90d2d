"""Plots as inline SVG, made from numbers alone: no script, no font, no request. Colours are classes of the page's style.

Every plot is one picture with a title and a description for those who do not see it; the page puts a table beside it.
Measures inside are in units of a picture `WIDTH` wide, which scales with the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

__all__ = ["Series", "Words", "columns", "lanes", "points", "rows", "shape_sample", "spans"]

WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 30
_HEIGHT = 240
_ROW = 26
_LABEL = 190
_LABEL_CHARS = 28
_TICKS = 5
_DAY_MS = 86_400_000
_STEPS_MS = (
    *(s * 1_000 for s in (1, 5, 15, 30)),
    *(m * 60_000 for m in (1, 2, 5, 15, 30)),
    *(h * 3_600_000 for h in (1, 3, 6, 12)),
    *(d * _DAY_MS for d in (1, 2, 7, 14, 28)),
)
_TIMES_MAX = 6


@dataclass(frozen=True, slots=True)
class Words:
    """What a plot is called and what it shows, in sentences; `name` is unique on the page."""

    name: str
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class Series:
    """One part of each column: its name, its class in the style, and a number for each column."""

    label: str
    style: str
    values: Sequence[float]


def columns(
    words: Words, starts_ms: Sequence[int], width_ms: int, series: Sequence[Series], unit: str
) -> str:
    """Stacked columns over time. `unit` is what one of them counts, for the tooltips."""
    sums = [sum(each.values[at] for each in series) for at in range(len(starts_ms))]
    scale = _Scale(max(sums, default=0), whole=True)
    across = (WIDTH - _LEFT - _RIGHT) / max(1, len(starts_ms))
    drawn = [scale.grid(), _time_axis(starts_ms, width_ms)]
    for at, start in enumerate(starts_ms):
        level = 0.0
        for each in series:
            if not each.values[at]:
                continue
            top, bottom = scale.y(level + each.values[at]), scale.y(level)
            level += each.values[at]
            told = f"{_moment(start, width_ms)}: {each.values[at]:g} {unit} {each.label}"
            drawn.append(
                _tag(
                    "rect",
                    _tag("title", escape(told)),
                    x=_LEFT + at * across + min(1.5, across * 0.1),
                    y=top,
                    width=max(across - min(3, across * 0.2), 0.8),
                    height=max(bottom - top, 0.8),
                    class_=each.style,
                )
            )
    return _picture(words, _HEIGHT, drawn)


def points(
    words: Words, starts_ms: Sequence[int], width_ms: int, values: Sequence[float | None], unit: str
) -> str:
    """A dot for each part of time that has a value; neighbours are joined, gaps stay gaps."""
    scale = _Scale(max((v for v in values if v is not None), default=0))
    across = (WIDTH - _LEFT - _RIGHT) / max(1, len(starts_ms))
    drawn = [scale.grid(), _time_axis(starts_ms, width_ms)]
    before: tuple[float, float] | None = None
    dots: list[str] = []
    for at, value in enumerate(values):
        if value is None:
            before = None
            continue
        here = (_LEFT + (at + 0.5) * across, scale.y(value))
        if before is not None:
            drawn.append(_line(*before, *here, "joined"))
        told = f"{_moment(starts_ms[at], width_ms)}: {value:.6g} {unit}"
        dots.append(_tag("circle", _tag("title", escape(told)), cx=here[0], cy=here[1], r=4, class_="dot"))
        before = here
    return _picture(words, _HEIGHT, [*drawn, *dots])


def rows(words: Words, found: Sequence[tuple[str, str, float]]) -> str:
    """A bar for each (label, class in the style, number), with the number behind it."""
    most = max((value for _, _, value in found), default=0) or 1
    room = WIDTH - _LABEL - 70
    drawn: list[str] = []
    for at, (label, style, value) in enumerate(found):
        top = _TOP + at * _ROW
        wide = room * value / most
        drawn += [
            _label(label, top),
            _tag("rect", "", x=_LABEL, y=top + 4, width=max(wide, 1), height=_ROW - 8, class_=style),
            _text(f"{value:g}", _LABEL + wide + 8, top + _ROW / 2 + 4),
        ]
    return _picture(words, _TOP * 2 + len(found) * _ROW, drawn)


def spans(words: Words, found: Sequence[tuple[str, float, float, float]]) -> str:
    """Three marks on a logarithmic scale of milliseconds for each (label, p50, p95, p99): dot, stroke, ring."""
    values = [max(ms, 0.001) for _, *three in found for ms in three]
    low = math.floor(math.log10(min(values, default=1)))
    high = max(low + 1, math.ceil(math.log10(max(values, default=1))))
    room, height = WIDTH - _LABEL - _RIGHT, _TOP + len(found) * _ROW

    def x(ms: float) -> float:
        return _LABEL + room * (math.log10(max(ms, 0.001)) - low) / (high - low)

    drawn: list[str] = []
    for power in range(low, high + 1):
        at = _LABEL + room * (power - low) / (high - low)
        drawn.append(_line(at, _TOP, at, height, "grid"))
        anchor = "end" if power == high else "middle"
        drawn.append(_text(f"{10.0**power:g} ms", at, height + 18, anchor))
    for at, (label, p50, p95, p99) in enumerate(found):
        middle = _TOP + (at + 0.5) * _ROW
        told = f"{label}: p50 {p50:.4g} ms, p95 {p95:.4g} ms, p99 {p99:.4g} ms"
        marks = [
            _tag("title", escape(told)),
            _line(x(p50), middle, x(p99), middle, "span"),
            _tag("circle", "", cx=x(p50), cy=middle, r=4.5, class_="dot"),
            _line(x(p95), middle - 7, x(p95), middle + 7, "stroke"),
            _tag("circle", "", cx=x(p99), cy=middle, r=5.5, class_="ring"),
        ]
        drawn += [_label(label, middle - _ROW / 2), _tag("g", "".join(marks))]
    return _picture(words, height + _BOTTOM, drawn)


def lanes(
    words: Words,
    names: Sequence[str],
    marks: Iterable[tuple[int, int, str, str, str]],
    first_ms: int,
    last_ms: int,
) -> str:
    """One lane for each name, and on it a mark for each (time, lane, shape, class in the style, tooltip)."""
    room, height = WIDTH - _LABEL - _RIGHT - 8, _TOP + len(names) * _ROW
    length = max(1, last_ms - first_ms)
    drawn: list[str] = []
    for at, name in enumerate(names):
        middle = _TOP + (at + 0.5) * _ROW
        drawn += [_label(name, middle - _ROW / 2), _line(_LABEL, middle, WIDTH - _RIGHT, middle, "grid")]

    def across(at_ms: int) -> float:
        return _LABEL + 4 + room * (at_ms - first_ms) / length

    drawn.append(_times(first_ms, last_ms, across, height + 18))
    for at_ms, lane, shape, style, told in marks:
        x, y = across(at_ms), _TOP + (lane + 0.5) * _ROW
        drawn.append(_tag("g", _tag("title", escape(told)) + _shape(shape, x, y), class_=style))
    return _picture(words, height + _BOTTOM, drawn)


def _shape(shape: str, x: float, y: float) -> str:
    outlines: Mapping[str, str] = {
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        "diamond": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5.5 10h-11z",
        "cross": f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8",
    }
    if shape in outlines:
        return _tag("path", "", d=outlines[shape])
    return _tag("circle", "", cx=x, cy=y, r=3 if shape == "ring" else 4.5)


def shape_sample(shape: str, style: str) -> str:
    """The mark alone, for a legend."""
    drawn = _tag("g", _shape(shape, 8, 8), class_=style)
    return _tag("svg", drawn, viewBox="0 0 16 16", class_="sample", aria_hidden="true")


# -- parts ------------------------------------------------------------------------------------------------------------


class _Scale:
    """Heights for values from 0 to a round number not below `most`; `whole` numbers have no ticks between them."""

    def __init__(self, most: float, *, whole: bool = False) -> None:
        step = _nice(most / _TICKS)
        self.step = max(1.0, step) if whole else step
        self.top = self.step * max(1, math.ceil(most / self.step - 1e-9))

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.top

    def grid(self) -> str:
        drawn: list[str] = []
        for at in range(round(self.top / self.step) + 1):
            y = self.y(at * self.step)
            drawn.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "grid"))
            drawn.append(_text(f"{at * self.step:.6g}", _LEFT - 8, y + 4, "end"))
        return "".join(drawn)


def _nice(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `step`."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step * (1 - 1e-9))


def _time_axis(starts_ms: Sequence[int], width_ms: int) -> str:
    first, length = starts_ms[0], width_ms * len(starts_ms)
    room = WIDTH - _LEFT - _RIGHT
    return _times(first, first + length, lambda at: _LEFT + room * (at - first) / length, _HEIGHT - 8)


def _times(first_ms: int, last_ms: int, x: Callable[[int], float], y: float) -> str:
    """Labels below a plot at round moments of UTC, the day named where it begins."""
    length = max(1, last_ms - first_ms)
    step = next((s for s in _STEPS_MS if length / s <= _TIMES_MAX), _STEPS_MS[-1])
    while length / step > _TIMES_MAX:
        step *= 2
    moments = list(range(-(-first_ms // step) * step, last_ms + 1, step)) or [first_ms]
    return "".join(
        _text(_clock(at, step, named=at == moments[0]), x(at), y, "middle")
        + _line(x(at), y - 18, x(at), y - 14, "grid")
        for at in moments
    )


def _clock(at_ms: int, step_ms: int, *, named: bool) -> str:
    """A moment as short as labels `step_ms` apart allow, in UTC."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    if step_ms >= _DAY_MS:
        return moment.strftime("%d %b %Y" if named else "%d %b")
    if named or at_ms % _DAY_MS == 0:
        return moment.strftime("%d %b, %H:%M")
    return moment.strftime("%H:%M" if step_ms >= 60_000 else "%H:%M:%S")


def _moment(at_ms: int, width_ms: int) -> str:
    form = "%Y-%m-%d %H:%M:%SZ" if width_ms < 60_000 else "%Y-%m-%d %H:%MZ"
    form = "%Y-%m-%d" if width_ms >= _DAY_MS else form
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)


def _picture(words: Words, height: float, drawn: Iterable[str]) -> str:
    title, description = f"{words.name}-title", f"{words.name}-text"
    inside = (
        _tag("title", escape(words.title), id=title)
        + _tag("desc", escape(words.description), id=description)
        + "".join(drawn)
    )
    return _tag(
        "svg",
        inside,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_labelledby=f"{title} {description}",
        class_="plot",
    )


def _label(text: str, top: float) -> str:
    shown = text if len(text) <= _LABEL_CHARS else f"{text[: _LABEL_CHARS - 1]}…"
    return _text(shown, _LABEL - 10, top + _ROW / 2 + 4, "end")


def _text(text: str, x: float, y: float, anchor: str = "start") -> str:
    return _tag("text", escape(text), x=x, y=y, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return _tag("line", "", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _tag(name: str, inside: str, **attributes: float | str) -> str:
    """An element; `inside` is markup. Names of attributes lose a trailing `_`, and `_` within is `-`."""
    spelled = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value), quote=True)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{spelled}>{inside}</{name}>"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
