"""How a server ends while one of its tools has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_audit.ambient import SystemClock
from comptroller_audit.owners import owner_locks
from comptroller_server.app import running
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Ambient, Installation
from tests.simulation.bank import Switchboard

pytestmark = pytest.mark.anyio


class _StillRunning(Switchboard):
    @property
    def busy(self) -> int:
        return 1


@pytest.mark.parametrize(("bank", "freed"), [(Switchboard(), True), (_StillRunning(), False)])
async def test_a_server_frees_its_lock_only_when_no_tool_of_it_runs_on(
    tmp_path: Path, bank: Switchboard, freed: bool
) -> None:
    config = load_config(Path(__file__).parent / "bank.yaml", data_dir=tmp_path)
    installation = Installation(config, Ambient(), {"bank": bank})
    async with running(installation) as service:
        pass
    locks = owner_locks(installation.store.database, SystemClock())
    assert locks.is_free(service.owner.id) is freed
    service.owner.release()
    assert locks.is_free(service.owner.id)
