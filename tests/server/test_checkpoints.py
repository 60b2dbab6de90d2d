"""Checkpoints: when there is something new, to every sink, and at the end of the process."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.log import Frontier
from tests.scenarios.kit import opened

pytestmark = pytest.mark.anyio


def notes(path: Path) -> list[tuple[int, str]]:
    """Size and root (base64) of each checkpoint in a file."""
    found = [text.splitlines() for text in path.read_text().split("\n\n") if "comptroller.local/" in text]
    return [
        (int(lines[at + 1]), lines[at + 2])
        for lines in found
        for at, line in enumerate(lines)
        if line.startswith("comptroller.local/")
    ]


async def test_a_checkpoint_is_written_when_the_log_grew_and_only_then(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        file = tmp_path / "checkpoints.log"
        await shop.call("search_tickets")
        assert await shop.service.checkpointer.write("local")
        assert await shop.service.checkpointer.write("local")
        assert [size for size, _ in notes(file)] == [len(shop.log())]
        await shop.call("search_tickets")
        assert await shop.service.checkpointer.write("local")
        assert [size for size, _ in notes(file)][1:] == [len(shop.log())]


async def test_the_end_of_the_process_writes_the_last_checkpoint_over_the_whole_log(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.refund(shop.paid()[0], 5)
        tree = Frontier()
        for entry in shop.log():
            tree.append(bytes.fromhex(entry.leaf))
    size, root = notes(tmp_path / "checkpoints.log")[-1]
    assert size == tree.size
    assert base64.b64decode(root) == tree.root()


async def test_a_sink_that_fails_keeps_no_other_from_its_checkpoint_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(config: dict[str, Any]) -> None:
        config["store"]["checkpoints"] = [{"file": "{data_dir}/deep/a.log"}, {"file": "{data_dir}/b.log"}]

    async with opened(tmp_path, two) as shop:
        (tmp_path / "deep").write_text("in the way")
        await shop.call("search_tickets")
        assert not await shop.service.checkpointer.write("local")
        assert len(notes(tmp_path / "b.log")) == 1
        (tmp_path / "deep").unlink()
        (tmp_path / "deep").mkdir()
        assert await shop.service.checkpointer.write("local")
        assert len(notes(tmp_path / "deep" / "a.log")) == len(notes(tmp_path / "b.log")) == 1
