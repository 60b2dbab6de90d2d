"""Personal data behind tokens: what the model reads, what the source gets, what the record keeps, what people see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest
from click.testing import CliRunner
from mcp import Client

from comptroller_audit.vocabulary import RecordType
from comptroller_server.call.proposal import Answer
from comptroller_server.cli import cli
from comptroller_server.errors import ConfigInvalid
from comptroller_server.face.protocol import build_server
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import WHY, Changes, Shop, code_of, opened, structured, tool_of, until

pytestmark = pytest.mark.anyio
ADDRESS = "mira.holt@example.org"
_REPLIES: list[dict[str, Any]] = [
    {
        "name": "draft_reply",
        "allow_actions": ["create"],
        "resource": "ticket:{input.ticket_id}",
        "takes_tokens": ["body"],
    },
    {
        "name": "get_reply",
        "allow_actions": ["read"],
        "records": [{"kind": "reply", "id": "{output.reply_id}", "version": "{output.updated_at}"}],
    },
    {
        "name": "send_reply",
        "allow_actions": ["create"],
        "resource": "reply:{input.reply_id}",
        "takes_tokens": ["to"],
        "facts": {"reply": {"tool": "get_reply", "arguments": {"reply_id": "{input.reply_id}"}}},
        "verify": [{"fact": "reply", "expect": {"sent_to": "input.to"}}],
    },
]


def private(*patterns: str, **changes: dict[str, Any]) -> Changes:
    """The desk with replies and `pii_redaction`; `changes` are merged into the entries of the tools they name."""

    def change(config: dict[str, Any]) -> None:
        config["safety"] = {"pii_redaction": list(patterns or ("email",))}
        config["budgets"] = {}
        config["tools"] += [dict(tool) for tool in _REPLIES]
        for name, more in changes.items():
            tool_of(config, name).update(more)

    return change


async def ticket_of(shop: Shop, **fields: str) -> str:
    """A ticket of the desk, with its customer's address and whatever else is planted."""
    (ticket, customer) = shop.sql("SELECT id, customer_id FROM tickets ORDER BY id")[0]
    shop.sql("UPDATE customers SET email = ? WHERE id = ?", ADDRESS, customer)
    for name, value in fields.items():
        shop.sql(f"UPDATE tickets SET {name} = ? WHERE id = ?", value, ticket)  # noqa: S608 -- names of ours
    return str(ticket)


def refused(answer: Answer, code: str, *words: str) -> None:
    assert code_of(answer) == code, answer.text
    for word in words:
        assert word in answer.text


async def drafted(shop: Shop, ticket: str, body: str = "We look into it.") -> str:
    answer = await shop.call("draft_reply", ticket_id=ticket, body=body, why=WHY)
    return str(structured(answer)["reply_id"])


async def test_a_model_reads_a_token_and_a_reply_goes_to_the_address_behind_it(tmp_path: Path) -> None:
    async with opened(tmp_path, private()) as shop:
        ticket = await ticket_of(shop)
        read = await shop.call("get_ticket", ticket_id=ticket)
        token = structured(read)["customer_email"]
        assert token.startswith("⟦email:1-")
        assert ADDRESS not in read.text + str(read.structured) + str(read.meta)
        reply = await drafted(shop, ticket)
        sent = await shop.call("send_reply", reply_id=reply, to=token, why=WHY)
        assert structured(sent)["sent_to"] == token
        assert ADDRESS not in sent.text
        assert shop.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [(ADDRESS,)]
        (action,) = [p for p in shop.packets(RecordType.ACTION) if p["tool"] == "send_reply"]
        assert action["arguments"]["to"] == ADDRESS
        assert action["tokens_used"] == [token]
        audit = shop.packets(RecordType.AUDIT)[-1]
        assert audit["output"]["sent_to"] == ADDRESS
        assert audit["verification"]["result"] == "matched"


async def test_without_the_key_the_address_is_shown_and_a_token_is_only_text(tmp_path: Path) -> None:
    def open_desk(config: dict[str, Any]) -> None:
        private()(config)
        del config["safety"]

    async with opened(tmp_path, open_desk) as shop:
        ticket = await ticket_of(shop)
        assert structured(await shop.call("get_ticket", ticket_id=ticket))["customer_email"] == ADDRESS


