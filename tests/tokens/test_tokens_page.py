"""What the page says a model has to read is what it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_audit.vocabulary import Code
from tests.scenarios.played_demo import shared_demo
from tests.tokens.lists import list_parts
from tests.tokens.page import PAGE, REFUSAL_CHARS_MAX, characters_of, codes_in


@pytest.mark.anyio
async def test_the_page_counts_the_list_of_today(tmp_path: Path) -> None:
    page = PAGE.read_text()
    parts = await list_parts(tmp_path)
    assert {part.name: characters_of(page, part.name) for part in parts} == {
        part.name: len(part.text) for part in parts
    }, "run `python -m tests.tokens --write`"


def test_the_page_counts_every_refusal_there_is() -> None:
    assert codes_in(PAGE.read_text()) == {code.value for code in Code}, "run `python -m tests.tokens --write`"


@pytest.mark.long
def test_no_refusal_is_long(tmp_path_factory: pytest.TempPathFactory) -> None:
    refusals = shared_demo(tmp_path_factory).summary["refusals"]
    long = {
        code: len(told["text"]) for code, told in refusals.items() if len(told["text"]) > REFUSAL_CHARS_MAX
    }
    assert not long
