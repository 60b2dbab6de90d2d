"""Patterns of personal data and credentials in text: where they stand, never what they mean.

RE2 finds candidates in time linear in the text, whatever the text; check digits, number plans and cue words decide.
Each regular expression is compiled once and run by itself: `re2.Set.Match` answers None both for "no match" and for
"out of memory", so nothing may be gated on it. Texts are ASCII (`disguises.folded`), and parts of a value stand
between END characters; AFTER_KEY parts the name of a member from its value, so that a name can be a cue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from comptroller_audit.checksums import IBAN_LENGTHS, is_card, is_iban, is_national_id
from comptroller_audit.linear import Match, expression

__all__ = ["AFTER_KEY", "CREDENTIALS", "END", "Finder", "Found", "Pattern"]

END: Final = "\x1e"
AFTER_KEY: Final = "\x1f"


class Pattern(StrEnum):
    """What can be looked for, as an operator writes it in `safety.pii_redaction`."""

    EMAIL = "email"
    PHONE = "phone"
    CARD_NUMBER = "card_number"
    CARD_LAST4 = "card_last4"
    IBAN = "iban"
    NATIONAL_ID = "national_id"
    API_KEY = "api_key"

    @classmethod
    def _missing_(cls, value: object) -> Pattern | None:
        return cls.API_KEY if value == "secret" else None  # both names are in use; they are one pattern


CREDENTIALS: Final = Pattern.API_KEY
"""What no audience may see, the record included."""


class Found(NamedTuple):
    """A stretch of a text, `text[start:end]`, and what it looks like."""

    start: int
    end: int
    kind: str


# -- e-mail -------------------------------------------------------------------------------------------------------

_EMAIL: Final = expression(
    r"[A-Za-z0-9_](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+-])?",
    r"@(?:[A-Za-z0-9\x1a](?:[A-Za-z0-9\x1a-]{0,61}[A-Za-z0-9\x1a])?\.){1,8}",
    r"(?:xn--[A-Za-z0-9-]{2,59}\b|[A-Za-z]{2,24}\b|\x1a{2,24})",
)
_EMAIL_SPELLED: Final = expression(
    r"(?i)\b[a-z0-9._%+-]{1,64} ?[\[({]at[\])}] ?[a-z0-9-]{1,63}(?: ?(?:\.|[\[({]dot[\])}]) ?[a-z0-9-]{2,63}){1,4}"
)
_NO_ADDRESS: Final = re.compile(
    r"@[23]x\.|@\d+\.\d+\.\d|\.(?:service|socket|timer|target|mount|slice|scope|png|jpe?g|gif|svg|webp|css|js|json)$",
    re.IGNORECASE,
)


def _emails(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    if "@" in text:
        for match in _EMAIL.finditer(data):
            start, end = match.span()
            if not _NO_ADDRESS.search(text[start:end]) and not text.startswith("git@", start):
                yield start, end
    if "at]" in text or "at)" in text or "at}" in text:
        yield from (match.span() for match in _EMAIL_SPELLED.finditer(data))


# -- phone --------------------------------------------------------------------------------------------------------

_PHONE_INTERNATIONAL: Final = expression(
    r"\+ ?[1-9(][0-9 ().\-/]{5,24}[0-9]|\b00 ?[1-9][0-9]{0,2}[ \-/(][0-9 ().\-/]{5,20}[0-9]"
)
_PHONE_AFTER_CUE: Final = expression(
    r"(?i)(?:^|[^a-z])(?:tel|telefon|telephone|telefono|telefone|phone|mobile|mobil|movil|cell|cellphone|cellular|celular",
    r"|handy|portable|call|ring|text|sms|whatsapp|signal|fax|dial|callback|hotline|landline|rufnummer|numero)",
    r"(?:[ _:.,;()#=\x1f\"'\-]|(?:no|nr|num|number|nummer|is|at|on|me|us|him|her|them|back|under|unter|auf|au|ist|est|es"
    r"|my|work|home|office|or)[ _:.\x1f]){1,8}",
    r"(\(?[0-9][0-9 ().\-/]{5,20}[0-9])",
)
_PHONE_AMERICAN: Final = expression(
    r"\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[-. ][0-9]{4}\b|\b[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}\b"
    r"|\b[2-9][0-9]{2}\.[2-9][0-9]{2}\.[0-9]{4}\b"
)
_COUNTRY_CODE: Final = re.compile(  # ITU-T E.164, assigned codes
    r"1|7|2[07]|2[1-6]\d|29[0-9]|3[0-469]|3[578]\d|4[013-9]|42\d|5[1-8]|5[09]\d|6[0-6]|6[7-9]\d|8[1246]|8[058]\d|9[0-58]|9[679]\d"
)
_DATE_LIKE: Final = re.compile(
    r"\D*(?:(?:19|20)\d\d[-./]\d\d?[-./]\d\d?|\d\d?[-./]\d\d?[-./](?:19|20)\d\d)(?:\D|$)"
)


def _phones(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    if "+" in text or "00" in text:
        for match in _PHONE_INTERNATIONAL.finditer(data):
            start, end = match.span()
            if _is_international(_digits(text[start:end])) and not text[start - 1 : start].isalnum():
                yield start, end
    for match in _PHONE_AFTER_CUE.finditer(data):
        start, end = match.span(1)
        end = start + len(_first_number(text[start:end]))
        number = _digits(text[start:end])
        if 7 <= len(number) <= 15 and not _DATE_LIKE.match(text[start:end]) and _ends(text, end):
            yield start, end
    for match in _PHONE_AMERICAN.finditer(data):
        start, end = match.span()
        if text[start - 1 : start] not in tuple("-./+") and text[end : end + 1] not in tuple("-./"):
            yield start, end


def _is_international(digits: str) -> bool:
    digits = digits.removeprefix("00")
    if digits.startswith("1"):
        return len(digits) == 11 and digits[1] > "1" and digits[4] > "1"
    return 9 <= len(digits) <= 15 and _COUNTRY_CODE.match(digits) is not None


def _first_number(text: str) -> str:
    """Up to where a new thing begins: two blanks, or a blank before a bracket that closes nothing."""
    return text.split("  ", 1)[0].split(" (", 1)[0].rstrip(" ().-/") if text[0] != "(" else text


# -- cards --------------------------------------------------------------------------------------------------------

_DIGIT_RUN: Final = expression(r"[0-9](?:[ .\-/]?[0-9]){13,}")
_GROUP: Final = re.compile(r"[0-9]+")
_CARD_DIGITS_MIN, _CARD_DIGITS_MAX, _CARD_GROUPS_MAX = 14, 19, 5
_MASKED: Final = expression(r"(?:\*{2,}|\b[xX]{3,})(?:[ \-]{0,2}[*xX]{2,4})*[ \-]{0,2}([0-9]{4})\b")
_ENDING: Final = expression(
    r"(?i)\b(?:ending|ends|ended|endet|endend|endung|terminant|terminada|termina|finissant|last)",
    r"(?:[ _]?(?:in|with|on|auf|mit|par|en|by))?[ :(\"'#]{0,3}(?:the )?(?:digits? )?[*x# .\-]{0,8}([0-9]{4})\b",
)
_LAST_FOUR: Final = expression(
    r"(?i)(?:last|letzte|letzten|final)[ _\-]{0,2}(?:4|four|vier)(?:[ _\-]?(?:digits?|numbers?|ziffern|of (?:the |my |your )?card))?",
    r"[ :=()#\"'\-\x1f]{0,6}(?:(?:is|are|was|were)[ :]{1,2})?[*xX# ]{0,8}([0-9]{4})\b",
)
_BRANDED: Final = expression(
    r"(?i)\b(?:visa|mastercard|master card|amex|american express|maestro|diners|jcb|unionpay|card|karte|carte|tarjeta)",
    r"(?: (?:card|credit|debit|no\.?|number|nr\.?))*[ :\-#(\x1f]{0,3}[#*xX.( \-]{0,6}([0-9]{4})\b",
)
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_CARD_CUE: Final = re.compile(
    r"card|visa|master|amex|express|maestro|debit|credit|karte|carte|tarjeta", re.IGNORECASE
)
_NEXT_FOUR: Final = re.compile(r"(?:,|,? (?:and|or|und|et|y)|/|&) ?([0-9]{4})\b(?![ \-.]?[0-9])")


def _cards(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    for match in _DIGIT_RUN.finditer(data):
        start, end = match.span()
        groups = [group.span() for group in _GROUP.finditer(text, start, end)]
        taken = 0
        for i in range(len(groups)):
            if i >= taken and (last := _card_from(text, groups, i)) is not None:
                yield groups[i][0], groups[last][1]
                taken = last + 1


def _card_from(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """The last group of the longest card number that begins with the group `first`."""
    start = groups[first][0]
    before = text[start - 1 : start]
    if before.isalnum() or (before == "." and text[start - 2 : start - 1].isdigit()):
        return None  # inside a word, or the decimals of a number
    sizes = [end - begin for begin, end in groups[first : first + _CARD_GROUPS_MAX]]
    for count in range(len(sizes), 0, -1):
        last = first + count - 1
        if (
            _CARD_DIGITS_MIN <= sum(sizes[:count]) <= _CARD_DIGITS_MAX
            and _are_card_groups(sizes[:count])
            and not text[groups[last][1] : groups[last][1] + 1].isalnum()
            and is_card(_digits(text[start : groups[last][1]]))
        ):
            return last
    return None


def _are_card_groups(sizes: list[int]) -> bool:
    return len(sizes) == 1 or sizes in ([4, 6, 5], [4, 6, 4]) or all(size == 4 for size in sizes[:-1])


def _last_fours(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    for searched, is_certain in ((_MASKED, True), (_LAST_FOUR, True), (_ENDING, False), (_BRANDED, False)):
        for match in searched.finditer(data):
            start, end = match.span(1)
            if text[end : end + 1] in ("*", ".", ",", ":", "-", "/", " ") and (
                text[end] == "*" or text[end + 1 : end + 2].isdigit()
            ):
                continue  # emphasis, or the beginning of a longer number
            if not is_certain and _YEAR.match(text, start):
                cue = _CARD_CUE.search(text, max(0, match.span()[0] - 40), match.span()[0])
                if searched is _BRANDED or cue is None:
                    continue
            yield start, end
            while following := _NEXT_FOUR.match(text, end):
                end = following.end()
                yield following.span(1)


# -- bank accounts and persons ------------------------------------------------------------------------------------

_IBAN_START: Final = expression(r"(?i)\b[A-Z]{2}[0-9]{2}")
_ID_SHAPED: Final = expression(
    r"(?i)\b(?:[0-9]{3}-[0-9]{2}-[0-9]{4}",  # us
    r"|[A-Z]{2} [0-9]{2} [0-9]{2} [0-9]{2} [A-D]",  # gb
    r"|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}",  # br
    r"|[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",  # fr
    r"|[0-9]{6}[-+][0-9]{4}|[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]",  # se, fi
    r"|[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]",  # it
    r"|756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}",  # ch
    r"|[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}",  # be
    r"|[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9X])\b",  # cn
)
_SHAPED_COUNTRIES: Final = ("us", "gb", "br", "fr", "se", "fi", "it", "ch", "be", "cn")
_ID_AFTER_CUE: Final = expression(
    r"(?i)(?:^|[^a-z])(?:ssn|social security|itin|nino|ni|national insurance|national[ _-]?id|nationalid|nationality id|tax[ _-]?id",
    r"|taxpayer|tin|steuer[ _-]?id|steuer[ _-]?identifikationsnummer|idnr|steuernummer|bsn|burgerservicenummer|sofinummer|pesel|cpf",
    r"|aadhaar|aadhar|uidai|sin|social insurance|tfn|tax file|personnummer|personnr|fodselsnummer|cpr|hetu|henkilotunnus",
    r"|ahv|avs|codice fiscale|dni|nie|nif|nir|insee|securite sociale|seguridad social|rijksregister\w*|id card|identity card)",
    r"(?:[ _:.,;()#=\x1f\"'\-]|(?:no|nr|num|number|nummer|numero|is|ist|es|est|id|of the applicant|do cliente|de|of)[ _:.\x1f]){1,8}",
    r"([A-Z0-9][A-Z0-9 .\-/+]{4,22}[A-Z0-9])",
)
_ID_SEPARATORS: Final = str.maketrans("", "", " .-/+")


def _ibans(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    for match in _IBAN_START.finditer(data):
        start, _ = match.span()
        wanted = IBAN_LENGTHS.get(text[start : start + 2].upper())
        if wanted is None:
            continue
        compact, at = "", start
        while at < len(text) and len(compact) < wanted:
            if text[at].isalnum():
                compact += text[at]
            elif text[at] not in " -." or not text[at + 1 : at + 2].isalnum():
                break
            at += 1
        if len(compact) == wanted and _ends(text, at) and is_iban(compact.upper()):
            yield start, at


def _national_ids(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    for match in _ID_SHAPED.finditer(data):
        start, end = match.span()
        alone = text[start - 1 : start] not in tuple("-./") and text[end : end + 1] not in tuple("-/")
        if alone and is_national_id(text[start:end].translate(_ID_SEPARATORS), _SHAPED_COUNTRIES):
            yield start, end
    for match in _ID_AFTER_CUE.finditer(data):
        start, longest = match.span(1)
        for end in range(longest, start + 4, -1):
            if _ends(text, end) and text[end - 1] not in " .-/+":
                compact = text[start:end].translate(_ID_SEPARATORS)
                # Swedish numbers are often written with the century.
                if is_national_id(compact) or (len(compact) == 12 and is_national_id(compact[2:], ("se",))):
                    yield start, end
                    break


# -- keys and passwords -------------------------------------------------------------------------------------------

_KEY: Final = expression(
    r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----[^\x1e]*?-----END [A-Z0-9 ]{0,40}-----",
    r"|-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----[^\x1e]*",
    r"|\b(?:eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{8,})?",
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    r"|gl(?:pat|dt|ptt|rt|soat|cbt)-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{20,}",
    r"|(?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}|sk-(?:ant-|proj-|svcacct-|or-)?[A-Za-z0-9_-]{20,}",
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{40,}|hf_[A-Za-z0-9]{30,}|do[opr]_v1_[a-f0-9]{64}|key-[0-9a-f]{32}",
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|sq0[a-z]{3}-[A-Za-z0-9_-]{22,}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
    r"|dapi[a-f0-9]{32}|hv[sb]\.[A-Za-z0-9_-]{24,}|AGE-SECRET-KEY-1[A-Z0-9]{58})",
    r"|\bhooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
)
_URL_PASSWORD: Final = expression(
    r"\b[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s:/@\x1e]{0,64}:([^\s@/\x1e]{1,128})@"
)
_AUTHORIZATION: Final = expression(r"(?i)\b(?:bearer|basic)[ :]{1,2}([A-Za-z0-9._~+/=-]{16,})")
_ASSIGNED: Final = expression(
    r"(?i)(?:^|[^a-z])(?:(passwords?|passwd|passwort|kennwort|passphrase|contrasena|mot de passe|pwd|pin code",
    r"|(?:secret|api|app|access|auth|client|private|account|signing|encryption)[ _-]?(?:access[ _-]?)?(?:key|token|secret)(?:[ _-]?id)?",
    r"|(?:refresh|session|bearer|bot)[ _-]?token)|(secret|token))",
    r"[\"']?[ \t]*(?:(:=|=>|[:=])|\b(?:is|was|ist|lautet|es|est)\b[ :]|(\x1f))[ \t]*[\"'`]?([^\s\"'`,;<>{}\x1e\x1f]{4,256})",
)
_NO_PASSWORD: Final = re.compile(
    r"[*x.•-]+$|\[|\(|\$|%|//|(?:required|optional|string|null|none|true|false|hidden|redacted|withheld|removed|changeme"
    r"|unknown|invalid|incorrect|wrong|expired|missing|empty|unset|reset|changed|secret|password|token)\W*$",
    re.IGNORECASE,
)
_CURSOR: Final = re.compile(
    r"(?:page|next|previous|prev|continuation|cursor|sync|csrf|delta)[ _-]?$", re.IGNORECASE
)


def _keys(text: str, data: bytes) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _KEY.finditer(data))
    if "://" in text:
        yield from (match.span(1) for match in _URL_PASSWORD.finditer(data))
    for match in _AUTHORIZATION.finditer(data):
        start, end = match.span(1)
        if _is_mixed(text[start:end]):
            yield start, end
    for match in _ASSIGNED.finditer(data):
        start, end = match.span(5)
        end = start + len(text[start:end].rstrip(".)!?" if match.span(4)[0] < 0 else ""))
        if _is_credential(text, text[start:end], match):
            yield start, end


def _is_credential(text: str, value: str, match: Match) -> bool:
    """Whether what is assigned is a credential and not a word about one. A weak name needs a value that looks random."""
    weak, sign, member = (match.span(group)[0] >= 0 for group in (2, 3, 4))
    if _NO_PASSWORD.match(value):
        return False
    if weak:
        cue = match.span(2)[0]
        return len(value) >= 8 and _is_mixed(value) and not _CURSOR.search(text[max(0, cue - 14) : cue])
    if member:
        return True
    if sign:
        return len(value) >= 6 and not (value.isalpha() and (value.islower() or value.istitle()))
    return len(value) >= 6 and _is_mixed(value)


def _is_mixed(value: str) -> bool:
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


# -- all of them --------------------------------------------------------------------------------------------------


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _ends(text: str, at: int) -> bool:
    return not text[at : at + 1].isalnum()


_Search = Callable[[str, bytes], Iterator[tuple[int, int]]]
_SEARCHES: Final[dict[Pattern, _Search]] = {
    Pattern.API_KEY: _keys,
    Pattern.IBAN: _ibans,
    Pattern.CARD_NUMBER: _cards,
    Pattern.NATIONAL_ID: _national_ids,
    Pattern.EMAIL: _emails,
    Pattern.PHONE: _phones,
    Pattern.CARD_LAST4: _last_fours,
}


class Finder:
    """Searches for `patterns`. Immutable and safe to share."""

    def __init__(self, patterns: Collection[Pattern]) -> None:
        wanted = set(patterns)
        if Pattern.CARD_LAST4 in wanted:
            wanted.add(Pattern.CARD_NUMBER)  # a whole number shows its last four too
        self._searches = [(kind.value, search) for kind, search in _SEARCHES.items() if kind in wanted]

    def __bool__(self) -> bool:
        return bool(self._searches)

    def find(self, text: str) -> list[Found]:
        """What stands in an ASCII text. Stretches of different kinds may overlap; the more telling kind comes first."""
        data = text.encode("ascii")
        return [
            Found(start, end, kind) for kind, search in self._searches for start, end in search(text, data)
        ]
