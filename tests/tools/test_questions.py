"""What of any form and any address is ever shown, and how a deadline waits while somebody is asked."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import ElicitRequest, ElicitRequestURLParams

from comptroller_tools.questions import Asks, Patience, Question, Reply
from comptroller_tools.source import Action
from comptroller_tools.upstream.asking import FIELDS_MAX, Asking, Refused, form_schema
from comptroller_tools.upstream.cleaning import hidden_in
from comptroller_tools.upstream.settings import MayAsk

pytestmark = pytest.mark.anyio

WORDS = st.sampled_from(
    [
        "type",
        "title",
        "description",
        "default",
        "enum",
        "items",
        "properties",
        "$ref",
        "pattern",
        "format",
        "oneOf",
    ]
)
TEXT = st.text(max_size=12) | st.sampled_from(
    ["string", "object", "boolean", "array", "pass\u200bword", "<b>x</b>"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(
    st.from_regex(r"\A[a-z_]{1,8}\Z"),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "number", "boolean", "array", "object"])}
    ).flatmap(lambda base: st.dictionaries(WORDS, JSON, max_size=4).map(lambda more: {**more, **base})),
    max_size=4,
)


@given(
    st.fixed_dictionaries({"type": st.just("object"), "properties": FIELDS, "required": JSON}) | JSON, TEXT
)
def test_of_any_form_only_a_flat_one_that_hides_nothing_is_shown(schema: Any, message: str) -> None:
    if not isinstance(schema, dict):
        return
    try:
        shown = form_schema(cast("dict[str, Any]", schema), message)
    except Refused:
        return
    jsonschema_rs.validator_for(shown)
    assert set(shown) <= {"type", "properties", "required"}
    assert len(shown["properties"]) <= FIELDS_MAX
    assert set(shown.get("required", [])) <= set(shown["properties"])
    for field in shown["properties"].values():
        assert field["type"] in ("string", "number", "integer", "boolean", "array")
        assert not {"properties", "$ref", "pattern"} & set(field)
        assert not any(hidden_in(text) for text in _texts(field))


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return [text for key, inner in members.items() for text in (key, *_texts(inner))]
    if isinstance(value, list):
        return [text for inner in cast("list[object]", value) for text in _texts(inner)]
    return [value] if isinstance(value, str) else []


class Noting:
    """Whoever is asked, and what never reached them."""

    kinds = frozenset(Asks)
    patience = None

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.stopped: list[str] = []

    async def __call__(self, questions: Any) -> dict[str, Reply]:
        self.asked += questions
        return {}

    def refused(self, kind: str, why: str) -> None:
        self.stopped.append(why)


PIECES = st.lists(
    st.sampled_from(
        [
            "https:",
            "http:",
            "//",
            "/",
            "\\",
            "@",
            ":",
            "#",
            "?",
            ".",
            "good.example",
            "evil.example",
            "\t",
            "%2e",
            "443",
            "[",
            "é",
        ]
    ),
    max_size=7,
)


@given(PIECES.map("".join))
def test_of_any_address_only_one_whose_host_a_browser_reads_alike_is_shown(url: str) -> None:
    noting = Noting()
    asking = Asking(
        "files", MayAsk(frozenset(Asks), frozenset({"good.example"})), Action("x", {}, "c", asker=noting)
    )
    request = ElicitRequest(params=ElicitRequestURLParams(message="m", url=url))
    asyncio.run(asking.answers({"q": request}))
    assert len(noting.asked) + len(noting.stopped) == 1
    for one in noting.asked:
        # WHATWG URL: a browser takes backslashes for slashes and drops tabs and line ends.
        read = str(one.params["url"]).replace("\\", "/").replace("\t", "").replace("\n", "")
        assert read == one.params["url"] == url
        assert urlsplit(read).scheme == "https"
        assert urlsplit(read).hostname == "good.example"
        assert "@" not in urlsplit(read).netloc


async def test_a_limit_stands_still_while_somebody_is_asked_and_runs_down_afterwards() -> None:
    loop = asyncio.get_running_loop()
    patience = Patience(loop.time)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05) as limit:
            with patience.moves(limit):
                with patience.asking(), patience.asking():
                    late = loop.time() + 0.15
                    while loop.time() < late:  # noqa: ASYNC110 -- the passing of time is what is tested
                        await asyncio.sleep(0.01)
                assert not limit.expired()
                assert patience.waited_s >= 0.15
                await asyncio.Event().wait()
