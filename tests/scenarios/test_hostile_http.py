"""What a web page, or a parser that reads a request otherwise than we do, would make of our HTTP face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.test_exchange import CALL
from tests.server.test_http import running, send, with_headers

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_page_may_send_without_asking_is_no_call_on_any_road(tmp_path: Path, kind: Any) -> None:
    """Browsers send these to other origins without a question first, so they are refused beside all else."""
    async with running(tmp_path) as on:
        got = await send(on, **with_headers(CALL, **{"Content-Type": kind}))
        assert got.status_code == 400
        assert on.governor.seen == []
