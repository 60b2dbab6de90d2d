"""`cache_s`: what was just read is not read again, and nobody sees anything of it that is no longer so or not theirs.

The source is asked again or not: a change behind the service's back tells, because a kept result does not show it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comptroller_audit.vocabulary import RecordType
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.answers import META_CACHED
from comptroller_server.call.proposal import Answer
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.kit import Changes, Clock, Shop, call_of, code_of, opened, structured, tool_of, until

pytestmark = pytest.mark.anyio
KEPT_S = 300
INVOICE = "lookup_invoice"


class Still(Clock):
    """Time that passes only when a test says so."""

    def monotonic(self) -> float:
        return self._passed


def keeping(tool: dict[str, Any] | None = None, **sections: Any) -> Changes:
    """Invoices are kept for five minutes; `tool` changes their entry, `sections` the configuration."""

    def change(config: dict[str, Any]) -> None:
        config["budgets"] = {}
        config["limits"] = {"identical_calls_max": 1_000, "attempts_per_minute_max": 10_000}
        tool_of(config, INVOICE).update({"cache_s": KEPT_S} | (tool or {}))
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section}

    return change


async def read(shop: Shop, invoice: str, **more: Any) -> Answer:
    return await shop.call(INVOICE, {"invoice_id": invoice}, **more)


def refunded(answer: Answer) -> float:
    return float(structured(answer)["refunded_usd"])


def is_kept(answer: Answer) -> bool:
    assert not answer.is_error, answer.text
    return META_CACHED in answer.meta


def truth(shop: Shop, invoice: str) -> float:
    return float(shop.sql("SELECT refunded_cents FROM invoices WHERE id = ?", invoice)[0][0]) / 100


def meanwhile(shop: Shop, invoice: str) -> None:
    """Somebody else works on the invoice, past the service."""
    shop.sql("UPDATE invoices SET refunded_cents = refunded_cents + 700 WHERE id = ?", invoice)


# -- what is kept, and for how long -------------------------------------------------------------------------------


async def test_a_young_result_is_given_again_and_says_its_age(tmp_path: Path) -> None:
    clock = Still()
    async with opened(tmp_path, keeping(), clock=clock) as shop:
        invoice = shop.paid()[0]
        first = await read(shop, invoice)
        began = clock.now_ms()
        meanwhile(shop, invoice)
        clock.pass_s(120)
        again = await read(shop, invoice)
        assert not is_kept(first) and again.meta[META_CACHED] == 120
        assert refunded(again) == refunded(first) != truth(shop, invoice)
        assert "This was read 120 seconds ago" in again.text
        packets = shop.packets(RecordType.READ)
        assert [packet.get("cached") for packet in packets] == [
            None,
            {"call": call_of(first), "read_ms": began, "age_s": 120},
        ]
        assert [packet["outcome"]["tries"] for packet in packets] == [1, 0]
        clock.pass_s(KEPT_S - 120)
        late = await read(shop, invoice)
        assert not is_kept(late) and refunded(late) == truth(shop, invoice)


async def test_a_clock_set_back_makes_nothing_young_and_one_set_forward_makes_it_old(tmp_path: Path) -> None:
    clock = Still()
    async with opened(tmp_path, keeping(), clock=clock) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        clock.jump_s(-100_000)
        clock.pass_s(KEPT_S)
        assert not is_kept(await read(shop, invoice))
        assert is_kept(await read(shop, invoice))
        clock.jump_s(200_000)
        assert not is_kept(await read(shop, invoice))


async def test_a_tool_that_does_not_say_so_is_read_each_time(tmp_path: Path) -> None:
    def nothing_kept(config: dict[str, Any]) -> None:
        keeping()(config)
        del tool_of(config, INVOICE)["cache_s"]

    async with opened(tmp_path, nothing_kept) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        assert not is_kept(await read(shop, invoice))


async def test_a_read_that_failed_or_timed_out_or_is_not_usable_is_not_kept(tmp_path: Path) -> None:
    clock, no_retries = Still(), {"limits": {"timeout_s": 0.2, "retries_max": 0}}
    async with opened(tmp_path, keeping(no_retries), clock=clock) as shop:
        invoice = shop.paid()[0]
        for fault in (
            Fault(tool=INVOICE, kind=FaultKind.RAISE),
            Fault(tool=INVOICE, kind=FaultKind.LIE),
            Fault(tool=INVOICE, kind=FaultKind.FLOOD, bytes=300_000),
            Fault(tool=INVOICE, kind=FaultKind.SLOW, seconds=0.6),
        ):
            shop.misbehave(fault)
            assert code_of(await read(shop, invoice)) in {"tool_failed", "output_invalid", "timeout"}
            shop.behave()
            assert not is_kept(await read(shop, invoice))
            assert is_kept(await read(shop, invoice))
            clock.pass_s(KEPT_S)


async def test_what_is_kept_is_bounded_in_number_and_in_bytes(tmp_path: Path) -> None:
    bounds = {"cache_entries_max": 2, "cache_mib_max": 1}
    large = {"limits": {"response_kib_max": 4096}}
    async with opened(tmp_path, keeping(large, limits=bounds)) as shop:
        one, two, three = shop.paid()[:3]
        for invoice in (one, two, one, three):  # the second is the one not asked for longest
            await read(shop, invoice)
        assert [is_kept(await read(shop, invoice)) for invoice in (one, three, two)] == [True, True, False]
        shop.misbehave(Fault(tool=INVOICE, kind=FaultKind.FLOOD, bytes=1_100_000))
        other = shop.paid()[3]
        assert [is_kept(await read(shop, other)) for _ in range(2)] == [False, False]


# -- whose it is --------------------------------------------------------------------------------------------------


async def test_nobody_else_and_nobody_in_another_role_gets_what_one_has_read(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        others = (
            shop.other(actor="another-client"),
            shop.other(subject="another-person"),
            replace(shop.subject, roles=frozenset({"support_agent", "auditor"})),
        )
        assert [is_kept(await read(shop, invoice, subject=other)) for other in others] == [False] * 3
        assert [is_kept(await read(shop, invoice, subject=other)) for other in others] == [True] * 3


async def test_a_kept_result_shows_nothing_that_would_not_be_released_now(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping({"roles": ["support_agent"]}, budgets={"max_tool_calls": 4})) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        assert is_kept(await read(shop, invoice))
        stripped = replace(shop.subject, roles=frozenset[str]())
        assert code_of(await read(shop, invoice, subject=stripped)) == "unknown_tool"
        for scope, name in ((SwitchScope.TOOL, INVOICE), (SwitchScope.GLOBAL, "")):
            await shop.halt(scope, name)
            assert code_of(await read(shop, invoice)) == "halted"
            await shop.lift(scope, name)
        assert [code_of(await read(shop, invoice)) for _ in range(3)] == [None, None, "budget_exhausted"]


async def test_a_halt_between_recalling_and_answering_stops_a_kept_result_too(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        between(shop, lambda: shop.halt(SwitchScope.TOOL, INVOICE))
        assert code_of(await read(shop, invoice)) == "halted"


async def test_policy_after_the_call_sees_kept_results_and_withholds_them(tmp_path: Path) -> None:
    rule = """
        @id("enough") @reason("It was shown often enough.")
        forbid (principal, action == Comptroller::Action::"lookup_invoice:after", resource)
        when { context.history.task.looks >= 2 && context.output.paid_usd.greaterThan(decimal("0")) };
    """
    history = {"history": {"task.looks": {"count": INVOICE, "window": "task"}}}
    async with opened(tmp_path, keeping(history), cedar=rule) as shop:
        invoice = shop.paid()[0]
        answers = [await read(shop, invoice) for _ in range(3)]
        assert [code_of(answer) for answer in answers] == [None, None, "denied"]
        assert is_kept(answers[1])


async def test_under_another_configuration_nothing_is_left_of_what_was_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
    async with opened(tmp_path, keeping({"description": "Look at one invoice."})) as shop:
        assert not is_kept(await read(shop, invoice))


# -- never after a change -----------------------------------------------------------------------------------------


def between(shop: Shop, act: Callable[[], Any]) -> None:
    """Do something once, after a result was recalled and before the read is committed."""
    outcomes: Any = shop.service.outcomes
    verify = outcomes.verify

    async def then_verify(*given: Any) -> None:
        outcomes.verify = verify
        await act()
        await verify(*given)

    outcomes.verify = then_verify


@pytest.fixture(params=["this process", "another process"])
def elsewhere(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "another process")


async def test_a_side_effect_is_followed_by_no_stale_result(tmp_path: Path, elsewhere: bool) -> None:
    async with opened(tmp_path, keeping()) as shop, opened(tmp_path, keeping()) as other:
        invoice = shop.paid()[0]
        writer = other if elsewhere else shop
        for usd in (5, 6):
            await read(shop, invoice)
            assert is_kept(await read(shop, invoice))
            assert code_of(await writer.refund(invoice, usd)) is None
            fresh = await read(shop, invoice)
            assert not is_kept(fresh) and refunded(fresh) == truth(shop, invoice)


async def test_a_side_effect_between_recalling_and_answering_has_the_source_asked(
    tmp_path: Path, elsewhere: bool
) -> None:
    async with opened(tmp_path, keeping()) as shop, opened(tmp_path, keeping()) as other:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        between(shop, lambda: (other if elsewhere else shop).refund(invoice, 5))
        fresh = await read(shop, invoice)
        assert not is_kept(fresh) and refunded(fresh) == truth(shop, invoice)
        assert len(shop.moved(invoice)) == 1


@pytest.mark.parametrize("point", [Point.BEFORE_WRITE, Point.AFTER_WRITE])
async def test_while_a_side_effect_is_under_way_its_source_is_asked(
    tmp_path: Path, elsewhere: bool, point: Point
) -> None:
    async with opened(tmp_path, keeping()) as shop, opened(tmp_path, keeping()) as other:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        go, reached = tmp_path / "go", tmp_path / "reached"
        shop.misbehave(
            Fault(tool="issue_refund", kind=FaultKind.HANG, point=point, until=go, reached=reached)
        )
        refund = asyncio.ensure_future((other if elsewhere else shop).refund(invoice, 5))
        await until(reached.exists)
        for _ in range(2):
            answer = await read(shop, invoice)
            assert not is_kept(answer) and refunded(answer) == truth(shop, invoice)
        go.touch()
        assert code_of(await refund) is None
        answer = await read(shop, invoice)
        assert not is_kept(answer) and refunded(answer) == truth(shop, invoice)
        assert is_kept(await read(shop, invoice))


async def test_while_a_side_effect_is_in_doubt_its_source_is_asked(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE))
        assert code_of(await shop.refund(invoice, 5)) == "in_doubt"
        for _ in range(2):
            answer = await read(shop, invoice)
            assert not is_kept(answer) and refunded(answer) == truth(shop, invoice)
        await shop.service.recovery.round(shop.subject.tenant)  # finds the refund: it is done
        await read(shop, invoice)
        assert is_kept(await read(shop, invoice))


async def test_a_side_effect_that_came_to_nothing_leaves_nothing_open(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.REFUSE))
        assert code_of(await shop.refund(invoice, 5)) == "tool_failed"
        assert not is_kept(await read(shop, invoice))
        assert is_kept(await read(shop, invoice))


async def test_what_was_read_while_something_changed_is_not_given_again(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        before = truth(shop, invoice)
        between(shop, lambda: shop.refund(invoice, 5))  # the source has answered, and is changed then
        assert refunded(await read(shop, invoice)) == before
        answer = await read(shop, invoice)
        assert not is_kept(answer) and refunded(answer) == truth(shop, invoice) != before


Step = tuple[str, int]
_STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "read", "refund", "doubt", "settle"]), st.integers(0, 1)),
    min_size=4,
    max_size=12,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_STEPS, st.booleans())
def test_no_order_of_reads_and_changes_in_two_processes_shows_less_than_was_there(
    steps: list[Step], at_once: bool
) -> None:
    """Refunds only rise, so an answer must show at least what stood at the desk when the read was asked for."""

    async def play(folder: Path) -> None:
        async with opened(folder, keeping()) as one, opened(folder, keeping()) as two:
            invoice = one.paid(20_000)[0]
            running: list[asyncio.Task[None]] = []
            for what, at in steps:
                running.append(asyncio.create_task(step(what, (one, two)[at], invoice)))
                if not at_once:
                    await asyncio.gather(*running)
            await asyncio.gather(*running)

    async def step(what: str, shop: Shop, invoice: str) -> None:
        if what == "read":
            least = truth(shop, invoice)
            assert refunded(await read(shop, invoice)) >= least
        elif what == "settle":
            await shop.service.recovery.round(shop.subject.tenant)
        else:
            if what == "doubt":
                shop.misbehave(
                    Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE, times=1)
                )
            await shop.refund(invoice, 1, reason="duplicate" if what == "doubt" else "goodwill")
            shop.behave()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


_REFUND_ELSEWHERE = """
import asyncio, sys
from pathlib import Path
from tests.scenarios.kit import code_of, opened
from tests.scenarios.test_kept_reads import keeping

