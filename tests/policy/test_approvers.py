"""Approvers: enrolled people, each with a credential that is stored only as a hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_audit.store import Store
from comptroller_audit.unit import Committed, Stop, Stopped
from comptroller_audit.vocabulary import Code, RecordType, Refusal
from comptroller_policy.approvers import (
    APPROVERS,
    Approver,
    EnrolApprover,
    approver_by_credential,
    approver_names,
    hashed,
    new_credential,
)
from tests.audit.storekit import NOON, TENANT, Bench, bench, commit, open_store, rows_of

SALT = b"sixteen bytes ok"


def enrol(
    name: str = "alice", credential: str = "alice.x", added_by: str = "", log_size: int | None = 0
) -> EnrolApprover:
    return EnrolApprover(name, SALT.hex(), hashed(credential, SALT), ("approver",), added_by, log_size)


def code(stop: Stop | None) -> Code:
    assert isinstance(stop, Refusal)
    return stop.code


def with_alice() -> Bench:
    table = bench()
    assert table.run(enrol()) is None
    return table


def test_the_first_approver_is_enrolled_before_the_first_serve_and_recorded() -> None:
    table = with_alice()
    assert table.row(APPROVERS, "alice")["at_ms"] == NOON
    [entry] = table.log
    assert entry.type is RecordType.APPROVER_ADDED
    assert entry.packet == {"v": 1, "approver": "alice", "roles": ["approver"], "added_by": ""}


def test_after_the_first_serve_nobody_enrols_without_an_approver() -> None:
    table = bench()
    table.head.bundle = "sha256:1"
    assert code(table.run(enrol())) is Code.DENIED
    assert table.rows == {}


def test_once_somebody_is_enrolled_nobody_enrols_without_an_approver() -> None:
    table = with_alice()
    assert code(table.run(enrol("bob", log_size=None))) is Code.DENIED


def test_of_two_who_found_nobody_enrolled_one_becomes_the_first() -> None:
    table = bench()
    assert table.run(enrol("alice"), enrol("bob")) is not None
    assert table.rows == {}
    table = with_alice()
    assert code(table.run(enrol("bob"))) is Code.DENIED
    assert (APPROVERS, "bob") not in table.rows


def test_an_enrolled_approver_enrols_others_at_any_time() -> None:
    table = with_alice()
    table.head.bundle = "sha256:1"
    assert table.run(enrol("bob", added_by="alice", log_size=None)) is None
    assert table.row(APPROVERS, "bob")["added_by"] == "alice"


def test_somebody_who_is_not_enrolled_enrols_nobody() -> None:
    table = with_alice()
    assert code(table.run(enrol("bob", added_by="mallory", log_size=None))) is Code.DENIED
    assert (APPROVERS, "bob") not in table.rows


def test_a_name_is_not_enrolled_twice() -> None:
    table = with_alice()
    assert code(table.run(enrol("alice", "alice.other", added_by="alice"))) is Code.KEY_CONFLICT
    assert table.row(APPROVERS, "alice")["scrypt"] == hashed("alice.x", SALT)


def test_credentials_are_long_random_and_name_their_person() -> None:
    first, second = new_credential("j.doe"), new_credential("j.doe")
    assert first != second
    name, _, secret = first.rpartition(".")
    assert name == "j.doe"
    assert len(secret) == 43


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["alice", "j.doe", "ä b"])
async def test_a_credential_finds_its_person_and_nothing_else_does(name: str, tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/s.db", tmp_path) as store:
        credential = new_credential(name)
        assert isinstance(await commit(store, enrol(name, credential)), Committed)
        assert who(store, credential) == who(store, f" {credential}\n") == Approver(name, ("approver",))
        wrong = [
            "", ".", name, f"{name}.", f"{credential}x", credential[:-1], f"bob.{credential.rpartition('.')[2]}",
            new_credential(name), credential.rpartition(".")[2], "ß", "\0",
        ]  # fmt: skip
        assert [who(store, text) for text in wrong] == [None] * len(wrong)
        stored = str(rows_of(store, APPROVERS, name))
        assert credential.rpartition(".")[2] not in stored


def who(store: Store, credential: str) -> Approver | None:
    return store.read_now(lambda reader: approver_by_credential(reader, TENANT, credential))


@pytest.mark.anyio
async def test_approvers_are_listed_per_tenant_and_enrolled_on_both_databases(
    store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url, tmp_path) as store:
        await commit(store, enrol())
        again = await commit(store, enrol())
        assert isinstance(again, Stopped)
        await commit(store, enrol("bob"), tenant="other")
        assert store.read_now(lambda reader: approver_names(reader, TENANT)) == [
            Approver("alice", ("approver",))
        ]
        assert store.read_now(lambda reader: approver_by_credential(reader, "other", "alice.x")) is None
