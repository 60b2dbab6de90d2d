"""Step 0, bytes in: one scan of every message before anything else parses it.

Two parsers that read the same bytes differently are a way around every check behind them (RFC 8259 §4, §6
and §8 leave duplicate names, numbers and surrogates to the reader). So what could be read in two ways is
refused here, and what is left means one thing to every parser. The scan is linear and never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Never, cast

from comptroller_audit.canonical import INTEGER_MAX, decimal_parts, is_outside_integers
from comptroller_audit.vocabulary import JsonObject

__all__ = [
    "BYTES_MAX",
    "DEPTH_MAX",
    "NUMBER_CHARS_MAX",
    "TOKENS_MAX",
    "FrameFault",
    "FrameLimits",
    "FrameRefusal",
    "Framed",
    "read_framed_body",
    "scan",
    "too_large",
]

BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes in one message."""

DEPTH_MAX: Final = 64
"""Arrays and objects inside one another, the message itself included."""

TOKENS_MAX: Final = 250_000
"""Structural characters (`[ ] { } , :` outside strings) in one message: bounds the time of a parse."""

NUMBER_CHARS_MAX: Final = 400
"""Characters in one number; no float needs more than 330."""

_PARSE_ERROR: Final = -32700
_QUOTED_CHARS_MAX: Final = 40
_JSON_BLANKS: Final = " \t\n\r"
_BOM: Final = "\ufeff"


class FrameFault(StrEnum):
    """Why a message was refused before it was parsed. A closed list; it goes into `error.data.reason`."""

    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    BYTE_ORDER_MARK = "byte_order_mark"
    EMPTY = "empty"
    TOO_DEEP = "too_deep"
    TOO_MANY_TOKENS = "too_many_tokens"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_KEY = "duplicate_key"
    AMBIGUOUS_ENVELOPE = "ambiguous_envelope"
    NOT_A_NUMBER = "not_a_number"
    INTEGER_RANGE = "integer_range"
    INEXACT_NUMBER = "inexact_number"
    LONE_SURROGATE = "lone_surrogate"


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """Bounds of one message: bytes, levels, structural characters."""

    bytes_max: int = BYTES_MAX
    depth_max: int = DEPTH_MAX
    tokens_max: int = TOKENS_MAX


_DEFAULT_LIMITS: Final = FrameLimits()


@dataclass(frozen=True, slots=True)
class Framed:
    """A message that means one thing: the bytes as received and what they say."""

    data: bytes
    message: JsonObject


@dataclass(frozen=True, slots=True)
class FrameRefusal:
    """A message that was not let in. `text` is for a person; `id` is null, for nothing in it was trusted."""

    reason: FrameFault
    text: str
    id: None = None

    @property
    def http_status(self) -> int:
        """413 for size, else 400."""
        return 413 if self.reason is FrameFault.TOO_LARGE else 400

    @property
    def answer(self) -> bytes:
        """The JSON-RPC error as one line of ASCII, without its newline."""
        error = {"code": _PARSE_ERROR, "message": self.text, "data": {"reason": self.reason.value}}
        return json.dumps({"jsonrpc": "2.0", "id": self.id, "error": error}, separators=(",", ":")).encode()


class _Refused(Exception):
    """Carries a refusal out of the parser's hooks; never leaves this module."""

    def __init__(self, reason: FrameFault, text: str) -> None:
        super().__init__(text)
        self.refusal = FrameRefusal(reason, text)


def scan(data: bytes, limits: FrameLimits = _DEFAULT_LIMITS) -> Framed | FrameRefusal:
    """One message, checked and parsed; a value in any case, never an exception. Linear in its size."""
    if len(data) > limits.bytes_max:
        return too_large(limits)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return FrameRefusal(
            FrameFault.NOT_UTF8, f"The message is not UTF-8 at byte {error.start}; send UTF-8."
        )
    try:
        _check_shape(data, limits)
        return Framed(data, _parse(text, limits))
    except _Refused as refused:
        return refused.refusal


def too_large(limits: FrameLimits) -> FrameRefusal:
    """The refusal of a message that goes past `bytes_max`, for readers that stop there."""
    return FrameRefusal(
        FrameFault.TOO_LARGE, f"The message is larger than {limits.bytes_max} bytes; send a smaller one."
    )


