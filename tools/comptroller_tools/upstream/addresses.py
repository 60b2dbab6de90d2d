"""Which addresses of an upstream's resources may be read: those a person accepted, and those that fit a template.

A template is read as RFC 6570 has it, as far as it can be judged: `{name}` stands for one segment, `{+name}` for
several. Nothing of an address is repaired or decoded for the upstream; what could mean two things is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from comptroller_audit.linear import Whole, whole
from comptroller_tools.upstream.cleaning import hidden_in
from comptroller_tools.upstream.definitions import Kind, Unusable, Written

__all__ = ["OUR_SCHEME", "Addresses", "Template", "check_address", "scheme_of"]

OUR_SCHEME = "comptroller"
"""Addresses of ours begin so, and no upstream's may."""
ADDRESS_CHARS_MAX = 2_048
EXPRESSIONS_MAX = 8
_HOSTED = frozenset({"http", "https", "ws", "wss", "ftp", "ftps", "sftp", "ssh", "smb"})
"""Schemes whose first part after `//` is a host to be talked to."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_EXPRESSION = re.compile(r"\{(\+?)([A-Za-z_][A-Za-z0-9_.]{0,63})\}")
_LITERAL = re.compile(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*")
_SEGMENT = r"(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+"
_SEGMENTS = r"(?:[A-Za-z0-9._~:/@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"


def scheme_of(address: str) -> str:
    """The scheme, folded. Raises `Unusable` where there is none."""
    found = _SCHEME.match(address)
    if found is None:
        raise Unusable("its address begins with no scheme")
    return found[1].lower()


def check_address(address: str) -> None:
    """Raises `Unusable` for an address that cannot be offered as it is."""
    if scheme_of(address) == OUR_SCHEME:
        raise Unusable(f"`{OUR_SCHEME}:` is a scheme of ours")
    if hidden_in(address) or not address.isprintable() or " " in address:
        raise Unusable("its address holds blanks, or characters that cannot be seen")


@dataclass(frozen=True, slots=True)
class Template:
    """A template that can be judged."""

    text: str
    names: tuple[str, ...]
    whole: Whole = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Template:
        """Raises `Unusable` where nobody could say what fits it."""
        check_address(text)
        if len(text) > ADDRESS_CHARS_MAX:
            raise Unusable(f"its address is longer than {ADDRESS_CHARS_MAX} characters")
        pattern, names, at = "", list[str](), 0
        for found in _EXPRESSION.finditer(text):
            between = text[at : found.start()]
            if at and not between:
                raise Unusable("two expressions of its template touch")
            pattern += _escaped(between) + (_SEGMENTS if found[1] else _SEGMENT)
            names.append(found[2])
            at = found.end()
        pattern += _escaped(text[at:])
        if not 1 <= len(names) <= EXPRESSIONS_MAX or len(set(names)) < len(names):
            raise Unusable(f"its template needs 1 to {EXPRESSIONS_MAX} expressions of different names")
        before = text[: text.index("{")]
        if _SCHEME.match(before) is None:
            raise Unusable("an expression of its template stands where the scheme is")
        if scheme_of(before) in _HOSTED and not re.match(r"[^/]*//[^/]+/", before):
            raise Unusable("an expression of its template would choose the host")
        return cls(text, tuple(names), whole(pattern))

    def fits(self, address: str) -> bool:
        """Whether the address is one of the template's, and can mean one thing only."""
        if len(address) > ADDRESS_CHARS_MAX or not address.isascii():
            return False
        return self.whole.matches(address) and _is_plain(address) and not _goes_up(address)


def _escaped(literal: str) -> str:
    if _LITERAL.fullmatch(literal) is None or not _is_plain(literal):
        raise Unusable("its template has expressions that are not read here; `{name}` and `{+name}` are")
    return re.escape(literal)


def _is_plain(address: str) -> bool:
    """Whether what is encoded in it neither separates, nor is encoded once more, nor is hidden."""
    try:
        decoded = unquote_to_bytes(address).decode("utf-8")
    except UnicodeDecodeError:
        return False
    encoded = unquote_to_bytes("".join(re.findall(r"%[0-9A-Fa-f]{2}", address)))
    return decoded.isprintable() and not hidden_in(decoded) and not any(c in encoded for c in b"/\\%?#;:@")


def _goes_up(address: str) -> bool:
    """Whether a segment of it leads nowhere or up: `.`, `..`, also encoded, also before a `;`."""
    decoded = unquote_to_bytes(address).decode("utf-8", "replace")
    return any(segment.partition(";")[0] in (".", "..") for segment in re.split(r"[/\\?#:]", decoded))


class Addresses:
    """The accepted resources and templates of one upstream. Raises `Unusable` for one that cannot be judged."""

    def __init__(self, pins: Mapping[str, Written]) -> None:
        self._exact = {pin.own: pin for pin in pins.values() if pin.kind is Kind.RESOURCE}
        self._templates = [(Template.of(pin.own), pin) for pin in pins.values() if pin.kind is Kind.TEMPLATE]
        for address in self._exact:
            check_address(address)

    def find(self, address: str) -> Written | None:
        """What was accepted that this address is, or fits. The resource of that very address comes first."""
        if (exact := self._exact.get(address)) is not None:
            return exact
        return next((pin for template, pin in self._templates if template.fits(address)), None)

    @property
    def schemes(self) -> frozenset[str]:
        return frozenset(
            scheme_of(one) for one in (*self._exact, *(each.text for each, _ in self._templates))
        )
