"""The wiki: the team's policy pages, beside pages that customers and outsiders wrote. `origin` says which."""

from __future__ import annotations

import json
import sqlite3
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from comptroller_tools.desk.calls import Shape, begin
from comptroller_tools.desk.faults import FaultKind
from comptroller_tools.errors import NotDone

__all__ = [
    "Origin",
    "PolicyHit",
    "PolicyHits",
    "PolicyLookup",
    "PolicyPage",
    "get_policy",
    "search_policy",
]

EXCERPT_CHARS = 240


class Origin(StrEnum):
    STAFF = "staff"
    CUSTOMER = "customer"
    OUTSIDER = "outsider"


class PolicyLookup(Shape):
    slug: str = Field(
        pattern=r"^[a-z0-9-]{1,64}$", description="A page's short name, as search_policy gives it: refunds"
    )


class PolicyHit(Shape):
    page_id: str
    slug: str
    title: str
    origin: Origin
    excerpt: str
    updated_at: str


class PolicyHits(Shape):
    pages: list[PolicyHit]
    total: int


class PolicyPage(Shape):
    page_id: str
    slug: str
    title: str
    body: str
    origin: Origin
    author: str
    barred_phrases: list[str]
    updated_at: str


def search_policy(
    query: Annotated[str, Field(max_length=100, description="Words to look for in title and text")] = "",
    origin: Annotated[Origin | None, Field(description="Only pages by staff are policy")] = None,
    limit: Annotated[int, Field(ge=1, le=20)] = 5,
) -> PolicyHits:
    """Find wiki pages, those with most of the words first. Only pages by staff are policy; read one with get_policy."""
    call = begin("search_policy", {"query": query, "origin": origin, "limit": limit})
    words = query.lower().split()
    with call.reading() as connection:
        rows: list[sqlite3.Row] = connection.execute(
            "SELECT * FROM wiki_pages WHERE :origin IS NULL OR origin = :origin ORDER BY slug",
            {"origin": origin},
        ).fetchall()
    scored = [(_score(row, words), row) for row in rows]
    found = [row for score, row in sorted(scored, key=lambda hit: -hit[0]) if score or not words]
    hits = [
        PolicyHit(
            page_id=row["id"],
            slug=row["slug"],
            title=row["title"],
            origin=Origin(row["origin"]),
            excerpt=_excerpt(row["body"], words) + call.flood(),
            updated_at=row["updated_at"],
        )
        for row in found[:limit]
    ]
    return call.told(PolicyHits(pages=hits, total=len(found)))


def get_policy(request: PolicyLookup) -> PolicyPage:
    """Read one wiki page in full. `origin` says who wrote it; `barred_phrases` must not be in messages to customers."""
    call = begin("get_policy", request)
    slug = call.instead(FaultKind.WRONG_RECORD, request.slug)
    with call.reading() as connection:
        row = connection.execute("SELECT * FROM wiki_pages WHERE slug = ?", (slug,)).fetchone()
    if row is None:
        raise NotDone(f"There is no page {slug}. Find pages with search_policy.")
    page = PolicyPage(
        page_id=row["id"],
        slug=row["slug"],
        title=row["title"],
        body=row["body"] + call.flood(),
        origin=Origin(row["origin"]),
        author=row["author"],
        barred_phrases=json.loads(row["barred"]),
        updated_at=row["updated_at"],
    )
    return call.told(page)


def _score(row: sqlite3.Row, words: list[str]) -> int:
    """How many of the words are on the page; one in the title counts double."""
    title, body = row["title"].lower(), row["body"].lower()
    return sum(2 * (word in title) + (word in body) for word in words)


def _excerpt(body: str, words: list[str]) -> str:
    """The text around the first of the words that is there, else the page's beginning."""
    places = [place for word in words if (place := body.lower().find(word)) >= 0]
    start = max(0, min(places, default=0) - EXCERPT_CHARS // 4)
    cut = body[start : start + EXCERPT_CHARS]
    return ("…" if start else "") + cut + ("…" if start + EXCERPT_CHARS < len(body) else "")