# --- shape: depth and tokens, before the recursive parser sees anything ---

_STRUCTURE: Final = b'[]{},:"'
_NO_STRUCTURE: Final = bytes(sorted(set(range(256)) - set(_STRUCTURE)))
_ONE_BRACKET: Final = bytes.maketrans(b"{}", b"[]")


def _check_shape(data: bytes, limits: FrameLimits) -> None:
    """Refuse what is too deep or has too many tokens. Raw counts settle nearly every message."""
    if len(data) <= limits.tokens_max and data.count(b"[") + data.count(b"{") <= limits.depth_max:
        return
    structure = _outside_strings(data)
    if len(structure) > limits.tokens_max:
        raise _Refused(
            FrameFault.TOO_MANY_TOKENS,
            f"The message has more than {limits.tokens_max} structural characters; send fewer values.",
        )
    brackets = structure.translate(_ONE_BRACKET, b",:")
    if _is_deeper(brackets, limits.depth_max):
        raise _too_deep(limits)


def _outside_strings(data: bytes) -> bytes:
    """The structural characters outside strings, as the parser sees them up to its first error.

    A run of backslashes is taken in pairs from its left; a quote behind an odd one does not end a string.
    Two quotes with no structure between them are one whole string: valid JSON never has two strings abut.
    """
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = unescaped.translate(None, _NO_STRUCTURE).replace(b'""', b"")
    return b"".join(structure.split(b'"')[::2])


def _is_deeper(brackets: bytes, depth_max: int) -> bool:
    """Peel `[]` pairs: each pass takes off the innermost level of every branch."""
    for _ in range(depth_max):
        peeled = brackets.replace(b"[]", b"")
        if len(peeled) == len(brackets):
            break
        brackets = peeled
    return b"[]" in brackets or brackets.count(b"[") > depth_max


def _too_deep(limits: FrameLimits) -> _Refused:
    return _Refused(
        FrameFault.TOO_DEEP,
        f"The message is nested deeper than {limits.depth_max} levels; send a flatter one.",
    )


# --- content: the C parser, with a hook wherever JSON leaves a choice to the reader ---


def _parse(text: str, limits: FrameLimits) -> JsonObject:
    if text.startswith(_BOM):
        raise _Refused(
            FrameFault.BYTE_ORDER_MARK, "The message begins with a byte order mark; send it without."
        )
    body = text.strip(_JSON_BLANKS)
    if not body:
        raise _Refused(FrameFault.EMPTY, "The message is empty; send one JSON-RPC object.")
    try:
        message, end = _DECODER.raw_decode(body)
    except json.JSONDecodeError as error:
        raise _Refused(
            FrameFault.NOT_JSON,
            f"The message is not JSON at character {error.pos}: {error.msg}; send one JSON object.",
        ) from None
    except RecursionError:
        raise _too_deep(limits) from None
    if end != len(body):
        raise _Refused(
            FrameFault.NOT_JSON,
            f"More text follows the message at character {end}; send one JSON object at a time.",
        )
    if type(message) is not dict:
        raise _Refused(
            FrameFault.NOT_AN_OBJECT,
            "The message is not a JSON object (batches are not served); send one object.",
        )
    members = cast(JsonObject, message)
    if "\\u" in body and _surrogate_escape(body):
        _check_surrogates(members)
    _check_envelope(members)
    return members


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused(
            FrameFault.DUPLICATE_KEY, f"An object has the key {_repeated(pairs)} twice; send each key once."
        )
    return members


