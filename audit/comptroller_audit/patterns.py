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

from comptroller_audit.checksums import IBAN_LENGTHS, NATIONAL_IDS, is_card, is_iban, is_national_id
from comptroller_audit.credentials import credentials
from comptroller_audit.linear import any_of, expression

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


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            start, end = match.span()
            if not _NO_ADDRESS.search(text[start:end]) and not text.startswith("git@", start):
                yield start, end
    if "at]" in text or "at)" in text or "at}" in text:
        yield from (match.span() for match in _EMAIL_SPELLED.finditer(text))


# -- phone --------------------------------------------------------------------------------------------------------

_PHONE_INTERNATIONAL: Final = expression(
    r"\+ ?[1-9(][0-9 ().\-/]{5,24}[0-9]|\b00 ?[1-9][0-9]{0,2}[ \-/(][0-9 ().\-/]{5,20}[0-9]"
)
_PHONE_AFTER_CUE: Final = expression(
    r"(?i)(?:^|[^a-z])(?:messages? to|tel|telefon|telephone|telefono|telefone|phone|mobile|mobil|movil|cell|cellphone|cellular|celular",
    r"|handy|portable|call|ring|text|sms|whatsapp|signal|fax|dial|callback|hotline|landline|rufnummer|numero)",
    r"(?:[ _:.,;()#=\x1f\"'\-]|(?:no|nr|num|number|nummer|is|at|on|me|us|him|her|them|back|under|unter|auf|au|ist|est|es"
    r"|my|the|our|new|old|work|home|office|or)[ _:.\x1f]){1,8}",
    r"(\(?[0-9][0-9 ().\-/]{5,20}[0-9])",
)
_PHONE_AMERICAN: Final = expression(
    r"\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[-. ][0-9]{4}\b|\b[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}\b"
    r"|\b[2-9][0-9]{2}\.[2-9][0-9]{2}\.[0-9]{4}\b"
)
_PHONE_DIALLED: Final = expression(
    r"\(?\b0[1-9][0-9]{0,4}\)?[ /\-.]{0,2}[0-9]{2,8}(?:[ \-.][0-9]{2,6}){0,4}\b"
    r"|\b[0-9]{3}[ \-.][0-9]{3}[ \-.][0-9]{3,4}\b"
)
_PHONE_UNSIGNED: Final = any_of(_PHONE_AFTER_CUE, _PHONE_DIALLED, _PHONE_AMERICAN)
_PHONE_CUE: Final = re.compile(
    r"(?<![a-z])(?:tel|fon|phone|mobil|movil|cell|handy|portable|call|ring|ruf|erreich|text|sms|whatsapp|fax|dial|contact"
    r"|reach|my (?:\w+ )?number|registered)",
    re.IGNORECASE,
)
_PHONE_CUE_CHARS: Final = 40
_COUNTRY_CODE: Final = re.compile(  # ITU-T E.164, assigned codes
    r"1|7|2[07]|2[1-6]\d|29[0-9]|3[0-469]|3[578]\d|4[013-9]|42\d|5[1-8]|5[09]\d|6[0-6]|6[7-9]\d|8[1246]|8[058]\d|9[0-58]|9[679]\d"
)
_DATE_LIKE: Final = re.compile(
    r"\D*(?:(?:19|20)\d\d[-./]\d\d?[-./]\d\d?|\d\d?[-./]\d\d?[-./](?:19|20)\d\d)(?:\D|$)"
)


