"""Owner locks: an owner counts as gone only once its process is, and a cut-off owner stops before others begin."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comptroller_audit.ambient import SystemClock
from comptroller_audit.database import Database
from comptroller_audit.errors import StoreUnavailable
from comptroller_audit.owners import LEASE_S, OWNERS, Acknowledge, OwnerLocks, owner_locks
from tests.audit.storekit import Clock, bench
from tests.audit.test_store_faults import KILL, administer

OWNER = """
import sys
from comptroller_audit.ambient import SystemClock
from comptroller_audit.database import Database
from comptroller_audit.owners import owner_locks
lock = owner_locks(Database(sys.argv[1]), SystemClock()).take(sys.argv[2])
print("held" if lock.held() else "not held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def locks(store_url: str, clock: Clock) -> OwnerLocks:
    return owner_locks(Database(store_url), clock)


@pytest.fixture
def other_process(store_url: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, store_url, "owner-1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def is_free_after_a_lease(locks: OwnerLocks, clock: Clock, owner: str) -> bool:
    """Two looks more than a lease apart; one is enough where the kernel tells."""
    locks.is_free(owner)
    clock.pass_ms(int(LEASE_S * 1000) + 1)
    return locks.is_free(owner)


def is_free_soon(locks: OwnerLocks, clock: Clock, owner: str) -> bool:
    """A server notices a dead client within moments."""
    deadline = time.monotonic() + 30
    while not is_free_after_a_lease(locks, clock, owner):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_living_owner_is_never_free_however_long_it_lives(
    locks: OwnerLocks, clock: Clock, other_process: subprocess.Popen[str]
) -> None:
    assert other_process.poll() is None
    for _ in range(3):
        assert not is_free_after_a_lease(locks, clock, "owner-1")


def test_a_killed_owner_is_free(
    locks: OwnerLocks, clock: Clock, other_process: subprocess.Popen[str]
) -> None:
    assert not locks.is_free("owner-1")
    other_process.send_signal(signal.SIGKILL)
    other_process.wait(10)
    assert is_free_soon(locks, clock, "owner-1")


def test_a_stopped_owner_is_not_free(
    locks: OwnerLocks, clock: Clock, other_process: subprocess.Popen[str]
) -> None:
    other_process.send_signal(signal.SIGSTOP)
    assert not is_free_after_a_lease(locks, clock, "owner-1")
    other_process.send_signal(signal.SIGCONT)


def test_an_owner_is_not_free_for_its_own_process_until_it_lets_go(locks: OwnerLocks, clock: Clock) -> None:
    lock = locks.take("owner-2")
    assert lock.held()
    assert not is_free_after_a_lease(locks, clock, "owner-2")
    lock.release()
    assert not lock.held()
    assert is_free_soon(locks, clock, "owner-2")
    lock.release()


def test_an_owner_that_runs_is_not_taken_twice(
    locks: OwnerLocks, other_process: subprocess.Popen[str]
) -> None:
    assert other_process.poll() is None
    with pytest.raises(StoreUnavailable, match="already running"):
        locks.take("owner-1")


def test_an_owner_nobody_ever_saw_is_free(locks: OwnerLocks, clock: Clock) -> None:
    assert is_free_after_a_lease(locks, clock, "owner-9")


def test_a_lock_file_that_is_gone_or_replaced_holds_nothing(tmp_path: Path) -> None:
    lock = owner_locks(Database(f"sqlite:///{tmp_path}/s.db"), Clock()).take("o")
    path = tmp_path / "s.db.owners" / "o"
    path.unlink()
    assert not lock.held()
    path.touch()
    assert not lock.held()
    lock.release()


def test_on_postgres_one_look_is_not_enough(postgres_url: str) -> None:
    clock = Clock()
    locks = owner_locks(Database(postgres_url), clock)
    assert not locks.is_free("o")
    clock.pass_ms(int(LEASE_S * 1000))
    assert not locks.is_free("o")
    clock.pass_ms(1)
    assert locks.is_free("o")


def test_on_postgres_an_owner_that_comes_back_between_two_looks_starts_the_lease_anew(
    postgres_url: str,
) -> None:
    clock = Clock()
    locks = owner_locks(Database(postgres_url), clock)
    assert not locks.is_free("o")
    lock = locks.take("o")
    clock.pass_ms(int(LEASE_S * 1000) + 1)
    assert not locks.is_free("o")
    lock.release()
    assert not locks.is_free("o")


def test_on_postgres_a_proof_that_is_too_old_holds_nothing(postgres_url: str) -> None:
    clock = Clock()
    lock = owner_locks(Database(postgres_url), clock).take("o")
    assert lock.held()
    clock.pass_ms(int(LEASE_S * 1000))
    assert not lock.held()
    lock.release()


def test_on_postgres_a_cut_off_owner_stops_before_anybody_may_take_over(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comptroller_audit.owners.PING_S", 0.05)
    locks = owner_locks(Database(postgres_url), SystemClock())
    lock = locks.take("o")
    administer(postgres_url, KILL)
    assert not locks.is_free("o")
    deadline = time.monotonic() + 30
    while lock.held():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()


def test_an_acknowledgement_is_kept_with_its_counts() -> None:
    table = bench()
    assert table.run(Acknowledge("o", 7, 1, 2, 3)) is None
    assert table.row(OWNERS, "o") == {
        "switch_seq": 7, "waiting": 1, "dispatched": 2, "done": 3, "at_ms": table.clock.wall_ms,
    }  # fmt: skip
