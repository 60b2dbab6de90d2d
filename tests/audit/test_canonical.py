"""RFC 8785: the published vectors, the refusals, and the law that the fast path is the exact one."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from decimal import Context, Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comptroller_audit import canonical
from comptroller_audit.canonical import (
    DEPTH_MAX,
    INTEGER_MAX,
    canonical_bytes,
    decimal_parts,
    digest,
    keyed_digest,
    number_text,
)
from comptroller_audit.errors import CanonicalError, KeyRingError

exact_bytes = canonical._exact_bytes  # pyright: ignore[reportPrivateUsage]  # the meaning of the fast path


EXACT = Context(prec=200)


def refused(value: object) -> str:
    with pytest.raises(CanonicalError) as caught:
        canonical_bytes(cast(Any, value))
    return str(caught.value)


# --- published vectors ---


def test_the_sample_of_rfc_8785_section_3_2_2_is_spelled_as_published() -> None:
    sample = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    published = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_bytes(json.loads(sample)) == published.encode()


def test_the_sample_of_rfc_8785_section_3_2_3_is_sorted_by_utf_16_units() -> None:
    sample = r"""{
      "\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"
    }"""
    spelled = json.loads(canonical_bytes(json.loads(sample)))
    assert list(spelled.values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


APPENDIX_B = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "published"), APPENDIX_B)
def test_the_numbers_of_rfc_8785_appendix_b_are_spelled_as_published(bits: str, published: str) -> None:
    value = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert number_text(value) == published
    if INTEGER_MAX < abs(value) < 1e21:
        refused(value)  # an integer other readers cannot keep: spelled, but not let in
    else:
        assert canonical_bytes(value) == published.encode()


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_what_appendix_b_calls_an_error_is_refused(bits: str) -> None:
    value = struct.unpack(">d", bytes.fromhex(bits))[0]
    refused(value)
    with pytest.raises(ValueError, match="no JSON spelling"):
        number_text(value)


# --- one spelling ---


SPELLINGS: list[tuple[Any, str]] = [
    (50, "50"),
    (50.0, "50"),
    (-0.0, "0"),
    (0, "0"),
    (1e5, "100000"),
    (-3.0, "-3"),
    (49.5, "49.5"),
    (0.0001, "0.0001"),
    (0.00001, "0.00001"),
    (1e-7, "1e-7"),
    (1e22, "1e+22"),
    (float(INTEGER_MAX), "9007199254740991"),
    (-INTEGER_MAX, "-9007199254740991"),
    (True, "true"),
    (None, "null"),
    ("", '""'),
    ({}, "{}"),
    ([], "[]"),
    ([{"a": []}, [None]], '[{"a":[]},[null]]'),
    ((1, "a"), '[1,"a"]'),
    ({"b": 1, "a": {"d": 2.0, "c": [1.5, 2]}}, '{"a":{"c":[1.5,2],"d":2},"b":1}'),
]


@pytest.mark.parametrize(("value", "spelled"), SPELLINGS)
def test_a_value_has_its_one_spelling(value: Any, spelled: str) -> None:
    assert canonical_bytes(value) == spelled.encode()


def test_an_integral_float_inside_arguments_is_spelled_as_the_integer() -> None:
    assert canonical_bytes({"amount": 50.0}) == canonical_bytes({"amount": 50}) == b'{"amount":50}'


def test_every_character_is_escaped_as_rfc_8785_says() -> None:
    short = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
    for code in [*range(0xD800), *range(0xE000, 0x10400), 0x1F600, 0x10FFFF]:
        expected = short.get(code, f"\\u{code:04x}" if code < 0x20 else chr(code))
        assert canonical_bytes(chr(code)) == f'"{expected}"'.encode(), hex(code)


def test_names_beyond_the_basic_plane_sort_before_the_last_basic_ones() -> None:
    value: Any = {"\ufb33": 1, "\U0001f600": 2}
    assert sorted(value) == ["\ufb33", "\U0001f600"]  # by code point it is the other way round
    assert canonical_bytes(value) == '{"\U0001f600":2,"\ufb33":1}'.encode()


class Word(StrEnum):
    READ = "read"


class Level(IntEnum):
    HIGH = 3


def test_enums_are_spelled_as_what_they_hold() -> None:
    assert canonical_bytes({"w": Word.READ, "l": Level.HIGH}) == b'{"l":3,"w":"read"}'
    assert canonical_bytes(cast(Any, {Word.READ: 1})) == b'{"read":1}'


# --- refusals ---


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        ({"a": {"b": [1, float("nan")]}}, "$.a.b[1]", "NaN"),
        ([float("inf")], "$[0]", "infinite"),
        ([-float("inf")], "$[0]", "infinite"),
        ({"id": INTEGER_MAX + 1}, "$.id", "integer beyond"),
        ({"id": -INTEGER_MAX - 1}, "$.id", "integer beyond"),
        ({"id": 2.0**53}, "$.id", "integer beyond"),
        ({"id": 10**400}, "$.id", "integer beyond"),
        ({"id": 1e20}, "$.id", "integer beyond"),
        ({"a": "x\ud800"}, "$.a", "half a surrogate pair at character 1"),
        ({"a": {"\udc00": 1}}, '$.a["\\udc00"]', "half a surrogate pair"),
        ({"a": {1: 2}}, "$.a", "member name of type int"),
        ({"a": {None: 2}}, "$.a", "member name of type NoneType"),
        ({True: 2}, "$", "member name of type bool"),
        ({"a": {"b": 1, 2: 3}}, "$.a", "member name of type int"),
        ({"amount": Decimal("1.50")}, "$.amount", "Decimal"),
        ([Fraction(1, 2)], "$[0]", "Fraction"),
        ([b"bytes"], "$[0]", "bytes"),
        ([{1, 2}], "$[0]", "set"),
        (object(), "$", "object"),
        ({"odd name": [float("nan")]}, '$["odd name"][0]', "NaN"),
    ],
)
def test_what_has_no_canonical_bytes_is_refused_with_its_path(value: object, where: str, why: str) -> None:
    message = refused(value)
    assert message.startswith(f"{where} ")
    assert why in message


def test_a_refusal_never_shows_the_value_and_cuts_a_hostile_path() -> None:
    message = refused({"x\n" * 5000: [Decimal(4929123456789012)]})
    assert "4929" not in message
    assert "\n" not in message
    assert len(message) < 400


def nested(levels: int, wrap: str, leaf: Any = 1) -> Any:
    value = leaf
    for _ in range(levels):
        value = [value] if wrap == "array" else {"a": value}
    return value


@pytest.mark.parametrize("wrap", ["array", "object"])
@pytest.mark.parametrize("leaf", [1, 50.0, [], {}])
def test_the_deepest_level_that_passes_is_the_limit(wrap: str, leaf: Any) -> None:
    own = 1 if isinstance(leaf, list | dict) else 0
    deepest = nested(DEPTH_MAX - own, wrap, leaf)
    assert json.loads(canonical_bytes(deepest)) == deepest
    assert "nested deeper than 64" in refused(nested(DEPTH_MAX - own + 1, wrap, leaf))


def test_a_value_too_deep_for_recursion_is_refused() -> None:
    assert "nested deeper" in refused(nested(100_000, "array"))


def test_a_value_that_contains_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert "nested deeper" in refused(ring)


# --- laws ---

texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\ufb33\U0001f600\u20ac\x00\x1f"\\/')
)
integers = st.integers(-INTEGER_MAX, INTEGER_MAX)
floats = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not INTEGER_MAX < abs(x) < 1e21)
scalars = st.none() | st.booleans() | integers | floats | integers.map(float) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=25,
)


@given(values)
@example({"\ufb33": 1, "\U0001f600": 2})
@example([1e22, 1e-5, 0.0001, -0.0, 5e-324, 123456789012345.6])
def test_the_fast_path_writes_what_the_exact_path_writes(value: Any) -> None:
    assert canonical_bytes(value) == exact_bytes(value)


@given(values)
def test_reading_back_canonical_bytes_gives_the_same_value_and_the_same_bytes(value: Any) -> None:
    spelled = canonical_bytes(value)
    again = json.loads(spelled)
    assert again == value
    assert canonical_bytes(again) == spelled


wild_scalars = (
    scalars | st.floats() | st.integers() | st.text(st.characters()) | st.decimals() | st.binary(max_size=3)
)
wild = st.recursive(
    wild_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(), inner, max_size=4),
    max_leaves=10,
)


@given(wild)
def test_the_fast_path_refuses_what_the_exact_path_refuses(value: Any) -> None:
    try:
        expected: object = exact_bytes(value)
    except CanonicalError as error:
        expected = str(error)
    try:
        actual: object = canonical_bytes(value)
    except CanonicalError as error:
        actual = str(error)
    assert actual == expected


@given(st.dictionaries(texts, integers), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(members: dict[str, int], random: Any) -> None:
    shuffled = list(members.items())
    random.shuffle(shuffled)
    assert canonical_bytes(cast(Any, dict(shuffled))) == canonical_bytes(cast(Any, members))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(number_text(value)) == value


@given(st.integers(0, 10**30), st.integers(-40, 40), st.integers(0, 5))
def test_decimal_parts_say_exactly_what_a_token_says(number: int, exponent: int, zeros: int) -> None:
    digits, point = decimal_parts(f"-{number}e{exponent}")
    assert (
        Fraction(int(digits or "0"), 10 ** len(digits)) * Fraction(10) ** point
        == number * Fraction(10) ** exponent
    )
    assert digits == digits.strip("0")
    assert decimal_parts(f"{Decimal(number).scaleb(exponent, EXACT):f}") == (digits, point)
    assert decimal_parts(f"{number}.{'0' * zeros}E{exponent:+}") == (digits, point)


# --- digests ---


def test_a_digest_is_sha_256_over_length_prefixed_parts() -> None:
    framed = b"\0\0\0\0\0\0\0\x08claim/v1" + b"\0\0\0\0\0\0\0\x01a" + b"\0\0\0\0\0\0\0\0"
    assert digest("claim/v1", b"a", b"") == hashlib.sha256(framed).digest()
    key = bytes(range(32))
    assert keyed_digest(key, "claim/v1", b"a", b"") == hmac.new(key, framed, "sha256").hexdigest()


@given(st.lists(st.binary(max_size=12), max_size=4), st.lists(st.binary(max_size=12), max_size=4))
@example([b"ab", b"c"], [b"a", b"bc"])
@example([b""], [])
@example([b"a\0\0\0\0\0\0\0\x01b"], [b"a", b"b"])
def test_two_lists_of_parts_share_a_digest_only_if_they_are_equal(one: list[bytes], two: list[bytes]) -> None:
    assert (digest("d", *one) == digest("d", *two)) is (one == two)


def test_domains_separate_digests_and_so_do_keys() -> None:
    key, other = b"k" * 32, b"o" * 32
    assert digest("a", b"x") != digest("b", b"x")
    assert digest("ax") != digest("a", b"x")
    assert keyed_digest(key, "a", b"x") != keyed_digest(key, "b", b"x")
    assert keyed_digest(key, "a", b"x") != keyed_digest(other, "a", b"x")


def test_an_empty_domain_and_a_guessable_key_are_refused() -> None:
    with pytest.raises(CanonicalError, match="empty domain"):
        digest("", b"x")
    with pytest.raises(CanonicalError, match="empty domain"):
        keyed_digest(b"k" * 32, "", b"x")
    for length in (0, 15):
        with pytest.raises(KeyRingError, match="at least 16"):
            keyed_digest(b"k" * length, "d", b"x")
