"""Templates (`"{input.invoice_id}"`) and exact arithmetic (`facts.invoice.paid_usd - input.amount_usd`).

A path is a root (`input`, `facts`, `output`, `call`, `task`) and names joined by dots. Numbers are computed in
Decimal without rounding: what has no exact value is an `ExpressionError`, never a nearby number.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from functools import lru_cache
from typing import Any, TypeAlias, cast

from comptroller_audit.vocabulary import Json
from comptroller_policy.errors import ExpressionError
from comptroller_policy.paths import Schemas, Scope, check_path, is_list, is_object, value_at

__all__ = [
    "ROOTS",
    "Expression",
    "Scope",
    "check_expression",
    "check_path",
    "check_template",
    "compile_expression",
    "micro",
    "paths_in",
    "render",
    "same_value",
    "value_at",
]

ROOTS = ("input", "facts", "output", "call", "task")
EXPRESSION_CHARS_MAX = 1000
DIGITS_MAX = 400
"""Significant digits an exact result may have; more is an error, so that no value costs unbounded work."""

_EXACT = Context(
    prec=DIGITS_MAX,
    Emax=MAX_EMAX,
    Emin=MIN_EMIN,
    traps=[Inexact, InvalidOperation, DivisionByZero, Overflow],
)
_MICRO_MAX = 2**63 - 1
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+)*")
_PIECES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}


# ------------------------------------------------------------------------------------------------ templates


@dataclass(frozen=True, slots=True)
class _Reference:
    path: str


_Piece: TypeAlias = "str | _Reference"


@lru_cache(maxsize=4096)
def _pieces(text: str) -> tuple[_Piece, ...]:
    pieces: list[_Piece] = []
    for match in _PIECES.finditer(text):
        token = match.group()
        if token in ("{{", "}}"):
            pieces.append(token[0])
        elif match.group(1) is not None:
            pieces.append(_Reference(_checked_path(match.group(1), text)))
        elif token in ("{", "}"):
            raise ExpressionError(
                f"{text!r} has a lone `{token}`; write `{token * 2}` for the character itself."
            )
        else:
            pieces.append(token)
    return tuple(pieces)


def _checked_path(path: str, text: str) -> str:
    if _PATH.fullmatch(path) is None or path.split(".", 1)[0] not in ROOTS:
        raise ExpressionError(
            f"{{{path}}} in {text!r} is not a path; start with one of {', '.join(ROOTS)} and join names by dots."
        )
    return path


def paths_in(template: Json) -> tuple[str, ...]:
    """Every path a template refers to, in order of first mention. Raises ExpressionError if one does not parse."""
    found: dict[str, None] = {}
    stack: list[Json] = [template]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            found.update((piece.path, None) for piece in _pieces(node) if isinstance(piece, _Reference))
        elif isinstance(node, dict):
            stack.extend(reversed(node.values()))
        elif isinstance(node, list):
            stack.extend(reversed(node))
    return tuple(found)


def render(template: Json, scope: Scope) -> Json:
    """The template with every `{path}` replaced by its value.

    A string that is one reference keeps the value's type; otherwise values are written into the string: text as
    it is, whole numbers without a fraction, `true` and `false`. Objects, lists and null have no such form.
    Raises ExpressionError for those and for a missing path.
    """
    if isinstance(template, dict):
        return {key: render(value, scope) for key, value in template.items()}
    if isinstance(template, list):
        return [render(value, scope) for value in template]
    if not isinstance(template, str):
        return template
    pieces = _pieces(template)
    if len(pieces) == 1 and isinstance(pieces[0], _Reference):
        return cast("Json", value_at(pieces[0].path, scope))
    return "".join(piece if isinstance(piece, str) else _written(piece.path, scope) for piece in pieces)


def _written(path: str, scope: Scope) -> str:
    value = value_at(path, scope)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)):
        return f"{_trimmed(_number(value, path)):f}"
    raise ExpressionError(
        f"`{path}` is {_kind(value)}; only text, numbers and booleans can stand inside a string."
    )


def _trimmed(value: Decimal) -> Decimal:
    # 50 and 50.0 are the same argument (RFC 8785), so they are also the same text; -0 is 0.
    reduced = _EXACT.normalize(value)
    return _EXACT.abs(reduced) if reduced.is_zero() else reduced


# ---------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. `paths` lists every dotted path it reads, in order of first mention."""

    text: str
    paths: tuple[str, ...]
    _tree: ast.expr

    @property
    def arithmetic(self) -> bool:
        """True when the value must be a number: not a bare path and not a quoted text or `true/false/null`."""
        return _path_of(self._tree) is None and not _is_plain_value(self._tree)

    def evaluate(self, scope: Scope) -> Decimal:
        """The exact number. Raises ExpressionError for a missing path, a non-number or too many digits."""
        return self._number(self._tree, scope)

    def evaluate_value(self, scope: Scope) -> Json | Decimal:
        """Like `evaluate`, but a bare path or literal may be any JSON value (the right side of `expect`)."""
        path = _path_of(self._tree)
        if path is not None:
            return _WORDS[path] if path in _WORDS else cast("Json", value_at(path, scope))
        if isinstance(self._tree, ast.Constant) and isinstance(self._tree.value, str):
            return self._tree.value
        return self._number(self._tree, scope)

    def _number(self, node: ast.expr, scope: Scope) -> Decimal:
        path = _path_of(node)
        if path is not None:
            if path in _WORDS:
                raise ExpressionError(f"`{path}` in `{self.text}` is not a number.")
            return _number(value_at(path, scope), path)
        if isinstance(node, ast.Constant):
            return self._literal(node)
        try:
            if isinstance(node, ast.UnaryOp):
                return _EXACT.minus(self._number(node.operand, scope))
            if isinstance(node, ast.BinOp):
                left, right = self._number(node.left, scope), self._number(node.right, scope)
                return _OPERATIONS[type(node.op)](left, right)
        except (Inexact, InvalidOperation, Overflow) as error:
            raise ExpressionError(f"`{self.text}` has no exact value within {DIGITS_MAX} digits.") from error
        raise ExpressionError(f"`{self.text}` is not an expression of paths, numbers, + - * and parentheses.")

    def _literal(self, node: ast.Constant) -> Decimal:
        written = ast.get_source_segment(self.text, node) or ""
        if _NUMBER.fullmatch(written) is None:
            raise ExpressionError(
                f"{written} in `{self.text}` is not a number; write digits, like 12 or 0.25."
            )
        return Decimal(written)


