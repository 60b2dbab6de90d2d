"""`comptroller watch`: what goes on now, on a terminal, in a pipe and for programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from comptroller_server.commands.watch import Look, look_at, picture
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import call_of, code_of
from tests.server.cli_kit import Desk, accepting_own_files, at_work
from tests.server.test_cli_processes import Place

pytestmark = pytest.mark.anyio


async def busy(desk: Desk) -> tuple[str, str]:
    """A refund that waits for a person, and one in doubt."""
    first, second = desk.shop.paid()[:2]
    waits = await desk.shop.pending(first)
    desk.shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE))
    doubted = await desk.shop.refund(second, 5)
    assert code_of(doubted) == "in_doubt"
    return waits, call_of(doubted)


async def test_one_look_shows_what_waits_for_a_person_the_calls_and_the_limits(tmp_path: Path) -> None:
    async with at_work(tmp_path, accepting_own_files) as desk:
        waits, doubted = await busy(desk)
        told = await desk.json("watch", "--once")
        assert [one["call"] for one in told["approvals"]] == [waits]
        assert [one["call"] for one in told["in_doubt"]] == [doubted]
        assert {waits, doubted} <= {one["call"] for one in told["calls"]}
        assert told["budgets"] == await desk.json("budgets")
        shown = await desk.run("watch", "--once")
        headings = [line for line in shown.splitlines() if line in ("Waits for a person", "Calls", "Budgets")]
        assert headings == ["Waits for a person", "Calls", "Budgets"]
        assert (await desk.json("watch", "--once", "--task", "ffffffff"))["calls"] == []


async def test_a_look_is_printed_again_only_when_it_differs_until_an_interrupt(tmp_path: Path) -> None:
    async with at_work(tmp_path, accepting_own_files) as desk:
        await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0])
        options = ["--config", str(tmp_path / "comptroller.yaml"), "--data-dir", str(tmp_path)]
        watching = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from comptroller_server.cli import main; main()",
            *options,
            *("watch", "--json", "--every", "0.2"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert watching.stdout is not None
        try:
            async with asyncio.timeout(60):
                first = json.loads(await watching.stdout.readline())
                read = await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[1])
                second = json.loads(await watching.stdout.readline())
                watching.send_signal(signal.SIGINT)
                ended = await watching.wait()
        finally:
            if watching.returncode is None:
                watching.kill()
                await watching.wait()
        assert ended == 0, "an interrupt is how it is meant to end"
        assert call_of(read) not in {one["call"] for one in first["calls"]}
        assert second["calls"][0]["call"] == call_of(read)


@pytest.mark.parametrize("kind", ["dumb", "xterm"])
async def test_a_terminal_that_cannot_draw_anew_is_told_one_look_below_the_other(
    tmp_path: Path, kind: str
) -> None:
    async with at_work(tmp_path, accepting_own_files):
        ours, theirs = os.openpty()
        place = Place(tmp_path)
        watching = await asyncio.create_subprocess_exec(
            sys.executable, *place.words("watch"), env=place.environment | {"TERM": kind}, stdout=theirs
        )
        os.close(theirs)
        shown = b""
        try:
            async with asyncio.timeout(60):
                while b"Budgets" not in shown:
                    shown += await asyncio.to_thread(os.read, ours, 65_536)
                watching.send_signal(signal.SIGINT)
                assert await watching.wait() == 0
        finally:
            if watching.returncode is None:
                watching.kill()
                await watching.wait()
            os.close(ours)
        assert (b"\x1b[?1049h" in shown) == (kind == "xterm"), "another screen, which is given back"
        assert (b"\x1b" in shown) == (kind == "xterm"), "a terminal that knows no sequences is sent none"


async def test_who_sets_it_aside_gets_the_terminal_back_and_the_picture_when_it_goes_on(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path, accepting_own_files):
        ours, theirs = os.openpty()
        place = Place(tmp_path)
        watching = await asyncio.create_subprocess_exec(
            sys.executable,
            *place.words("watch"),
            env=place.environment | {"TERM": "xterm"},
            stdout=theirs,
            start_new_session=True,  # in which nobody could continue it, so that the kernel does not stop it
        )
        os.close(theirs)
        shown = b""
        try:
            async with asyncio.timeout(60):
                while b"Budgets" not in shown:
                    shown += await asyncio.to_thread(os.read, ours, 65_536)
                watching.send_signal(signal.SIGTSTP)
                while b"Budgets" not in shown.partition(b"\x1b[?1049l")[2]:
                    shown += await asyncio.to_thread(os.read, ours, 65_536)
                watching.send_signal(signal.SIGINT)
                assert await watching.wait() == 0
        finally:
            if watching.returncode is None:
                watching.kill()
                await watching.wait()
            os.close(ours)
        given_back, _, again = shown.partition(b"\x1b[?1049l")
        assert given_back.endswith(b"\x1b[?25h"), "with its cursor"
        assert b"\x1b[?1049h" in again


async def test_the_picture_says_in_words_what_it_says_in_colours_and_obeys_no_terminal_sequence(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path, accepting_own_files) as desk:
        waits, doubted = await busy(desk)
        await desk.shop.call("no\x1b[2Jsuch")

        def seen(told: Look) -> str:
            console = Console(width=200, color_system=None)
            with console.capture() as captured:
                console.print(picture(told, 200, 60))
            return captured.get()

        shown = seen(await look_at(desk.shop.service.installation, None, 12))
        assert waits in shown and doubted in shown
        assert "in doubt" in shown and "approval" in shown
        assert "\x1b" not in shown


async def test_a_narrow_picture_still_says_how_many_are_left_out(tmp_path: Path) -> None:
    async with at_work(tmp_path, accepting_own_files) as desk:
        for invoice in desk.shop.paid()[:5]:
            await desk.shop.pending(invoice)
        told = await look_at(desk.shop.service.installation, None, 12)
    console = Console(width=40, color_system=None)
    with console.capture() as captured:
        console.print(picture(told, 40, 10))
    assert "… 4 more" in captured.get()


@pytest.mark.parametrize(
    ("width", "height"), [(40, 4), (40, 10), (40, 16), (60, 24), (99, 12), (100, 12), (200, 60)]
)
async def test_the_picture_fits_its_terminal_and_says_what_it_leaves_out(
    tmp_path: Path, width: int, height: int
) -> None:
    async with at_work(tmp_path, accepting_own_files) as desk:
        await busy(desk)
        for invoice in desk.shop.paid()[2:22]:
            await desk.shop.call("lookup_invoice", invoice_id=invoice)
        told = await look_at(desk.shop.service.installation, None, 12)
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(picture(told, width, height))
    lines = captured.get().rstrip().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert (told.sections[0][2][0][1][:14] in captured.get()) == (height >= 10), "what waits comes first"
    assert ("no room here" in captured.get()) == (height < 16), (
        "who sees no budgets is told that there are some"
    )
    assert all(heading in captured.get() for heading in ("Waits for a person", "Calls", "Budgets"))
    assert (" more" in captured.get()) == (10 < height < 60)
    day, _, time = told.sections[1][2][0][0].partition(" ")
    listed = captured.get().partition("Calls")[2].partition("Budgets")[0]
    assert (f" {time} " in listed) == (width >= 100)
    assert day not in listed, "the heading has it"
