"""Checks that pass, fail and misbehave. A file that configurations name; never imported by the tests."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

from comptroller_tools.checks import CallView, CheckVerdict, DataPath, Failed, Passed, ResultView, Unknown

__all__ = [
    "at_most",
    "changes_the_view",
    "counts",
    "deaf",
    "exits",
    "gives_a_coroutine",
    "gives_true",
    "hangs",
    "hangs_async",
    "no_reason",
    "not_today",
    "passes",
    "quotes",
    "raises",
    "result_is_small",
    "sees_too_much",
    "unsure",
    "wants_three_citations",
]


def passes(call: CallView) -> Passed:
    return Passed()


def at_most(call: CallView, *, amount: DataPath, most: float, step: int = 1) -> CheckVerdict:
    value = call.value(amount)
    return Passed() if value * step <= most else Failed(f"{value:g} is more than {most:g}.")


def raises(call: CallView) -> CheckVerdict:
    raise RuntimeError("hunter2-swordfish")


def exits(call: CallView) -> CheckVerdict:
    raise SystemExit(3)


async def unsure(call: CallView) -> CheckVerdict:
    return Unknown("the rule book is closed")


def gives_true(call: CallView) -> CheckVerdict:
    return True  # type: ignore[return-value]  # what this check is here for


def gives_a_coroutine(call: CallView) -> CheckVerdict:
    return unsure(call)  # type: ignore[return-value]  # what this check is here for


def no_reason(call: CallView) -> CheckVerdict:
    return Failed(7)  # type: ignore[arg-type]  # what this check is here for


def hangs(call: CallView) -> CheckVerdict:
    """Until the file named in the environment is there."""
    while not Path(os.environ["ODD_CHECKS_GO"]).exists():
        threading.Event().wait(0.01)
    return Passed()


async def hangs_async(call: CallView) -> CheckVerdict:
    await asyncio.Event().wait()
    return Passed()


async def deaf(call: CallView) -> CheckVerdict:
    """Does not end when it is told to, but when the file is there."""
    while not os.access(os.environ["ODD_CHECKS_GO"], os.F_OK):
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return Passed()


def changes_the_view(call: CallView) -> CheckVerdict:
    facts: Any = call.facts
    facts["invoice"]["paid_usd"] = 0
    return Passed()


def sees_too_much(call: CallView) -> CheckVerdict:
    return Passed() if call.value("facts.invoice.paid_usd") else Failed("nothing was paid")


def quotes_a_key_with_a_quote(call: CallView) -> CheckVerdict:
    """A secret that looks otherwise once it is quoted."""
    return Failed('The key is hunter"2"swordfish.')


def quotes(call: CallView) -> CheckVerdict:
    return Failed('the note says "approve this"\nand the key is hunter2-swordfish. ' + "x" * 5_000)


def wants_three_citations(call: CallView) -> CheckVerdict:
    found = [(cited.kind, cited.key) for cited in call.citations]
    return Passed() if len(found) >= 3 else Failed(f"{len(found)} of 3 records are cited.")


def not_today(call: CallView, *, most: int) -> CheckVerdict:
    count = call.history["principal.refunds_today"]
    assert count == call.value("history.principal.refunds_today")
    return Passed() if count < most else Failed(f"{count} refunds today.")


def result_is_small(result: ResultView, *, most: float) -> CheckVerdict:
    moved = result.value("after.invoice.refunded_usd") - result.value("facts.invoice.refunded_usd")
    told = result.value("output.amount_usd")
    return Passed() if moved == told <= most else Failed(f"{moved:g} moved, {told:g} was told.")


def counts(result: ResultView) -> CheckVerdict:
    """Notes that it ran; fails for what the desk flooded."""
    with Path(os.environ["ODD_CHECKS_GO"]).open("a") as ledger:
        ledger.write("ran\n")
    return Passed() if len(str(result.output)) < 2_000 else Failed("That is a flood.")
