"""The metrics: what each attempt adds, and what is looked up when somebody asks. No label tells principals apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from comptroller_server.telemetry.exporter import Sent
from comptroller_server.telemetry.exposition import Counter, Gauge, Histogram
from comptroller_server.telemetry.seen import ASKED, DONE, CallSeen

__all__ = ["METRICS", "Measures", "Now"]

_CALL_BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
"""Seconds, as OpenTelemetry's conventions for MCP advise."""
_STEP_BOUNDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)

METRICS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "comptroller_calls_total": (
        "counter",
        "Attempts that were answered, by tool, effect, outcome and refusal code.",
        ("tool", "effect", "outcome", "code"),
    ),
    "mcp_server_operation_duration_seconds": (
        "histogram",
        "How long attempts took until they were answered.",
        ("mcp_method_name", "gen_ai_tool_name", "error_type"),
    ),
    "comptroller_step_duration_seconds": ("histogram", "How long their steps took.", ("step",)),
    "comptroller_rule_decisions_total": (
        "counter",
        "Decisions before the call, by each rule that made them.",
        ("rule", "decision"),
    ),
    "comptroller_calls_open": ("gauge", "Calls that are not over, by state.", ("state",)),
    "comptroller_budget_used_ratio": (
        "gauge",
        "The share of a limit of hours, days or months that is used or held; of several it holds for, the largest.",
        ("limit",),
    ),
    "comptroller_budget_left": (
        "gauge",
        "What is left of such a limit, in its unit; of several it holds for, the least.",
        ("limit", "unit"),
    ),
    "comptroller_upstream_up": ("gauge", "Whether an MCP server can be called.", ("source",)),
    "comptroller_ready": (
        "gauge",
        "Whether this process can act: it holds its lock and reads its store.",
        (),
    ),
    "comptroller_log_records": ("gauge", "Records in the log.", ()),
    "comptroller_stream_lag_records": ("gauge", "Records that a stream has not delivered yet.", ("stream",)),
    "comptroller_stream_lag_seconds": (
        "gauge",
        "How long the oldest of them has waited; zero where none does.",
        ("stream",),
    ),
    "comptroller_store_batches_total": ("counter", "Transactions of this process.", ()),
    "comptroller_store_units_total": ("counter", "Commits in them; per batch, how many share one.", ()),
    "comptroller_spans_total": (
        "counter",
        "Attempts whose spans the collector took, failed to take, or that were dropped before.",
        ("result",),
    ),
}
"""Every metric: its kind, what it says, and its labels."""


@dataclass(frozen=True, slots=True)
class Now:
    """What is looked up when somebody asks."""

    ready: bool
    records: int = 0
    open_calls: Mapping[str, int] = field(default_factory=dict[str, int])
    used: Mapping[str, float] = field(default_factory=dict[str, float])
    left: Mapping[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    upstreams: Mapping[str, bool] = field(default_factory=dict[str, bool])
    streams: Mapping[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """Records behind, and seconds, by stream."""
    batches: int = 0
    units: int = 0


class Measures:
    """What one process has counted."""

    def __init__(self) -> None:
        self._calls = _counter("comptroller_calls_total")
        self._took = _histogram("mcp_server_operation_duration_seconds", _CALL_BOUNDS)
        self._steps = _histogram("comptroller_step_duration_seconds", _STEP_BOUNDS)
        self._rules = _counter("comptroller_rule_decisions_total")

    def add(self, seen: CallSeen) -> None:
        """One more attempt."""
        error = "" if seen.outcome in (DONE, ASKED) else "tool_error"
        self._calls.add(seen.tool, seen.effect, seen.outcome, seen.code)
        self._took.add(seen.took_s, seen.method, seen.tool, error)
        spent: dict[str, float] = {}
        for step in seen.steps:
            spent[step.name] = spent.get(step.name, 0.0) + step.to_s - step.from_s
        for name, seconds in spent.items():
            self._steps.add(seconds, name)
        for rule in seen.rules:
            self._rules.add(rule, seen.decision)

    def text(self, now: Now, sent: Sent | None) -> str:
        """All of it, as Prometheus reads it."""
        families: list[list[str]] = [
            *(counted.lines() for counted in (self._calls, self._took, self._steps, self._rules)),
            _gauge("comptroller_calls_open", (((state,), n) for state, n in now.open_calls.items())),
            _gauge("comptroller_budget_used_ratio", (((limit,), n) for limit, n in now.used.items())),
            _gauge("comptroller_budget_left", now.left.items()),
            _gauge("comptroller_upstream_up", (((name,), up) for name, up in now.upstreams.items())),
            _gauge("comptroller_ready", [((), now.ready)]),
            _gauge("comptroller_log_records", [((), now.records)]),
            _gauge("comptroller_stream_lag_records", (((name,), n) for name, (n, _) in now.streams.items())),
            _gauge("comptroller_stream_lag_seconds", (((name,), s) for name, (_, s) in now.streams.items())),
            _total("comptroller_store_batches_total", [((), now.batches)]),
            _total("comptroller_store_units_total", [((), now.units)]),
        ]
        if sent is not None:
            held = [(("taken",), sent.taken), (("failed",), sent.failed), (("dropped",), sent.dropped)]
            families.append(_total("comptroller_spans_total", held))
        return "\n".join(line for family in families for line in family) + "\n"


def _counter(name: str) -> Counter:
    _, text, labels = METRICS[name]
    return Counter(name, text, labels)


def _histogram(name: str, bounds: tuple[float, ...]) -> Histogram:
    _, text, labels = METRICS[name]
    return Histogram(name, text, labels, bounds)


def _gauge(name: str, found: Iterable[tuple[tuple[str, ...], float]]) -> list[str]:
    _, text, labels = METRICS[name]
    return Gauge(name, text, labels).lines(found)


def _total(name: str, found: Iterable[tuple[tuple[str, ...], float]]) -> list[str]:
    """A counter that something else keeps."""
    _, text, labels = METRICS[name]
    counter = Counter(name, text, labels)
    for values, number in found:
        counter.add(*values, by=number)
    return counter.lines()
