"""Copies of the record for other places: at least once, in order, released, and never in the way of a call."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.log import leaf_hash
from comptroller_audit.unit import Unit
from comptroller_audit.vocabulary import RecordType
from comptroller_server.config.streams import StreamSettings
from comptroller_server.installation import TENANT
from comptroller_server.streaming.batches import Batch
from comptroller_server.streaming.cursors import STREAMS, Reset
from comptroller_server.streaming.sinks import Sink, sink_of
from comptroller_server.streaming.streamer import Round, Streamer, Streams
from comptroller_server.upkeep.retention import DAY_MS, Retention
from comptroller_tools.upstream import reaching
from tests.scenarios.kit import Shop, code_of, opened, until
from tests.server.cli_kit import accepting_own_files, run_in_thread
from tests.server.stream_places import SECRET, datagrams, hook, receiver, stream_to
from tests.tools.test_upstream_tokens import certificate

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shop]:
    """A desk that read, paid and refused. Its tests only add streams of their own names."""

    def changes(config: dict[str, Any]) -> None:
        config["safety"] = {"pii_redaction": ["email"]}

    async with opened(tmp_path_factory.mktemp("desk"), changes) as shop:
        invoice = shop.paid()[0]
        await shop.call("get_ticket", ticket_id=shop.sql("SELECT id FROM tickets ORDER BY id")[0][0])
        assert code_of(await shop.refund(invoice, 12)) is None
        assert code_of(await shop.refund(invoice, 90_000)) == "denied"
        yield shop


async def delivered(shop: Shop, stream: StreamSettings, sink: Sink | None = None) -> Round:
    """Batches until nothing is left or one is not taken."""
    streamer = Streamer(lambda: shop.service.installation, stream, sink or sink_of(stream))
    try:
        while True:
            done = await streamer.round()
            if done.error or not done.behind:
                return done
    finally:
        await streamer.close()


def position(shop: Shop, name: str) -> int:
    return int(shop.rows(STREAMS, name).get(name, {"position": 0})["position"])


def size(shop: Shop) -> int:
    return len(shop.log())


async def test_a_file_gets_every_entry_in_order_with_its_place_and_digest_and_nothing_withheld(
    shop: Shop, tmp_path: Path
) -> None:
    stream = stream_to("lines", tmp_path, to="file", file="copy.jsonl", batch_records_max=3)
    await delivered(shop, stream)
    text = (tmp_path / "copy.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["index"] for line in lines] == list(range(size(shop)))
    assert all(leaf_hash(canonical_bytes(line["envelope"])).hex() == line["leaf"] for line in lines)
    assert [line["type"] for line in lines] == [entry.type.value for entry in shop.log()]
    (read,) = (each for each in shop.packets(RecordType.READ) if each["tool"] == "get_ticket")
    email = read["output"]["customer_email"]
    assert "@" in email  # the record has it
    assert email not in text
    assert (tmp_path / "copy.jsonl").stat().st_mode & 0o077 == 0
    assert position(shop, "lines") == size(shop)


async def test_who_dies_before_the_cursor_moved_sends_again_and_a_half_line_is_dropped(
    shop: Shop, tmp_path: Path
) -> None:
    stream = stream_to("dying", tmp_path, to="file", file="copy.jsonl", batch_records_max=2)

    class Dying:
        """Writes, and is gone before anybody hears of it."""

        async def deliver(self, batch: Batch) -> int:
            await sink_of(stream).deliver(batch)
            raise asyncio.CancelledError

        async def close(self) -> None: ...

    with pytest.raises(asyncio.CancelledError):
        await delivered(shop, stream, Dying())
    assert position(shop, "dying") == 0
    with (tmp_path / "copy.jsonl").open("a") as file:
        file.write('{"index": 2, "torn')
    await delivered(shop, stream)
    indexes = [json.loads(line)["index"] for line in (tmp_path / "copy.jsonl").read_text().splitlines()]
    assert indexes == [0, 1, *range(size(shop))]


async def test_a_full_file_is_set_aside_and_the_oldest_of_them_goes(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_to("full", tmp_path, to="file", file="copy.jsonl", batch_records_max=2, keep_files=2)
    sink: Any = sink_of(stream)
    monkeypatch.setattr(sink, "_bytes_max", 1)
    (tmp_path / "copy.jsonl.mine").write_text("not ours")
    await delivered(shop, stream, sink)
    ends = range(2, size(shop) + 2, 2)
    kept = [f"copy.jsonl.{min(end, size(shop)):012d}" for end in ends][-2:]
    assert sorted(os.listdir(tmp_path)) == [*kept, "copy.jsonl.mine"]


def _read_syslog(shop: Shop, messages: list[bytes]) -> None:
    """Header by RFC 5424 §6, and the whole log in order."""
    for index, message in enumerate(messages):
        pri_version, moment, host, app, process, kind, rest = message.decode("ascii").split(" ", 6)
        entry = shop.log()[index]
        assert pri_version in ("<109>1", "<108>1")
        assert moment.endswith("Z")
        assert host and process
        assert (app, kind) == ("comptroller", entry.type.value)
        assert f'[meta sequenceId="{index + 1}"]' in rest
        assert json.loads(rest.partition("] ")[2])["leaf"] == entry.leaf
    assert len(messages) == size(shop)


async def test_syslog_over_tcp_is_counted_in_octets_and_taken_once_the_receiver_read_it(
    shop: Shop, tmp_path: Path
) -> None:
    with receiver() as place:
        stream = stream_to("tcp", tmp_path, to="syslog", address=f"tcp://127.0.0.1:{place.port}")
        place.breaks = True
        assert (await delivered(shop, stream)).error
        assert position(shop, "tcp") == 0
        place.breaks = False
        assert not (await delivered(shop, stream)).error
        _read_syslog(shop, place.messages())


async def test_syslog_over_tls_is_for_the_named_receiver_only(shop: Shop, tmp_path: Path) -> None:
    files = certificate(tmp_path, "ours")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])
    with receiver(server) as place:
        address = f"tls://127.0.0.1:{place.port}"
        unknown = stream_to("unknown", tmp_path, to="syslog", address=address)
        assert "certificate" in (await delivered(shop, unknown)).error.lower()
        assert place.streams == []
        stream = stream_to("tls", tmp_path, to="syslog", address=address, ca_file=str(files["ssl_certfile"]))
        assert not (await delivered(shop, stream)).error
        _read_syslog(shop, place.messages())


async def test_syslog_goes_as_datagrams_over_udp_and_to_a_local_socket(shop: Shop, tmp_path: Path) -> None:
    with datagrams(socket.AF_INET, ("127.0.0.1", 0)) as bound:
        stream = stream_to(
            "udp", tmp_path, to="syslog", address=f"udp://127.0.0.1:{bound.getsockname()[1]}", facility=13
        )
        assert not (await delivered(shop, stream)).error
        _read_syslog(shop, [bound.recv(65_536) for _ in range(size(shop))])
    local = tmp_path / "log"
    with datagrams(socket.AF_UNIX, str(local)) as bound:
        stream = stream_to("local", tmp_path, to="syslog", address=f"unix://{local}", batch_records_max=5)
        entries = size(shop)
        reading = asyncio.get_running_loop().run_in_executor(
            None, lambda: [bound.recv(65_536) for _ in range(entries)]
        )
        assert not (await delivered(shop, stream)).error
        _read_syslog(shop, await reading)


async def test_a_webhook_is_signed_and_the_same_entries_have_the_same_id(shop: Shop, tmp_path: Path) -> None:
    with hook() as place:
        stream = stream_to("hook", tmp_path, to="webhook", url=place.url, secret="secret://env/HOOK")
        assert not (await delivered(shop, stream)).error
        await shop.store.commit(TENANT, Unit([Reset("other", 0, "test")]))
        ((headers, body),) = place.got
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        made = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{made}"
        lines = [json.loads(line) for line in body.splitlines()]
        assert [line["index"] for line in lines] == list(range(len(lines)))
        again = stream_to(
            "again",
            tmp_path,
            to="webhook",
            url=place.url,
            secret="secret://env/HOOK",
            batch_records_max=len(lines),
        )
        await delivered(shop, again)
        assert place.got[1][0]["webhook-id"] == headers["webhook-id"]
        assert place.got[1][1] == body


async def test_a_webhook_that_refuses_is_asked_for_less_or_later_and_is_never_followed_elsewhere(
    shop: Shop, tmp_path: Path
) -> None:
    with hook() as place, hook() as elsewhere:
        stream = stream_to("slow", tmp_path, to="webhook", url=place.url, secret="secret://env/HOOK")
        streamer = Streamer(lambda: shop.service.installation, stream, sink_of(stream))
        place.status, place.headers = 503, {"retry-after": "7"}
        assert (await streamer.round()).after_s == 7
        place.status, place.headers = 307, {"location": elsewhere.url}
        assert "307" in (await streamer.round()).error
        row = shop.rows(STREAMS, "slow")["slow"]
        assert (row["position"], row["failures"]) == (0, 2)
        place.status, place.headers, place.lines_max = 200, {}, 2
        done = Round(0, 1)
        while done.behind or done.error:
            done = await streamer.round()
        await streamer.close()
        indexes = [json.loads(line)["index"] for _, body in place.got for line in body.splitlines()]
        assert indexes == list(range(size(shop)))
        assert elsewhere.got == []


async def test_a_name_that_leads_into_this_machine_is_not_talked_to(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    def looked_up(host: str, port: int, **_: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(reaching, "_resolved", resolved)
    with receiver() as place:
        url = f"https://logs.example.com:{place.port}/in"
        stream = stream_to("inside", tmp_path, to="webhook", url=url, secret="secret://env/HOOK")
        assert reaching.NOT_PUBLIC in (await delivered(shop, stream)).error
        monkeypatch.setattr(socket, "getaddrinfo", looked_up)
        stream = stream_to("inside2", tmp_path, to="syslog", address=f"tcp://logs.example.com:{place.port}")
        assert reaching.NOT_PUBLIC in (await delivered(shop, stream)).error
        assert place.streams == []


async def test_a_collector_gets_log_records_of_otlp_and_what_it_will_not_keep_is_counted(
    shop: Shop, tmp_path: Path
) -> None:
    with hook() as place:
        stream = stream_to("otlp", tmp_path, to="otlp", url=place.url, headers={"x-team": "soc"})
        place.body = b'{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "too old"}}'
        assert not (await delivered(shop, stream)).error
        ((headers, body),) = place.got
        assert (headers["content-type"], headers["x-team"]) == ("application/json", "soc")
        (resource,) = json.loads(body)["resourceLogs"]
        records = resource["scopeLogs"][0]["logRecords"]
        for entry, record in zip(shop.log(), records, strict=True):
            said = {each["key"]: each["value"] for each in record["attributes"]}
            assert record["timeUnixNano"] == str(entry.at_ms * 1_000_000)
            assert said["comptroller.index"] == {"intValue": str(entry.index)}
            assert said["log.record.uid"] == {"stringValue": entry.leaf}
            assert json.loads(record["body"]["stringValue"])["leaf"] == entry.leaf
        row = shop.rows(STREAMS, "otlp")["otlp"]
        assert (row["refused"], row["position"]) == (1, size(shop))


async def test_the_body_is_what_the_protocols_own_definition_reads(shop: Shop, tmp_path: Path) -> None:
    json_format = pytest.importorskip("google.protobuf.json_format")
    service = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    with hook() as place:
        await delivered(shop, stream_to("proto", tmp_path, to="otlp", url=place.url))
        read = json_format.Parse(place.got[0][1], service.ExportLogsServiceRequest())
        assert len(read.resource_logs[0].scope_logs[0].log_records) == size(shop)


async def test_what_a_person_reset_meanwhile_stands(shop: Shop, tmp_path: Path) -> None:
    stream = stream_to("moved", tmp_path, to="file", file="copy.jsonl")
    await delivered(shop, stream)

    class Reset_:
        async def deliver(self, batch: Batch) -> int:
            await shop.store.commit(TENANT, Unit([Reset("moved", 1, "ann")]))
            return 0

        async def close(self) -> None: ...

    await shop.store.commit(TENANT, Unit([Reset("moved", 0, "ann")]))
    streamer = Streamer(lambda: shop.service.installation, stream, Reset_())
    assert (await streamer.round()).delivered == 0
    await streamer.close()
    assert position(shop, "moved") == 1
    assert shop.packets(RecordType.STREAM_RESET)[-1] == {
        "v": 1, "stream": "moved", "before": 0, "position": 1, "by": "ann",
    }  # fmt: skip


async def test_a_defect_in_one_stream_is_told_there(shop: Shop, tmp_path: Path) -> None:
    class Broken:
        async def deliver(self, batch: Batch) -> int:
            raise ZeroDivisionError

        async def close(self) -> None: ...

    stream = stream_to("broken", tmp_path, to="file", file="copy.jsonl")
    assert (await delivered(shop, stream, Broken())).error == "internal error (ZeroDivisionError)"
    assert shop.rows(STREAMS, "broken")["broken"]["failures"] == 1


async def test_one_process_streams_and_another_takes_over_when_it_is_gone(shop: Shop) -> None:
    installation = shop.service.installation
    one, other = (Streams(lambda: installation, shop.clock) for _ in range(2))
    assert one.take()
    assert not other.take()
    one.release()
    assert other.take()
    assert not one.held()
    other.release()


async def test_retention_waits_for_no_sink_and_says_what_was_not_delivered(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        shop.clock.jump_s(3 * DAY_MS / 1000)
        kept = Retention(shop.store, shop.clock, 1, 1e9, ["siem"])
        done = await kept.round(TENANT)
        assert done.erased == done.undelivered > 0
        stream = stream_to("siem", tmp_path, to="file", file="copy.jsonl")
        await delivered(shop, stream)
        lines = [json.loads(line) for line in (tmp_path / "copy.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == list(range(size(shop)))
        assert any(line["packet"] is None for line in lines)


async def test_a_sink_that_is_down_holds_up_no_call_and_is_seen_and_gets_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "a-secret-of-sixteen")
    with hook() as place:
        place.status = 503

        def changes(config: dict[str, Any]) -> None:
            accepting_own_files(config)
            config["streams"] = {
                "soc": {
                    "to": "webhook",
                    "url": place.url,
                    "secret": "secret://env/HOOK",
                    "interval_s": 0.01,
                    "retry_s_max": 0.01,
                }
            }

        async with opened(tmp_path, changes) as shop:
            assert code_of(await shop.refund(shop.paid()[0], 12)) is None
            await until(lambda: shop.rows(STREAMS, "soc").get("soc", {"failures": 0})["failures"])
            readiness = shop.service.readiness
            assert await readiness.look() == (True, "ready\nstreams held up: 1 of 1")
            listed = json.loads((await run_in_thread(tmp_path, "streams", "list", "--json")).stdout)
            assert listed["streams"][0]["lag"] == size(shop)
            assert "503" in listed["streams"][0]["error"]
            checked = await run_in_thread(tmp_path, "check")
            assert "streams.soc" in checked.stdout and "is held up" in checked.stdout
            examined = await run_in_thread(tmp_path, "doctor")
            assert "`soc` is held up" in examined.stdout
            busy = await run_in_thread(tmp_path, "streams", "run", "--once")
            assert busy.exit_code == 2 and "another process" in busy.stderr
            place.status = 200
            await until(lambda: position(shop, "soc") == size(shop))
            assert await readiness.look() == (True, "ready\nstreams held up: 0 of 1")
            indexes = {json.loads(line)["index"] for _, body in place.got for line in body.splitlines()}
            assert indexes == set(range(size(shop)))


async def test_cron_delivers_once_and_a_reset_sends_again(tmp_path: Path) -> None:
    def changes(config: dict[str, Any]) -> None:
        config["streams"] = {"lines": {"to": "file", "file": "{data_dir}/copy.jsonl", "interval_s": 3600}}

    async with opened(tmp_path, changes) as shop:
        await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        entries = size(shop)
    (tmp_path / "copy.jsonl").unlink(missing_ok=True)
    beyond = await run_in_thread(tmp_path, "streams", "reset", "lines", "--to", "1000000")
    assert beyond.exit_code == 2
    assert (await run_in_thread(tmp_path, "streams", "reset", "lines", "--to", "0")).exit_code == 0
    done = json.loads((await run_in_thread(tmp_path, "streams", "run", "--once", "--json")).stdout)
    assert done["ok"] and done["streams"]["lines"]["delivered"] == entries + 1
    lines = (tmp_path / "copy.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["type"] == "stream_reset"
    unknown = await run_in_thread(tmp_path, "streams", "reset", "nobody", "--to", "0")
    assert unknown.exit_code == 2 and "lines" in unknown.stderr
