"""The Tasks extension: a call that takes long or waits for people gives its client a handle, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim, advertise
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Request,
    RequestParams,
    Result,
    TextContent,
)
from pydantic import Field, TypeAdapter

from comptroller_audit.errors import StoreUnavailable
from comptroller_audit.vocabulary import RecordType, Subject
from comptroller_policy.switches import SwitchScope
from comptroller_server.commands import serving
from comptroller_server.face import handles
from comptroller_server.face.handles import EXTENSION, TasksTerms
from comptroller_server.face.http import build_app, serve_http, subject_of
from comptroller_server.face.protocol import GovernedServer, build_server
from tests.scenarios.kit import WHY, Shop, opened, until
from tests.scenarios.test_confirmations import confirming, refund_of
from tests.scenarios.test_questions_back import FORM, FORMS, asks
from tests.scenarios.test_questions_back import behind as asking
from tests.scenarios.test_upstreams import READS, WRITES, behind
from tests.scenarios.upstream_kit import Upstream

pytestmark = pytest.mark.anyio

LONG_S = 60.0
"""How long a call may take before it gets a handle, where none of the test's calls takes that long."""
GREEN = {"action": "accept", "content": {"colour": "green"}}


_ANYTHING: Any = TypeAdapter(dict[str, Any])


class _Params(RequestParams):
    task_id: str
    input_responses: dict[str, Any] | None = None


class _Asked(Request[_Params, str]):
    name_param = "taskId"


class Handed(Result):
    """What a client gets in place of a result."""

    result_type: Literal["task"]
    task_id: str = Field(alias="taskId")


class Polls(ClientExtension):
    """A host that knows the extension: it asks until there is an answer, and its model sees only that."""

    identifier = EXTENSION

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Handed, resolve=self._resolve)]

    async def _resolve(self, handed: Handed, context: ClaimContext) -> CallToolResult:
        while True:
            request = _Asked(method="tasks/get", params=_Params(task_id=handed.task_id))
            told: dict[str, Any] = await context.session.send_request(request, _ANYTHING)
            if told["status"] == "completed":
                return CallToolResult.model_validate(told["result"])
            await asyncio.sleep(0.01)


