"""The page that tells how a call is decided: the same for every id, quiet, and no way to decide anything."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import signal
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestFormParams, ElicitRequestURLParams, ElicitResult

from comptroller_audit.ambient import RandomIds, SystemClock
from comptroller_audit.vocabulary import CallState
from comptroller_server.call.proposal import Answer, Confirmation, Proposal, Reply
from comptroller_server.config.loading import load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_server.face.http import PATH
from tests.scenarios.kit import Shop, call_of, code_of, details_of, opened, placed
from tests.scenarios.test_confirmations import ERAS, Person, approving, ask_of, client_of, code, refund_of
from tests.server.test_cli_processes import WAIT_S_MAX, invoices, made
from tests.server.test_elicitation_http import served

pytestmark = pytest.mark.anyio
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def get(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.request(method, url, headers=headers)


def page_at(url: str, call: str) -> str:
    return f"{url.removesuffix(PATH)}/decide/{call}"


def without_dates(response: httpx.Response) -> list[tuple[str, str]]:
    return [pair for pair in response.headers.items() if pair[0] != "date"]


async def test_known_foreign_finished_and_made_up_calls_have_one_page(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, served(shop) as url:
        waiting, done = await shop.pending(shop.paid()[0]), call_of(await shop.refund(shop.paid()[1], 5))
        foreign = call_of(await shop.refund(shop.paid()[2], 30, subject=shop.other(actor="other-bot")))
        made_up = RandomIds(SystemClock()).uuid7()
        records = len(shop.log())
        pages: set[str] = set()
        heads: set[str] = set()
        for call in (waiting, done, foreign, made_up):
            answer = await get(page_at(url, call))
            assert answer.status_code == 200
            assert answer.text.count(call) == 6
            assert shop.paid()[0] not in answer.text
            pages.add(answer.text.replace(call, "CALL"))
            heads.add(json.dumps(without_dates(answer)))
        assert len(pages) == len(heads) == 1
        assert not ID.search(pages.pop())
        assert len(shop.log()) == records  # looking is nobody's act


async def test_the_page_names_the_commands_and_every_state_and_they_exist(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, served(shop) as url:
        call = await shop.pending(shop.paid()[0])
        text = (await get(page_at(url, call))).text
        for command in ("show", "approve", "edit", "deny"):
            assert f"comptroller approvals {command} {call}" in text
        assert f"comptroller why {call}" in text
        for state in set(CallState) - {CallState.PROPOSED, CallState.REFUSED}:
            assert re.search(rf"<dt>[^<]*\b{state}\b", text), state


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.style = ""
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data


async def test_nothing_on_the_page_runs_loads_leads_anywhere_or_can_be_pressed(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, served(shop) as url:
        answer = await get(page_at(url, await shop.pending(shop.paid()[0])))
        seen = _Tags()
        seen.feed(answer.text)
        assert not seen.tags & {
            "a",
            "script",
            "form",
            "button",
            "input",
            "img",
            "link",
            "iframe",
            "object",
            "base",
        }
        assert not {name for name in seen.attributes if name.startswith("on")} | seen.attributes & {
            "href",
            "src",
        }
        assert "url(" not in seen.style and "@import" not in seen.style
        policy = answer.headers["content-security-policy"].split("; ")
        digest = base64.b64encode(hashlib.sha256(seen.style.encode()).digest()).decode()
        assert policy == [
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "sandbox",
        ]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_sent_to_the_page(tmp_path: Path, method: str) -> None:
    async with opened(tmp_path) as shop, served(shop) as url:
        call = await shop.pending(shop.paid()[0])
        assert (await get(page_at(url, call), method)).status_code == 405
        assert shop.state(call) == "pending"
        assert (await get(page_at(url, call), "HEAD")).text == ""


@pytest.mark.parametrize("end", ["", "x", "%3Cb%3E", "0" * 36, "{call}/", "{call}/approve", "{upper}"])
async def test_what_is_no_id_of_a_call_has_no_page(tmp_path: Path, end: str) -> None:
    async with opened(tmp_path) as shop, served(shop) as url:
        call = RandomIds(SystemClock()).uuid7()
        answer = await get(page_at(url, end.format(call=call, upper=call.upper())))
        assert answer.status_code == 404
        assert "<" not in answer.text


async def test_the_page_is_for_this_machine_like_the_rest(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop, served(shop) as url:
        page = page_at(url, RandomIds(SystemClock()).uuid7())
        assert (await get(page, host="evil.example")).status_code == 421
        assert (await get(page, origin="https://evil.example")).status_code == 403


# -- who is sent there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_opens_pages_is_given_this_one_and_opening_it_decides_nothing(
    tmp_path: Path, era: str
) -> None:
    person = Person(lambda: ElicitResult(action="accept"))
    async with (
        opened(tmp_path, approving) as shop,
        served(shop) as url,
        client_of(shop, era, person) as client,
    ):
        shop.service.pages.served_at(url.removesuffix(PATH))
        waiting = await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert code(waiting) == "approval_pending"
        ((call, row),) = shop.calls(CallState.PENDING)
        (asked,) = person.asked
        assert isinstance(asked, ElicitRequestURLParams)
        assert asked.url == page_at(url, call)
        assert (await get(asked.url)).status_code == 200
        assert f"comptroller approvals approve {call}" in asked.message
        assert row["state"] == "pending"
        assert shop.moved() == []
        await shop.vote(call)
        assert code(await client.call_tool("resume_call", {"call": call})) is None
        assert len(shop.moved()) == 1


async def leg(shop: Shop, *, ask: bool, opens: bool, confirmation: Confirmation | None = None) -> Answer:
    arguments = refund_of(shop.paid()[0])
    given = Proposal(
        shop.subject, "issue_refund", arguments, can_ask=ask, can_open=opens, confirmation=confirmation
    )
    return await shop.service.pipeline.call(given)


async def test_a_client_that_only_opens_pages_is_told_too_where_there_is_one(tmp_path: Path) -> None:
    async with opened(tmp_path, approving) as shop:
        assert (await leg(shop, ask=False, opens=True)).asks is None  # over stdio there is none
    async with opened(tmp_path / "http", approving) as shop:
        shop.service.pages.served_at("http://127.0.0.1:8400")
        told = await leg(shop, ask=False, opens=True)
        call = call_of(told)
        assert ask_of(told).page == f"http://127.0.0.1:8400/decide/{call}"
        assert "http" not in told.text  # the model gets no link
        opened_it = Confirmation(ask_of(told).state, Reply.ACCEPT, confirmed=True)
        assert code_of(await leg(shop, ask=False, opens=True, confirmation=opened_it)) == "approval_pending"
        # Whoever cannot open a page was given no such state.
        stolen = await leg(shop, ask=False, opens=False, confirmation=opened_it)
        assert code_of(stolen) == "confirmation_invalid"
        assert shop.moved() == []


async def test_a_client_nobody_sits_at_is_sent_nowhere(tmp_path: Path) -> None:
    def alone(config: dict[str, Any]) -> None:
        approving(config)
        config["identity"]["local"]["clients"] = {"triage-bot": {}}

    async with opened(tmp_path, alone) as shop:
        shop.service.pages.served_at("http://127.0.0.1:8400")
        assert (await leg(shop, ask=True, opens=True)).asks is None


@pytest.mark.parametrize("era", ERAS)
async def test_over_stdio_the_command_is_named_and_no_page(tmp_path: Path, era: str) -> None:
    person = Person(lambda: ElicitResult(action="accept"))
    async with opened(tmp_path, approving) as shop, client_of(shop, era, person) as client:
        await client.call_tool("issue_refund", refund_of(shop.paid()[0]))
        assert isinstance(person.asked[0], ElicitRequestFormParams)
        assert "comptroller approvals approve" in person.shown


async def test_a_serving_process_names_the_page_at_the_address_it_is_bound_to(tmp_path: Path) -> None:
    place, person = await made(tmp_path, approving), Person(lambda: ElicitResult(action="accept"))
    [invoice] = invoices(place, 1)
    process = await place.start("serve", "--http", "127.0.0.1:0")
    assert process.stderr is not None
    said = ""
    async with asyncio.timeout(WAIT_S_MAX):
        while "serving at" not in said:
            said += (await process.stderr.readline()).decode()
    url = said.split("serving at ")[1].split()[0]
    token = (tmp_path / "tokens" / "triage-bot.token").read_text().strip()
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), elicitation_callback=person) as client,
    ):
        assert code(await client.call_tool("issue_refund", refund_of(invoice))) == "approval_pending"
    (asked,) = person.asked
    assert isinstance(asked, ElicitRequestURLParams)
    assert asked.url.startswith(page_at(url, ""))
    assert (await get(asked.url)).status_code == 200
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WAIT_S_MAX):
        await process.communicate()


# -- http.public_url --------------------------------------------------------------------------------------------------


def with_url(folder: Path, url: Any) -> Path:
    def change(config: dict[str, Any]) -> None:
        approving(config)
        config["http"] = {"public_url": url}

    return placed(folder, change)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://comptroller.example.com", "https://comptroller.example.com"),
        ("https://example.com/tools/", "https://example.com/tools"),
        ("http://localhost:9000", "http://localhost:9000"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
async def test_the_page_is_named_by_its_public_url(tmp_path: Path, url: str, base: str) -> None:
    def public(config: dict[str, Any]) -> None:
        approving(config)
        config["http"] = {"public_url": url}

    async with opened(tmp_path, public) as shop:
        shop.service.pages.served_at("http://127.0.0.1:8400")
        told = await leg(shop, ask=True, opens=True)
        assert ask_of(told).page == f"{base}/decide/{details_of(told)['call']}"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "ftp://example.com",
        "example.com",
        "https://",
        "https://ann:secret@example.com",
        "https://example.com/?call=",
        "https://example.com/#x",
        "https://example.com/ x",
        "javascript:alert(1)",
        "",
    ],
)
async def test_a_public_url_that_people_should_not_be_sent_to_does_not_load(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load_config(with_url(tmp_path, url), data_dir=tmp_path)
    (finding,) = caught.value.findings
    assert "`http.public_url`" in finding.message
    assert "secret" not in finding.message


async def test_the_public_url_is_part_of_what_the_configuration_says(tmp_path: Path) -> None:
    config = load_config(with_url(tmp_path, "https://one.example"), data_dir=tmp_path)
    other = replace(config, http=config.http.model_copy(update={"public_url": "https://two.example"}))
    assert config.digest_material() != other.digest_material()
