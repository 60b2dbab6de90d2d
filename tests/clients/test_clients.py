"""Clients that other people wrote, before `comptroller serve` on the desk, over stdio and over HTTP."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.places import node_folder, python_of
from tests.clients.served_desk import Line, Served, laid, served
from tests.clients.transcripts import written

PROGRAMS = Path(__file__).parent / "programs"
CLIENTS: dict[str, list[str]] = {
    "python_sdk_2 auto": ["python_sdk_2_client.py", "auto"],
    "python_sdk_2 legacy": ["python_sdk_2_client.py", "legacy"],
    "python_sdk_1": ["python_sdk_1_client.py"],
    "fastmcp": ["fastmcp_client.py"],
    "langgraph": ["langgraph_client.py"],
    "llama_index": ["llama_index_client.py"],
    "semantic_kernel": ["semantic_kernel_client.py"],
    "pydantic_ai": ["pydantic_ai_client.py"],
    "openai_agents": ["openai_agents_client.py"],
    "typescript_sdk_1": ["typescript_sdk_1_client.cjs"],
    "typescript_sdk_2 auto": ["typescript_sdk_2_client.cjs", "auto"],
    "typescript_sdk_2 legacy": ["typescript_sdk_2_client.cjs", "legacy"],
    "inspector auto": ["inspector_client.py", "auto"],
    "inspector legacy": ["inspector_client.py", "legacy"],
}
SILENT = {"llama_index", "semantic_kernel", "pydantic_ai"}
"""They give the model a text only, and do not say beside it that a call failed."""
POLLS = {"inspector auto"}
"""They declare the Tasks extension: the call itself waits for the person, and its model never hears of that."""
REF = re.compile(r"(?:why\.citations`|'ref'): '?(\w+)")
CALL = re.compile(r"resume_call` with \W*call\W*([0-9a-f-]{36})")


def citing(config: dict[str, Any]) -> None:
    config["safety"] = {"require_citations": True}


@contextmanager
def desk_of(folder: Path, transport: str) -> Generator[Served]:
    """The desk as a process of its own, or started by the client."""
    if transport == "http":
        with served(folder, citing) as desk:
            yield desk
    else:
        yield laid(folder, citing)


class Agent:
    """Where a model would stand: it sees the texts that the client shows, and proposes what `turns` yields."""

    def __init__(self, turns: Generator[Line, str]) -> None:
        self.seen: list[Line] = []
        self.asked: list[Line] = []
        self._turns = turns

    def __call__(self, line: Line) -> Line:
        self.seen.append(line)
        try:
            asked = next(self._turns) if "tools" in line else self._turns.send(line["text"])
        except StopIteration:
            return {}
        self.asked.append(asked)
        return asked


def working(desk: Served, invoice: str) -> Generator[Line, str]:
    """Reads, refunds without a source, too much, what needs a person, resumes too early and after the approval."""

    def refund(usd: float, *citations: str) -> Line:
        why = {"reason": "The customer was charged twice.", "citations": list(citations)}
        arguments = {"invoice_id": invoice, "amount_usd": usd, "reason_code": "duplicate_charge", "why": why}
        return {"call": "issue_refund", "arguments": arguments}

    read = yield {"call": "lookup_invoice", "arguments": {"invoice_id": invoice}}
    found = REF.search(read)
    assert found is not None, read
    yield refund(40)
    yield refund(4000, found[1])
    pending = yield refund(40, found[1])
    waiting = CALL.search(pending)
    assert waiting is not None, pending
    resume: Line = {"call": "resume_call", "arguments": {"call": waiting[1]}}
    yield resume
    assert desk.moved() == []
    desk.approve(waiting[1])
    yield resume


def waited_for(desk: Served, invoice: str) -> Generator[Line, str]:
    """The same before a client that asks after a call itself: one request, and it ends once somebody has agreed."""
    steps = working(desk, invoice)
    too_much = steps.send((yield steps.send((yield next(steps)))))
    small = steps.send((yield too_much))
    agreeing = threading.Thread(target=_agree, args=(desk,))
    agreeing.start()
    yield small
    agreeing.join()


def _agree(desk: Served) -> None:
    """Olga waits for something to agree to, and looks that nothing was done before."""
    for _ in range(120):
        if listed := desk.look("approvals", "list")["approvals"]:
            assert desk.moved() == []
            desk.approve(listed[0]["call"])
            return
        time.sleep(0.25)


def interpreter(name: str) -> tuple[Path, list[str]]:
    """What runs the client, and where its packages are if that does not know.

    The SDK's own version stands in this environment, everything else in a place of its own.
    """
    kind = name.split()[0]
    if kind.startswith("typescript"):
        return Path("node"), [str(node_folder(kind))]
    if kind == "inspector":
        return Path(sys.executable), [str(node_folder(kind))]
    return Path(sys.executable) if kind == "python_sdk_2" else python_of(kind), []


@pytest.mark.clients
@pytest.mark.parametrize("transport", ["http", "stdio"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_lists_reads_hears_why_it_was_refused_and_resumes_what_was_approved(
    name: str, transport: str, tmp_path: Path
) -> None:
    runs, place = interpreter(name)
    program, *words = CLIENTS[name]
    with desk_of(tmp_path, transport) as desk:
        [invoice] = desk.paid(1)
        agent = Agent(waited_for(desk, invoice) if name in POLLS else working(desk, invoice))
        desk.play(runs, PROGRAMS / program, transport, *place, *words, says=agent)
        [listed, read, uncited, too_much, *waits, done] = agent.seen
        written(name, transport, agent.seen, agent.asked)
        assert {"lookup_invoice", "issue_refund", "resume_call"} <= set(listed["tools"])
        assert invoice in read["text"]
        assert "(citation_missing)" in uncited["text"]
        assert "(denied)" in too_much["text"]
        assert len(waits) == (0 if name in POLLS else 2)
        assert all("(approval_pending)" in line["text"] for line in waits)
        said = [line["failed"] for line in agent.seen[1:]]
        told = [False, True, True, *(True for _ in waits), False]
        assert said == [None] * 6 if name in SILENT else said == told
        assert invoice in done["text"]
        assert [(effect.invoice_id, effect.amount_cents) for effect in desk.moved()] == [(invoice, 40_00)]
