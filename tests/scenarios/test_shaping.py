"""Tools as an operator wants them: fixed, defaulted and removed arguments, and tools that only Comptroller uses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_server.call.case import Refused
from comptroller_server.errors import ConfigInvalid
from tests.scenarios.kit import WHY, Changes, Shop, call_of, code_of, details_of, opened
from tests.scenarios.upstream_kit import Upstream, definition

pytestmark = pytest.mark.anyio

SECRET = "open-sesame-4711"
FIND = definition("find")
FIND["inputSchema"] = {
    "type": "object",
    "properties": {
        "query": {"type": "string"},
        "root": {"type": "string"},
        "limit": {"type": "integer", "maximum": 100},
        "verbose": {"type": "boolean"},
        "key": {"type": "string"},
    },
    "required": ["query", "root"],
}
PUT = {**FIND, "name": "put"}
RULES: dict[str, Any] = {
    "root": {"fixed": "/srv/docs"},
    "limit": {"default": 20},
    "verbose": {"remove": True},
    "key": {"fixed": "secret://env/SHAPING_KEY"},
}
AS_SENT = {"query": "a", "root": "/srv/docs", "limit": 20}
"""As policy, people and records see it, but for the key."""
FINDS: dict[str, Any] = {
    "name": "find",
    "source": "files",
    "allow_actions": ["read"],
    "description": "Find in our documents.",
    "arguments": RULES,
}
PUTS: dict[str, Any] = {
    **FINDS,
    "name": "put",
    "allow_actions": ["update"],
    "resource": "place:{input.root}",
    "constraints": {"max_limit": 50, "one_of": {"root": ["/srv/docs"]}},
    "approval": [{"role": "approver"}],
    "facts": {"before": {"tool": "peek", "arguments": {"query": "{input.root}"}}},
    "verify": [{"fact": "before", "expect": {"text": '"done"'}}],
}
PEEKS: dict[str, Any] = {**FINDS, "name": "peek", "source_tool": "find", "hidden": True}


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    monkeypatch.setenv("SHAPING_KEY", SECRET)
    made = Upstream(tmp_path / "files", FIND, PUT)
    made.accept(tmp_path)
    return made


def behind(upstream: Upstream, *entries: dict[str, Any]) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["files"] = upstream.config()
        config["tools"] += entries
        config["limits"] = {"identical_calls_max": 1_000}

    return change


@pytest.fixture
async def shop(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Shop]:
    async with opened(tmp_path, behind(upstream, FINDS, PUTS, PEEKS)) as opened_shop:
        yield opened_shop


async def test_a_model_sees_and_gives_its_own_arguments_and_the_source_gets_all(
    shop: Shop, upstream: Upstream
) -> None:
    (shown,) = [tool for tool in shop.service.pipeline.listing(shop.subject) if tool.name == "find"]
    assert shown.description == "Find in our documents."
    assert set(shown.input_schema["properties"]) == {"query", "limit"}
    assert shown.input_schema["required"] == ["query"]
    assert shown.input_schema["properties"]["limit"]["default"] == 20
    assert code_of(await shop.call("find", query="a")) is None
    assert code_of(await shop.call("find", query="a", limit=5)) is None
    assert [ran["arguments"] for ran in upstream.ran] == [
        {**AS_SENT, "key": SECRET},
        {**AS_SENT, "limit": 5, "key": SECRET},
    ]


async def test_an_argument_of_the_operators_is_unknown_like_any_other(shop: Shop, upstream: Upstream) -> None:
    for name in ("root", "verbose", "key", "nothing"):
        answer = await shop.call("find", {"query": "a", name: "/etc"})
        assert code_of(answer) == "invalid_arguments"
        assert f"unknown property `{name}`" in answer.text
        assert "/srv/docs" not in answer.text
    assert upstream.ran == []


async def test_policy_people_and_records_see_what_is_sent_and_a_secret_by_its_reference_alone(
    shop: Shop, upstream: Upstream
) -> None:
    told = {**AS_SENT, "key": "secret://env/SHAPING_KEY"}
    refused = await shop.call("put", query="a", limit=60, why=WHY)
    assert code_of(refused) == "denied"  # by a constraint on what is sent
    asked = await shop.call("put", query="a", why=WHY)
    assert code_of(asked) == "approval_pending"
    (pending,) = shop.packets(RecordType.PENDING)
    assert pending["arguments"] == pending["bound"]["arguments"] == told
    assert pending["record"] == {"kind": "place", "key": "/srv/docs"}
    await shop.vote(call_of(asked))
    upstream.does("put", text=f"I was given {SECRET}")
    done = await shop.resume(call_of(asked))
    assert code_of(done) is None
    assert SECRET not in done.text + json.dumps(done.structured)
    looked = [ran["arguments"] for ran in upstream.ran if ran["tool"] == "find"]
    assert looked[-1] == {**AS_SENT, "query": "/srv/docs", "key": SECRET}  # the fact has its fixed values too
    (ran,) = [ran["arguments"] for ran in upstream.ran if ran["tool"] == "put"]
    assert ran == {**AS_SENT, "key": SECRET}
    assert SECRET not in json.dumps(shop.packets())


async def test_a_credential_among_what_the_operator_gives_is_in_no_record(
    tmp_path: Path, upstream: Upstream
) -> None:
    token = "ghp_" + "a1B2" * 9
    tool = {**FINDS, "arguments": {**RULES, "root": {"default": token}}}
    async with opened(tmp_path, behind(upstream, tool)) as shop:
        assert code_of(await shop.call("find", query="a")) is None
        assert upstream.ran[-1]["arguments"]["root"] == token
        (read,) = shop.packets(RecordType.READ)
        assert read["arguments"]["query"] == "a"
        assert token not in json.dumps(shop.packets())


async def test_leaving_a_default_out_or_giving_it_is_one_and_the_same_call(shop: Shop) -> None:
    first = await shop.call("put", query="a", why=WHY)
    again = await shop.call("put", query="a", limit=20, why=WHY)
    assert code_of(again) == "approval_pending"
    assert details_of(again)["call"] == call_of(first)
    assert len(shop.packets(RecordType.PENDING)) == 1


async def test_nobody_edits_what_the_operator_gives(shop: Shop) -> None:
    asked = call_of(await shop.call("put", query="a", why=WHY))
    with pytest.raises(Refused, match="`root` is given by the configuration"):
        await shop.edit(asked, root="/etc")
    await shop.edit(asked, query="b")


async def test_a_hidden_tool_is_neither_listed_nor_callable_and_still_looks_things_up(
    shop: Shop, upstream: Upstream
) -> None:
    assert "peek" not in {tool.name for tool in shop.service.pipeline.listing(shop.subject)}
    hidden, missing = await shop.call("peek", query="a"), await shop.call("no_such_tool", query="a")
    assert hidden.text == missing.text
    assert code_of(hidden) == "unknown_tool"
    assert upstream.ran == []
    assert code_of(await shop.call("put", query="a", why=WHY)) == "approval_pending"
    assert [ran["tool"] for ran in upstream.ran] == ["find"]


async def test_a_hidden_tool_reverses_what_was_wrong_with_its_fixed_values(
    tmp_path: Path, upstream: Upstream
) -> None:
    hidden = {**FINDS, "name": "put_back", "source_tool": "put", "allow_actions": ["update"], "hidden": True}
    wrong = {
        **FINDS,
        "name": "put",
        "allow_actions": ["update"],
        "facts": PUTS["facts"],
        "verify": [{"fact": "before", "expect": {"text": '"something else"'}}],
        "compensate": {"tool": "put_back", "arguments": {"query": "back to {input.query}"}},
    }
    async with opened(tmp_path, behind(upstream, wrong, hidden, PEEKS)) as shop:
        assert code_of(await shop.call("put", query="a", why=WHY)) == "compensated"
    assert [ran["arguments"] for ran in upstream.ran if ran["tool"] == "put"] == [
        {**AS_SENT, "key": SECRET},
        {**AS_SENT, "query": "back to a", "key": SECRET},
    ]


async def test_an_approval_does_not_outlive_the_values_it_was_given_for(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with opened(tmp_path, behind(upstream, PUTS, PEEKS)) as shop:
        asked = call_of(await shop.call("put", query="a", why=WHY))
        await shop.vote(asked)
    rules = {**RULES, "root": {"fixed": "/srv/other"}}
    moved = {**PUTS, "arguments": rules, "constraints": {}}
    async with opened(tmp_path, behind(upstream, moved, PEEKS)) as shop:
        answer = await shop.call(
            "resume_call", {"call": asked}, meta={"comptroller/task": shop.row(asked)["task"]}
        )
        assert code_of(answer) == "approval_void"
    assert [ran for ran in upstream.ran if ran["tool"] == "put"] == []


@pytest.mark.parametrize(
    ("entry", "where", "says"),
    [
        ({"arguments": {"rot": {"fixed": "x"}}}, "arguments.rot", "names no argument of the tool"),
        ({"arguments": {"limit": {"fixed": 101}}}, "arguments.limit.fixed", "must be at most 100"),
        ({"arguments": {"limit": {"default": "many"}}}, "arguments.limit.default", "must be `integer`"),
        ({"arguments": {"root": {"remove": True}}}, "arguments.root.remove", "is required by the tool"),
        ({"arguments": {"root": {"remove": True, "fixed": "x"}}}, "arguments.root", "only one"),
        ({"arguments": {"root": {}}}, "arguments.root", "needs one of"),
        ({"arguments": {"key": {"fixed": "secret://env/NOT_SET_ANYWHERE"}}}, "key.fixed", "which is not set"),
        ({"arguments": {"key": {"default": "secret://env/SHAPING_KEY"}}}, "key.default", "takes no secret"),
        ({"hidden": True, "batch": {"of": "query"}}, "batch", "offered to none"),
        ({"arguments": {"query": {"fixed": "x"}}, "batch": {"of": "query"}}, "batch.of", "names no argument"),
        (
            {"facts": {"one": {"tool": "find", "arguments": {"query": "x", "root": "/"}}}},
            "facts.one.arguments",
            "fixes or removes",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_work_is_found_at_load_with_its_place(
    tmp_path: Path, upstream: Upstream, entry: dict[str, Any], where: str, says: str
) -> None:
    wrong = {"name": "again", "source": "files", "source_tool": "find", "allow_actions": ["read"], **entry}
    with pytest.raises(ConfigInvalid) as raised:
        async with opened(tmp_path, behind(upstream, FINDS, wrong)):
            pass
    (finding,) = raised.value.findings
    assert where in finding.message
    assert says in finding.message
    assert SECRET not in finding.message
    assert finding.where.startswith(str(tmp_path / "comptroller.yaml"))


async def test_arguments_that_hang_together_are_not_shaped(tmp_path: Path, upstream: Upstream) -> None:
    tied = {**FIND, "inputSchema": {**FIND["inputSchema"], "dependentRequired": {"limit": ["key"]}}}
    upstream.lists(tied)
    upstream.accept(tmp_path)
    with pytest.raises(ConfigInvalid, match="may tie arguments together"):
        async with opened(tmp_path, behind(upstream, FINDS)):
            pass