async def test_tokens_mean_nothing_elsewhere(tmp_path: Path) -> None:
    async with opened(tmp_path, private()) as shop:
        ticket = await ticket_of(shop)
        token = structured(await shop.call("get_ticket", ticket_id=ticket))["customer_email"]
        reply = await drafted(shop, ticket)
        forged = token[:-2] + ("b" if token[-2] == "a" else "a") + "⟧"
        made_up = await shop.call("send_reply", reply_id=reply, to=forged, why=WHY)
        refused(made_up, "invalid_arguments", "$.to", "no token of this task", "`to`")
        wrong_place = await shop.call("search_tickets", query=token)
        refused(wrong_place, "invalid_arguments", "$.query", "takes no tokens")
        stranger = await shop.call(
            "send_reply", subject=shop.other(actor="another"), reply_id=reply, to=token, why=WHY
        )
        refused(stranger, "invalid_arguments", "no token of this task")
        shop.clock.pass_s(400)  # the task is over
        late = await shop.call("send_reply", reply_id=reply, to=token, why=WHY)
        refused(late, "invalid_arguments", "no token of this task")
        assert shop.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [(None,)]


async def test_another_process_and_one_started_again_know_the_tokens_of_a_task(tmp_path: Path) -> None:
    async with opened(tmp_path, private()) as first:
        ticket = await ticket_of(first, body="Rather write to mira.at.home@example.org, please.")
        reply = await drafted(first, ticket)
        async with opened(tmp_path, private(), clock=first.clock) as second:
            # The second process sees the task before the token is given, so it must look again.
            await second.call("search_tickets", query="nobody")
            body = structured(await first.call("get_ticket", ticket_id=ticket))["body"]
            token = body[body.index("⟦") : body.index("⟧") + 1]
            sent = await second.call("send_reply", reply_id=reply, to=token, why=WHY)
            assert code_of(sent) is None, sent.text
        clock = first.clock
    async with opened(tmp_path, private(), clock=clock) as again:
        reply = await drafted(again, ticket, "Another one.")
        sent = await again.call("send_reply", reply_id=reply, to=token, why=WHY)
        assert code_of(sent) is None, sent.text
        assert again.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [("mira.at.home@example.org",)]


async def test_a_process_that_starts_in_the_middle_of_a_task_counts_on(tmp_path: Path) -> None:
    async with opened(tmp_path, private()) as first:
        ticket = await ticket_of(first)
        token = structured(await first.call("get_ticket", ticket_id=ticket))["customer_email"]
        assert token.startswith("⟦email:1-")
        clock = first.clock
    async with opened(tmp_path, private(), clock=clock) as again:
        await ticket_of(again, body="Or write to somebody.else@example.org.")
        shown = structured(await again.call("get_ticket", ticket_id=ticket))
        assert shown["customer_email"] == token
        assert "⟦email:2-" in shown["body"]


async def test_a_token_and_the_address_behind_it_are_the_same_call(tmp_path: Path) -> None:
    async with opened(tmp_path, private()) as shop:
        ticket = await ticket_of(shop, body=f"Write to {ADDRESS}, please.")
        token = structured(await shop.call("get_ticket", ticket_id=ticket))["customer_email"]
        one = await shop.call("draft_reply", ticket_id=ticket, body=f"Dear {token}", why=WHY)
        two = await shop.call("draft_reply", ticket_id=ticket, body=f"Dear {ADDRESS}", why=WHY)
        assert two.meta["comptroller/replayed"] is True
        assert one.structured == two.structured
        assert structured(one)["body"] == f"Dear {token}"
        assert shop.sql("SELECT count(*) FROM replies WHERE body = ?", f"Dear {ADDRESS}") == [(1,)]


