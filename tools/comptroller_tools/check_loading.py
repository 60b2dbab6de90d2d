"""From `tools[].checks` to functions that can be called: found, their signatures and options checked, at load."""

from __future__ import annotations

import hashlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import to_json

from comptroller_policy.errors import Finding
from comptroller_policy.paths import Schemas, check_path
from comptroller_tools.catalogue import Catalogue, CatalogueInvalid, Tool
from comptroller_tools.check_rules import CheckRule, CheckWhen
from comptroller_tools.checks import CallView, DataPath, Failed, Passed, ResultView, Unknown, frozen
from comptroller_tools.errors import SourceInvalid
from comptroller_tools.functions import load_target

__all__ = ["BoundCheck", "LoadedChecks", "load_checks"]

_VERDICTS = frozenset({Passed, Failed, Unknown})
_PATH_MARK = typing.get_args(DataPath)[1]


@dataclass(frozen=True, slots=True)
class BoundCheck:
    """A check ready to run: its function with the options of the config."""

    rule: CheckRule
    function: Callable[..., Any]
    options: Mapping[str, Any]
    is_async: bool


@dataclass(frozen=True, slots=True)
class LoadedChecks:
    """Every tool's checks. `code` is the SHA-256 (hex) of the files they came from, empty without checks."""

    by_tool: Mapping[str, tuple[BoundCheck, ...]] = field(default_factory=lambda: MappingProxyType({}))
    code: str = ""

    def of(self, tool: str, when: CheckWhen) -> tuple[BoundCheck, ...]:
        """The checks of one tool, in the order of the config."""
        return tuple(check for check in self.by_tool.get(tool, ()) if check.rule.when is when)


def load_checks(catalogue: Catalogue, base_dir: Path) -> LoadedChecks:
    """Load what the tools' `checks` name. Raises `CatalogueInvalid` with every finding at its config path."""
    modules: dict[str, ModuleType] = {}
    findings: list[Finding] = []
    by_tool: dict[str, tuple[BoundCheck, ...]] = {}
    for tool in catalogue:
        loaded: list[BoundCheck] = []
        for index, rule in enumerate(tool.config.checks):
            where = f"tools.{tool.name}.checks[{index}]"
            found = _load(rule, where, modules, base_dir, _schemas_seen(catalogue, tool, rule))
            if isinstance(found, BoundCheck):
                loaded.append(found)
            else:
                findings += found
        if loaded:
            by_tool[tool.name] = tuple(loaded)
    if findings:
        raise CatalogueInvalid(findings)
    return LoadedChecks(by_tool, _code(modules))


def _schemas_seen(catalogue: Catalogue, tool: Tool, rule: CheckRule) -> Schemas:
    """The roots that this check's paths may have: what it declares, and after the call what came back."""
    every = catalogue.schemas(tool)
    facts = {name: every[f"facts.{name}"] for name in rule.facts if f"facts.{name}" in every}
    seen = {"input": every["input"], **{f"facts.{name}": schema for name, schema in facts.items()}}
    if rule.when is CheckWhen.AFTER:
        seen |= {"output": every["output"], **{f"after.{name}": schema for name, schema in facts.items()}}
    return seen


def _load(
    rule: CheckRule, where: str, modules: dict[str, ModuleType], base_dir: Path, schemas: Schemas
) -> BoundCheck | list[Finding]:
    place = f"{where}.python"
    file = rule.python.rpartition(":")[0]
    try:
        if file not in modules:
            modules[file], _ = load_target(place, rule.python, base_dir)
    except SourceInvalid as error:
        return [Finding(place, str(error).removeprefix(f"{place}: "))]
    function = getattr(modules[file], rule.name, None)
    if not inspect.isfunction(function):
        return [Finding(place, f"there is no function `{rule.name}` in it; name a `def` or an `async def`")]
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001 -- resolving runs the user's own code
        return [Finding(place, f"has an annotation that cannot be resolved ({type(error).__name__})")]
    parameters = list(inspect.signature(function).parameters.values())
    problems = [Finding(place, problem) for problem in _signature_problems(function, parameters, hints, rule)]
    if problems:
        return problems
    options, problems = _options(parameters[1:], hints, rule, where, schemas)
    if problems:
        return problems
    return BoundCheck(rule, function, options, inspect.iscoroutinefunction(function))


