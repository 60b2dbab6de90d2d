"""Results that are too long to be read at once: cut where it is safe, with a way to the rest, and nothing lost on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import RecordType
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.answers import META_MORE
from comptroller_server.call.proposal import Answer
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.parts import CannotCut, Part, PartLimits, part_from
from comptroller_tools.relaying import relaying_findings
from comptroller_tools.upstream import bounds
from comptroller_tools.upstream.relayed import RESOURCES
from tests.scenarios.kit import Changes, Clock, call_of, code_of, opened, structured
from tests.scenarios.upstream_kit import Upstream, definition

pytestmark = pytest.mark.anyio

MORE = "result_more"
LINES = "".join(f"line {at} of the file\n" for at in range(400))
LISTED: dict[str, Any] = definition(
    "find",
    outputSchema={
        "type": "object",
        "properties": {
            "total": {"type": "integer"},
            "hits": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        },
        "required": ["total", "hits"],
    },
)
LOOKS: dict[str, Any] = {
    "name": "look",
    "source": "files",
    "allow_actions": ["read"],
    "limits": {"answer_kib_max": 2},
}
FINDS: dict[str, Any] = {
    "name": "find",
    "source": "files",
    "allow_actions": ["read"],
    "records": [{"kind": "hit", "id": "{output.hits[].id}", "version": "{output.hits[].at}"}],
    "limits": {"answer_items_max": 3},
}


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "files", definition("look"), LISTED)
    made.accept(tmp_path)
    made.does("look", text=LINES)
    found = {"total": 7, "hits": [{"id": f"h{at}", "at": f"v{at}"} for at in range(7)]}
    made.does("find", structuredContent=found, content=[])
    return made


def behind(upstream: Upstream, *entries: dict[str, Any], **limits: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["files"] = upstream.config()
        config["tools"] += entries or (LOOKS, FINDS)
        config["limits"] = {"identical_calls_max": 1_000, **limits}
        config["budgets"] = {}

    return change


def more(answer: Answer) -> str:
    return str(answer.meta[META_MORE])


async def test_a_long_text_comes_in_parts_that_say_so_and_make_the_whole(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with opened(tmp_path, behind(upstream)) as shop:
        answer = await shop.call("look", path="a")
        first = call_of(answer)
        texts = [structured(answer)["text"]]
        assert len(texts[0].encode()) <= 2 * 1024
        assert f'`result_more` with {{"more": "{more(answer)}"}}' in answer.text
        assert structured(answer)["more"] == {
            "more": more(answer),
            "left": {"text": len(LINES) - len(texts[0])},
        }
        while META_MORE in answer.meta:
            answer = await shop.call(MORE, more=more(answer))
            texts.append(structured(answer)["text"])
        assert "the last one" in answer.text
        assert "".join(texts) == LINES
        assert all(text.endswith("\n") for text in texts)
        records = [packet for packet in shop.packets(RecordType.READ) if packet["tool"] == "look"]
    assert [record["part"]["number"] for record in records] == list(range(len(texts)))
    assert records[0]["output"] == {"text": LINES}
    assert [record["output"] for record in records[1:]] == [None] * (len(texts) - 1)
    assert {record["cached"]["call"] for record in records[1:]} == {first}
    assert len({record["call"] for record in records}) == len(records)
    assert len(upstream.ran) == 1


async def test_a_long_list_is_cut_by_items_and_only_what_was_told_can_be_cited(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with opened(tmp_path, behind(upstream)) as shop:
        answer = await shop.call("find", path="a")
        told: list[list[str]] = []
        assert structured(answer)["total"] == 7
        while True:
            part = structured(answer)
            assert [ref["key"] for ref in part["refs"]] == [hit["id"] for hit in part["hits"]]
            told.append([hit["id"] for hit in part["hits"]])
            if META_MORE not in answer.meta:
                break
            answer = await shop.call(MORE, more=more(answer))
    assert told == [["h0", "h1", "h2"], ["h3", "h4", "h5"], ["h6"]]


async def test_nothing_that_must_not_be_shown_hides_across_a_cut(tmp_path: Path, upstream: Upstream) -> None:
    secret = "swordfish-0815-swordfish"
    at = len(json.dumps({"text": ""})) + 1_000
    async with opened(tmp_path, behind(upstream), secrets=(secret,)) as shop:
        for shift in range(0, len(secret), 5):  # wherever the cut falls
            upstream.does("look", text="x" * (2 * 1024 - at + 1_000 - shift) + secret + "y" * 3_000)
            answer = await shop.call("look", path=f"a{shift}")
            texts = [structured(answer)["text"]]
            while META_MORE in answer.meta:
                answer = await shop.call(MORE, more=more(answer))
                texts.append(structured(answer)["text"])
            whole = "".join(texts)
            assert len(texts) > 1
            assert "swordfish" not in whole
            assert "0815" not in whole


async def test_the_rest_is_gone_when_its_time_is_over(tmp_path: Path, upstream: Upstream) -> None:
    clock = Clock()
    async with opened(tmp_path, behind(upstream, more_s=60), clock=clock) as shop:
        answer = await shop.call("look", path="a")
        assert code_of(await shop.call(MORE, more=more(answer))) is None
        clock.pass_s(61)
        assert code_of(await shop.call(MORE, more=more(answer))) == "result_gone"


async def test_the_rest_is_one_persons_in_one_task_and_gone_after_a_restart(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with opened(tmp_path, behind(upstream)) as shop:
        answer = await shop.call("look", path="a")
        name = more(answer).rpartition("-")[0]
        guessed = [f"{name}-2", f"{name}-0", f"{name}--1", name, f"{name}-٣", "-", "nothing-1"]
        strangers = [shop.other(actor="hasty-bot"), shop.other(subject="somebody")]
        refused = [await shop.call(MORE, more=handle) for handle in guessed]
        refused += [await shop.call(MORE, more=more(answer), subject=who) for who in strangers]
        again = [structured(await shop.call(MORE, more=more(answer)))["text"] for _ in range(2)]
        assert again[0] == again[1]  # an answer that was lost is asked for again
        last = await shop.call("look", path="b")
        assert code_of(await shop.call(MORE, more=more(last))) is None
        assert code_of(await shop.call("task_finish", claim="failed")) is None
        refused.append(await shop.call(MORE, more=more(last)))
        last = await shop.call("look", path="c")
    async with opened(tmp_path, behind(upstream)) as shop:
        refused.append(await shop.call(MORE, more=more(last)))
    assert {code_of(one) for one in refused} == {"result_gone"}
    assert len({one.text for one in refused}) == 1


async def test_the_rest_is_decided_like_the_read_and_memory_is_bounded(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with opened(tmp_path, behind(upstream, more_mib_max=1)) as shop:
        answer = await shop.call("look", path="a")
        await shop.halt(SwitchScope.TOOL, "look")
        assert code_of(await shop.call(MORE, more=more(answer))) == "halted"
        await shop.lift(SwitchScope.TOOL, "look")
        assert code_of(await shop.call(MORE, more=more(answer))) is None
        upstream.does("look", text="z" * 200_000)
        handles = [more(await shop.call("look", path=f"b{at}")) for at in range(6)]
        assert code_of(await shop.call(MORE, more=more(answer))) == "result_gone"
        assert code_of(await shop.call(MORE, more=handles[-1])) is None
        assert code_of(await shop.call(MORE, more=handles[-1], verbose=True)) == "invalid_arguments"


async def test_who_keeps_most_pushes_out_their_own(tmp_path: Path, upstream: Upstream) -> None:
    async with opened(tmp_path, behind(upstream, more_mib_max=1)) as shop:
        mine = more(await shop.call("look", path="a"))
        upstream.does("look", text="z" * 200_000)
        other = shop.other(subject="somebody")
        handles = [more(await shop.call("look", path=f"b{at}", subject=other)) for at in range(8)]
        assert code_of(await shop.call(MORE, more=mine)) is None
        assert code_of(await shop.call(MORE, more=handles[0], subject=other)) == "result_gone"
        assert code_of(await shop.call(MORE, more=handles[-1], subject=other)) is None


async def test_an_answer_of_very_many_parts_is_withheld_before_they_are_looked_over(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "PARTS_MAX", 500)
    async with opened(tmp_path, behind(upstream)) as shop:
        fits = {"total": 2, "hits": [{"id": "h1", "at": "v1"}] * 2}
        upstream.does("find", structuredContent=fits, content=[])
        assert code_of(await shop.call("find", path="a")) is None
        many: dict[str, Any] = {
            "total": 2,
            "hits": [{"id": "h1", "at": "v1", "deep": [[[{}] * 100] * 2] * 3}],
        }
        upstream.does("find", structuredContent=many, content=[])
        assert code_of(await shop.call("find", path="b")) == "output_invalid"


async def test_it_is_offered_only_where_something_comes_in_parts(tmp_path: Path, upstream: Upstream) -> None:
    plain: dict[str, Any] = {**LOOKS, "limits": {}}
    async with opened(tmp_path, behind(upstream, plain)) as shop:
        assert MORE not in {tool.name for tool in shop.service.pipeline.listing(shop.subject)}
        assert code_of(await shop.call(MORE, more="a-1")) == "unknown_tool"
        whole = await shop.call("look", path="a")
        assert structured(whole) == {"text": LINES}
    async with opened(tmp_path, behind(upstream)) as shop:
        listed = {tool.name: tool for tool in shop.service.pipeline.listing(shop.subject)}
        assert MORE in listed
        assert "more" in (listed["look"].output_schema or {})["properties"]


async def test_what_its_schema_does_not_let_be_cut_is_withheld(tmp_path: Path, upstream: Upstream) -> None:
    strict = {**LISTED, "outputSchema": {**LISTED["outputSchema"]}}
    properties = dict(strict["outputSchema"]["properties"])
    properties["hits"] = {**properties["hits"], "minItems": 5}
    strict["outputSchema"]["properties"] = properties
    upstream.lists(definition("look"), strict)
    upstream.accept(tmp_path)
    async with opened(tmp_path, behind(upstream)) as shop:
        answer = await shop.call("find", path="a")
        assert code_of(answer) == "output_invalid"
        assert "h0" not in answer.text


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"allow_actions": ["update"]}, "stands at a tool that is no read"),
        ({"cost_usd": "1"}, "each part would"),
        ({"limits": {"answer_kib_max": 300}}, "more than `response_kib_max`"),
    ],
)
async def test_limits_that_mean_nothing_are_found_at_load(
    tmp_path: Path, upstream: Upstream, entry: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        async with opened(tmp_path, behind(upstream, {**LOOKS, **entry})):
            pass
    (finding,) = raised.value.findings
    assert says in finding.message


def test_resources_and_prompts_are_told_whole() -> None:
    entry: dict[str, Any] = {"name": "pages", "source_tool": RESOURCES, "allow_actions": ["read"]}
    assert relaying_findings([(ToolConfig.model_validate(entry), "files")]) == []
    entry["limits"] = {"answer_items_max": 3}
    (finding,) = relaying_findings([(ToolConfig.model_validate(entry), "files")])
    assert finding.where == "tools.pages.limits"


# -- the cutting itself -------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.text(max_size=400),
    st.lists(st.one_of(st.integers(), st.text(max_size=30)), max_size=40),
    st.integers(),
    st.none(),
)
values = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.one_of(leaves, st.dictionaries(st.text("de", min_size=1, max_size=2), leaves, max_size=3)),
    max_size=5,
)


@given(values, st.one_of(st.none(), st.integers(700, 2_000)), st.one_of(st.none(), st.integers(1, 10)))
def test_parts_make_the_whole_again_and_every_one_brings_some_of_it(
    value: dict[str, Any], bytes_max: int | None, items_max: int | None
) -> None:
    limits = PartLimits(bytes_max, items_max)
    try:
        part = part_from(value, limits)
    except CannotCut:
        return
    if part is None:
        return
    whole: dict[str, Any] = dict(part.shown)
    while part.left:
        later = part_from(value, limits, part.ends)
        assert isinstance(later, Part)
        assert sum(later.left.values()) < sum(part.left.values())
        whole, part = _joined(whole, later.shown), later
    assert whole == value


def _joined(first: Any, second: Any) -> Any:
    if not isinstance(first, dict):
        return first + second
    whole = cast("dict[str, Any]", first)
    return whole | {name: _joined(whole[name], inner) for name, inner in second.items()}