async def test_an_argument_is_checked_as_what_it_stands_for(tmp_path: Path) -> None:
    async with opened(tmp_path, private("email", "phone")) as shop:
        ticket = await ticket_of(shop, body="Call me on +44 20 7946 0958.")
        body = structured(await shop.call("get_ticket", ticket_id=ticket))["body"]
        phone = body[body.index("⟦") : body.index("⟧") + 1]
        reply = await drafted(shop, ticket)
        answer = await shop.call("send_reply", reply_id=reply, to=phone, why=WHY)
        assert answer.is_error  # a phone number is no address
        assert "7946 0958" not in answer.text
        assert shop.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [(None,)]


async def test_an_approver_reads_the_tokens_the_agent_read_and_the_stored_call_runs_with_the_values(
    tmp_path: Path,
) -> None:
    gate = {"approval": [{"role": "approver", "at_least": 1}]}
    async with opened(tmp_path, private(send_reply=gate)) as shop:
        ticket = await ticket_of(shop)
        token = structured(await shop.call("get_ticket", ticket_id=ticket))["customer_email"]
        reply = await drafted(shop, ticket)
        asked = await shop.call(
            "send_reply", reply_id=reply, to=token, why={"reason": f"They wrote from {token}."}
        )
        refused(asked, "approval_pending")
        call = str(asked.meta["comptroller/call"])
        card = await shown(tmp_path, "approvals", "show", call)
        assert f'"to":"{token}"' in card
        assert ADDRESS not in card
        for command in (("why", call), ("calls", "show", call), ("audit", "tail")):
            for as_json in ((), ("--json",)):
                assert ADDRESS not in await shown(tmp_path, *command, *as_json), command
        await shop.vote(call)
        done = await shop.resume(call)
        assert structured(done)["sent_to"] == token
        again = await shop.resume(call)
        assert ADDRESS not in again.text
        assert structured(again)["sent_to"] == token
        assert shop.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [(ADDRESS,)]


async def test_a_field_that_people_may_see_is_shown_to_approvers_alone(tmp_path: Path) -> None:
    seen = {
        "approval": [{"role": "approver", "at_least": 1}],
        "redact": [{"path": "to", "as": "address", "visible_to": ["person"]}],
    }
    async with opened(tmp_path, private(send_reply=seen)) as shop:
        ticket = await ticket_of(shop)
        reply = await drafted(shop, ticket)
        asked = await shop.call("send_reply", reply_id=reply, to=ADDRESS, why=WHY)
        call = str(asked.meta["comptroller/call"])
        assert f'"to":"{ADDRESS}"' in await shown(tmp_path, "approvals", "show", call)
        await shop.vote(call)
        assert ADDRESS not in (await shop.resume(call)).text


async def shown(folder: Path, *command: str) -> str:
    """What a command prints about the store in `folder`."""
    options = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder)]
    result = await asyncio.to_thread(CliRunner().invoke, cli, [*command, *options])
    assert result.exit_code == 0, result.output
    return result.output


async def test_credentials_are_kept_out_of_what_is_sent_and_of_what_is_shown_unless_the_config_says_so(
    tmp_path: Path,
) -> None:
    leaking = "The password: Sommer-2026x is yours."

    async def codes(folder: Path, *, safety: dict[str, Any], **changes: dict[str, Any]) -> list[str | None]:
        def change(config: dict[str, Any]) -> None:
            private(**changes)(config)
            config["safety"] = safety

        async with opened(folder, change) as shop:
            ticket = await ticket_of(shop, body=leaking)
            read = await shop.call("get_ticket", ticket_id=ticket)
            shown = "shown" if "Sommer" in read.text else "withheld"
            search = await shop.call("search_tickets", query=leaking)
            draft = await shop.call("draft_reply", ticket_id=ticket, body=leaking, why=WHY)
            assert shop.sql("SELECT count(*) FROM replies WHERE body = ?", leaking) == [(not draft.is_error,)]
            assert ("Sommer" in str(shop.packets())) == (shown == "shown")
            return [shown, code_of(search), code_of(draft)]

    assert await codes(tmp_path / "a", safety={}) == ["withheld", None, "secret_in_arguments"]
    turned = {"draft_reply": {"outbound": False}, "search_tickets": {"outbound": True}}
    assert await codes(tmp_path / "b", safety={}, **turned) == ["withheld", "secret_in_arguments", None]
    open_desk = {"withhold_credentials": False}
    assert await codes(tmp_path / "c", safety=open_desk) == ["shown", None, None]
    named = {**open_desk, "pii_redaction": ["api_key"]}
    assert await codes(tmp_path / "d", safety=named) == ["withheld", None, "secret_in_arguments"]


