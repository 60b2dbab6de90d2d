"""`comptroller demo`: the whole story on the support desk, by real processes. Every line comes from the running system."""

from __future__ import annotations

import contextlib
import json as json_module
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio

from comptroller_server.demo.chapters import (
    budgets,
    canary,
    checks,
    citations,
    kills,
    privacy,
    record,
    refunds,
    refusals,
    reversals,
    switches,
    tasks,
    upstream,
)
from comptroller_server.demo.judge import local_judge
from comptroller_server.demo.stage import Stage
from comptroller_server.demo.story import Story

__all__ = ["CHAPTERS", "Chapter", "run"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One part of the demo; it can be played alone (`--only NAME`)."""

    name: str
    title: str
    play: Callable[[Story], Awaitable[None]]


CHAPTERS = (
    Chapter("refunds", "A refund: limits, a retry, an approval, and a desk that lies", refunds.play),
    Chapter("kills", "The server is killed, twice", kills.play),
    Chapter("budgets", "A loop is broken, a budget runs out, and a person gets the rest", budgets.play),
    Chapter("switch", "A kill switch", switches.play),
    Chapter("upstream", "Somebody else's MCP server, which changes its mind", upstream.play),
    Chapter("canary", "Which refunds go without a person, and what ends that", canary.play),
    Chapter("tasks", "A task that succeeds, and one that only says so", tasks.play),
    Chapter("citations", "What an agent says must rest on what it read", citations.play),
    Chapter("privacy", "Personal data behind tokens that still work", privacy.play),
    Chapter("checks", "A check and a judge that say no", checks.play),
    Chapter("reversals", "What went wrong is taken back", reversals.play),
    Chapter("refusals", "What a refusal looks like: every code there is", refusals.play),
    Chapter("record", "The proof", record.play),
)


def run(seed: int, keep: Path | None, json: bool, only: Sequence[str] = ()) -> int:
    """Play the demo; 0 when everything came out as it must, else 1. `keep` is a folder to leave behind.

    `only` are names of chapters; without any, all are played.
    """
    with contextlib.ExitStack() as stack:
        folder = (keep or Path(stack.enter_context(_temporary()))).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / "report.html" if keep else _lasting_file()
        story = Story(Stage(folder, seed), _silent if json else _write, page, _coloured())
        chapters = [chapter for chapter in CHAPTERS if not only or chapter.name in only]
        try:
            anyio.run(_play, story, chapters)
        except Exception as error:  # noqa: BLE001 -- the demo says what broke and fails
            told = [f"{story.chapter}: {type(leaf).__name__}: {leaf}" for leaf in _leaves(error)]
            story.failures += told
        summary = json_module.dumps(story.summary(), indent=2) + "\n"
        if json:
            sys.stdout.write(summary)
        if keep is not None:
            (folder / "demo.json").write_text(summary)
            _tell_where(story, folder)
        for failure in story.failures:
            sys.stderr.write(f"demo failed: {failure}\n")
        return 1 if story.failures else 0


async def _play(story: Story, chapters: Sequence[Chapter]) -> None:
    began = time.monotonic()
    story.say("Comptroller on the support desk: real processes, real MCP clients, a real system of record.")
    story.say(f"{len(chapters)} chapters, one store, in {story.stage.folder}")
    story.say(
        "Olga is enrolled as approver. On this one machine her credential file belongs to the same user as"
    )
    story.say(
        "the server (`approvals.allow_same_uid_file: true`): convenient, weaker than a credential elsewhere."
    )
    await anyio.to_thread.run_sync(story.stage.set_up)
    async with local_judge() as story.judge:
        story.stage.judge_url = story.judge.url
        try:
            for number, chapter in enumerate(chapters, 1):
                story.chapter = chapter.name
                passed = f"{time.monotonic() - began:.0f} s"
                story.say(
                    f"\n[{number}/{len(chapters)}, {passed}] {chapter.title}", bold=True, underline=True
                )
                await chapter.play(story)
        finally:
            await story.stage.close()
    story.say(f"\nDone in {time.monotonic() - began:.0f} seconds; {story.checks} checks.", bold=True)


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="comptroller-demo-")


def _lasting_file() -> Path:
    """A name for the report's page, which stays when the rest of the folder goes."""
    handle, name = tempfile.mkstemp(prefix="comptroller-demo-", suffix=".html")
    os.close(handle)
    return Path(name)


def _tell_where(story: Story, folder: Path) -> None:
    """How to look at what was left behind."""
    story.say(f"\nLeft in {folder}: the store, every configuration, and demo.json. Look at it with")
    story.say(
        f"  COMPTROLLER_DESK={folder}/desk.db comptroller --config {folder}/comptroller.yaml --data-dir {folder}/data why CALL"
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _silent(_: str) -> None:
    """With `--json` only the summary is told."""


def _coloured() -> bool:
    """On a terminal; `NO_COLOR` and `FORCE_COLOR` are what other programs take them for."""
    return not os.environ.get("NO_COLOR") and (sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR")))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested groups; a task group wraps whatever broke in it."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
