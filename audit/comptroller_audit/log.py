"""The Merkle log of one tenant: hashes, frontier, proofs, and the four tables that hold it.

The tree is that of RFC 9162 §2.1 (SHA-256). A node is named by (level, index): it covers the leaves
`index << level` up to `(index + 1) << level`; level 0 is the leaf hashes themselves. Only complete subtrees
are stored, so a stored node never changes. The head row carries the frontier, the roots of the complete
subtrees that make up the present size, so that appending needs nothing but that row.

Nothing here touches a database: the store calls these functions under the head row's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from sqlalchemy import BigInteger, Column, LargeBinary, Text
from sqlmodel import Field, SQLModel

from comptroller_audit.errors import LogDamaged

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "Frontier",
    "LogEntry",
    "LogHead",
    "LogNode",
    "LogPayload",
    "ReadNode",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_at",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree with no leaves (RFC 9162 §2.1.1)."""

ReadNode = Callable[[int, int], bytes]
"""`read(level, index)` returns the 32 bytes of one complete subtree; level 0 reads a leaf hash."""


def leaf_hash(envelope: bytes) -> bytes:
    """SHA-256(0x00 || envelope), RFC 9162 §2.1.1."""
    return sha256(b"\x00" + envelope).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 9162 §2.1.1."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """What an append needs of the tree: its size, and one hash per set bit of the size, largest subtree first.

    Raises LogDamaged when the hashes do not fit the size.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self._hashes = list(hashes)
        self._size = size
        if (
            size < 0
            or len(self._hashes) != size.bit_count()
            or any(len(h) != HASH_BYTES for h in self._hashes)
        ):
            raise LogDamaged(
                f"the log's head row is damaged: {len(self._hashes)} frontier hashes do not fit {size} entries; "
                "run `comptroller audit verify` and restore the store from a backup"
            )

    @property
    def size(self) -> int:
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        return tuple(self._hashes)

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add one leaf hash; return the interior nodes (level >= 1, index, hash) it completed, lowest first."""
        nodes: list[tuple[int, int, bytes]] = []
        level, index, here, hashes = 0, self._size, leaf, self._hashes
        while index & 1:
            here = sha256(b"\x01" + hashes.pop() + here).digest()
            level += 1
            index >>= 1
            nodes.append((level, index, here))
        hashes.append(here)
        self._size += 1
        return nodes

    def root(self) -> bytes:
        """Root of the tree at its present size."""
        return _fold(self._hashes)

    def copy(self) -> Frontier:
        """An independent frontier, for a unit that may still be refused."""
        return Frontier(self._size, self._hashes)

    def encode(self) -> str:
        """The hashes in hex, 64 characters each, without separators; the size is stored beside it."""
        return b"".join(self._hashes).hex()

    @classmethod
    def decode(cls, size: int, text: str) -> Frontier:
        """The inverse of `encode`. Raises LogDamaged."""
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b"?"  # fits no size: the constructor refuses it with the one message
        return cls(size, [raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)])


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Join adjacent complete subtrees, largest first, into one root."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _span_root(read: ReadNode, first: int, end: int) -> bytes:
    """MTH of the leaves [first, end). `first` is aligned, as every span RFC 9162 asks for is."""
    hashes: list[bytes] = []
    while first < end:
        level = (end - first).bit_length() - 1
        hashes.append(read(level, first >> level))
        first += 1 << level
    return _fold(hashes)


def root_at(read: ReadNode, size: int) -> bytes:
    """Root of the tree as it was at `size` leaves."""
    return _span_root(read, 0, size)


def _split(width: int) -> int:
    """The largest power of two smaller than `width` (width >= 2)."""
    return 1 << ((width - 1).bit_length() - 1)


def inclusion_proof(read: ReadNode, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]), RFC 9162 §2.1.3.1, leaf side first. Raises ValueError unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError(f"entry {index} is not in a log of {size} entries")
    proof: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if index < middle:
            proof.append(_span_root(read, middle, end))
            end = middle
        else:
            proof.append(_span_root(read, first, middle))
            first = middle
    proof.reverse()
    return proof


def consistency_proof(read: ReadNode, first: int, second: int) -> list[bytes]:
    """PROOF(first, D[second]), RFC 9162 §2.1.4.1; empty when the sizes are equal or `first` is 0.

    Raises ValueError unless 0 <= first <= second.
    """
    if not 0 <= first <= second:
        raise ValueError(f"no log of {second} entries continues one of {first}")
    if first in (0, second):
        return []
    proof: list[bytes] = []
    start, end, whole = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(_span_root(read, middle, end))
            end = middle
        else:
            proof.append(_span_root(read, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_span_root(read, start, end))
    proof.reverse()
    return proof


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162 §2.1.3.2: is the leaf hash `leaf` entry `index` of the log with `size` entries and this root?"""
    if not 0 <= index < size:
        return False
    fn, sn, here = index, size - 1, leaf
    for part in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            here = node_hash(part, here)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            here = node_hash(here, part)
        fn >>= 1
        sn >>= 1
    return sn == 0 and here == root


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """RFC 9162 §2.1.4.2: does the log of `second` entries begin with the log of `first` entries?

    The empty log is the beginning of every log; its root must be SHA-256 of nothing.
    """
    if first == second:
        return first >= 0 and not proof and first_root == second_root
    if first == 0:
        return second > 0 and not proof and first_root == EMPTY_ROOT
    if not 0 < first < second or not proof:
        return False
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    old = new = path[0]
    for part in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old, new = node_hash(part, old), node_hash(part, new)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            new = node_hash(new, part)
        fn >>= 1
        sn >>= 1
    return sn == 0 and old == first_root and new == second_root


