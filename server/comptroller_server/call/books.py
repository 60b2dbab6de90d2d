"""The books of tokens, one a task: what a model sees in place of personal data, and the way back into arguments.

A book is kept nowhere by itself. Each packet holds, sealed, the tokens its answer gave; so what one process gave out
another can resolve, a restart loses none, and when payloads are erased the values behind their tokens are gone too.
"""

from __future__ import annotations

import json
from collections import OrderedDict

import structlog

from comptroller_audit.calls import log_indexes
from comptroller_audit.errors import KeyRingError, SealBroken, TokenBookError
from comptroller_audit.query import calls_of_task, entries
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.tokens import Resolved, TokenBook
from comptroller_audit.vocabulary import Code, Json, Refusal
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.roads import Roads
from comptroller_server.tasks.taskbook import TaskView

__all__ = ["Books", "given_in", "read_book"]

BOOKS_MAX = 1_000
"""Books kept in memory; the one used longest ago is forgotten and read again when needed."""
SHOWN_MAX = 5
"""Unresolved tokens that a refusal names."""

_log = structlog.stdlib.get_logger()


class Books:
    """Opens the book of a call's task, and resolves what its arguments took from it."""

    def __init__(self, store: Store, ring: KeyRing, roads: Roads) -> None:
        self._store = store
        self._ring = ring
        self._gives = roads.gives_tokens
        self._open: OrderedDict[tuple[str, str], TokenBook] = OrderedDict()

    async def open(self, case: Case) -> None:
        """Give the case its task's book, as far as this process knows it. Raises `StoreError`."""
        case.book = await self._book(case.tenant, case.task) if self._gives else None

    async def moved(self, case: Case, task: TaskView) -> None:
        """The call turned out to belong to another task, in which the tokens it was proposed with mean nothing."""
        if case.tokens_used:
            text = (
                "The task in which these tokens were shown has ended, so they stand for nothing any more. "
                "Read the record again and use the tokens it shows."
            )
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
        if self._gives:
            case.book = await self._book(case.tenant, task)

    async def resolve(self, case: Case) -> None:
        """Put values in place of tokens, before anything else looks at the arguments. Raises `Refused`.

        Stored proposals hold the values already.
        """
        if case.book is None or case.resumed is not None or not _may_hold_tokens(case.arguments):
            return
        allowed = case.tool_in_hand.config.takes_tokens
        resolved = case.book.resolve(case.arguments, allowed)
        if resolved.unresolved and not case.task.is_new:  # another process may have given them
            case.book.merge(await self._read(case.tenant, case.task.id))
            resolved = case.book.resolve(case.arguments, allowed)
        if resolved.unresolved:
            raise Refused(_unresolved(case, resolved))
        case.arguments, case.tokens_used = resolved.arguments, resolved.used

    async def _book(self, tenant: str, task: TaskView) -> TokenBook:
        key = (tenant, task.id)
        book = self._open.get(key)
        if book is None:
            book = TokenBook(self._ring.claim_key(tenant), task.id)
            if not task.is_new:
                book = await self._read(tenant, task.id)
            book = self._open.setdefault(key, book)
            while len(self._open) > BOOKS_MAX:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return book.view()

    async def _read(self, tenant: str, task: str) -> TokenBook:
        return await self._store.read(lambda reader: read_book(reader, self._ring, tenant, task))


def read_book(reader: Reader, ring: KeyRing, tenant: str, task: str) -> TokenBook:
    """The book of a task as its packets have it. A packet that was erased or does not open gives none."""
    book = TokenBook(ring.claim_key(tenant), task)
    for _, row in calls_of_task(reader, tenant, task):
        for index in log_indexes(row):
            try:
                for logged in entries(reader, ring, tenant, [index]):
                    book.take((logged.packet or {}).get("tokens_given") or [])
            except (KeyRingError, SealBroken, TokenBookError) as error:
                _log.warning("tokens that cannot be read", task=task, index=index, error=type(error).__name__)
    return book


def _may_hold_tokens(arguments: object) -> bool:
    return "⟦" in json.dumps(arguments, ensure_ascii=False)


def _unresolved(case: Case, resolved: Resolved) -> Refusal:
    shown = "; ".join(
        f"{json.dumps(one.token[:60], ensure_ascii=False)} at {one.path[:60]}: {one.why}"
        for one in resolved.unresolved[:SHOWN_MAX]
    )
    takes = ", ".join(f"`{path}`" for path in case.tool_in_hand.config.takes_tokens)
    where = f"Tokens are taken in {takes}." if takes else f"`{case.tool_in_hand.name}` takes no tokens."
    return Refusal(
        Code.INVALID_ARGUMENTS,
        f"The arguments hold tokens that stand for nothing here: {shown}. {where}",
        "other_arguments",
    )


def given_in(case: Case) -> list[Json]:
    """The tokens that answers of this case gave, for its packet."""
    return case.book.given if case.book is not None else []