async def test_an_operators_rule_withholds_a_field_from_models_and_its_value_still_works_as_an_argument(
    tmp_path: Path,
) -> None:
    rule = {"redact": [{"path": "customer_email", "as": "contact"}]}

    def change(config: dict[str, Any]) -> None:
        private(get_ticket=rule)(config)
        del config["safety"]

    async with opened(tmp_path, change) as shop:
        ticket = await ticket_of(shop)
        token = structured(await shop.call("get_ticket", ticket_id=ticket))["customer_email"]
        assert token.startswith("⟦contact:1-")
        reply = await drafted(shop, ticket)
        sent = await shop.call("send_reply", reply_id=reply, to=token, why=WHY)
        assert code_of(sent) is None, sent.text
        assert shop.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [(ADDRESS,)]


async def test_a_misspelt_rule_or_one_on_an_id_keeps_the_server_from_starting(tmp_path: Path) -> None:
    for rule in ({"path": "custmer_email"}, {"path": "ticket_id"}):
        with pytest.raises(ConfigInvalid) as invalid:
            async with opened(tmp_path, private(get_ticket={"redact": [rule]})):
                pass
        assert rule["path"] in str(invalid.value)
        assert "comptroller.yaml:" in str(invalid.value)


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_client_that_checks_answers_accepts_every_redacted_one(tmp_path: Path, era: str) -> None:
    every = ("email", "phone", "card_number", "card_last4", "iban", "national_id", "api_key")

    def change(config: dict[str, Any]) -> None:
        private(*every)(config)
        config["sources"]["leaky"] = {"python": str(Path(__file__).with_name("leaky_tools.py"))}
        config["tools"].append({"name": "profile", "allow_actions": ["read"]})

    async with opened(tmp_path, change) as shop:
        ticket = await ticket_of(shop, body=f"Write to {ADDRESS}; my card is 4111 1111 1111 1111.")
        server = build_server(shop.service.pipeline, subject_of=lambda _: shop.subject, version="1")
        async with Client(server, mode=cast("Any", era), cache=None) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            told = tools["send_reply"].input_schema["properties"]["to"]
            assert "format" not in told
            assert "token" in told["description"]
            for name, arguments in (
                ("get_ticket", {"ticket_id": ticket}),
                ("profile", {"profile_id": "p-1"}),
            ):
                answer = await client.call_tool(name, arguments)
                assert not answer.is_error
                assert ADDRESS not in str(answer)
                schema = tools[name].output_schema
                assert schema is not None
                # The client checks without formats; others check those too.
                strict = jsonschema_rs.validator_for(schema, offline=True, validate_formats=True)
                assert strict.is_valid(answer.structured_content)
            own = shop.service.installation.catalogue.find("profile")
            assert own is not None
            assert own.output is not None
            assert own.output.check(answer.structured_content) != []  # the source's own schema would not fit


async def test_a_call_whose_task_ends_before_it_is_committed_sends_no_value_of_that_task(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, private()) as first, opened(tmp_path, private(), clock=first.clock) as second:
        ticket = await ticket_of(first)
        token = structured(await first.call("get_ticket", ticket_id=ticket))["customer_email"]
        reply, reached, go = await drafted(first, ticket), tmp_path / "reached", tmp_path / "go"
        first.misbehave(Fault(tool="get_reply", kind=FaultKind.HANG, until=go, reached=reached))
        sending = asyncio.create_task(first.call("send_reply", reply_id=reply, to=token, why=WHY))
        await until(reached.exists)
        first.clock.pass_s(400)
        assert code_of(await second.call("search_tickets", query="nobody")) is None  # another task begins
        go.touch()
        refused(await sending, "invalid_arguments", "has ended")
        assert first.sql("SELECT sent_to FROM replies WHERE id = ?", reply) == [(None,)]
