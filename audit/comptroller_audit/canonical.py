"""One spelling for every JSON value, and the digests made over it.

The spelling is RFC 8785 (JSON Canonicalization Scheme): members sorted by UTF-16 code units, numbers
written as ECMAScript writes them, nothing escaped that need not be. So 50 and 50.0 are the same bytes.
Almost every value takes the fast path: the C encoder writes it and one walk shows that JCS writes the same.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

from comptroller_audit.errors import CanonicalError, KeyRingError
from comptroller_audit.vocabulary import Json

__all__ = [
    "DEPTH_MAX",
    "DIGEST_KEY_BYTES_MIN",
    "INTEGER_MAX",
    "canonical_bytes",
    "decimal_parts",
    "digest",
    "is_outside_integers",
    "keyed_digest",
    "number_text",
]

DEPTH_MAX: Final = 64
"""Arrays and objects inside one another; a scalar has depth 0, `[]` depth 1."""

INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259 §6)."""

DIGEST_KEY_BYTES_MIN: Final = 16
"""A shorter key can be guessed, and with it what was digested."""

_EXPONENT_FROM: Final = 1e21
"""From here on ECMAScript writes an exponent, so the spelling is no longer that of an integer."""

_REPR_EXPONENT_BELOW: Final = 1e-4
"""Below this Python writes an exponent where ECMAScript may not."""

_PATH_CHARS_MAX: Final = 200

_encode_plain: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode
_quote: Final = json.JSONEncoder(ensure_ascii=False).encode
_is_name: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII).fullmatch


def canonical_bytes(value: Json) -> bytes:
    """The RFC 8785 bytes of a JSON value, in UTF-8.

    Raises CanonicalError, naming the path, for what JSON cannot say or readers understand differently:
    NaN and infinities, lone surrogates, integers beyond ±(2⁵³−1) however they are spelled, member names
    that are not text, more than DEPTH_MAX levels, and types that are not JSON. A tuple counts as an array.
    """
    try:
        text = _encode_plain(value)
        if _is_plain(value, ascii_names=not text.isascii()):
            return text.encode()
    except (TypeError, ValueError, RecursionError):
        pass  # the exact path says what is wrong, and where
    return _exact_bytes(value)


def _is_plain(value: object, ascii_names: bool) -> bool:
    """Whether the C encoder's spelling of a value is canonical. It came through, so the value is finite.

    It sorts names by code point; with `ascii_names` only ASCII ones pass, where that is the order of JCS.
    """
    level: list[object] = [value]
    depth = 0
    while level:
        below: list[object] = []
        for node in level:
            kind = type(node)
            if kind is str or kind is bool or node is None:
                continue
            if kind is int:
                if not -INTEGER_MAX <= cast(int, node) <= INTEGER_MAX:
                    return False
            elif kind is dict:
                members = cast(dict[object, object], node)
                for key in members:
                    if type(key) is not str or (ascii_names and not key.isascii()):
                        return False
                below += members.values()
                if depth >= DEPTH_MAX:
                    return False
            elif kind is list:
                below += cast(list[object], node)
                if depth >= DEPTH_MAX:
                    return False
            elif (
                kind is not float
                or cast(float, node).is_integer()
                or abs(cast(float, node)) < _REPR_EXPONENT_BELOW
            ):
                return False
        level = below
        depth += 1
    return True


def _exact_bytes(value: object) -> bytes:
    """RFC 8785 step by step; the meaning of `canonical_bytes`."""
    parts: list[str] = []
    _write(value, parts.append, [])
    return "".join(parts).encode()


def _write(value: object, emit: Callable[[str], None], path: list[str | int]) -> None:
    if value is None:
        emit("null")
    elif isinstance(value, bool):
        emit("true" if value else "false")
    elif isinstance(value, str):
        emit(_quoted(value, path))
    elif isinstance(value, int):
        emit(_integer_text(value, path))
    elif isinstance(value, float):
        emit(_float_text(value, path))
    elif isinstance(value, dict):
        _write_object(cast(dict[object, object], value), emit, path)
    elif isinstance(value, list | tuple):
        _write_array(cast(list[object] | tuple[object, ...], value), emit, path)
    else:
        kind = type(value).__name__
        raise CanonicalError(
            f"{_show(path)} is a {kind}, which is not JSON; convert it first (amounts to text)"
        )


def _write_object(members: dict[object, object], emit: Callable[[str], None], path: list[str | int]) -> None:
    _check_depth(path)
    for key in members:
        if not isinstance(key, str):
            kind = type(key).__name__
            raise CanonicalError(f"{_show(path)} has a member name of type {kind}; member names are text")
    separator = "{"
    for key in sorted(cast(dict[str, object], members), key=_utf16_order):
        path.append(key)
        emit(separator)
        emit(_quoted(key, path))
        emit(":")
        _write(members[key], emit, path)
        path.pop()
        separator = ","
    emit("}" if members else "{}")