def _tenant() -> Column[str]:
    return Column("tenant", Text, primary_key=True)


def _index() -> Column[int]:
    return Column("idx", BigInteger, primary_key=True, autoincrement=False)


class LogHead(SQLModel, table=True):
    """One row per tenant. Its lock orders every write of the tenant."""

    __tablename__ = "log_head"  # pyright: ignore[reportAssignmentType]  # SQLModel documents a plain string

    tenant: str = Field(sa_column=_tenant())
    size: int = Field(sa_column=Column("size", BigInteger, nullable=False))
    frontier: str = Field(sa_column=Column("frontier", Text, nullable=False))
    record_ms: int = Field(sa_column=Column("record_ms", BigInteger, nullable=False))
    switch_seq: int = Field(sa_column=Column("switch_seq", BigInteger, nullable=False))
    bundle: str = Field(sa_column=Column("bundle", Text, nullable=False))


class LogEntry(SQLModel, table=True):
    """The exact envelope bytes (UTF-8 text, never JSONB) and their leaf hash."""

    __tablename__ = "log_entry"  # pyright: ignore[reportAssignmentType]  # SQLModel documents a plain string

    tenant: str = Field(sa_column=_tenant())
    idx: int = Field(sa_column=_index())
    envelope: str = Field(sa_column=Column("envelope", Text, nullable=False))
    leaf: bytes = Field(sa_column=Column("leaf", LargeBinary, nullable=False))


class LogNode(SQLModel, table=True):
    """Interior nodes of complete subtrees; level 1 and up, for the leaves are in log_entry."""

    __tablename__ = "log_node"  # pyright: ignore[reportAssignmentType]  # SQLModel documents a plain string

    tenant: str = Field(sa_column=_tenant())
    level: int = Field(sa_column=Column("level", BigInteger, primary_key=True, autoincrement=False))
    idx: int = Field(sa_column=_index())
    hash: bytes = Field(sa_column=Column("hash", LargeBinary, nullable=False))


class LogPayload(SQLModel, table=True):
    """The sealed payload of an entry and its wrapped key. Deleting the row erases the payload for good."""

    __tablename__ = "log_payload"  # pyright: ignore[reportAssignmentType]  # SQLModel documents a plain string

    tenant: str = Field(sa_column=_tenant())
    idx: int = Field(sa_column=_index())
    key_id: str = Field(sa_column=Column("key_id", Text, nullable=False))
    wrapped: bytes = Field(sa_column=Column("wrapped", LargeBinary, nullable=False))
    sealed: bytes = Field(sa_column=Column("sealed", LargeBinary, nullable=False))