class Host:
    """A client that sees every message of the extension."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=arguments))
        told: dict[str, Any] = await self.client.session.send_request(request, _ANYTHING)
        return told

    async def handed(self, tool: str, arguments: dict[str, Any]) -> str:
        told = await self.call(tool, arguments)
        assert told["resultType"] == "task", told
        assert not {"result", "error", "inputRequests", "requestState"} & told.keys()
        return str(told["taskId"])

    async def get(self, task: str) -> dict[str, Any]:
        told = await self._ask("tasks/get", task)
        assert (told["resultType"], told["taskId"]) == ("complete", task)
        return told

    async def cancel(self, task: str) -> None:
        assert _plain(await self._ask("tasks/cancel", task)) == {"resultType": "complete"}

    async def update(self, task: str, **responses: Any) -> None:
        told = await self._ask("tasks/update", task, responses)
        assert _plain(told) == {"resultType": "complete"}

    async def ended(self, task: str) -> dict[str, Any]:
        """The task once it has ended."""
        told = await self.get(task)
        while told["status"] == "working":
            await asyncio.sleep(0.01)
            told = await self.get(task)
        return told

    async def _ask(self, method: str, task: str, responses: dict[str, Any] | None = None) -> dict[str, Any]:
        request = _Asked(method=method, params=_Params(task_id=task, input_responses=responses))
        told: dict[str, Any] = await self.client.session.send_request(request, _ANYTHING)
        return told


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != "_meta"}


def server_of(shop: Shop, after_s: float, subject: Subject | None = None) -> GovernedServer:
    return build_server(
        shop.service.pipeline,
        subject_of=lambda _: subject or shop.subject,
        version="1",
        offers=shop.service.offers,
        may_ask=True,
        tasks=TasksTerms(shop.service.pipeline, after_s, shop.clock.now_ms),
    )


@asynccontextmanager
async def host_of(
    shop: Shop,
    after_s: float = LONG_S,
    *,
    knows: bool = True,
    mode: str = "auto",
    subject: Subject | None = None,
    **more: Any,
) -> AsyncGenerator[Host]:
    extensions = [advertise(EXTENSION)] if knows else None
    server = server_of(shop, after_s, subject)
    async with Client(server, mode=cast("Any", mode), cache=None, extensions=extensions, **more) as client:
        yield Host(client)


def said(told: dict[str, Any]) -> str:
    return str(told["result"]["content"][0]["text"])


def answers(upstream: Upstream) -> list[Any]:
    return [one["answered"]["theirs"] for one in upstream.ran if "answered" in one]


def code(told: dict[str, Any]) -> str:
    assert told["result"]["isError"]
    return str(told["result"]["_meta"]["comptroller/refusal"]["code"])


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "files")
    made.accept(tmp_path)
    return made


async def test_a_call_that_waits_for_people_is_a_task_and_the_first_look_after_their_yes_runs_it_once(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        invoice = shop.paid()[0]
        task = await host.handed("issue_refund", refund_of(invoice, 30))
        waiting = await host.get(task)
        assert waiting["status"] == "working"
        assert waiting["statusMessage"] == (
            "A person must agree first (1 with role approver). Nothing has been done yet."
        )
        await shop.vote(task)
        assert shop.moved() == []
        done = await host.ended(task)
        assert done["status"] == "completed"
        assert not done["result"]["isError"]
        assert "Approved by a person and run once" in said(done)
        assert (await host.get(task))["result"] == done["result"]
        assert [effect.amount_cents for effect in shop.moved(invoice)] == [3_000]


async def test_a_host_of_the_sdk_that_knows_the_extension_hands_its_model_only_the_answer(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop:
        server = server_of(shop, LONG_S)
        async with Client(server, mode="auto", cache=None, extensions=[Polls()]) as client:
            calling = asyncio.create_task(client.call_tool("issue_refund", refund_of(shop.paid()[0], 30)))
            await until(lambda: shop.packets(RecordType.PENDING))
            await shop.vote(shop.packets(RecordType.PENDING)[0]["call"])
            result = await calling
        (content,) = result.content
        assert isinstance(content, TextContent)
        assert "run once, exactly as proposed" in content.text
        assert len(shop.moved()) == 1


async def test_looking_is_not_recorded_and_uses_nothing_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        task = await host.handed("issue_refund", refund_of(shop.paid()[0], 30))
        before = len(shop.log())
        for _ in range(200):
            assert (await host.get(task))["status"] == "working"
        assert len(shop.log()) == before


async def test_a_task_that_waits_outlives_the_server_that_gave_it_and_so_does_its_answer(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop:
        async with host_of(shop) as first:
            task = await first.handed("issue_refund", refund_of(shop.paid()[0], 30))
        await shop.vote(task)
        async with host_of(shop) as second:
            assert (await second.ended(task))["status"] == "completed"
        async with host_of(shop) as third:
            again = await third.ended(task)
            assert "it was not done again" in said(again)
        assert len(shop.moved()) == 1


async def test_many_looks_at_once_and_two_servers_run_an_approved_call_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as here, host_of(shop) as there:
        task = await here.handed("issue_refund", refund_of(shop.paid()[0], 30))
        await shop.vote(task)
        told = await asyncio.gather(*(host.ended(task) for host in (here, there) for _ in range(8)))
        assert {one["status"] for one in told} == {"completed"}
        assert len(shop.moved()) == 1
        assert not any(one["result"]["isError"] for one in told)


@pytest.mark.parametrize("how", ["denied", "expired"])
async def test_a_no_and_nobodys_answer_are_the_result_of_the_call(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        task = await host.handed("issue_refund", refund_of(shop.paid()[0], 30))
        if how == "denied":
            await shop.vote(task, yes=False)
        else:
            shop.clock.pass_s(90_000)
        told = await host.ended(task)
        assert told["status"] == "completed"
        assert code(told) == f"approval_{how}"
        assert shop.moved() == []


async def test_cancelling_a_call_that_waits_takes_it_back_and_a_later_yes_comes_too_late(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        task = await host.handed("issue_refund", refund_of(shop.paid()[0], 30))
        await host.cancel(task)
        await host.cancel(task)
        assert (await host.get(task))["status"] == "cancelled"
        assert shop.state(task) == "void"
        (closed,) = shop.packets(RecordType.CALL_CLOSED)
        assert closed["why"] == "its caller took it back"
        await shop.vote(task)
        assert (await host.get(task))["status"] == "cancelled"
        assert shop.moved() == []


async def test_a_record_that_changed_after_the_yes_makes_the_task_wait_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        invoice = shop.paid()[0]
        task = await host.handed("issue_refund", refund_of(invoice, 30))
        await shop.vote(task)
        shop.sql("UPDATE invoices SET refunded_cents = refunded_cents + 100 WHERE id = ?", invoice)
        again = await host.get(task)
        assert (again["status"], shop.moved()) == ("working", [])
        assert "must agree first" in again["statusMessage"]
        await shop.vote(task)
        assert (await host.ended(task))["status"] == "completed"
        assert len(shop.moved(invoice)) == 1


async def test_a_stop_between_yes_and_look_holds_and_the_answer_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        task = await host.handed("issue_refund", refund_of(shop.paid()[0], 30))
        await shop.vote(task)
        await shop.halt(SwitchScope.GLOBAL)
        assert code(await host.ended(task)) == "halted"
        assert shop.moved() == []


@pytest.mark.parametrize("method", ["get", "cancel", "update"])
@pytest.mark.parametrize("who", ["other person", "other client"])
async def test_somebody_elses_task_and_none_at_all_answer_alike(
    tmp_path: Path, method: str, who: str
) -> None:
    async with opened(tmp_path) as shop, host_of(shop, 0) as host:
        waits = await host.handed("issue_refund", refund_of(shop.paid()[0], 30))
        await until(lambda: shop.packets(RecordType.PENDING))
        stranger = shop.other(subject="eve") if who == "other person" else shop.other(actor="other")
        async with host_of(shop, 0, subject=stranger) as other:
            told = list[str]()
            for task in (waits, "01900000-0000-7000-8000-000000000000", "no such thing", "", "\u0000"):
                with pytest.raises(MCPError) as refused:
                    await getattr(other, method)(task)
                assert refused.value.error.code == INVALID_PARAMS
                told.append(refused.value.error.message)
            assert len(set(told)) == 1
        assert shop.state(waits) == "pending"


async def test_a_task_that_is_held_in_memory_is_its_callers_alone(tmp_path: Path, upstream: Upstream) -> None:
    upstream.does("look", "wait", file="go-on")
    who: list[Subject] = []
    async with opened(tmp_path, behind(upstream, READS)) as shop:
        who.append(shop.subject)
        server = build_server(
            shop.service.pipeline,
            subject_of=lambda _: who[0],
            version="1",
            tasks=TasksTerms(shop.service.pipeline, 0, shop.clock.now_ms),
        )
        async with Client(server, mode="auto", cache=None, extensions=[advertise(EXTENSION)]) as client:
            host = Host(client)
            task = await host.handed("look", {"path": "a"})
            who[0] = shop.other(subject="eve")
            for ask in (host.get, host.cancel):
                with pytest.raises(MCPError) as refused:
                    await ask(task)
                assert refused.value.error.code == INVALID_PARAMS
            who[0] = shop.subject
            (upstream.folder / "go-on").touch()
            assert (await host.ended(task))["status"] == "completed"


async def test_who_does_not_know_the_extension_gets_no_task_and_is_told_what_to_declare(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as shop, host_of(shop, 0, knows=False) as host:
        told = await host.call("issue_refund", refund_of(shop.paid()[0], 30))
        assert told["resultType"] == "complete"
        assert "call `resume_call`" in told["content"][0]["text"]
        call = told["_meta"]["comptroller/call"]
        for ask in (host.get, host.cancel, host.update):
            with pytest.raises(MCPError) as refused:
                await ask(call)
            assert refused.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
            assert refused.value.error.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


async def test_a_client_of_the_2025_era_gets_no_task_whatever_it_declares(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, host_of(shop, 0, mode="legacy") as host:
        told = await host.call("issue_refund", refund_of(shop.paid()[0], 30))
        assert told["isError"]
        with pytest.raises(MCPError) as refused:
            await host.get(told["_meta"]["comptroller/call"])
        assert refused.value.error.code == METHOD_NOT_FOUND


async def test_a_call_that_takes_long_is_a_task_and_its_result_is_what_the_call_would_have_answered(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.does("look", "wait", file="go-on")
    async with opened(tmp_path, behind(upstream, READS)) as shop, host_of(shop, 0.05) as host:
        task = await host.handed("look", {"path": "a"})
        assert (await host.get(task))["status"] == "working"
        (upstream.folder / "go-on").touch()
        done = await host.ended(task)
        assert done["lastUpdatedAt"] >= done["createdAt"]
        direct = await shop.call("look", path="b")
        assert said(done) == direct.text
        assert done["result"]["_meta"]["comptroller/call"] == task
        assert "resultType" not in done["result"]
        (read, _) = shop.packets(RecordType.READ)
        assert read["call"] == task


async def test_a_quick_call_is_no_task(tmp_path: Path, upstream: Upstream) -> None:
    async with opened(tmp_path, behind(upstream, READS)) as shop, host_of(shop) as host:
        assert (await host.call("look", {"path": "a"}))["resultType"] == "complete"


async def test_a_read_that_is_cancelled_is_stopped_at_its_source(tmp_path: Path, upstream: Upstream) -> None:
    upstream.does("look", "silence")
    async with opened(tmp_path, behind(upstream, READS)) as shop, host_of(shop, 0) as host:
        task = await host.handed("look", {"path": "a"})
        await until(lambda: upstream.ran)
        await host.cancel(task)
        assert (await host.ended(task))["status"] == "cancelled"
        await until(lambda: any(one.get("method") == "notifications/cancelled" for one in upstream.received))


async def test_a_side_effect_that_is_cancelled_is_in_doubt_and_never_called_cancelled(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.does("write", "silence")
    async with opened(tmp_path, behind(upstream, WRITES)) as shop, host_of(shop, 0) as host:
        task = await host.handed("write", {"path": "a", "why": WHY})
        await until(lambda: upstream.ran)
        await host.cancel(task)
        told = await host.ended(task)
        assert (told["status"], code(told)) == ("completed", "in_doubt")
        assert shop.state(task) == "in_doubt"


async def test_what_an_upstream_asks_is_asked_in_the_task_and_answered_there(
    tmp_path: Path, upstream: Upstream
) -> None:
    asks(upstream, "auto", FORM, FORM)
    async with (
        opened(tmp_path, asking(upstream, **FORMS)) as shop,
        host_of(shop, 0, elicitation_callback=_never) as host,
    ):
        task = await host.handed("look", {"path": "a"})
        keys = list[str]()
        for _ in range(2):
            told = await host.ended(task)
            assert told["status"] == "input_required"
            ((key, request),) = told["inputRequests"].items()
            assert request["params"]["message"] == "files asks: Which?"
            keys.append(key)
            await host.update(task, **{"never asked": GREEN, "nor this": {"ignored": True}})
            with pytest.raises(MCPError, match="is no answer to what was asked") as refused:
                await host.update(task, **{key: {"action": 5}})
            assert refused.value.error.code == INVALID_PARAMS
            assert (await host.get(task))["inputRequests"].keys() == {key}
            await host.update(task, **{key: GREEN})
            await until(lambda: len(answers(upstream)) == len(keys))
        assert len(set(keys)) == 2
        await host.update(task, **{keys[0]: GREEN})  # answered long ago
        assert (await host.ended(task))["status"] == "completed"
        assert answers(upstream) == [GREEN, GREEN]


async def test_our_own_question_is_asked_in_the_task_too_and_only_a_yes_opens(tmp_path: Path) -> None:
    async with opened(tmp_path, confirming()) as shop, host_of(shop, 0, elicitation_callback=_never) as host:
        for invoice, answer, moved in zip(
            shop.paid(),
            ({"action": "decline"}, {"action": "accept", "content": {"confirm": True}}),
            (0, 1),
            strict=False,
        ):
            task = await host.handed("issue_refund", refund_of(invoice))
            told = await host.ended(task)
            ((key, request),) = told["inputRequests"].items()
            assert request["method"] == "elicitation/create"
            await host.update(task, **{key: answer})
            done = await host.ended(task)
            assert done["status"] == "completed"
            assert done["result"]["isError"] is (moved == 0)
            assert len(shop.moved(invoice)) == moved


async def test_who_holds_too_many_tasks_waits_for_an_answer_as_ever(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "KEPT_MAX_EACH", 1)
    upstream.does("look", "wait", file="go-on")
    async with opened(tmp_path, behind(upstream, READS)) as shop, host_of(shop, 0) as host:
        task = await host.handed("look", {"path": "a"})
        second = asyncio.create_task(host.call("look", {"path": "b"}))
        (upstream.folder / "go-on").touch()
        assert (await second)["resultType"] == "complete"
        assert (await host.ended(task))["status"] == "completed"
        shop.clock.pass_s(handles.KEPT_S + 60)
        with pytest.raises(MCPError):
            await host.get(task)
        assert (await host.call("look", {"path": "c"}))["resultType"] == "task"


async def test_who_looks_at_all_its_calls_has_but_so_many_of_their_answers_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "KEPT_MAX_EACH", 4)
    async with opened(tmp_path) as shop, host_of(shop) as host:
        calls = [str((await shop.refund(invoice, 5)).meta["comptroller/call"]) for invoice in shop.paid()[:6]]
        replays = 0
        for asked, of in ((calls, 6), (calls[-4:], 0), (calls[:2], 2)):
            for call in asked:
                assert "it was not done again" in said(await host.ended(call))
            replays += of
            assert len(shop.log(RecordType.REPLAYED)) == replays
        assert len(shop.moved()) == 6


async def test_a_store_that_fails_is_said_and_the_task_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as shop, host_of(shop) as host:
        task = await host.handed("issue_refund", refund_of(shop.paid()[0], 30))
        await shop.vote(task)
        read = type(shop.store).read

        async def fails(*_: Any) -> Any:
            raise StoreUnavailable("no disk")

        monkeypatch.setattr(type(shop.store), "read", fails)
        with pytest.raises(MCPError, match="Ask again later"):
            await host.get(task)
        monkeypatch.setattr(type(shop.store), "read", read)
        assert (await host.ended(task))["status"] == "completed"
        assert len(shop.moved()) == 1


async def test_over_http_the_name_in_the_header_must_be_the_tasks(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        service = shop.service
        server = build_server(
            service.pipeline,
            subject_of=subject_of,
            version="1",
            tasks=TasksTerms(service.pipeline, 0, shop.clock.now_ms),
        )
        stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
        identity = service.installation.identity
        app = build_app(server, identity)
        serving = asyncio.create_task(
            serve_http(app, "127.0.0.1", 0, ready=url.set_result, stop=stop, drain_s=2)
        )
        token = identity.token_file("triage-bot").read_text().strip()
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
            Client(
                streamable_http_client(await url, http_client=http),
                mode="auto",
                cache=None,
                extensions=[advertise(EXTENSION)],
            ) as client,
        ):
            host = Host(client)
            quick = await host.call("issue_refund", refund_of(shop.paid()[0], 30))
            task = str(quick["taskId"])
            await until(lambda: shop.packets(RecordType.PENDING))
            await shop.vote(task)
            assert (await host.ended(task))["status"] == "completed"
            for name in ("", "another"):
                answer = await http.post(
                    await url,
                    headers={
                        "Accept": "application/json, text/event-stream",
                        "MCP-Protocol-Version": "2026-07-28",
                        "Mcp-Method": "tasks/get",
                        **({"Mcp-Name": name} if name else {}),
                    },
                    json={
                        "jsonrpc": "2.0",
                        "id": 1,
                        "method": "tasks/get",
                        "params": {
                            "taskId": task,
                            "_meta": {
                                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                                "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
                                "io.modelcontextprotocol/clientCapabilities": {"extensions": {EXTENSION: {}}},
                            },
                        },
                    },
                )
                assert answer.json()["error"]["code"] == HEADER_MISMATCH, answer.text
        stop.set()
        await serving
    assert len(shop.moved()) == 1


async def test_what_is_served_says_that_it_knows_the_extension(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        server = serving.server_of(shop.service, lambda _: shop.subject)
        async with Client(server, mode="auto", cache=None) as client:
            capabilities = client.server_capabilities
            assert capabilities is not None
            assert EXTENSION in (capabilities.extensions or {})


async def test_where_the_transport_proved_nobody_a_task_says_no_more_than_a_call(tmp_path: Path) -> None:
    def nobody(_: Any) -> Subject:
        raise RuntimeError("sk-not-for-any-wire")

    async with opened(tmp_path) as shop:
        server = build_server(
            shop.service.pipeline,
            subject_of=nobody,
            version="1",
            tasks=TasksTerms(shop.service.pipeline, 0, shop.clock.now_ms),
        )
        async with Client(server, mode="auto", cache=None, extensions=[advertise(EXTENSION)]) as client:
            with pytest.raises(MCPError) as refused:
                await Host(client).get("01900000-0000-7000-8000-000000000000")
            assert refused.value.error.message.startswith("Internal error. Nothing was done")


async def _never(context: Any, params: Any) -> Any:
    raise AssertionError((context, params))
