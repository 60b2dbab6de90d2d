"""Step 0: what means one thing passes unchanged, every listed attack is refused, and no input is slow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pydantic_core
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comptroller_audit.vocabulary import Json
from comptroller_server.face.framing import (
    BYTES_MAX,
    DEPTH_MAX,
    TOKENS_MAX,
    Framed,
    FrameFault,
    FrameLimits,
    FrameRefusal,
    read_framed_body,
    scan,
)
from tests.endless import ends

INTEGER_MAX = 2**53 - 1
DEFAULT = FrameLimits()


def accepted(data: bytes, limits: FrameLimits = DEFAULT) -> dict[str, Any]:
    result = scan(data, limits)
    assert isinstance(result, Framed), result
    assert result.data == data
    return result.message


def refused(data: bytes, limits: FrameLimits = DEFAULT) -> FrameRefusal:
    result = scan(data, limits)
    assert isinstance(result, FrameRefusal), result
    return result


def call(arguments: str) -> bytes:
    """A `tools/call` around arguments as text."""
    before = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"issue_refund","arguments":'
    return (before + arguments + "}}").encode("utf-8", "surrogatepass")


# --- what passes ---


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b' \t\r\n{"jsonrpc":"2.0","method":"notifications/initialized"}\r',
        call('{"amount":49.5,"invoice_id":"INV-1","note":"\\u00e9\\n\\ud83d\\ude00 \\\\ud800"}'),
        call('{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}'),
        call('{"Method":1,"method":2,"ID":3}'),  # only the envelope's own names are reserved
        call('{"brackets":"[[[[{{{{","quotes":"\\"[\\"","slash":"\\\\"}'),
        call(f"[{INTEGER_MAX},-{INTEGER_MAX},-0,0,0.0,-0.0,1E5,1e-7,5e-324,1e22,1.7976931348623157e308]"),
        call("[0.50,100.000,0.10,1.0e2,12.5e-1,123456789.012345]"),
        b'{"jsonrpc":"2.0","id":"x","result":{}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","x":1}}',
        '{"jsonrpc":"2.0","id":1,"method":"x","params":["€","\U0001f600"]}'.encode(),
    ],
)
def test_a_message_with_one_meaning_passes_unchanged(data: bytes) -> None:
    assert accepted(data) == json.loads(data) == pydantic_core.from_json(data)


# --- what is refused ---

ATTACKS: list[tuple[bytes, FrameFault]] = [
    (b"", FrameFault.EMPTY),
    (b" \r\n\t", FrameFault.EMPTY),
    (b"\xef\xbb\xbf{}", FrameFault.BYTE_ORDER_MARK),
    (b"\xff\xfe{\x00}\x00", FrameFault.NOT_UTF8),
    (b'{"a":"\xff"}', FrameFault.NOT_UTF8),
    (b'{"a":"\xc0\xaf"}', FrameFault.NOT_UTF8),  # an overlong slash
    (b'{"a":"\xe0\x80\xaf"}', FrameFault.NOT_UTF8),
    (b'{"a":"\xed\xa0\x80"}', FrameFault.NOT_UTF8),  # a surrogate in UTF-8 (CESU)
    (b'{"a":"\xf4\x90\x80\x80"}', FrameFault.NOT_UTF8),  # beyond U+10FFFF
    (b'{"a":"\xe2\x82', FrameFault.NOT_UTF8),
    (b"{", FrameFault.NOT_JSON),
    (b"{}{}", FrameFault.NOT_JSON),
    (b"{}\n{}", FrameFault.NOT_JSON),
    (b"{} x", FrameFault.NOT_JSON),
    (b"{}\x00", FrameFault.NOT_JSON),
    (b"{}\x0b", FrameFault.NOT_JSON),
    ("{}\u00a0".encode(), FrameFault.NOT_JSON),
    (b"{'a':1}", FrameFault.NOT_JSON),
    (b'{"a":1,}', FrameFault.NOT_JSON),
    (b'{"a":"\n"}', FrameFault.NOT_JSON),
    (b'{"a":"\x00"}', FrameFault.NOT_JSON),
    (b'{"a":"\\x41"}', FrameFault.NOT_JSON),
    (b'{"a":01}', FrameFault.NOT_JSON),
    (b'{"a":+1}', FrameFault.NOT_JSON),
    (b'{"a":.5}', FrameFault.NOT_JSON),
    (b'{"a":5.}', FrameFault.NOT_JSON),
    (b'{"a":0x10}', FrameFault.NOT_JSON),
    (b"/* */{}", FrameFault.NOT_JSON),
    ('{"a":١}'.encode(), FrameFault.NOT_JSON),
    (b"[]", FrameFault.NOT_AN_OBJECT),
    (b'[{"jsonrpc":"2.0","method":"a"}]', FrameFault.NOT_AN_OBJECT),
    (b'"x"', FrameFault.NOT_AN_OBJECT),
    (b"1", FrameFault.NOT_AN_OBJECT),
    (b"null", FrameFault.NOT_AN_OBJECT),
    (b'{"a":1,"a":1}', FrameFault.DUPLICATE_KEY),
    (b'{"a":1,"\\u0061":2}', FrameFault.DUPLICATE_KEY),
    (b'{"":1,"":2}', FrameFault.DUPLICATE_KEY),
    (call('{"amount":5,"b":[{"amount":1,"x":2,"amount":9000}]}'), FrameFault.DUPLICATE_KEY),
    (call('{"\\/":1,"/":2}'), FrameFault.DUPLICATE_KEY),
    (call('{"\\ud83d\\ude00":1,"\U0001f600":2}'), FrameFault.DUPLICATE_KEY),
    (b'{"method":"tools/list","Method":"tools/call"}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"METHOD":"tools/call"}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"method":"a","Params":{}}', FrameFault.AMBIGUOUS_ENVELOPE),
    ('{"method":"a","param\u017f":{}}'.encode(), FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"method":"a","Id":1}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"method":"a","params":{"name":"a","Name":"b"}}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"method":"a","params":{"Arguments":{}}}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"method":"a","params":{"_Meta":{}}}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"method":"a","params":{"requeststate":""}}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"id":1,"method":"tools/call","result":{}}', FrameFault.AMBIGUOUS_ENVELOPE),
    (b'{"id":1,"result":{},"error":{}}', FrameFault.AMBIGUOUS_ENVELOPE),
    (call("NaN"), FrameFault.NOT_A_NUMBER),
    (call("[1,Infinity]"), FrameFault.NOT_A_NUMBER),
    (call('{"a":-Infinity}'), FrameFault.NOT_A_NUMBER),
    (call('"\\ud800"'), FrameFault.LONE_SURROGATE),
    (call('"\\uDC00 x"'), FrameFault.LONE_SURROGATE),
    (call('"\\ud800\\ud800\\udc00"'), FrameFault.LONE_SURROGATE),
    (call('"\\udc00\\ud800"'), FrameFault.LONE_SURROGATE),
    (call('"\\ud800\\\\udc00"'), FrameFault.LONE_SURROGATE),
    (call('{"\\uDBFF":1}'), FrameFault.LONE_SURROGATE),
    (call(str(INTEGER_MAX + 1)), FrameFault.INTEGER_RANGE),
    (call(str(-INTEGER_MAX - 1)), FrameFault.INTEGER_RANGE),
    (call("1" * 5000), FrameFault.INTEGER_RANGE),  # past what int() takes
    (call("9007199254740992.0"), FrameFault.INTEGER_RANGE),
    (call("1e20"), FrameFault.INTEGER_RANGE),
    (call("0.1000000000000000055"), FrameFault.INEXACT_NUMBER),
    (call("0.30000000000000001"), FrameFault.INEXACT_NUMBER),
    (call("9007199254740991.1"), FrameFault.INEXACT_NUMBER),
    (call("50.00000000000000001"), FrameFault.INEXACT_NUMBER),
    (call("1e400"), FrameFault.INEXACT_NUMBER),
    (call("-1e400"), FrameFault.INEXACT_NUMBER),
    (call("1e-400"), FrameFault.INEXACT_NUMBER),
    (call("1e99999999999999999999999"), FrameFault.INEXACT_NUMBER),
    (call("1e" + "9" * 5000), FrameFault.INEXACT_NUMBER),
    (call("0." + "1" * 5000), FrameFault.INEXACT_NUMBER),
]


@pytest.mark.parametrize(("data", "fault"), ATTACKS)
def test_a_message_with_two_readings_or_none_is_refused(data: bytes, fault: FrameFault) -> None:
    refusal = refused(data)
    assert refusal.reason is fault
    assert refusal.id is None
    assert refusal.http_status == 400


def test_every_fault_is_among_the_attacks_tried() -> None:
    tried = {fault for _, fault in ATTACKS}
    bounds = {FrameFault.TOO_LARGE, FrameFault.TOO_DEEP, FrameFault.TOO_MANY_TOKENS}
    assert tried | bounds == set(FrameFault)


@pytest.mark.parametrize(("data", "fault"), ATTACKS)
def test_the_answer_is_one_line_of_json_rpc_with_a_null_id(data: bytes, fault: FrameFault) -> None:
    refusal = refused(data)
    line = refusal.answer
    assert line.isascii()
    assert b"\n" not in line
    error = {"code": -32700, "message": refusal.text, "data": {"reason": str(fault)}}
    assert json.loads(line) == {"jsonrpc": "2.0", "id": None, "error": error}


@pytest.mark.parametrize("arguments", ['{"%s":1,"%s":2}', '{"b":%s9,"c":"%s"}'])
def test_a_refusal_quotes_their_text_escaped_and_cut(arguments: str) -> None:
    hostile = "9" * 3000 if "%s9" in arguments else "\\n\u202e\\u001b[2J" * 500
    text = refused(call(arguments % (hostile, hostile))).text
    assert len(text) < 400
    assert text.replace("…", "").replace("±", "").isascii()
    assert "\n" not in text
    assert "\x1b" not in text


# --- bounds ---


def test_a_message_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    limits = FrameLimits(bytes_max=40)
    assert accepted(b'{"a":"' + b"x" * 32 + b'"}', limits)
    refusal = refused(b'{"a":"' + b"x" * 33 + b'"}', limits)
    assert refusal.reason is FrameFault.TOO_LARGE
    assert refusal.http_status == 413


def test_what_is_too_large_is_refused_without_being_looked_at() -> None:
    class Unread(bytes):
        def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
            raise AssertionError((encoding, errors))

    assert refused(Unread(b"[" * (BYTES_MAX + 1))).reason is FrameFault.TOO_LARGE
    with pytest.raises(AssertionError):
        scan(Unread(b"[]"))


def deep(levels: int) -> list[bytes]:
    """Messages of exactly this many levels, each in another shape."""
    inner = levels - 1
    half = inner // 2
    return [
        b'{"a":' + b"[" * inner + b"]" * inner + b"}",
        b'{"a":' * inner + b"{}" + b"}" * inner,
        b'{"a":' + b'[{"b":' * half + (b"[]" if inner % 2 else b"1") + b"}]" * half + b"}",
        b'{"x":[[],[],{}],"s":"]]]]}}}\\"]]]","a":' + b"[" * inner + b"]" * inner + b"}",
        b'{"\\\\":"\\\\\\"[[","a":' + b"[[],{}," * (inner - 1) + b'["}"]' + b"]" * (inner - 1) + b"}",
    ]


@pytest.mark.parametrize("data", deep(DEPTH_MAX))
def test_the_deepest_message_passes(data: bytes) -> None:
    assert accepted(data) == json.loads(data)


@pytest.mark.parametrize("data", [*deep(DEPTH_MAX + 1), *deep(200), *deep(10_000)])
def test_a_deeper_message_is_refused(data: bytes) -> None:
    assert refused(data).reason is FrameFault.TOO_DEEP


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 10_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"a":[', b'["\\"",'])
def test_levels_that_never_close_are_counted(levels: int, opening: bytes) -> None:
    assert refused(opening * levels).reason is FrameFault.TOO_DEEP


def test_brackets_inside_strings_are_not_levels() -> None:
    text = "[{" * 5000 + '\\"' + "[{" * 5000 + "\\\\"
    assert accepted(call(f'{{"a":"{text}","b":[1]}}'))


def test_wide_is_not_deep() -> None:
    data = call("[" + ",".join(['[{"a":[1]},{}]'] * 2000) + "]")
    assert accepted(data) == json.loads(data)


def test_too_many_values_are_refused_and_as_many_commas_in_a_string_are_not() -> None:
    assert refused(call("[" + "1," * TOKENS_MAX + "1]")).reason is FrameFault.TOO_MANY_TOKENS
    assert accepted(call('"' + "[1,:]" * TOKENS_MAX + '"'))


MEGABYTES_OF: dict[str, tuple[bytes, bytes, bytes]] = {
    "[": (b"", b"[", b""),
    "]": (b"", b"]", b""),
    "[[]": (b"", b"[[]", b""),
    "[], ": (b'{"a":[', b"[],", b""),
    "{}, ": (b'{"a":[', b"{},", b""),
    '"a":': (b"", b'"a":', b""),
    '{"a":': (b"", b'{"a":', b""),
    '"{":': (b"", b'"{":', b""),
    '"': (b"", b'"', b""),
    "backslashes": (b"", b"\\", b""),
    "backslashes in a string": (b'{"a":"', b"\\\\", b'"}'),
    "backslashes without end": (b'{"a":"', b"\\", b""),
    "escaped quotes without end": (b'{"a":"', b'\\"', b""),
    "surrogates": (b'{"a":"', b"\\ud83d\\ude00", b'"}'),
    "half surrogates": (b'{"a":"', b"\\ud83d", b'"}'),
    "spaces": (b"", b" ", b""),
    "newlines after": (b"{}", b"\n", b""),
    "one integer": (b'{"a":', b"1", b"}"),
    "one fraction": (b'{"a":0.', b"1", b"}"),
    "one exponent": (b'{"a":1e', b"9", b"}"),
    "numbers": (b'{"a":[', b"0.1234567890123456,", b"0]}"),
    "emoji": (b'{"a":"', "\U0001f600".encode(), b'"}'),
    "not UTF-8": (b"", b"\xff", b""),
    "a long key": (b'{"', b"k", b'":1}'),
}


@pytest.mark.parametrize("name", MEGABYTES_OF)
def test_the_worst_input_of_the_largest_size_takes_linear_time(name: str) -> None:
    before, unit, after = MEGABYTES_OF[name]
    data = before + unit * ((BYTES_MAX - len(before) - len(after)) // len(unit)) + after
    with ends():  # 0.05 to 0.3 s of work on the machine it was written on; quadratic is hours
        scan(data)


# --- laws ---

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not INTEGER_MAX < abs(x) < 1e21)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
names = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('[]{},:"\\'), max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)
RESERVED = {"jsonrpc", "id", "method", "params", "result", "error"}
messages = st.dictionaries(names.filter(lambda name: name.casefold() not in RESERVED), values, max_size=4)


@given(messages, st.booleans(), st.sampled_from([None, 0, 2]))
def test_what_has_none_of_the_faults_passes_and_means_what_every_parser_reads(
    message: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    data = json.dumps(message, ensure_ascii=ascii_only, indent=indent).encode()
    assert accepted(data) == message
    assert pydantic_core.from_json(data) == message


@given(messages)
def test_the_exact_bounds_agree_with_the_quick_ones(message: dict[str, Any]) -> None:
    """With tiny limits the exact count decides; it must measure what the message really has."""
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    depth, tokens = measured(message)
    exact = FrameLimits(depth_max=depth, tokens_max=tokens)
    assert accepted(data, exact) == message
    assert refused(data, FrameLimits(depth_max=depth - 1, tokens_max=tokens)).reason is FrameFault.TOO_DEEP
    fewer = FrameLimits(depth_max=depth, tokens_max=tokens - 1)
    assert refused(data, fewer).reason is FrameFault.TOO_MANY_TOKENS


def measured(value: Json) -> tuple[int, int]:
    """Levels and structural characters of a value in compact JSON, counted on the value."""
    if isinstance(value, dict):
        inner = [*value.values()]
    elif isinstance(value, list):
        inner = value
    else:
        return 0, 0
    parts = [measured(item) for item in inner]
    own = 2 + max(len(inner) - 1, 0) + (len(inner) if isinstance(value, dict) else 0)
    return 1 + max((depth for depth, _ in parts), default=0), own + sum(tokens for _, tokens in parts)


@given(st.binary(max_size=200) | st.text('[]{},:"\\u0dD81eE.- \n', max_size=60).map(str.encode))
@example(b'{"a":"\\"')
@example(b'{"a":"\\')
def test_any_bytes_give_a_value_and_what_passes_is_what_json_reads(data: bytes) -> None:
    result = scan(data, FrameLimits(depth_max=3, tokens_max=12))
    if isinstance(result, Framed):
        assert result.message == json.loads(data)
    else:
        json.loads(result.answer)


@given(
    st.text("0123456789", min_size=1, max_size=25), st.text("0123456789", max_size=25), st.integers(-330, 330)
)
@example("0", "1000000000000000055", 0)
@example("4", "9", -324)
def test_a_number_passes_exactly_when_its_shortest_spelling_means_the_same(
    whole: str, fraction: str, exponent: int
) -> None:
    whole = whole.lstrip("0") or "0"
    token = whole + (f".{fraction}" if fraction else "") + f"e{exponent}"
    value = float(token)
    survives = not math.isinf(value) and Fraction(token) == Fraction(repr(value))
    result = scan(call(token))
    if survives and not INTEGER_MAX < abs(value) < 1e21:
        assert isinstance(result, Framed)
    else:
        assert isinstance(result, FrameRefusal)
        assert result.reason is (FrameFault.INTEGER_RANGE if survives else FrameFault.INEXACT_NUMBER)


# --- HTTP bodies ---


def http(*events: dict[str, Any]) -> tuple[Callable[[], Any], list[dict[str, Any]]]:
    left = list(events)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive, left


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.anyio
async def test_a_body_in_parts_is_one_message() -> None:
    receive, _ = http(part(b'{"a"', True), {"type": "http.request", "more_body": True}, part(b":1}", False))
    framed = await read_framed_body(receive)
    assert framed == Framed(b'{"a":1}', {"a": 1})


@pytest.mark.anyio
async def test_a_body_without_a_last_part_flag_ends_there() -> None:
    receive, _ = http({"type": "http.request", "body": b"{}"})
    assert await read_framed_body(receive) == Framed(b"{}", {})


@pytest.mark.anyio
async def test_an_empty_body_is_refused() -> None:
    receive, _ = http({"type": "http.request"})
    refusal = await read_framed_body(receive)
    assert isinstance(refusal, FrameRefusal)
    assert refusal.reason is FrameFault.EMPTY


@pytest.mark.anyio
async def test_a_body_is_read_no_further_than_its_bound() -> None:
    receive, left = http(*[part(b"x" * 30, True)] * 10)
    refusal = await read_framed_body(receive, FrameLimits(bytes_max=100))
    assert isinstance(refusal, FrameRefusal)
    assert (refusal.reason, refusal.http_status) == (FrameFault.TOO_LARGE, 413)
    assert len(left) == 6


@pytest.mark.anyio
async def test_a_body_of_exactly_the_bound_is_read() -> None:
    data = b'{"a":"' + b"x" * 92 + b'"}'
    receive, _ = http(part(data[:50], True), part(data[50:], False))
    assert isinstance(await read_framed_body(receive, FrameLimits(bytes_max=100)), Framed)


@pytest.mark.anyio
async def test_a_client_that_leaves_in_the_middle_gives_nothing() -> None:
    receive, _ = http(part(b'{"a"', True), {"type": "http.disconnect"})
    assert await read_framed_body(receive) is None
