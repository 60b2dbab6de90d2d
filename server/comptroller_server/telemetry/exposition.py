"""Counters, histograms and gauges, as Prometheus reads them (text format 0.0.4). Bounded: labels are closed words and
names of the configuration, and a family that grows beyond `SERIES_MAX` counts the rest under `(other)`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

__all__ = ["CONTENT_TYPE", "SERIES_MAX", "Counter", "Gauge", "Histogram"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SERIES_MAX = 2_000
"""Combinations of labels in one family."""
OTHER = "(other)"


class _Family:
    kind = ""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)

    def head(self) -> list[str]:
        return [f"# HELP {self.name} {_help(self.text)}", f"# TYPE {self.name} {self.kind}"]

    def _line(self, values: Sequence[str], number: float, suffix: str = "", more: str = "") -> str:
        pairs = [f'{name}="{_quoted(value)}"' for name, value in zip(self.labels, values, strict=True)]
        inside = ",".join([*pairs, *([more] if more else [])])
        return (
            f"{self.name}{suffix}{{{inside}}} {_number(number)}"
            if inside
            else f"{self.name}{suffix} {_number(number)}"
        )

    def _place(self, values: tuple[str, ...], held: Iterable[tuple[str, ...]], size: int) -> tuple[str, ...]:
        return (OTHER,) * len(values) if size >= SERIES_MAX and values not in held else values


class Counter(_Family):
    """Only rises, as long as the process lives."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self._held: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *values: str, by: float = 1) -> None:
        at = self._place(values, self._held, len(self._held))
        self._held[at] = self._held.get(at, 0.0) + by

    def lines(self) -> list[str]:
        return [*self.head(), *(self._line(values, number) for values, number in sorted(self._held.items()))]


class Gauge(_Family):
    """What is now: told anew each time somebody asks."""

    kind = "gauge"

    def lines(self, found: Iterable[tuple[tuple[str, ...], float]]) -> list[str]:
        return [*self.head(), *(self._line(values, number) for values, number in sorted(found))]


class Histogram(_Family):
    """Seconds, counted by size."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        super().__init__(name, text, labels)
        self._bounds = tuple(bounds)
        self._held: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def add(self, seconds: float, *values: str) -> None:
        at = self._place(values, self._held, len(self._held))
        counts = self._held.setdefault(at, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[at] = self._sums.get(at, 0.0) + seconds

    def lines(self) -> list[str]:
        found = self.head()
        for values, counts in sorted(self._held.items()):
            total = 0
            for bound, count in zip((*self._bounds, None), counts, strict=True):
                total += count
                le = "+Inf" if bound is None else _number(bound)
                found.append(self._line(values, total, "_bucket", f'le="{le}"'))
            found.append(self._line(values, self._sums[values], "_sum"))
            found.append(self._line(values, total, "_count"))
        return found


def _number(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(float(number))


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