def _phones(text: str) -> Iterator[tuple[int, int]]:
    if "+" in text or "00" in text:
        for match in _PHONE_INTERNATIONAL.finditer(text):
            start, end = match.span()
            if _is_international(_digits(text[start:end])) and not text[start - 1 : start].isalnum():
                yield start, end
    if _PHONE_UNSIGNED.is_missing(text):
        return
    for match in _PHONE_AFTER_CUE.finditer(text):
        start, end = match.span(1)
        end = start + len(_first_number(text[start:end]))
        number = _digits(text[start:end])
        if 7 <= len(number) <= 15 and not _DATE_LIKE.match(text[start:end]) and _ends(text, end):
            yield start, end
    for match in _PHONE_DIALLED.finditer(text):
        start, end = match.span()
        if 8 <= len(_digits(text[start:end])) <= 12 and _is_alone(text, start, end):
            before = text[max(0, start - _PHONE_CUE_CHARS) : start]
            if _PHONE_CUE.search(before[before.rfind(END) + 1 :]) and not _DATE_LIKE.match(text[start:end]):
                yield start, end
    for match in _PHONE_AMERICAN.finditer(text):
        start, end = match.span()
        if _is_alone(text, start, end):
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
    r"(?i)(?:last|letzte|letzten|final)[ _\-]{0,2}(?:4|four|vier)(?:[ _\-]?(?:digits?|numbers?|ziffern))?(?: of (?:the |my |your |his |her )?(?:[a-z]{1,12} )?card)?",
    r"[ :=()#\"'\-\x1f]{0,6}(?:(?:is|are|was|were)[ :]{1,2})?[*xX# ]{0,8}([0-9]{4})\b",
)
_BRANDED: Final = expression(
    r"(?i)\b(?:visa|mastercard|master card|amex|american express|maestro|diners|jcb|unionpay|card|karte|carte|tarjeta)",
    r"(?: (?:card|credit|debit|no\.?|number|nr\.?))*[ :\-#(\x1f]{0,3}[#*xX.( \-]{0,6}([0-9]{4})\b",
)
_ANY_LAST_FOUR: Final = any_of(_MASKED, _LAST_FOUR, _ENDING, _BRANDED)
_YEAR: Final = re.compile(r"(?:19|20)\d\d")
_CARD_CUE: Final = re.compile(
    r"card|visa|master|amex|express|maestro|debit|credit|karte|carte|tarjeta", re.IGNORECASE
)
_NEXT_FOUR: Final = re.compile(r"(?:,|,? (?:and|or|und|et|y)|/|&) ?([0-9]{4})\b(?![ \-.]?[0-9])")


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _DIGIT_RUN.finditer(text):
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


def _last_fours(text: str) -> Iterator[tuple[int, int]]:
    if _ANY_LAST_FOUR.is_missing(text):
        return
    for searched, is_certain in ((_MASKED, True), (_LAST_FOUR, True), (_ENDING, False), (_BRANDED, False)):
        for match in searched.finditer(text):
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
_ANY_ID: Final = any_of(_ID_SHAPED, _ID_AFTER_CUE)
_ID_SEPARATORS: Final = str.maketrans("", "", " .-/+")


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN_START.finditer(text):
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


def _national_ids(text: str) -> Iterator[tuple[int, int]]:
    if _ANY_ID.is_missing(text):
        return
    for match in _ID_SHAPED.finditer(text):
        start, end = match.span()
        if _is_alone(text, start, end) and _is_issued(text[start:end], _SHAPED_COUNTRIES):
            yield start, end
    for match in _ID_AFTER_CUE.finditer(text):
        start, end = match.span(1)
        found = _first_id(text, start, end)
        if found is not None:
            yield found


def _first_id(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The first stretch of whole words, the longest of those, that some country could have issued."""
    for begin in range(start, end - 4):
        if begin > start and text[begin - 1].isalnum():
            continue
        for stop in range(end, begin + 4, -1):
            if _ends(text, stop) and text[stop - 1] not in " .-/+" and _is_issued(text[begin:stop]):
                return begin, stop
    return None


def _is_issued(text: str, countries: tuple[str, ...] = tuple(NATIONAL_IDS)) -> bool:
    """Whether it is a number of these countries as people write it; Finns need their sign, Swedes add the century."""
    compact = text.translate(_ID_SEPARATORS)
    return (
        is_national_id(compact, countries)
        or is_national_id(text, countries)
        or (len(compact) == 12 and compact[:2] in ("19", "20") and is_national_id(compact[2:], ("se",)))
    )


# -- all of them --------------------------------------------------------------------------------------------------


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _is_alone(text: str, start: int, end: int) -> bool:
    """Whether no longer number goes on before or behind."""
    before, behind = text[max(0, start - 2) : start], text[end : end + 2]
    return not (
        (before[-1:] in tuple("-./+") and before[:1].isalnum())
        or (behind[:1] in tuple("-./") and behind[1:].isdigit())
    )


def _ends(text: str, at: int) -> bool:
    return not text[at : at + 1].isalnum()


_Search = Callable[[str], Iterator[tuple[int, int]]]
_SEARCHES: Final[dict[Pattern, _Search]] = {
    Pattern.API_KEY: credentials,
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

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(kind for kind, _ in self._searches)

    def find(self, text: str) -> list[Found]:
        """What stands in an ASCII text. Stretches of different kinds may overlap; the more telling kind comes first."""
        return [Found(start, end, kind) for kind, search in self._searches for start, end in search(text)]
