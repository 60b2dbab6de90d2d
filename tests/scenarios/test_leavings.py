"""What an answered call leaves in the process: nothing that only the garbage collector could clear away."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from comptroller_server.call.case import Case
from tests.scenarios.kit import code_of, opened

pytestmark = pytest.mark.anyio


async def test_an_answered_call_is_gone_without_the_garbage_collector(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        invoice = shop.paid()[0]
        gc.collect()
        # What a test that failed before this one left in its traceback is not of these calls.
        before = {id(one) for one in gc.get_objects() if isinstance(one, Case)}
        gc.disable()
        try:
            for amount in (1, 2):
                assert code_of(await shop.call("lookup_invoice", invoice_id=invoice)) is None
                assert code_of(await shop.refund(invoice, amount)) is None
                assert code_of(await shop.refund(invoice, 500)) == "denied"
            left = [one for one in gc.get_objects() if isinstance(one, Case) and id(one) not in before]
        finally:
            gc.enable()
        assert left == []
        assert len(shop.moved()) == 2
