"""The trace of a call and its upstream: told where the operator allows it, and then nothing but `traceparent`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.kit import WHY, Changes, call_of, opened
from tests.scenarios.test_telemetry import KEY, TRACE, TRACEPARENT, collecting, the_call, watched
from tests.scenarios.test_upstreams import behind
from tests.scenarios.upstream_kit import LOOK, WRITE, Upstream

pytestmark = pytest.mark.anyio
SENT = {"traceparent": TRACEPARENT, "tracestate": "vendor=words", "baggage": "customer=ana"}


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    monkeypatch.setenv("COLLECTOR_KEY", KEY)
    made = Upstream(tmp_path / "upstream", LOOK, WRITE)
    made.accept(tmp_path)
    return made


def traced(upstream: Upstream, url: str | None, *, sample: float = 1.0, **mcp: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        watched(url)(config)
        if url is not None:
            config["telemetry"]["traces"]["sample"] = sample
        config["telemetry"].pop("metrics")
        behind(upstream, **mcp)(config)

    return change


def told(upstream: Upstream) -> list[dict[str, Any]]:
    """`_meta` of each call that it received."""
    return [
        one["params"].get("_meta") or {} for one in upstream.received if one.get("method") == "tools/call"
    ]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("sample", [0.0, 1.0])
async def test_an_upstream_is_told_the_step_that_runs_the_call_and_nothing_else_of_the_trace(
    tmp_path: Path, upstream: Upstream, later: bool, sample: float
) -> None:
    if later:
        upstream.speaks_later()
    with collecting() as collector:
        async with opened(tmp_path, traced(upstream, collector.url, sample=sample, trace=True)) as shop:
            answer = await shop.call("write", path="a.txt", why=WHY, meta=SENT)
            assert not answer.is_error
        (meta,) = told(upstream)
        version, trace, parent, flags = meta["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01" if sample else "00")
        assert {"tracestate", "baggage"}.isdisjoint(meta)
        if sample:
            span = the_call(collector, call_of(answer))
            (run,) = [one for one in collector.spans() if one["spanId"] == parent]
            assert (run["name"], run["parentSpanId"]) == ("run", span["spanId"])
    assert upstream.ran == [{"tool": "write", "arguments": {"path": "a.txt"}}]
    assert "ana" not in str(upstream.received)


@pytest.mark.parametrize(("collected", "mcp"), [(True, {}), (True, {"trace": False}), (False, {})])
async def test_an_upstream_is_told_of_no_trace_unless_its_source_says_so(
    tmp_path: Path, upstream: Upstream, collected: bool, mcp: dict[str, Any]
) -> None:
    with collecting() as collector:
        async with opened(tmp_path, traced(upstream, collector.url if collected else None, **mcp)) as shop:
            answer = await shop.call("look", path="a.txt", meta=SENT)
            assert not answer.is_error
    (meta,) = told(upstream)
    assert "traceparent" not in meta
    assert TRACE not in str(upstream.received)
