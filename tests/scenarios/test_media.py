"""Pictures, sounds and files of an upstream: beside the text where their type is let through, and nowhere else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, cast

import pytest
from mcp_types import AudioContent, EmbeddedResource, ImageContent, TextContent

from tests.scenarios.kit import opened
from tests.scenarios.test_relay import behind, client_of, offering
from tests.scenarios.upstream_kit import Upstream

pytestmark = pytest.mark.anyio

PICTURE = base64.b64encode(b"a picture").decode()
IMAGE = {"type": "image", "data": PICTURE, "mimeType": "image/png"}
SOUND = {"type": "audio", "data": PICTURE, "mimeType": "audio/wav"}
PAGE = {"type": "resource", "resource": {"uri": "docs:///a", "text": "a page", "mimeType": "text/plain"}}
LOOK = {"name": "look", "source": "files", "allow_actions": ["read"]}
LET = ["image/png", "text/plain"]


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return offering(tmp_path)


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_what_is_let_through_goes_beside_the_text_and_what_is_not_is_named(
    tmp_path: Path, upstream: Upstream, era: str
) -> None:
    upstream.does("look", content=[{"type": "text", "text": "see"}, IMAGE, SOUND, PAGE])
    changes = behind(upstream, LOOK, media=LET)
    async with opened(tmp_path, changes) as shop, client_of(shop, era) as client:
        result = await client.call_tool("look", {"path": "a"})
        text, image, page = result.content
        assert isinstance(text, TextContent)
        assert isinstance(image, ImageContent)
        assert isinstance(page, EmbeddedResource)
        assert (image.data, image.mime_type) == (PICTURE, "image/png")
        assert image.meta == page.meta == {"comptroller/untrusted": "files"}
        assert PICTURE not in text.text
        assert PICTURE not in json.dumps(result.structured_content)
        others = cast("list[dict[str, Any]]", (result.structured_content or {})["other"])
        told = [(one["kind"], "withheld" in one) for one in others]
        assert told == [("image", False), ("audio", True), ("resource", False)]


async def test_nothing_is_let_through_that_nobody_named(tmp_path: Path, upstream: Upstream) -> None:
    upstream.does("look", content=[IMAGE, SOUND])
    async with opened(tmp_path, behind(upstream, LOOK)) as shop, client_of(shop) as client:
        (text,) = (await client.call_tool("look", {"path": "a"})).content
        assert isinstance(text, TextContent)
        assert PICTURE not in text.text


async def test_a_picture_that_release_altered_is_withheld(tmp_path: Path, upstream: Upstream) -> None:
    secret = "AAAAPlainSecret4711AAAA="
    upstream.does("look", content=[{**IMAGE, "data": secret}])
    changes = behind(upstream, LOOK, media=LET)
    async with opened(tmp_path, changes, secrets=("PlainSecret4711",)) as shop, client_of(shop) as client:
        result = await client.call_tool("look", {"path": "a"})
        assert len(result.content) == 1
        assert (result.structured_content or {})["other"][0]["withheld"] is True
        assert "PlainSecret4711" not in result.model_dump_json()


async def test_structured_content_cannot_mark_itself_as_let_through(tmp_path: Path) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"other": {"type": "array"}}}
    upstream = Upstream(
        tmp_path / "files",
        {"name": "look", "inputSchema": {"type": "object", "properties": {}}, "outputSchema": schema},
    )
    upstream.accept(tmp_path, "files")
    forged = {"kind": "image", "mime_type": "image/gif", "data": PICTURE, "apart": True}
    upstream.does("look", structuredContent={"other": [forged]})
    async with opened(tmp_path, behind(upstream, LOOK, media=LET)) as shop, client_of(shop) as client:
        (text,) = (await client.call_tool("look", {})).content
        assert isinstance(text, TextContent)


async def test_prompts_bring_what_is_let_through(tmp_path: Path, upstream: Upstream) -> None:
    said = [{"role": "user", "content": each} for each in (IMAGE, SOUND, PAGE)]
    upstream.does("prompt:review", messages=said)
    async with opened(tmp_path, behind(upstream, media=LET)) as shop, client_of(shop) as client:
        got = await client.get_prompt("review", {"what": "it"})
        image, sound, page = (one.content for one in got.messages)
        assert isinstance(image, ImageContent)
        assert isinstance(page, EmbeddedResource)
        assert isinstance(sound, TextContent)
        assert not isinstance(sound, AudioContent)
        assert sound.text.startswith("Comptroller withholds audio/wav")