def _write_array(
    items: list[object] | tuple[object, ...], emit: Callable[[str], None], path: list[str | int]
) -> None:
    _check_depth(path)
    separator = "["
    for index, item in enumerate(items):
        path.append(index)
        emit(separator)
        _write(item, emit, path)
        path.pop()
        separator = ","
    emit("]" if items else "[]")


def _check_depth(path: list[str | int]) -> None:
    if len(path) >= DEPTH_MAX:
        raise CanonicalError(f"{_show(path)} is nested deeper than {DEPTH_MAX} levels; send a flatter value")


def _utf16_order(key: str) -> bytes:
    """RFC 8785 §3.2.3. A lone surrogate sorts somewhere and is refused when it is written."""
    return key.encode("utf-16-be", "surrogatepass")


def _quoted(text: str, path: list[str | int]) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CanonicalError(
            f"{_show(path)} has half a surrogate pair at character {error.start}; send whole characters"
        ) from None
    return _quote(text)


def _integer_text(value: int, path: list[str | int]) -> str:
    if not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise CanonicalError(f"{_show(path)} is an integer beyond ±{INTEGER_MAX}; send it as text")
    return int.__repr__(value)


def _float_text(value: float, path: list[str | int]) -> str:
    if not math.isfinite(value):
        raise CanonicalError(f"{_show(path)} is NaN or infinite, which JSON cannot say; send null or text")
    if is_outside_integers(value):
        raise CanonicalError(f"{_show(path)} is an integer beyond ±{INTEGER_MAX}; send it as text")
    return number_text(value)


def is_outside_integers(value: float) -> bool:
    """Whether RFC 8785 would spell this float as an integer that other readers cannot keep exactly.

    From 1e21 on the spelling has an exponent and every reader takes it for a float; those are fine.
    """
    return INTEGER_MAX < abs(value) < _EXPONENT_FROM


def number_text(value: float) -> str:
    """A finite float as ECMAScript writes it (ECMA-262 Number::toString, RFC 8785 §3.2.2.3).

    Any magnitude: `canonical_bytes` is narrower. Raises ValueError for NaN and infinities.
    """
    if not math.isfinite(value):
        raise ValueError("NaN and infinities have no JSON spelling; send null or text")
    digits, point = decimal_parts(float.__repr__(value))
    sign = "-" if value < 0 else ""
    if not digits:
        return "0"
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def decimal_parts(token: str) -> tuple[str, int]:
    """The magnitude of a JSON number token: `(digits, point)` means 0.digits × 10^point, exactly.

    Digits carry no zeros at either end; zero is `("", 0)`. Two tokens mean the same magnitude if and only
    if their parts are equal. The exponent must be short enough for `int()` (4,300 digits).
    """
    mantissa, _, exponent = token.lstrip("-").lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    padded = whole + fraction
    digits = padded.lstrip("0")
    if not digits:
        return "", 0
    point = len(whole) - (len(padded) - len(digits)) + int(exponent or "0")
    return digits.rstrip("0"), point


def _show(path: list[str | int]) -> str:
    """A JSON path as RFC 9535 writes it, escaped and cut: names may be hostile."""
    shown = "$"
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        elif _is_name(step):
            shown += f".{step}"
        else:
            shown += f"[{json.dumps(step)}]"
        if len(shown) > _PATH_CHARS_MAX:
            return shown[:_PATH_CHARS_MAX] + "…"
    return shown


def digest(domain: str, *parts: bytes) -> bytes:
    """SHA-256 over the domain and the parts, each behind its length: 32 bytes.

    Digests of different domains, or of parts split differently, never meet. The domain names the use and
    its version, such as `approval/v1`. Raises CanonicalError for an empty domain.
    """
    return hashlib.sha256(_framed(domain, parts)).digest()


def keyed_digest(key: bytes, domain: str, *parts: bytes) -> str:
    """HMAC-SHA-256 over the same bytes as `digest`, in hex: nobody without the key can guess what was digested.

    Raises KeyRingError for a key shorter than DIGEST_KEY_BYTES_MIN, CanonicalError for an empty domain.
    """
    if len(key) < DIGEST_KEY_BYTES_MIN:
        raise KeyRingError(
            f"a digest key has {len(key)} bytes, at least {DIGEST_KEY_BYTES_MIN} are needed; take it from the key ring"
        )
    # Not `hmac.digest`, which gives up the interpreter's lock: under load, getting it back takes longer than this.
    return hmac.new(key, _framed(domain, parts), "sha256").hexdigest()


def _framed(domain: str, parts: tuple[bytes, ...]) -> bytes:
    pieces = [_domain_prefix(domain)]
    for part in parts:
        pieces.append(len(part).to_bytes(8, "big"))
        pieces.append(part)
    return b"".join(pieces)


@lru_cache(maxsize=256)
def _domain_prefix(domain: str) -> bytes:
    if not domain:
        raise CanonicalError("a digest has an empty domain; name its use and version, such as approval/v1")
    name = domain.encode()
    return len(name).to_bytes(8, "big") + name