def _repeated(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return _quoted(name)
        seen.add(name)
    raise AssertionError("called only for pairs with a repeated name")


_SURELY_EXACT_CHARS: Final = 15
"""An integer this short is within ±(2⁵³−1)."""

_INTEGER_CHARS_MAX: Final = len(str(-INTEGER_MAX))


def _integer(token: str) -> int:
    if len(token) <= _SURELY_EXACT_CHARS:
        return int(token)
    if len(token) > _INTEGER_CHARS_MAX or abs(int(token)) > INTEGER_MAX:
        raise _out_of_range(token)
    return int(token)


def _float(token: str) -> float:
    if len(token) > NUMBER_CHARS_MAX:
        raise _Refused(
            FrameFault.INEXACT_NUMBER, f"A number is longer than {NUMBER_CHARS_MAX} characters; shorten it."
        )
    value = float(token)
    spelled = repr(value)
    if spelled != token and decimal_parts(token) != decimal_parts(spelled):
        raise _Refused(
            FrameFault.INEXACT_NUMBER,
            f"The number {_quoted(token)} does not survive as a 64-bit float; send it shorter, or as text.",
        )
    if is_outside_integers(value):
        raise _out_of_range(token)
    return value


def _constant(token: str) -> Never:
    raise _Refused(FrameFault.NOT_A_NUMBER, f"{token} is not JSON; send null or text.")


def _out_of_range(token: str) -> _Refused:
    return _Refused(
        FrameFault.INTEGER_RANGE, f"The integer {_quoted(token)} is beyond ±{INTEGER_MAX}; send it as text."
    )


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)

_surrogate_escape: Final = re.compile(r"\\u[dD][89a-fA-F]").search
_spell: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _check_surrogates(message: JsonObject) -> None:
    """The parser has joined the pairs; what is still half a pair has no UTF-8."""
    try:
        _spell(message).encode()
    except UnicodeEncodeError:
        raise _Refused(
            FrameFault.LONE_SURROGATE, "A string escapes half a surrogate pair; send whole characters."
        ) from None


# --- envelope: the names that decide what a message is ---

_ENVELOPE: Final = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})

_PARAMS: Final = frozenset(
    {
        "_meta",
        "name",
        "arguments",
        "task",
        "inputResponses",
        "requestState",
        "uri",
        "cursor",
        "ref",
        "argument",
    }
    | {"context", "protocolVersion", "capabilities", "clientInfo", "level", "requestId", "reason", "message"}
    | {"progressToken", "progress", "total", "taskId", "notifications", "elicitationId"}
)
"""Every member name that MCP gives the `params` of a message from a client."""

_FOLDED: Final = {name.casefold(): name for name in _ENVELOPE}
_FOLDED_PARAMS: Final = {name.casefold(): name for name in _PARAMS}


def _check_envelope(message: JsonObject) -> None:
    """Refuse `Method` beside or instead of `method`: some parsers match names without case, and fold ſ to s."""
    if not message.keys() <= _ENVELOPE:
        _check_names(message, _FOLDED)
    params = message.get("params")
    if type(params) is dict and not params.keys() <= _PARAMS:
        _check_names(params, _FOLDED_PARAMS)
    if len(message.keys() & {"method", "result", "error"}) > 1:
        raise _Refused(
            FrameFault.AMBIGUOUS_ENVELOPE,
            'The message has more than one of "method", "result" and "error"; send exactly one.',
        )


def _check_names(members: JsonObject, folded: dict[str, str]) -> None:
    for name in members:
        meant = folded.get(name.casefold(), name)
        if meant != name:
            raise _Refused(
                FrameFault.AMBIGUOUS_ENVELOPE,
                f"The key {_quoted(name)} differs from {_quoted(meant)} only by case; rename it.",
            )


def _quoted(text: str) -> str:
    """Their text inside ours: escaped to ASCII and cut."""
    return json.dumps(text[:_QUOTED_CHARS_MAX]) + ("…" if len(text) > _QUOTED_CHARS_MAX else "")


# --- HTTP ---

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_framed_body(
    receive: Receive, limits: FrameLimits = _DEFAULT_LIMITS
) -> Framed | FrameRefusal | None:
    """The body of one ASGI HTTP request, scanned; None when the client is gone.

    Reading stops at `bytes_max`: the rest of a larger body is left unread, so the answer to a refusal
    should carry `Connection: close`.
    """
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        chunk: bytes = event.get("body", b"")
        if len(body) + len(chunk) > limits.bytes_max:
            return too_large(limits)
        if not event.get("more_body", False):
            return scan(bytes(body) + chunk if body else chunk, limits)
        body += chunk
