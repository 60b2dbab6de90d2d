"""The report as one HTML page that needs nothing else: no script, no request; a table beside every plot.

Every text that is not written here is escaped where it enters (`_text`), and a policy in the page itself forbids
scripts and requests, should that ever fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from comptroller_audit.latency import Latency
from comptroller_audit.report import Report, TaskEnd, per_success, usd_text
from comptroller_audit.report_calls import CallEnd
from comptroller_audit.vocabulary import MICRO, RefusalClass
from comptroller_server.reporting.gates import Verdict
from comptroller_server.reporting.plots import (
    Series,
    Words,
    columns,
    lanes,
    points,
    rows,
    shape_sample,
    spans,
)
from comptroller_server.reporting.style import STYLE
from comptroller_server.reporting.words import containment_lines, share, waiting_rows

__all__ = ["page_of"]

LANES_MAX = 20
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_FOOTER = (
    "<footer>Made by <code>comptroller report --html</code> from the tamper-evident log; "
    "<code>comptroller audit verify</code> checks that log.</footer>"
)
_NO_TOOL = "no tool of ours"
_TASKS = {
    TaskEnd.SUCCEEDED: ("succeeded", "good"),
    TaskEnd.CLAIMED: ("claimed, nothing says what success is", "fair"),
    TaskEnd.HANDED_OFF: ("handed to a person", "person"),
    TaskEnd.ABANDONED: ("abandoned", "left"),
    TaskEnd.FAILED: ("failed", "bad"),
    TaskEnd.SILENT_WRONG: ("silently wrong", "wrong"),
    TaskEnd.OPEN: ("open", "open"),
    TaskEnd.IDLE: ("ended by nobody", "idle"),
}
_CALLS = {
    CallEnd.DONE: ("done", "square", "good"),
    CallEnd.READ: ("read", "ring", "quiet"),
    CallEnd.REFUSED: ("refused", "cross", "stop"),
    CallEnd.WAITING: ("waits, or is told to wait", "triangle", "person"),
    CallEnd.REPLAYED: ("answered again from the record", "ring", "left"),
    CallEnd.FAILED: ("failed, nothing happened", "dot", "bad"),
    CallEnd.WRONG: ("done, and not as it should be", "diamond", "wrong"),
    CallEnd.IN_DOUBT: ("in doubt", "triangle", "bad"),
}
_BUCKETS = {
    RefusalClass.TOOL_MISMATCH: ("fair", "the agent called a tool in a way that does not fit"),
    RefusalClass.STALE_CONTEXT: ("person", "what the agent relied on had changed"),
    RefusalClass.POLICY_VIOLATION: ("bad", "a rule, a check or a person said no"),
    RefusalClass.SILENT_WRONG: ("wrong", "it looked done, and reading the record back said otherwise"),
    RefusalClass.BUDGET: ("left", "a budget was used up"),
    RefusalClass.UPSTREAM: ("left", "a tool's own system failed"),
    RefusalClass.IN_DOUBT: ("bad", "nobody knows yet whether it happened"),
    RefusalClass.INTERNAL: ("left", "Comptroller could not do its part"),
}


def page_of(report: Report, verdicts: Sequence[Verdict] = ()) -> str:
    """The whole page."""
    span = f"{_time(report.since_ms)} to {_time(report.until_ms)}"
    records = report.calls.entries.total()
    body = [
        "<header><h1>What the agents did, and what it came to</h1>",
        f'<p class="soft">{span}, {records} records. Times are UTC.</p></header>',
        "<main>",
        _tiles(report),
        _gate(verdicts),
        _tasks(report),
        _costs(report),
        _containment(report),
        _failures(report),
        _latency(report),
        _timeline(report),
        _people(report),
        "</main>",
        _FOOTER,
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Report of {span}</title><style>{STYLE}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


# -- at a glance ------------------------------------------------------------------------------------------------------


def _tiles(report: Report) -> str:
    tasks, calls = report.tasks, report.calls
    success, containment, p99 = tasks.success, calls.containment, calls.total.percentile(99)
    each = usd_text(tasks.cost_per_success_micro)
    in_doubt, waiting = report.now.in_doubt.count, report.now.approvals.count + report.now.handoffs.count
    found = [
        (
            "Success",
            "no data" if success is None else share(success),
            f"{tasks.ends[TaskEnd.SUCCEEDED]} of {tasks.ended} tasks that ended",
            False,
        ),
        (
            "Contained",
            "no data" if containment is None else share(containment),
            f"{calls.outside} ran outside policy; {calls.stopped_count} attempts stopped",
            containment is not None and containment < 1,
        ),
        (
            "Cost per success",
            "no data" if each is None else f"{float(each):.4g} USD",
            f"{usd_text(tasks.cost_micro)} USD spent on all tasks",
            False,
        ),
        (
            "p99 of a call",
            "no data" if p99 is None else f"{p99:.4g} ms",
            f"{calls.total.count} calls timed",
            False,
        ),
        (
            "Silently wrong",
            str(report.silent_wrong),
            "found by looking, not by being told",
            report.silent_wrong > 0,
        ),
        ("Waiting for people", str(waiting), f"and {in_doubt} calls in doubt", in_doubt > 0),
    ]
    tiles = (
        f'<li class="tile{" alarm" if alarm else ""}"><small>{_text(name)}</small><b>{_text(value)}</b>'
        f"<small>{_text(told)}</small></li>"
        for name, value, told, alarm in found
    )
    return f'<ul class="tiles">{"".join(tiles)}</ul>'


def _gate(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    ok = all(each.holds for each in verdicts)
    lines = [(each.condition.text, each.found_text, "holds" if each.holds else "breach") for each in verdicts]
    said = "<p>Every condition holds.</p>" if ok else '<p class="breach">The gate is breached.</p>'
    return _section("Gate", said, _table("Conditions", ("Condition", "Found", "Verdict"), lines))


# -- the plots --------------------------------------------------------------------------------------------------------


def _tasks(report: Report) -> str:
    tasks, bins = report.tasks, report.tasks.bins
    there = [end for end in TaskEnd if tasks.ends[end]]
    if not there:
        return _section("Tasks by outcome", "<p>No task began in this time.</p>")
    series = [Series(_TASKS[end][0], _TASKS[end][1], [each[end] for each in tasks.by_bin]) for end in there]
    said = ", ".join(f"{tasks.ends[end]} {_TASKS[end][0]}" for end in there)
    words = Words("tasks", "Tasks by outcome over time", f"Stacked columns by the time a task began: {said}.")
    lines = [
        (_time(start), *(str(each[end] or "") for end in there))
        for start, each in zip(bins.starts(), tasks.by_bin, strict=True)
        if each
    ]
    return _section(
        "Tasks by outcome",
        f"<p>{_text(said[:1].upper() + said[1:])}. Counted where they began.</p>",
        _figure(columns(words, bins.starts(), bins.width_ms, series, "tasks"), _legend(series)),
        _folded(_table("Tasks by the time they began", ("From", *(end.value for end in there)), lines)),
    )


def _costs(report: Report) -> str:
    tasks, bins = report.tasks, report.tasks.bins
    found = [per_success(cost, ends) for cost, ends in zip(tasks.cost_by_bin, tasks.by_bin, strict=True)]
    values = [None if each is None else float(each / MICRO) for each in found]
    said = (
        f"<p>{_text(usd_text(tasks.cost_micro))} USD were spent by all tasks, whatever became of them: "
        f"{_text(usd_text(tasks.tool_cost_micro))} USD by tools, {_text(usd_text(tasks.model_cost_micro))} USD by "
        f"models for {tasks.tokens} tokens, {tasks.estimated_tokens} of them estimated.</p>"
    )
    if all(each is None for each in values):
        return _section("Cost per success", said, "<p>No task that began in this time has succeeded.</p>")
    words = Words(
        "costs",
        "Cost per success over time",
        f"Each dot is everything spent on the tasks that began then, divided by those of them that succeeded; over "
        f"the whole time {usd_text(tasks.cost_per_success_micro)} USD.",
    )
    lines = [
        (_time(start), usd_text(cost) or "", str(ends[TaskEnd.SUCCEEDED]), usd_text(each) or "no success")
        for start, cost, ends, each in zip(bins.starts(), tasks.cost_by_bin, tasks.by_bin, found, strict=True)
        if ends
    ]
    return _section(
        "Cost per success",
        said,
        _figure(
            points(words, bins.starts(), bins.width_ms, values, "USD per success"),
            _caption("USD for each success, by when tasks began. Where none succeeded there is no dot."),
        ),
        _folded(_table("Cost by the time tasks began", ("From", "USD", "Succeeded", "USD each"), lines)),
    )


def _containment(report: Report) -> str:
    lines = "".join(f"<p>{_text(line)}.</p>" for line in containment_lines(report))
    return _section("Containment", lines)


def _failures(report: Report) -> str:
    found = report.calls.failures()
    there = [(name, *_BUCKETS[name], found[name]) for name in _BUCKETS if found[name]]
    if not there:
        return _section("Refusals and failures", "<p>There were none.</p>")
    words = Words(
        "failures",
        "Refusals and failures by class",
        ", ".join(f"{name.value} {codes.total()}" for name, _, _, codes in there) + ".",
    )
    bars = [(name.value, style, float(codes.total())) for name, style, _, codes in there]
    lines = [(name.value, str(codes.total()), _listed(codes), means) for name, _, means, codes in there]
    more = ""
    if report.calls.counted_only:
        more = (
            f"<p>{report.calls.counted_only} more were refused in floods, which are counted and not told.</p>"
        )
    return _section(
        "Refusals and failures",
        more,
        _figure(rows(words, bars)),
        _table("By class and code", ("Class", "Count", "Codes", "What it means"), lines, words=(2, 3)),
    )


def _latency(report: Report) -> str:
    calls = report.calls
    if not calls.total.count:
        return _section("Latency", "<p>No call of this time says how long it took.</p>")
    legend = _caption("Dot: p50. Stroke: p95. Ring: p99. The scale is logarithmic.")
    tools = [("all tools", calls.total), *sorted(calls.by_tool.items())]
    steps = calls.steps()
    head = ("Calls", "p50 ms", "p95 ms", "p99 ms", "longest ms")
    return _section(
        "Latency",
        "<p>From receipt until the last commit had its turn, for calls that ran.</p>",
        _figure(
            spans(Words("tools", "Latency by tool", _in_words(tools)), [_span(*each) for each in tools]),
            legend,
        ),
        _table("By tool", ("Tool", *head), [_times(*each) for each in tools]),
        _figure(
            spans(Words("steps", "Latency by step", _in_words(steps)), [_span(*each) for each in steps]),
            legend,
        ),
        _table("By step of a call", ("Step", *head), [_times(*each) for each in steps]),
    )


def _timeline(report: Report) -> str:
    marks = list(report.calls.marks)
    if not marks:
        return _section("Calls", "<p>None were made in this time.</p>")
    busy = Counter(mark.tool for mark in marks)
    names = [name for name, _ in busy.most_common(LANES_MAX)]
    place = {name: at for at, name in enumerate(names)}
    ends = [end for end in CallEnd if any(mark.end is end for mark in marks)]
    total = report.calls.ends.total()
    words = Words(
        "calls",
        "Calls over time",
        f"A lane for each tool and a mark for each of the newest {len(marks)} of {total} calls: "
        + ", ".join(f"{sum(m.end is end for m in marks)} {_CALLS[end][0]}" for end in ends)
        + ".",
    )
    drawn = (
        (
            m.at_ms,
            place[m.tool],
            *_CALLS[m.end][1:],
            f"{_time(m.at_ms)} {m.tool or _NO_TOOL}: {m.end} {m.code}",
        )
        for m in marks
        if m.tool in place
    )
    shown = [name or _NO_TOOL for name in names]
    picture = lanes(words, shown, drawn, marks[0].at_ms, marks[-1].at_ms)
    samples = (f"<li>{shape_sample(*_CALLS[end][1:])}{_text(_CALLS[end][0])}</li>" for end in ends)
    lines = [(_time(m.at_ms), m.tool or _NO_TOOL, m.end.value, m.code, m.call) for m in reversed(marks)]
    return _section(
        "Calls",
        f"<p>The newest {len(marks)} of {total}.</p>"
        if total > len(marks)
        else f"<p>All {total} of them.</p>",
        _figure(picture, f'<ul class="legend">{"".join(samples)}</ul>'),
        _folded(
            _table("Newest first", ("At", "Tool", "End", "Code", "Call"), lines, words=(1, 2, 3), codes=(4,)),
            on_paper=False,
        ),
    )


def _people(report: Report) -> str:
    calls = report.calls
    waiting = [
        (
            what,
            str(waits.count),
            _time(waits.oldest_ms) if waits.oldest_ms is not None else "",
            _long(waits.oldest_ms, report),
        )
        for what, waits in waiting_rows(report)
    ]
    counted = [
        ("approvals: yes", calls.votes[True]),
        ("approvals: no", calls.votes[False]),
        *((f"pending calls {state}", count) for state, count in sorted(calls.closed.items())),
        *((f"handed to a person: {cause}", count) for cause, count in sorted(calls.handed_off.items())),
        *((f"reversals: {state}", count) for state, count in sorted(calls.reversed.items())),
        *((f"recovered as {state}", count) for state, count in sorted(calls.recovered.items())),
        *((f"in doubt, and a person said {state}", count) for state, count in sorted(calls.resolved.items())),
        *((f"out of budget: {name}", count) for name, count in sorted(calls.exhausted.items())),
        ("answered again from the record", calls.ends[CallEnd.REPLAYED]),
        ("reads answered with what was kept", calls.kept_reads),
    ]
    lines = [(what, str(count)) for what, count in counted]
    return _section(
        "People, reversals and budgets",
        _table("What waits now", ("What", "Count", "Oldest since", "Waiting"), waiting, words=(2,)),
        _table("What happened in this time", ("What", "Count"), lines),
    )


# -- parts ------------------------------------------------------------------------------------------------------------


def _section(heading: str, *parts: str) -> str:
    return f"<section><h2>{_text(heading)}</h2>{''.join(parts)}</section>"


def _figure(picture: str, below: str = "") -> str:
    return f"<figure>{picture}{below}</figure>"


def _caption(text: str) -> str:
    return f"<figcaption>{_text(text)}</figcaption>"


def _folded(table: str, *, on_paper: bool = True) -> str:
    return f"<details{' class=printed' if on_paper else ''}><summary>The numbers as a table</summary>{table}</details>"


def _legend(series: Iterable[Series]) -> str:
    items = (f"<li>{shape_sample('square', each.style)}{_text(each.label)}</li>" for each in series)
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(
    caption: str,
    head: Sequence[str],
    lines: Iterable[Sequence[str]],
    words: Sequence[int] = (),
    codes: Sequence[int] = (),
) -> str:
    """`words` are columns of text, `codes` those of ids; the others are numbers."""

    def cell(at: int, text: str) -> str:
        inside = f"<code>{_text(text)}</code>" if at in codes else _text(text)
        if at == 0:
            return f'<th scope="row">{inside}</th>'
        return f'<td class="words">{inside}</td>' if at in (*words, *codes) else f"<td>{inside}</td>"

    heads = "".join(
        f'<th scope="col"{" class=words" if at in (*words, *codes) else ""}>{_text(name)}</th>'
        for at, name in enumerate(head)
    )
    rows_ = "".join(f"<tr>{''.join(cell(at, text) for at, text in enumerate(line))}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table><caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows_}</tbody></table></div>"
    )


def _span(name: str, latency: Latency) -> tuple[str, float, float, float]:
    p50, p95, p99 = (latency.percentile(percent) or 0.0 for percent in (50, 95, 99))
    return name, p50, p95, p99


def _times(name: str, latency: Latency) -> tuple[str, ...]:
    return (name, str(latency.count), *(f"{ms:.2f}" for ms in (*_span(name, latency)[1:], latency.max_ms)))


def _in_words(found: Sequence[tuple[str, Latency]]) -> str:
    return "; ".join(
        f"{name}: p50 {p50:.3g} ms, p99 {p99:.3g} ms" for name, p50, _, p99 in (_span(*f) for f in found)
    )


def _listed(codes: Counter[str]) -> str:
    return ", ".join(f"{code}\N{NO-BREAK SPACE}{count}" for code, count in codes.most_common())


def _long(oldest_ms: int | None, report: Report) -> str:
    if oldest_ms is None:
        return ""
    seconds = max(0, report.until_ms - oldest_ms) // 1000
    for name, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {name}"
    return f"{seconds} seconds"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _text(text: str | None) -> str:
    return escape(text or "", quote=True)
