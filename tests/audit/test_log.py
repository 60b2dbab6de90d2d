from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.errors import LogDamaged
from comptroller_audit.log import (
    EMPTY_ROOT,
    Frontier,
    ReadNode,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)

# The test data of RFC 6962's reference implementation (certificate-transparency, merkle_tree_test.cc).
_INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_INCLUSION: list[tuple[int, int, list[str]]] = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
_CONSISTENCY: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def mth(inputs: list[bytes]) -> bytes:
    """RFC 9162 §2.1.1, word for word: the definition the fast code is held to."""
    if not inputs:
        return EMPTY_ROOT
    if len(inputs) == 1:
        return leaf_hash(inputs[0])
    split = 1
    while split * 2 < len(inputs):
        split *= 2
    return node_hash(mth(inputs[:split]), mth(inputs[split:]))


def tree(inputs: list[bytes]) -> tuple[ReadNode, list[bytes]]:
    """Stored nodes as a reader, and the root after each append (the empty one first)."""
    nodes: dict[tuple[int, int], bytes] = {}
    frontier = Frontier()
    roots = [frontier.root()]
    for index, data in enumerate(inputs):
        nodes[0, index] = leaf_hash(data)
        for level, at, value in frontier.append(leaf_hash(data)):
            assert (level, at) not in nodes
            nodes[level, at] = value
        roots.append(frontier.root())
    return lambda level, index: nodes[level, index], roots


def test_the_published_roots_are_met() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    _, roots = tree(_INPUTS)
    assert [root.hex() for root in roots] == [EMPTY_ROOT.hex(), *_ROOTS]


def test_the_published_inclusion_proofs_are_met() -> None:
    read, roots = tree(_INPUTS)
    for index, size, expected in _INCLUSION:
        proof = inclusion_proof(read, index, size)
        assert [part.hex() for part in proof] == expected
        assert verify_inclusion(leaf_hash(_INPUTS[index]), index, size, proof, roots[size])


def test_the_published_consistency_proofs_are_met() -> None:
    read, roots = tree(_INPUTS)
    for first, second, expected in _CONSISTENCY:
        proof = consistency_proof(read, first, second)
        assert [part.hex() for part in proof] == expected
        assert verify_consistency(first, second, roots[first], roots[second], proof)


def test_every_proof_up_to_a_size_of_seventy_verifies_and_no_other_leaf_or_root_does() -> None:
    inputs = [str(n).encode() for n in range(70)]
    read, roots = tree(inputs)
    for size in range(1, 71):
        assert root_at(read, size) == roots[size] == mth(inputs[:size])
        for index in range(size):
            proof = inclusion_proof(read, index, size)
            assert verify_inclusion(leaf_hash(inputs[index]), index, size, proof, roots[size])
            assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, roots[size])
            assert not verify_inclusion(leaf_hash(inputs[index]), index, size, proof, roots[size - 1])
            old = consistency_proof(read, index, size)
            assert verify_consistency(index, size, roots[index], roots[size], old)
            assert not verify_consistency(index, size, leaf_hash(b"other"), roots[size], old)
            assert not verify_consistency(index, size, roots[index], leaf_hash(b"other"), old) or index == 0


@given(st.integers(1, 300), st.data())
def test_a_proof_with_a_part_changed_missing_or_added_is_refused(size: int, data: st.DataObject) -> None:
    inputs = [b"%d" % n for n in range(size)]
    read, roots = tree(inputs)
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = leaf_hash(inputs[index]), inclusion_proof(read, index, size)
    assert verify_inclusion(leaf, index, size, proof, roots[size])
    assert not verify_inclusion(leaf, index, size, [*proof, roots[1]], roots[size])
    assert not verify_inclusion(leaf, size, size, proof, roots[size])
    assert not verify_inclusion(leaf, -1, size, proof, roots[size])
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_inclusion(leaf, index, size, proof[:at] + proof[at + 1 :], roots[size])
        changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert not verify_inclusion(leaf, index, size, changed, roots[size])
    first = data.draw(st.integers(1, size))
    old = consistency_proof(read, first, size)
    assert verify_consistency(first, size, roots[first], roots[size], old)
    assert not verify_consistency(first, size, roots[first], roots[size], [*old, roots[1]])
    for at in range(len(old)):
        changed = [*old[:at], bytes(32), *old[at + 1 :]]
        assert not verify_consistency(first, size, roots[first], roots[size], changed)


@given(st.integers(0, 400), st.integers(0, 60))
def test_a_frontier_written_down_and_read_again_goes_on_as_if_it_never_stopped(size: int, more: int) -> None:
    frontier, other = Frontier(), Frontier()
    for number in range(size):
        frontier.append(leaf_hash(b"%d" % number))
        other.append(leaf_hash(b"%d" % number))
    frontier = Frontier.decode(frontier.size, frontier.encode())
    for number in range(size, size + more):
        assert frontier.append(leaf_hash(b"%d" % number)) == other.append(leaf_hash(b"%d" % number))
    assert (frontier.size, frontier.root()) == (size + more, other.root())


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, ""), (0, "00" * 32), (3, "00" * 32), (1, "00" * 31), (1, "zz" * 32), (-1, ""), (2, "00" * 33)],
)
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, text: str) -> None:
    with pytest.raises(LogDamaged, match="head row is damaged"):
        Frontier.decode(size, text)


def test_a_copy_of_a_frontier_goes_its_own_way() -> None:
    frontier = Frontier()
    frontier.append(leaf_hash(b"a"))
    before = frontier.root()
    frontier.copy().append(leaf_hash(b"b"))
    assert (frontier.size, frontier.root(), len(frontier.hashes)) == (1, before, 1)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_no_proof_is_given_of_what_is_not_in_the_log(index: int, size: int) -> None:
    read, _ = tree(_INPUTS)
    with pytest.raises(ValueError, match="is not in a log of"):
        inclusion_proof(read, index, size)


@pytest.mark.parametrize(("first", "second"), [(5, 4), (-1, 4)])
def test_no_proof_is_given_that_a_log_shrank(first: int, second: int) -> None:
    read, roots = tree(_INPUTS)
    with pytest.raises(ValueError, match="continues one of"):
        consistency_proof(read, first, second)
    assert not verify_consistency(first, second, roots[5], roots[4], [roots[1]])


def test_the_empty_log_is_the_beginning_of_every_log_but_only_with_its_own_root() -> None:
    read, roots = tree(_INPUTS)
    assert consistency_proof(read, 0, 8) == []
    assert verify_consistency(0, 8, EMPTY_ROOT, roots[8], [])
    assert not verify_consistency(0, 8, roots[1], roots[8], [])
    assert verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
