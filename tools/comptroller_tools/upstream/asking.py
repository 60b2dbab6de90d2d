"""What an upstream asks back, made fit to be shown or refused, and what comes back, held to what was asked.

Off unless `may_ask` names it. A question says who asks, holds nothing unseen, is bounded, asks for nothing secret, and
leads only to hosts that the operator named. (MCP 2025-11-25 and 2026-07-28, "Elicitation", "Sampling", "Roots".)
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

import jsonschema_rs
import mcp_types as types
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from comptroller_tools.questions import Asks, Question, Reply
from comptroller_tools.source import Action
from comptroller_tools.upstream.cleaning import clean, cleaned_schema, hidden_in, seen
from comptroller_tools.upstream.settings import MayAsk

__all__ = ["QUESTIONS_MAX", "Asking", "capabilities"]

QUESTIONS_MAX = 10
"""Questions of one call, asked or refused; after that the upstream is told no."""
FIELDS_MAX = 20
FIELD_CHARS_MAX = 8_000
CHOICES_MAX = 200
TEXT_CHARS_MAX = 2_000
SAMPLING_CHARS_MAX = 64_000
SAMPLING_TOKENS_MAX = 16_384
ADDRESS_CHARS_MAX = 2_000
KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OURS = "comptroller"


class _Titled(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    const: str
    title: str


class _OfValues(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["string"] = "string"
    enum: Annotated[list[str], Field(min_length=1, max_length=CHOICES_MAX)]


class _OfTitled(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    anyOf: Annotated[list[_Titled], Field(min_length=1, max_length=CHOICES_MAX)]


_Choice = _OfValues | _OfTitled

_SECRET = re.compile(
    r"passw|passphrase|passcode|secret|credential|token|api.?key|private.?key|one.?time|\botp\b|\bpin\b|\bcvv\b|\bcvc\b|"
    r"kennwort|passwd|mot de passe|contrase|\bsenha\b|parola|пароль|密码|密碼|パスワード|비밀번호|"
    r"card.?number|security.?code|seed.?phrase|recovery.?code|verification.?code|\b2fa\b|\bmfa\b|social.?security|\bssn\b",
    re.IGNORECASE,
)
_MIXED = re.compile(r"[a-z][\u0370-\u052f\u1f00-\u1fff]|[\u0370-\u052f\u1f00-\u1fff][a-z]", re.IGNORECASE)
"""A Latin letter beside one of Greek or Cyrillic: nobody writes so who does not want to be misread."""
_TEXT = TypeAdapter(str)
_COUNT = TypeAdapter(Annotated[int, Field(ge=0, strict=True)])
_AMOUNT = TypeAdapter(Annotated[float, Field(allow_inf_nan=False, strict=True)])
_TEXTS = TypeAdapter(Annotated[list[str], Field(min_length=1, max_length=CHOICES_MAX)])
_TITLED = TypeAdapter(Annotated[list[_Titled], Field(min_length=1, max_length=CHOICES_MAX)])
_CHOICE = TypeAdapter(_Choice)
_ANY: Mapping[str, TypeAdapter[Any]] = {"title": _TEXT, "description": _TEXT}
_KEYS: Mapping[str, Mapping[str, TypeAdapter[Any]]] = {
    "string": {
        "minLength": _COUNT,
        "maxLength": _COUNT,
        "format": TypeAdapter(Literal["email", "uri", "date", "date-time"]),
        "enum": _TEXTS,
        "enumNames": _TEXTS,
        "oneOf": _TITLED,
        "default": _TEXT,
    },
    "integer": {"minimum": _AMOUNT, "maximum": _AMOUNT, "default": _AMOUNT},
    "number": {"minimum": _AMOUNT, "maximum": _AMOUNT, "default": _AMOUNT},
    "boolean": {"default": TypeAdapter(Annotated[bool, Field(strict=True)])},
    "array": {"items": _CHOICE, "minItems": _COUNT, "maxItems": _COUNT, "default": TypeAdapter(list[str])},
}
"""What a field of each type may say (MCP "Elicitation", requested schema)."""
_DECIDING = frozenset({"enum", "oneOf", "items"})
"""Keys that make a field a choice: without them it would ask for anything, so a wrong one is no field at all."""
_SAMPLED = frozenset(
    {"messages", "systemPrompt", "maxTokens", "temperature", "stopSequences", "modelPreferences"}
)
_RESPONSE: Mapping[Asks, TypeAdapter[Any]] = {
    Asks.FORM: TypeAdapter(types.ElicitResult),
    Asks.URL: TypeAdapter(types.ElicitResult),
    Asks.SAMPLING: TypeAdapter(types.CreateMessageResult),
    Asks.ROOTS: TypeAdapter(types.ListRootsResult),
}


class Refused(Exception):
    """A question that is not asked; the text is ours."""


def capabilities(kinds: frozenset[Asks]) -> dict[str, Any]:
    """`kinds` as a client declares them."""
    found: dict[str, Any] = {}
    if Asks.FORM in kinds or Asks.URL in kinds:
        found["elicitation"] = {
            **({"form": {}} if Asks.FORM in kinds else {}),
            **({"url": {}} if Asks.URL in kinds else {}),
        }
    if Asks.SAMPLING in kinds:
        found["sampling"] = {}
    if Asks.ROOTS in kinds:
        found["roots"] = {}
    return found


def _said_no(kind: Asks) -> types.InputResponse | None:
    """What an upstream hears where nobody answered; only elicitation has a word for that."""
    return types.ElicitResult(action="cancel") if kind in (Asks.FORM, Asks.URL) else None


class Asking:
    """The questions of one call. `upstream` is how the operator calls the one who asks."""

    def __init__(self, upstream: str, may: MayAsk, action: Action) -> None:
        self._upstream = upstream
        self._may = may
        self._asker = action.asker
        self._left = QUESTIONS_MAX

    @property
    def kinds(self) -> frozenset[Asks]:
        """What can be asked in this call: allowed by the operator, and the client can."""
        return self._may.kinds & self._asker.kinds

    def lacking(self, told: object) -> dict[str, Any]:
        """What the client would have to declare so that the upstream goes on, of what the operator allows it to ask."""
        wanted = (
            cast("Mapping[str, object]", told).get("requiredCapabilities")
            if isinstance(told, Mapping)
            else None
        )
        if not isinstance(wanted, Mapping):
            return {}
        named = cast("Mapping[str, object]", wanted)
        return {
            name: one
            for name, one in capabilities(self._may.kinds - self._asker.kinds).items()
            if name in named
        }

    async def answers(self, requests: Mapping[str, types.InputRequest]) -> dict[str, types.InputResponse]:
        """Ask all of one round. A question that nobody answers is answered with no, or missing where there is no word for it."""
        questions: dict[str, Question] = {}
        for at, (key, request) in enumerate(requests.items()):
            kind = _kind(request)
            try:
                named = (
                    key if KEY.fullmatch(key) and not key.startswith(_OURS) else f"{_OURS}.question_{at + 1}"
                )
                questions[key] = self._question(named, kind, request)
            except Refused as refused:
                self._asker.refused(kind, str(refused))
        replies: Mapping[str, Reply] = {}
        if questions:
            replies = await self._asker(list(questions.values()))
        found: dict[str, types.InputResponse] = {}
        for key, request in requests.items():
            question = questions.get(key)
            reply = replies.get(question.key) if question is not None else None
            answer = self._read(question, reply) if question is not None and reply is not None else None
            if answer is None:
                answer = _said_no(_kind(request))
            if answer is not None:
                found[key] = answer
        return found

    def _question(self, key: str, kind: Asks, request: types.InputRequest) -> Question:
        """Raises `Refused`."""
        self._left -= 1
        if self._left < 0:
            raise Refused(f"it asked more than {QUESTIONS_MAX} questions in one call")
        if kind not in self._may.kinds:
            raise Refused(f"`may_ask` does not allow `{kind}`")
        if kind not in self._asker.kinds:
            raise Refused("the client cannot be asked that")
        params = request.params
        if isinstance(params, types.ElicitRequestURLParams):
            return Question(key, kind, self._page(params))
        if isinstance(params, types.ElicitRequestFormParams):
            return Question(key, kind, self._form(params))
        if isinstance(params, types.CreateMessageRequestParams):
            return Question(key, kind, self._sampling(params))
        return Question(key, kind, {})

    def _says(self, message: str) -> str:
        return f"{self._upstream} asks: {clean(message, TEXT_CHARS_MAX)}"

    def _form(self, params: types.ElicitRequestFormParams) -> dict[str, Any]:
        schema = form_schema(cast("Mapping[str, Any]", params.requested_schema), params.message)
        return {"mode": "form", "message": self._says(params.message), "requestedSchema": schema}

    def _page(self, params: types.ElicitRequestURLParams) -> dict[str, Any]:
        url = params.url
        if len(url) > ADDRESS_CHARS_MAX or hidden_in(url) or not url.isascii() or " " in url or "\\" in url:
            raise Refused("the address to open is too long or holds what does not belong there")
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise Refused("the address to open is none") from None
        if parts.scheme != "https" or parts.username is not None or parts.password is not None:
            raise Refused("the address to open is not plain https")
        if host not in self._may.hosts:
            raise Refused("the host to open is not one of `open_hosts`")
        message = f"{self._says(params.message)}\n(It wants you to open a page on {host}.)"
        return {"mode": "url", "message": message, "url": url, "elicitationId": params.elicitation_id or ""}

    def _sampling(self, params: types.CreateMessageRequestParams) -> dict[str, Any]:
        if params.tools or params.tool_choice:
            raise Refused("sampling with tools is not passed on")
        wire = params.model_dump(by_alias=True, mode="json", exclude_none=True)
        kept = {key: _seen(value) for key, value in wire.items() if key in _SAMPLED}
        if len(json.dumps(kept)) > SAMPLING_CHARS_MAX:
            raise Refused(f"what it would have sampled is longer than {SAMPLING_CHARS_MAX} characters")
        kept["maxTokens"] = max(1, min(params.max_tokens, SAMPLING_TOKENS_MAX))
        who = f"(Asked by {self._upstream}, a server behind Comptroller; its words are not the user's.)"
        kept["systemPrompt"] = f"{who}\n{kept.get('systemPrompt', '')}".strip()
        return kept

    def _read(self, question: Question, reply: Reply) -> types.InputResponse | None:
        """What the client answered, if it is an answer to `question`."""
        try:
            answer = _RESPONSE[question.kind].validate_python(dict(reply), by_name=False)
        except ValidationError:
            self._asker.refused(question.kind, "the client's answer is not of the protocol")
            return None
        if not isinstance(answer, types.ElicitResult) or answer.action != "accept":
            return cast("types.InputResponse", answer)
        if question.kind is Asks.URL:
            return types.ElicitResult(action="accept")
        if not jsonschema_rs.is_valid(dict(question.params["requestedSchema"]), answer.content or {}):
            self._asker.refused(question.kind, "the client's answer does not fit the form")
            return None
        return answer


def _kind(request: types.InputRequest) -> Asks:
    if isinstance(request, types.ElicitRequest):
        return Asks.URL if isinstance(request.params, types.ElicitRequestURLParams) else Asks.FORM
    return Asks.SAMPLING if isinstance(request, types.CreateMessageRequest) else Asks.ROOTS


def form_schema(schema: Mapping[str, Any], message: str) -> dict[str, Any]:
    """A flat form of primitives, and nothing else of `schema`. Raises `Refused`."""
    fields = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(fields, Mapping):
        raise Refused("its form is no flat object")
    named = cast("Mapping[str, Any]", fields)
    if len(named) > FIELDS_MAX:
        raise Refused(f"its form has more than {FIELDS_MAX} fields")
    shown: dict[str, Any] = {}
    for name, one in named.items():
        if not KEY.fullmatch(name) or not isinstance(one, Mapping):
            raise Refused("a field of its form has no usable name")
        shown[name] = _field(cast("Mapping[str, Any]", one))
    typed = [
        name
        for name, one in shown.items()
        if one["type"] in ("string", "integer", "number") and _is_free(one)
    ]
    told = [f"{name} {shown[name].get('title', '')} {shown[name].get('description', '')}" for name in typed]
    if typed and any(_asks_for_secret(text) for text in [message, *told]):
        raise Refused("its form asks for something secret")
    required = schema.get("required")
    wanted = (
        [one for one in cast("list[object]", required) if isinstance(one, str) and one in shown]
        if isinstance(required, list)
        else []
    )
    return {"type": "object", "properties": shown, **({"required": wanted} if wanted else {})}


def _asks_for_secret(text: str) -> bool:
    """By its words, as they are seen; letters that only look like others are read as those where Unicode says so."""
    seen_as = unicodedata.normalize("NFKC", clean(text)).replace("_", " ").replace("-", " ")
    return _SECRET.search(seen_as) is not None or _MIXED.search(seen_as) is not None


def _is_free(field: Mapping[str, Any]) -> bool:
    return "enum" not in field and "oneOf" not in field


def _field(given: Mapping[str, Any]) -> dict[str, Any]:
    """One field: a text, a number, a yes or no, or a choice. What it says beside that is left out. Raises `Refused`."""
    kind = given.get("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise Refused("a field of its form is neither text, number, yes or no, nor a choice")
    field: dict[str, Any] = {"type": kind}
    for key, read in {**_ANY, **_KEYS[kind]}.items():
        if key not in given:
            continue
        try:
            read.validate_python(given[key])
        except ValidationError:
            if key in _DECIDING:
                raise Refused("a choice in its form is none among given values") from None
            continue
        field[key] = given[key]
    if kind == "array" and "items" not in field:
        raise Refused("a choice in its form is none among given values")
    if len(json.dumps(field)) > FIELD_CHARS_MAX:
        raise Refused("a field of its form is too long")
    try:
        return cleaned_schema(field)
    except ValueError:
        raise Refused("a field of its form holds characters that cannot be seen") from None


def _seen(value: Any) -> Any:
    if isinstance(value, str):
        return seen(value)
    if isinstance(value, list):
        return [_seen(one) for one in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _seen(one) for key, one in cast("dict[str, Any]", value).items() if key != "_meta"}
    return value