async def main(folder, invoice):
    async with opened(Path(folder), keeping()) as shop:
        assert code_of(await shop.refund(invoice, 5)) is None

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_refund_of_a_real_second_process_is_seen_at_the_next_read(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        assert is_kept(await read(shop, invoice))
        command = [sys.executable, "-c", _REFUND_ELSEWHERE, str(tmp_path), invoice]
        root = Path(__file__).parents[2]
        ended = await asyncio.to_thread(
            subprocess.run, command, cwd=root, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == 0, ended.stderr[-2_000:]
        answer = await read(shop, invoice)
        assert not is_kept(answer) and refunded(answer) == truth(shop, invoice)


# -- what it is never used for ------------------------------------------------------------------------------------


async def test_facts_are_looked_up_and_never_taken_from_what_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, keeping()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        shop.sql("UPDATE invoices SET refunded_cents = paid_cents WHERE id = ?", invoice)
        assert is_kept(await read(shop, invoice))
        assert code_of(await shop.refund(invoice, 5)) == "denied"
        assert shop.moved(invoice) == []


async def test_a_source_that_is_left_alone_still_has_its_probe_after_kept_results(tmp_path: Path) -> None:
    clock = Still()

    def broken_soon(config: dict[str, Any]) -> None:
        keeping({"limits": {"retries_max": 0}})(config)
        config["sources"]["desk"]["breaker"] = {"failures": 1, "reset_s": 60}

    async with opened(tmp_path, broken_soon, clock=clock) as shop:
        one, two = shop.paid()[:2]
        await read(shop, one)
        shop.misbehave(Fault(tool=INVOICE, kind=FaultKind.RAISE))
        assert code_of(await read(shop, two)) == "tool_failed"
        assert code_of(await read(shop, two)) == "source_down"
        shop.behave()
        assert is_kept(await read(shop, one))
        clock.pass_s(61)
        assert is_kept(await read(shop, one))
        assert code_of(await read(shop, two)) is None


# -- how old a citation is ----------------------------------------------------------------------------------------


def citing() -> Changes:
    def change(config: dict[str, Any]) -> None:
        keeping(retrieval={"freshness_sla_minutes": 10})(config)
        tool_of(config, "issue_refund")["cites"] = ["invoice"]

    return change


async def refund_on(shop: Shop, invoice: str, seen: Answer) -> Answer:
    ref = structured(seen)["refs"][0]["ref"]
    return await shop.refund(invoice, 5, why={"reason": "Charged twice.", "citations": [ref]})


async def test_a_ref_is_as_old_as_its_read_and_not_as_its_answer(tmp_path: Path) -> None:
    clock = Still()
    async with opened(tmp_path, citing(), clock=clock) as shop:
        one, two = shop.paid()[:2]
        await read(shop, one)
        clock.pass_s(100)
        await read(shop, two)
        clock.pass_s(150)
        seen = [await read(shop, invoice) for invoice in (one, two)]
        assert [answer.meta[META_CACHED] for answer in seen] == [250, 150]
        clock.pass_s(299)  # while an answer is young, the read behind it may not be
        await read(shop, shop.paid()[2])  # so that the task goes on
        clock.pass_s(100)
        old, young = await refund_on(shop, one, seen[0]), await refund_on(shop, two, seen[1])
        assert (code_of(old), code_of(young)) == ("citation_stale", None)
        assert "was read 10 minutes ago" in old.text


async def test_who_is_told_to_read_again_reads_what_is_there_now(tmp_path: Path) -> None:
    async with opened(tmp_path, citing()) as shop:
        invoice = shop.paid()[0]
        await read(shop, invoice)
        shop.sql(
            "UPDATE invoices SET item = 'Another', updated_at = '2027-01-01T00:00:00.000000Z' WHERE id = ?",
            invoice,
        )
        kept = await read(shop, invoice)
        assert is_kept(kept)
        assert code_of(await refund_on(shop, invoice, kept)) == "citation_stale"
        fresh = await read(shop, invoice)
        assert not is_kept(fresh)
        assert code_of(await refund_on(shop, invoice, fresh)) is None


# -- what loads ---------------------------------------------------------------------------------------------------


def wrong_places() -> Iterator[tuple[Changes, str]]:
    def on_refunds(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["cache_s"] = 5

    yield on_refunds, "only results of reads are kept"
    yield keeping({"cost_usd": "0.01"}), "each such read is made"
    yield keeping({"cache_s": 301}, retrieval={"freshness_sla_minutes": 10}), "use 300 at most"


@pytest.mark.parametrize(("change", "told"), list(wrong_places()))
async def test_cache_s_stands_only_where_it_can_mean_something(
    tmp_path: Path, change: Changes, told: str
) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        async with opened(tmp_path, change):
            pass
    (finding,) = invalid.value.findings
    assert told in finding.message and "cache_s" in finding.message and ".yaml:" in finding.where
