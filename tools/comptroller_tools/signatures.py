"""A typed Python function read as a tool: its schemas, and the way from JSON values to its parameters and back.

Parameters become properties. A single parameter that is a Pydantic model is flattened: its fields are the
arguments and its class name is the schema's `title`. Parameters marked `Annotated[str, EffectKey]` or typed
`ToolContext` are filled by the source and shown to nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, ValidationError, core_schema, to_json

from comptroller_audit.canonical import canonical_bytes
from comptroller_tools.source import Action, ToolDefinition

__all__ = ["EffectKey", "OutputInvalid", "ToolContext", "ToolFunction", "digest_of", "read_function"]


class EffectKey:
    """Marks the parameter that receives the call id: `effect_key: Annotated[str, EffectKey]`.

    By taking it the function promises to store it with what it writes, so that recovery can look it up.
    """


class ToolContext:
    """What a running function may know of its call. Take it as a parameter typed `ToolContext`.

    `deadline` is in seconds of the source's monotonic clock (`time.monotonic()` in production).
    """

    __slots__ = ("_action", "_loop", "_open", "_reported", "deadline")

    def __init__(self, action: Action, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        self._action = action
        self._loop = loop
        self._open = True
        self._reported: Future[None] | None = None
        self.deadline = deadline

    @property
    def effect_key(self) -> str:
        """The call id: the same on every safe retry of one call."""
        return self._action.effect_key

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell the client how far the work is. For async functions. A client that is gone is no error."""
        if not self._open:
            return
        # The tool must not fail, and so fall in doubt, because the client went away.
        try:
            await self._action.progress(done, total, message)
        except Exception:  # noqa: BLE001 -- the relay is the client's side: whatever it raises, nobody listens
            self._open = False

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """The same for sync functions, from their thread. Drops a report while the last is on its way."""
        if self._open and (self._reported is None or self._reported.done()):
            report = self.progress(done, total, message)
            try:
                self._reported = asyncio.run_coroutine_threadsafe(report, self._loop)
            except RuntimeError:  # the loop is closed: the server is gone
                report.close()

    def close(self) -> None:
        """From now on progress goes nowhere: the call has been answered."""
        self._open = False


class OutputInvalid(Exception):
    """The function returned something that its return annotation does not allow. The effect did happen."""


class _Schemas(GenerateJsonSchema):
    """Pydantic's schemas without generated property titles; an exact decimal argument is a JSON number."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        if self.mode == "serialization":
            return super().decimal_schema(schema)
        # A union with string could be read by no policy; framing already refuses inexact number tokens.
        bounds: Any = {
            key: float(bound)
            for key in ("multiple_of", "le", "ge", "lt", "gt")
            if isinstance(bound := schema.get(key), int | float | Decimal)
        }
        return self.float_schema(core_schema.float_schema(**bounds))


@dataclass(frozen=True, slots=True)
class ToolFunction:
    """One function ready to be called with JSON values."""

    definition: ToolDefinition
    function: Callable[..., Any]
    is_async: bool
    arguments_model: type[BaseModel]
    flattened: str | None
    fields: Mapping[str, str]
    effect_key_parameter: str | None
    context_parameter: str | None
    returns: TypeAdapter[Any]
    wrapped: bool

    def bind(self, arguments: Mapping[str, Any], context: ToolContext) -> dict[str, Any]:
        """Keyword arguments for the function. Raises pydantic's `ValidationError`, or whatever a validator raises."""
        # JSON mode: a strict model must still take a date or an enum from its JSON spelling.
        model = self.arguments_model.model_validate_json(to_json(dict(arguments)))
        if self.flattened is not None:
            values: dict[str, Any] = {self.flattened: model}
        else:
            values = {parameter: getattr(model, name) for name, parameter in self.fields.items()}
        if self.effect_key_parameter is not None:
            values[self.effect_key_parameter] = context.effect_key
        if self.context_parameter is not None:
            values[self.context_parameter] = context
        return values

    def output(self, value: Any) -> Any:
        """`value` as JSON values. Raises `OutputInvalid` when it is not what the annotation says."""
        if inspect.iscoroutine(value):
            value.close()
        try:
            checked = self.returns.validate_python(value)
            dumped = self.returns.dump_python(checked, mode="json", by_alias=True, warnings="error")
        except (ValidationError, PydanticSerializationError, RecursionError, ValueError) as error:
            raise OutputInvalid(type(error).__name__) from error
        return {"result": dumped} if self.wrapped else dumped


def digest_of(definition: Mapping[str, Any]) -> str:
    """SHA-256, hex, over the RFC 8785 bytes of a tool definition."""
    return hashlib.sha256(canonical_bytes(cast("Any", definition))).hexdigest()


def read_function(name: str, function: Callable[..., Any]) -> ToolFunction | list[str]:
    """The tool `name` that `function` is, or every reason why it cannot be one, each naming the parameter."""
    problems: list[str] = []
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return ["is a generator; return the whole result instead"]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001 -- resolving runs the user's own code
        return [f"has an annotation that cannot be resolved ({type(error).__name__}: {error})"]
    visible: list[inspect.Parameter] = []
    effect_key: str | None = None
    context: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if problem := _parameter_problem(parameter, hint):
            problems.append(f"parameter `{parameter.name}` {problem}")
        elif _is_effect_key(hint):
            if effect_key is not None or _bare(hint) is not str:
                problems.append(
                    f"parameter `{parameter.name}` must be the only `Annotated[str, EffectKey]`, and a str"
                )
            effect_key = parameter.name
        elif hint is ToolContext:
            if context is not None:
                problems.append(f"parameter `{parameter.name}` is a second ToolContext; keep one")
            context = parameter.name
        else:
            visible.append(parameter)
    if "return" not in hints:
        problems.append("has no return type; annotate what it returns")
    if problems:
        return problems
    return _build(name, function, hints, visible, effect_key, context)


