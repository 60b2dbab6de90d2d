"""The header `Comptroller-Task` on its way in: once, in one spelling, to the pipeline and not to the SDK."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.server.test_http import modern, running, send, with_headers

pytestmark = pytest.mark.anyio


async def test_the_header_reaches_the_pipeline_with_the_word_that_a_token_proved_the_client(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as on:
        request = modern("tools/call", {"name": "steps", "arguments": {}}, "steps")
        assert (await send(on, **request)).status_code == 200
        assert (await send(on, **with_headers(request, **{"Comptroller-Task": "t-1"}))).status_code == 200
        first, second = on.governor.seen
        assert (first.task_header, second.task_header) == (None, "t-1")
        assert first.by_token and second.by_token


async def test_a_header_given_twice_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as on, httpx.AsyncClient(trust_env=False) as http:
        request = modern("tools/call", {"name": "steps", "arguments": {}}, "steps")
        twice = [("Comptroller-Task", "t-1"), ("comptroller-task", "t-2")]
        headers = [*request["headers"].items(), *on.bearer().items(), *twice]
        answer = await http.post(on.url, content=request["content"], headers=headers)
        assert answer.status_code == 400
        assert on.governor.seen == []
