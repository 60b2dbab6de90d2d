"""Questions of upstreams as a way out of the house, or into somebody's pocket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CreateMessageResult, ElicitRequestParams, ElicitResult, TextContent

from comptroller_tools.upstream.asking import Refused, form_schema
from tests.scenarios.kit import opened
from tests.scenarios.test_questions_back import (
    ALL,
    CANARY,
    FORM,
    SAMPLE,
    answered,
    asks,
    behind,
    client_of,
    noted,
    upstream,
)
from tests.scenarios.upstream_kit import Upstream

__all__ = ["upstream"]
pytestmark = pytest.mark.anyio
KEY = "AKIA" + "Q3EGIYQZ7XW2MNBV"
"""What looks like a key of a cloud, and is none."""


@pytest.mark.parametrize("era", ["auto", "legacy"])
@pytest.mark.parametrize("secret", [CANARY, KEY], ids=["of this installation", "by its look"])
@pytest.mark.parametrize("question", [FORM, SAMPLE], ids=["form", "sampling"])
async def test_no_secret_goes_out_as_the_answer_to_a_question(
    tmp_path: Path, upstream: Upstream, question: dict[str, Any], secret: str, era: str
) -> None:
    """A model that answers for its person, or is sampled, can be talked into putting one there."""

    def says(params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"colour": f"it is {secret}"})

    async def samples(context: Any, params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(text=f"it is {secret}"), model="m")

    asks(upstream, "legacy", question)
    async with (
        opened(tmp_path, behind(upstream, **ALL), secrets=(CANARY,)) as shop,
        client_of(shop, era, says, sampling_callback=samples) as client,
    ):
        await client.call_tool("look", {"path": "a"})
        assert secret not in json.dumps([upstream.ran, upstream.received])
        assert len(answered(upstream)) == 1
        (note,) = noted(shop)
        assert note["answer"] == "refused"
        assert "holds a secret" in note["why"]
        assert secret not in json.dumps(note)


@pytest.mark.parametrize(
    "title",
    ["Your pаsswоrd", "Ρassword", "Kennwort", "Ihr Passwort", "Mot de passe", "Contraseña", "Пароль", "密码"],
)
def test_a_secret_is_asked_for_in_no_other_letters_and_in_few_other_languages(title: str) -> None:
    schema = {"type": "object", "properties": {"p": {"type": "string", "title": title}}}
    with pytest.raises(Refused, match="something secret"):
        form_schema(schema, "To go on")


@pytest.mark.parametrize("title", ["Straße und Hausnummer", "Ваш город", "Πόλη", "E-Mail für die Rechnung"])
def test_other_languages_may_ask_for_what_is_no_secret(title: str) -> None:
    schema = {"type": "object", "properties": {"p": {"type": "string", "title": title}}}
    assert form_schema(schema, "To go on")["properties"]["p"]["title"] == title
