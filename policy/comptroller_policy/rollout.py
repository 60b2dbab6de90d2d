"""Rollout: how large a share of a tool's side effects goes without the gate `rollout.human_approval.<tool>`.

The config gives a percent, the store may hold a later word about one tool, and a draw says of one business record
whether it is in that share. A word changes under the head lock and raises `head.switch_seq`, as switches do, so that
"on the next commit" is exact.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, Text, bindparam, select
from sqlmodel import Field, SQLModel

from comptroller_audit.canonical import keyed_digest
from comptroller_audit.database import Relation, Row, table_of
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import JsonObject
from comptroller_policy.declarations import RolloutMode

__all__ = [
    "BUCKETS",
    "PERCENT_MAX",
    "ROLLOUTS",
    "STEPS",
    "Draw",
    "DrawnBy",
    "Level",
    "RolloutRow",
    "Standing",
    "Word",
    "bucket_of",
    "configured_percent",
    "effective",
    "is_canary",
    "is_drawn",
    "level_in",
    "proof_of",
    "read_levels",
]

BUCKETS = 10_000
"""Buckets of the draw; one percent is a hundred of them."""
PERCENT_MAX = 100
STEPS = (5, 25, 50, PERCENT_MAX)
"""A promotion goes to the next of these percents, never past it."""


class Word(StrEnum):
    """Who spoke last about a tool: the config alone, a promotion, or a demotion."""

    CONFIGURED = "configured"
    PROMOTED = "promoted"
    DEMOTED = "demoted"


class RolloutRow(SQLModel, table=True):
    """One tool: the word in force, and the evidence since it was given. `id` is the tool's name.

    `base` is the config's percent when the word was given. `clean` counts verified calls in a row without a
    contradiction: a `silent_wrong`, a call in doubt or a person's no begins it again. `unedited` counts approvals in a
    row that were used as the agent had proposed; an edit or a no begins it again. `proof` is a keyed digest of the
    word: whoever can write the table but has no keys can take a promotion away, and give none.
    """

    __tablename__ = "rollouts"  # pyright: ignore[reportAssignmentType]
    tenant: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    word: str
    percent: int
    base: int
    reason: str = Field(sa_type=Text)
    changed_by: str
    seq: int
    at_ms: int = Field(sa_type=BigInteger)
    proof: str
    calls: int
    verified: int
    silent_wrong: int
    in_doubt: int
    agreed: int
    denied: int
    clean: int
    unedited: int
    edited: int


ROLLOUTS = Relation(RolloutRow)
_TABLE = table_of(RolloutRow)
_ALL = select(
    _TABLE.c.id, _TABLE.c.word, _TABLE.c.percent, _TABLE.c.base, _TABLE.c.seq, _TABLE.c.proof
).where(_TABLE.c.tenant == bindparam("tenant"))


@dataclass(frozen=True, slots=True)
class Level:
    """The word in force about one tool."""

    word: Word
    percent: int
    base: int


def proof_of(key: bytes, tool: str, percent: int, base: int, seq: int) -> str:
    """What proves that somebody with the store's keys promoted `tool`."""
    return keyed_digest(key, "rollout-word", tool.encode(), f"{percent} {base} {seq}".encode())


def level_in(row: Row | None, tool: str, key: bytes) -> Level | None:
    """The word in a row. A promotion without its proof counts as a demotion."""
    if row is None:
        return None
    level = Level(Word(row["word"]), row["percent"], row["base"])
    if level.word is not Word.PROMOTED:
        return level
    expected = proof_of(key, tool, level.percent, level.base, row["seq"])
    return level if hmac.compare_digest(expected, row["proof"]) else Level(Word.DEMOTED, 0, level.base)


def read_levels(reader: Reader, tenant: str, key: bytes) -> dict[str, Level]:
    """Tool to word, as last committed. Read `head.switch_seq` before: a newer word only makes a commit look again."""
    names: tuple[str, ...] = ("word", "percent", "base", "seq", "proof")
    found: dict[str, Row] = {
        str(tool): dict(zip(names, row, strict=True)) for tool, *row in reader.query(_ALL, tenant=tenant)
    }
    levels = {tool: level_in(row, tool, key) for tool, row in found.items()}
    return {tool: level for tool, level in levels.items() if level is not None}


def configured_percent(mode: RolloutMode, canary_percent: int) -> int:
    """What the config alone opens: everything in `auto`, the canary while people are asked."""
    return PERCENT_MAX if mode is RolloutMode.AUTO else canary_percent


def effective(level: Level | None, configured: int) -> int:
    """The percent in force.

    A demotion holds whatever the config says, until a promotion. A promotion holds under the config it was made
    under; a config that was lowered since then lowers it too, and one that was raised raises it.
    """
    if level is None or level.word is Word.CONFIGURED:
        return configured
    if level.word is Word.DEMOTED:
        return 0
    if configured == level.base:
        return level.percent
    return min(configured, level.percent) if configured < level.base else max(configured, level.percent)


# ------------------------------------------------------------------------------------------------- the draw


class DrawnBy(StrEnum):
    """What the draw was made from: nothing that an agent can vary."""

    RECORD = "record"
    PRINCIPAL = "principal"


class Standing(StrEnum):
    """Why a call goes without the rollout gate (`auto`, `in`), or why it does not."""

    AUTO = "auto"
    IN = "in"
    OUTSIDE = "outside"
    RESUMED = "resumed"
    IRREVERSIBLE = "irreversible"
    UNNAMED_RECORD = "unnamed_record"
    WINDOW_SHARE = "window_share"
    OTHER_GATE = "other_gate"


@dataclass(frozen=True, slots=True)
class Draw:
    """One call's draw: `bucket` of `BUCKETS`, and the percent in force when it was made."""

    standing: Standing
    bucket: int
    percent: int
    drawn_by: DrawnBy

    @property
    def canary(self) -> bool:
        """Whether the call goes without the rollout gate: `context.rollout.canary`."""
        return self.standing in (Standing.AUTO, Standing.IN)

    def in_packet(self) -> JsonObject:
        return {
            "canary": self.canary,
            "standing": self.standing.value,
            "bucket": self.bucket,
            "percent": self.percent,
            "drawn_by": self.drawn_by.value,
        }


def bucket_of(key: bytes, *subject: bytes) -> int:
    """0 to `BUCKETS` - 1, from an HMAC under the store's secret: always the same, and nobody outside can tell it."""
    return int(keyed_digest(key, "rollout", *subject), 16) % BUCKETS


def is_drawn(bucket: int, percent: int) -> bool:
    """Whether the bucket is in the share. Who is in at 5 percent is in at 25 too."""
    return bucket < percent * (BUCKETS // PERCENT_MAX)


def is_canary(packet: JsonObject) -> bool:
    """Whether a recorded call went without the rollout gate."""
    drawn = packet.get("rollout")
    return isinstance(drawn, dict) and drawn.get("canary") is True