def _signature_problems(
    function: Callable[..., Any],
    parameters: list[inspect.Parameter],
    hints: Mapping[str, Any],
    rule: CheckRule,
) -> Iterator[str]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        yield "is a generator; return one verdict instead"
    views = (CallView,) if rule.when is CheckWhen.BEFORE else (CallView, ResultView)
    first = parameters[0] if parameters else None
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        yield "takes no call; give it a first parameter `call: CallView`"
    elif hints.get(first.name) is ResultView and rule.when is CheckWhen.BEFORE:
        yield "takes a `ResultView`, which exists only after the call; write `when: after`, or take a `CallView`"
    elif hints.get(first.name) not in views:
        yield f"must take the call first: type its parameter `{first.name}` as `{views[-1].__name__}`"
    for parameter in parameters[1:]:
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            yield f"has a parameter `{parameter.name}` that no option can name; make it a keyword"
        elif parameter.name not in hints:
            yield f"has an option `{parameter.name}` without a type; annotate it"
    returns = hints.get("return")
    found = typing.get_args(returns) if _is_union(returns) else (returns,)
    if not set(found) <= _VERDICTS:
        yield "must say what it returns: annotate it `-> CheckVerdict` (Passed, Failed or Unknown)"


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _options(
    parameters: list[inspect.Parameter],
    hints: Mapping[str, Any],
    rule: CheckRule,
    where: str,
    schemas: Schemas,
) -> tuple[dict[str, Any], list[Finding]]:
    """The options as the function's types, and what is wrong with them. Never quotes a value."""
    names = [parameter.name for parameter in parameters]
    findings = [
        Finding(f"{where}.options.{name}", f"is no option of it; {_choose(names)}")
        for name in rule.options
        if name not in names
    ]
    options: dict[str, Any] = {}
    for parameter in parameters:
        place = f"{where}.options.{parameter.name}"
        if parameter.name not in rule.options:
            if parameter.default is inspect.Parameter.empty:
                findings.append(Finding(place, "is missing; add it, the check cannot do without"))
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints[parameter.name])
            value = adapter.validate_json(to_json(rule.options[parameter.name]), strict=True)
        except ValidationError as error:
            told = error.errors(include_input=False, include_url=False, include_context=False)[0]["msg"]
            findings.append(Finding(place, f"is not of its type: {told}"))
            continue
        except PydanticUserError:
            findings.append(Finding(place, "has a type that no configuration can give; use JSON types"))
            continue
        options[parameter.name] = frozen(value)
        findings += [
            Finding(place, problem)
            for path in _paths(hints[parameter.name], value)
            if (problem := _path_problem(path, rule, schemas))
        ]
    return options, findings


def _paths(hint: Any, value: Any) -> tuple[str, ...]:
    """The paths that an option holds: it is a `DataPath` or a tuple of them."""
    if typing.get_origin(hint) is tuple and _is_path(typing.get_args(hint)[0]):
        return tuple(value)
    return (value,) if _is_path(hint) else ()


def _is_path(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and _PATH_MARK in typing.get_args(hint)[1:]


def _path_problem(path: str, rule: CheckRule, schemas: Schemas) -> str | None:
    root, _, name = path.partition(".")
    if root == "history":
        return None if name in rule.history else f"names history that the check does not list: add `{name}`"
    return check_path(path, schemas)


def _choose(names: list[str]) -> str:
    return f"it takes {', '.join(f'`{name}`' for name in names)}" if names else "it takes none"


def _code(modules: Mapping[str, ModuleType]) -> str:
    """Other code is another bundle, though the config reads the same."""
    if not modules:
        return ""
    digest = hashlib.sha256()
    for target in sorted(modules):
        file = getattr(modules[target], "__file__", None)
        digest.update(
            target.encode() + b"\0" + hashlib.sha256(Path(file).read_bytes() if file else b"").digest()
        )
    return digest.hexdigest()
