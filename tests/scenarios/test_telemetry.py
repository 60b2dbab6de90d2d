"""What others may watch: spans of a call in its client's trace, metrics, logs, and no word of what was said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from comptroller_server.commands.invocation import Invocation
from comptroller_server.commands.logs import log_to_stderr, release_logs
from comptroller_server.commands.opening import installation_of
from comptroller_server.config.loading import load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_server.face.http import PATH, build_app, serve_http, subject_of
from comptroller_server.face.protocol import build_server
from comptroller_server.telemetry.exporter import QUEUE_CALLS_MAX, Exporter
from comptroller_server.telemetry.exposition import OTHER, SERIES_MAX, Counter
from comptroller_server.telemetry.seen import CallSeen, StepSeen
from comptroller_server.telemetry.spans import ATTRIBUTES, export_request, spans_of
from comptroller_server.telemetry.tables import metrics_table, spans_table
from comptroller_server.telemetry.trace_context import trace_of
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Changes, Shop, call_of, code_of, opened, placed, until
from tests.server.test_elicitation_http import bearer

pytestmark = pytest.mark.anyio
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-00"
KEY, TOKEN = "Bearer kept-from-everybody-1", "token-for-scraping-1"
ROOT = Path(__file__).parents[2]


@dataclass
class Collector:
    """A receiver of OTLP on loopback. While `open` is not set, it answers nobody."""

    url: str = ""
    status: int = 200
    bodies: list[bytes] = field(default_factory=list[bytes])
    headers: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    asked: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def spans(self) -> list[dict[str, Any]]:
        requests = [json.loads(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


@contextlib.contextmanager
def collecting() -> Generator[Collector]:
    collector = Collector()
    collector.open.set()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.asked.set()
            collector.open.wait(20)
            collector.bodies.append(body)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            with contextlib.suppress(OSError):
                self.send_response(collector.status)
                self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    try:
        yield collector
    finally:
        collector.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


def watched(url: str | None = None, **metrics: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        traces = {"endpoint": url, "headers": {"authorization": "secret://env/COLLECTOR_KEY"}}
        config["telemetry"] = {
            "metrics": {"prometheus": True, **metrics},
            **({"traces": traces} if url else {}),
        }
        config.setdefault("limits", {})["identical_calls_max"] = 1_000

    return change


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_KEY", KEY)
    monkeypatch.setenv("METRICS_TOKEN", TOKEN)


@asynccontextmanager
async def served(shop: Shop) -> AsyncGenerator[str]:
    server = build_server(shop.service.pipeline, subject_of=subject_of, version="1")
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    metrics = shop.service.metrics
    app = build_app(server, shop.service.installation.identity, metrics=metrics.answer if metrics else None)
    serving = asyncio.create_task(serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2))
    try:
        yield (await url).removesuffix(PATH)
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await serving


async def metrics(shop: Shop) -> str:
    assert shop.service.metrics is not None
    status, body, *_ = await shop.service.metrics.answer("GET", [])
    assert status == 200
    return body.decode()


def attributes(span: Mapping[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span.get("attributes", [])}


def the_call(collector: Collector, call: str) -> dict[str, Any]:
    (span,) = [one for one in collector.spans() if attributes(one).get("comptroller.call") == call]
    return span


# -- spans --------------------------------------------------------------------------------------------------------


async def test_a_call_is_a_span_in_its_clients_trace_with_its_steps_below(tmp_path: Path) -> None:
    with collecting() as collector:
        async with opened(tmp_path, watched(collector.url)) as shop:
            answer = await shop.refund(shop.paid()[0], 5, meta={"traceparent": TRACEPARENT})
            task = shop.row(call_of(answer))["task"]
        span = the_call(collector, call_of(answer))
        assert (span["traceId"], span["parentSpanId"], span["kind"]) == (TRACE, PARENT, 2)
        assert span["name"] == "tools/call issue_refund"
        told = attributes(span)
        assert set(told) <= set(ATTRIBUTES)
        assert told["mcp.method.name"] == "tools/call"
        assert told["gen_ai.tool.name"] == "issue_refund"
        assert told["comptroller.outcome"] == "done"
        assert told["comptroller.decision"] == "allow"
        assert told["comptroller.task"] == task
        below = [one for one in collector.spans() if one.get("parentSpanId") == span["spanId"]]
        names = [one["name"] for one in below]
        assert names[0] == "validate"
        assert {"decide", "look_up", "commit", "run", "verify", "release"} <= set(names)
        assert names[-1] == "record"
        assert {one["traceId"] for one in below} == {TRACE}
        began, ended = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        times = [(int(one["startTimeUnixNano"]), int(one["endTimeUnixNano"])) for one in below]
        assert all(began <= first <= last <= ended for first, last in times)
        assert {one["authorization"] for one in collector.headers} == {KEY}


async def test_a_call_that_is_not_allowed_says_which_rule_and_code(tmp_path: Path) -> None:
    with collecting() as collector:
        async with opened(tmp_path, watched(collector.url)) as shop:
            answer = await shop.refund(shop.paid()[0], 30)
            assert code_of(answer) == "approval_pending"
        span = the_call(collector, call_of(answer))
        told = attributes(span)
        assert told["comptroller.decision"] == "needs_approval"
        assert told["comptroller.code"] == "approval_pending"
        assert told["error.type"] == "tool_error"
        assert len(told["comptroller.rules"]["values"]) >= 1
        assert span["status"] == {"code": 2, "message": "approval_pending"}
        assert "parentSpanId" not in span


async def test_over_http_the_header_names_the_trace(tmp_path: Path) -> None:
    with collecting() as collector:
        async with opened(tmp_path, watched(collector.url)) as shop, served(shop) as url:
            headers = {**bearer(shop), "traceparent": TRACEPARENT}
            async with (
                httpx2.AsyncClient(headers=headers) as http,
                Client(streamable_http_client(url + PATH, http_client=http), mode="legacy") as client,
            ):
                await client.call_tool("lookup_invoice", {"invoice_id": shop.paid()[0]})
        (span,) = [one for one in collector.spans() if one["name"] == "tools/call lookup_invoice"]
        assert (span["traceId"], span["parentSpanId"]) == (TRACE, PARENT)
        assert attributes(span)["network.transport"] == "tcp"
        assert attributes(span)["mcp.protocol.version"] == "2025-11-25"


@given(st.one_of(st.none(), st.integers(), st.text("0f-", max_size=60)))
def test_whatever_a_client_sends_a_trace_has_sound_ids(sent: Any) -> None:
    trace = trace_of({"traceparent": sent}, None, "attempt")
    assert re.fullmatch("[0-9a-f]{32}", trace.trace)
    assert re.fullmatch("[0-9a-f]{16}", trace.span)
    assert int(trace.trace, 16) > 0
    assert trace.is_sampled(1.0)
    assert not trace.is_sampled(0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        TRACEPARENT.upper(),
    ],
)
def test_a_parent_that_is_not_sound_is_passed_over(wrong: str) -> None:
    assert trace_of({"traceparent": wrong}, None, "a").parent == ""
    assert trace_of({"traceparent": wrong}, TRACEPARENT, "a").parent == PARENT


def test_the_share_is_by_trace_and_not_by_what_the_client_says() -> None:
    traces = [trace_of({}, None, str(number)) for number in range(1_000)]
    assert 150 < sum(trace.is_sampled(0.2) for trace in traces) < 250
    flags = [trace_of({"traceparent": f"00-{TRACE}-{PARENT}-{flag}"}, None, "a") for flag in ("00", "01")]
    assert len({trace.is_sampled(0.7) for trace in flags}) == 1


# -- a collector that does not work -------------------------------------------------------------------------------


def a_call(number: int = 0) -> CallSeen:
    return CallSeen(
        trace_of({}, None, str(number)), "tools/call", "lookup_invoice", "read", "done", "", "allow", ("r",), "", "", "",
        "", "pipe", 0, 1_000, 0.5, (StepSeen("validate", 0.0, 0.5),),
    )  # fmt: skip


def test_what_a_slow_collector_does_not_take_is_dropped_and_counted() -> None:
    with collecting() as collector:
        collector.open.clear()
        exporter = Exporter(collector.url, {}, lambda calls: export_request({}, "1", calls), queue_max=2)
        exporter.send(a_call())
        assert collector.asked.wait(20)
        for number in range(1, 6):
            exporter.send(a_call(number))
        assert exporter.sent.dropped == 3
        collector.open.set()
        exporter.close()
        assert (exporter.sent.taken, exporter.sent.dropped) == (3, 3)
        assert len(collector.spans()) == 6
        exporter.send(a_call(9))
        assert exporter.sent.dropped == 4
    assert QUEUE_CALLS_MAX < 10_000


async def test_a_collector_that_is_down_fails_no_call(tmp_path: Path) -> None:
    with collecting() as collector:
        gone = collector.url
    async with opened(tmp_path, watched(gone)) as shop:
        invoice = shop.paid()[0]
        assert code_of(await shop.refund(invoice, 5)) is None
        assert len(shop.moved(invoice)) == 1
        sent = shop.service.lasting.telemetry.sent
        assert sent is not None
        await until(lambda: sent.failed == 1)


async def test_a_collector_that_refuses_is_counted_and_what_it_says_is_not_repeated(
    tmp_path: Path,
) -> None:
    with collecting() as collector, structlog.testing.capture_logs() as lines:
        collector.status = 503
        async with opened(tmp_path, watched(collector.url)) as shop:
            await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        sent = shop.service.lasting.telemetry.sent
        assert sent is not None
        assert (sent.taken, sent.failed) == (0, 1)
    (line,) = [one for one in lines if one["event"].startswith("the collector of traces")]
    assert line["why"] == "status 503"


async def test_a_defect_in_telemetry_fails_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, watched()) as shop:
        measures = shop.service.lasting.telemetry.measures

        def fail(self: Any, seen: CallSeen) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(type(measures), "add", fail)
        with structlog.testing.capture_logs() as lines:
            answer = await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        assert not answer.is_error
        assert [line["event"] for line in lines] == ["defect in telemetry"]


# -- metrics ------------------------------------------------------------------------------------------------------


async def test_metrics_count_calls_steps_what_waits_and_what_is_left(tmp_path: Path) -> None:
    async with opened(tmp_path, watched()) as shop:
        paid = shop.paid()
        await shop.refund(paid[0], 5)
        await shop.refund(paid[1], 30)
        await shop.call("made_up_by_the_client")
        text = await metrics(shop)
        size = len(shop.log())
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    refund = next(key for key in lines if 'tool="issue_refund"' in key and 'outcome="done"' in key)
    assert lines[refund] == "1"
    assert [key for key in lines if 'code="approval_pending"' in key and lines[key] == "1"]
    assert (
        'comptroller_calls_total{tool="(none)",effect="",outcome="tool_mismatch",code="unknown_tool"}'
        in lines
    )
    assert "made_up" not in text
    assert lines['comptroller_calls_open{state="pending"}'] == "1"
    assert lines['comptroller_calls_open{state="in_doubt"}'] == "0"
    assert lines['comptroller_step_duration_seconds_count{step="run"}'] == "1"
    assert lines["comptroller_ready"] == "1"
    assert lines["comptroller_log_records"] == str(size)
    assert int(lines["comptroller_store_units_total"]) >= int(lines["comptroller_store_batches_total"]) >= 3
    used = {
        key: float(value) for key, value in lines.items() if key.startswith("comptroller_budget_used_ratio")
    }
    assert used
    assert all(0 <= share <= 1 for share in used.values())
    assert max(used.values()) > 0
    buckets = [int(lines[key]) for key in lines if key.startswith("mcp_server_operation") and "issue_refund" in key and "_bucket" in key and 'error_type=""' in key]  # fmt: skip
    assert buckets == sorted(buckets)
    assert buckets[-1] == 1


async def test_metrics_say_how_far_behind_a_stream_is(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("a file where a folder should be")

    def streamed(config: dict[str, Any]) -> None:
        watched()(config)
        config["streams"] = {
            "archive": {"to": "file", "file": str(nowhere / "audit.jsonl"), "retry_s_max": 60}
        }

    async with opened(tmp_path, streamed) as shop:
        await shop.refund(shop.paid()[0], 5)
        shop.clock.pass_s(90)
        text = await metrics(shop)
        size = len(shop.log())
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['comptroller_stream_lag_records{stream="archive"}'] == str(size)
    assert 90 <= float(lines['comptroller_stream_lag_seconds{stream="archive"}']) < 180


async def test_without_a_token_metrics_are_for_this_machine_alone(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, watched()) as shop,
        served(shop) as url,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        read = await http.get(f"{url}/metrics")
        assert (read.status_code, read.headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert "comptroller_ready 1" in read.text
        for name in ("X-Forwarded-For", "Forwarded", "Via"):
            assert (await http.get(f"{url}/metrics", headers={name: "x"})).status_code == 403
        assert (await http.post(f"{url}/metrics")).status_code == 405


async def test_with_a_token_metrics_are_for_whoever_has_it(tmp_path: Path) -> None:
    changes = watched(token="secret://env/METRICS_TOKEN")
    async with (
        opened(tmp_path, changes) as shop,
        served(shop) as url,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        for headers in ({}, {"authorization": "Bearer wrong"}, bearer(shop), {"authorization": TOKEN}):
            refused = await http.get(f"{url}/metrics", headers=headers)
            assert refused.status_code == 401
            assert "comptroller_ready" not in refused.text
        own = {"authorization": f"Bearer {TOKEN}", "x-forwarded-for": "192.0.2.1"}
        assert (await http.get(f"{url}/metrics", headers=own)).status_code == 200


async def test_where_they_are_not_configured_there_are_no_metrics(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, served(shop) as url, httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{url}/metrics")).status_code == 404
        assert shop.service.lasting.telemetry.measures is None
        assert shop.service.lasting.telemetry.sent is None


def test_a_family_of_metrics_does_not_grow_without_end() -> None:
    counter = Counter("c", "Counts.", ("name",))
    for number in range(SERIES_MAX + 10):
        counter.add(f"n{number}")
    lines = counter.lines()
    assert len(lines) == SERIES_MAX + 3
    assert f'c{{name="{OTHER}"}} 10' in lines


# -- nothing secret -----------------------------------------------------------------------------------------------

CANARIES = [
    f"canary{word}Kx7q"
    for word in ("argument", "reason", "tool", "subject", "actor", "error", "secret", "meta")
]


async def test_no_word_of_a_call_is_in_spans_metrics_or_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argument, reason, tool, subject, actor, error, secret, meta = CANARIES
    with collecting() as collector:
        async with opened(tmp_path, watched(collector.url), secrets=(secret,)) as shop:
            log_to_stderr(as_json=True)
            release_logs(shop.service.installation.release)
            paid, who = shop.paid(), shop.other(actor=actor, subject=subject)
            why = {"reason": f"{reason} {secret}"}
            stated = {"traceparent": meta, "io.example/note": meta}
            await shop.refund(paid[0], 5, why={"reason": reason}, subject=who, meta=stated)
            await shop.refund(paid[1], 30, why={"reason": reason}, subject=who)
            await shop.refund(argument, 5, why=why, subject=who)
            await shop.call("lookup_invoice", {"invoice_id": argument, argument: argument}, subject=who)
            await shop.call("lookup_invoice", {"invoice_id": paid[0]}, subject=who)
            await shop.call(tool, {argument: argument}, subject=who)
            await shop.call("task_begin", {"objective": argument}, subject=who)
            shop.sql("UPDATE customers SET name = ?", error)
            shop.sql("UPDATE invoices SET id = id || ? WHERE id = ?", error, paid[2])
            await shop.call("lookup_invoice", {"invoice_id": paid[2] + error}, subject=who)
            shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
            await shop.refund(paid[3], 5, why={"reason": reason}, subject=who)
            shop.behave()
            told = await metrics(shop)
            calls = sum(1 for line in told.splitlines() if line.startswith("comptroller_calls_total{"))
        logged = capsys.readouterr()
        sent = b"".join(collector.bodies).decode()
    assert calls >= 5
    assert len([span for span in collector.spans() if span["kind"] == 2]) >= 9
    everything = f"{sent}\n{told}\n{logged.err}\n{logged.out}"
    for canary in [*CANARIES, KEY, KEY.split()[1], shop.service.installation.principal_key]:
        assert canary not in everything


# -- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"traces": {"endpoint": "http://collector.example.com/v1/traces"}}, "https://"),
        ({"traces": {"endpoint": "https://u:p@collector.example.com/v1/traces"}}, "a host and a path alone"),
        ({"traces": {"endpoint": "https://collector.example.com"}}, "has no path"),
        ({"traces": {"endpoint": "https://c.example/v1", "headers": {"x-key": "plain"}}}, "must be a reference"),
        ({"traces": {"endpoint": "https://c.example/v1", "headers": {"x key": "secret://env/HOME"}}}, "no header to set"),
        ({"metrics": {"token": "secret://env/METRICS_TOKEN"}}, "guards nothing"),
        ({"metrics": {"prometheus": True, "token": "plain"}}, "must be a reference"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_a_finding(tmp_path: Path, written: Any, told: str) -> None:
    path = placed(tmp_path, lambda config: config.update(telemetry=written))
    with pytest.raises(ConfigInvalid, match=re.escape(told)):
        load_config(path, data_dir=tmp_path)


def test_metrics_on_a_public_address_need_a_token(tmp_path: Path) -> None:
    def public(config: dict[str, Any]) -> None:
        config.update(
            http={"public_url": "https://tools.example.com"}, telemetry={"metrics": {"prometheus": True}}
        )

    with pytest.raises(ConfigInvalid, match=r"give `telemetry\.metrics\.token`"):
        load_config(placed(tmp_path, public), data_dir=tmp_path)


def test_the_values_behind_references_are_withheld_everywhere_and_in_no_repr(tmp_path: Path) -> None:
    path = placed(tmp_path, watched("http://127.0.0.1:9/v1/traces", token="secret://env/METRICS_TOKEN"))
    config = load_config(path, data_dir=tmp_path)
    assert {KEY, KEY.split()[1], TOKEN} <= set(config.secrets)
    assert TOKEN not in repr(config)
    assert KEY not in repr(config)


def test_the_page_has_every_metric_and_every_attribute() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    told = "put what `metrics_table()` and `spans_table()` of telemetry/tables.py return into the page"
    assert metrics_table() in page, told
    assert spans_table() in page, told
    assert {one for span in spans_of(a_call()) for one in attributes(span)} <= set(ATTRIBUTES)


async def test_no_trace_is_sent_where_the_share_is_none(tmp_path: Path) -> None:
    def none(config: dict[str, Any]) -> None:
        config["telemetry"] = {"traces": {"endpoint": collector.url, "sample": 0.0}}

    with collecting() as collector:
        async with opened(tmp_path, none) as shop:
            await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        sent = shop.service.lasting.telemetry.sent
        assert sent is not None
        assert (collector.bodies, sent.taken, sent.failed, sent.dropped) == ([], 0, 0, 0)


@pytest.mark.parametrize("logs", ["text", "json"])
def test_logs_are_written_as_the_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logs: str
) -> None:
    path = placed(tmp_path, lambda config: config.update(telemetry={"logs": logs}))
    log_to_stderr()
    installation_of(Invocation(config=path, data_dir=tmp_path))
    structlog.stdlib.get_logger("comptroller.test").warning("it is late", hours=3)
    (line,) = capsys.readouterr().err.splitlines()
    if logs == "json":
        told = json.loads(line)
        assert (told["event"], told["hours"], told["level"]) == ("it is late", 3, "warning")
    else:
        assert line.endswith("warning it is late hours=3")