def _build(
    name: str,
    function: Callable[..., Any],
    hints: Mapping[str, Any],
    visible: list[inspect.Parameter],
    effect_key: str | None,
    context: str | None,
) -> ToolFunction | list[str]:
    flattened = _flattened(visible, hints)
    names = {f"p{index}": parameter.name for index, parameter in enumerate(visible)}
    try:
        model = hints[flattened] if flattened else _arguments_model(name, visible, hints)
        model = cast("type[BaseModel]", _bare(model))
        title = model.__name__ if flattened else f"{name}_arguments"
        input_schema = _closed(model.model_json_schema(schema_generator=_Schemas, mode="validation"))
        input_schema["title"] = title
    except (PydanticUserError, TypeError, ValueError, NameError) as error:
        return _blame(visible, hints) or [f"has parameters without a JSON Schema ({_first_line(error)})"]
    try:
        returns: TypeAdapter[Any] = TypeAdapter(hints["return"])
        output_schema = _rooted(returns.json_schema(schema_generator=_Schemas, mode="serialization"))
    except (PydanticUserError, TypeError, ValueError, NameError) as error:
        return [f"has a return type without a JSON Schema ({_first_line(error)})"]
    wrapped = output_schema.get("type") != "object"
    if wrapped:
        output_schema = _wrapped(output_schema)
    told: dict[str, Any] = {
        "name": name,
        "description": inspect.getdoc(function) or "",
        "input_schema": input_schema,
        "output_schema": output_schema,
        "stores_effect_key": effect_key is not None,
    }
    return ToolFunction(
        definition=ToolDefinition(**told, digest=digest_of(told)),
        function=function,
        is_async=inspect.iscoroutinefunction(function),
        arguments_model=model,
        flattened=flattened,
        fields=names,
        effect_key_parameter=effect_key,
        context_parameter=context,
        returns=returns,
        wrapped=wrapped,
    )


def _parameter_problem(parameter: inspect.Parameter, hint: Any) -> str | None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return "takes any number of arguments; name each one"
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return "is positional-only; remove the `/`"
    if hint is None:
        return "has no type; annotate it"
    if isinstance(parameter.default, FieldInfo):
        return "has a Field as its default; write `Annotated[type, Field(...)] = value`"
    return None


def _bare(hint: Any) -> Any:
    """The type under `Annotated`."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _is_effect_key(hint: Any) -> bool:
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return any(mark is EffectKey or isinstance(mark, EffectKey) for mark in marks)


def _flattened(visible: list[inspect.Parameter], hints: Mapping[str, Any]) -> str | None:
    """The name of the one parameter whose model's fields are the arguments."""
    if len(visible) != 1 or visible[0].default is not inspect.Parameter.empty:
        return None
    model = _bare(hints[visible[0].name])
    is_model = isinstance(model, type) and not isinstance(model, types.GenericAlias)
    if is_model and issubclass(model, BaseModel) and not getattr(model, "__pydantic_root_model__", False):
        return visible[0].name
    return None


def _arguments_model(
    name: str, visible: list[inspect.Parameter], hints: Mapping[str, Any]
) -> type[BaseModel]:
    # Neutral field names with aliases: `schema`, `copy` or `_x` as parameter names would clash with BaseModel.
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(visible):
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[f"p{index}"] = (hints[parameter.name], Field(default, alias=parameter.name))
    config = ConfigDict(extra="forbid")
    return create_model(f"{name}_arguments", __config__=config, **fields)


def _blame(visible: list[inspect.Parameter], hints: Mapping[str, Any]) -> list[str]:
    """One line for each parameter whose type alone already has no JSON Schema."""
    found: list[str] = []
    for parameter in visible:
        try:
            TypeAdapter(hints[parameter.name]).json_schema(schema_generator=_Schemas)
        except (PydanticUserError, TypeError, ValueError, NameError) as error:
            found.append(
                f"parameter `{parameter.name}` has a type without a JSON Schema ({_first_line(error)})"
            )
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with a root `$ref` into its own `$defs` replaced by what it points to."""
    reference = schema.get("$ref", "")
    if not reference.startswith("#/$defs/"):
        return schema
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {**schema["$defs"][reference.removeprefix("#/$defs/")], **rest}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An input schema in which no model, at any depth, takes a property it does not name."""
    rooted = _rooted(schema)
    for part in (rooted, *rooted.get("$defs", {}).values()):
        if part.get("type") == "object" and "properties" in part:
            part.setdefault("additionalProperties", False)
    rooted.setdefault("properties", {})
    # Arguments are never open-ended, whatever the model's own `extra` says.
    rooted["additionalProperties"] = False
    return rooted


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """A result that is no object, as one: MCP's structured content is always an object."""
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    outer: dict[str, Any] = {
        "type": "object",
        "properties": {"result": inner},
        "required": ["result"],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        outer["$defs"] = schema["$defs"]
    return outer