_OPERATIONS: Mapping[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: _EXACT.add,
    ast.Sub: _EXACT.subtract,
    ast.Mult: _EXACT.multiply,
}


def compile_expression(text: str, roots: Collection[str] = ROOTS) -> Expression:
    """Parse paths, literals, `+ - *`, unary minus and parentheses; `roots` are the first names a path may have.

    Raises ExpressionError for anything else.
    """
    source = text.strip()
    if not source or len(source) > EXPRESSION_CHARS_MAX:
        raise ExpressionError(
            f"An expression has 1 to {EXPRESSION_CHARS_MAX} characters; this one has {len(source)}."
        )
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(
            f"`{source}` does not parse; use paths, numbers, + - * and parentheses ({error})."
        ) from error
    found: dict[str, None] = {}
    _check(tree, source, roots, found, top=True)
    return Expression(source, tuple(found), tree)


def _check(
    node: ast.expr, text: str, roots: Collection[str], found: dict[str, None], *, top: bool = False
) -> None:
    path = _path_of(node)
    if path is not None:
        if top and path in _WORDS and path not in roots:
            return
        root = path.split(".", 1)[0]
        if root not in roots:
            raise ExpressionError(
                f"`{path}` in `{text}` starts with `{root}`; a path starts with one of {', '.join(roots)}."
            )
        if root == path:
            raise ExpressionError(f"`{path}` in `{text}` names no value; add a name, like `{path}.amount`.")
        found[path] = None
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        _check(node.left, text, roots, found)
        _check(node.right, text, roots, found)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text, roots, found)
    elif not _is_literal(node, text, top=top):
        raise ExpressionError(
            f"`{ast.unparse(node)}` in `{text}` is not allowed; use paths, numbers, + - * and parentheses."
        )


def _is_literal(node: ast.expr, text: str, *, top: bool) -> bool:
    if not isinstance(node, ast.Constant):
        return False
    if isinstance(node.value, str):
        return top
    return _NUMBER.fullmatch(ast.get_source_segment(text, node) or "") is not None


def _is_plain_value(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _path_of(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join((node.id, *reversed(parts)))


# -------------------------------------------------------------------------------------------------- numbers


def _number(value: Any, path: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise ExpressionError(f"`{path}` is {_kind(value)}, not a number.")
    # A JSON float means the shortest decimal that reads back as it: repr, not the binary expansion.
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ExpressionError(f"`{path}` is not a finite number.")
    return number


def micro(value: Decimal) -> int:
    """`value` in millionths, exactly. Raises ExpressionError when it needs more places or 64 bits are not enough."""
    try:
        scaled = _EXACT.scaleb(value, 6)
        whole = _EXACT.to_integral_exact(scaled) if value.is_finite() else None
    except (Inexact, InvalidOperation, Overflow):
        whole = None
    if whole is None or abs(whole) > _MICRO_MAX:
        raise ExpressionError(f"{value} is not a whole number of millionths within 64 bits.")
    return int(whole)


def same_value(left: Any, right: Any) -> bool:
    """Equality of JSON values and Decimals: numbers exactly (1 and 1.0 are equal), booleans never as numbers."""
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, (int, float, Decimal)) and isinstance(right, (int, float, Decimal)):
        try:
            return _number(left, "left") == _number(right, "right")
        except ExpressionError:
            return False
    if is_list(left) and is_list(right):
        return len(left) == len(right) and all(map(same_value, left, right))
    if is_object(left) and is_object(right):
        return left.keys() == right.keys() and all(same_value(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


def check_expression(text: str, schemas: Schemas, *, number: bool = True) -> tuple[str, ...]:
    """Every fault of an expression: it does not parse, a path does not exist, an operand is not a number.

    With `number` false a bare path or a quoted text is allowed too (the right side of `expect`).
    """
    roots = sorted({name.split(".")[0] for name in schemas})
    try:
        expression = compile_expression(text, roots)
        if number and not expression.arithmetic and not expression.paths:
            return (f"`{text}` is not a number.",)
    except ExpressionError as error:
        return (str(error),)
    needs_number = number or expression.arithmetic
    faults = (check_path(path, schemas, number=needs_number) for path in expression.paths)
    return tuple(fault for fault in faults if fault is not None)


def check_template(template: Json, schemas: Schemas) -> tuple[str, ...]:
    """Every fault of a template: a reference that does not parse, or a path that does not exist."""
    try:
        faults = [check_path(path, schemas) for path in paths_in(template)]
    except ExpressionError as error:
        return (str(error),)
    return tuple(fault for fault in faults if fault is not None)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    words = ((bool, "a boolean"), (str, "text"), (list, "a list"), (Mapping, "an object"))
    return next((word for kind, word in words if isinstance(value, kind)), "not a number")
