"""How each tool of an upstream stands to what was accepted, and what could be made of the new ones. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from comptroller_audit.vocabulary import Effect
from comptroller_server.config.checks import BUILT_IN_TOOLS
from comptroller_tools.declarations import ToolConfig
from comptroller_tools.upstream.cleaning import clean
from comptroller_tools.upstream.definitions import (
    Kind,
    Unusable,
    Written,
    differences,
    kind_of,
    names_problems,
    offered,
)
from comptroller_tools.upstream.relayed import check_relayed, entry_name

__all__ = [
    "Seen",
    "Standing",
    "effect_by_name",
    "entry_of",
    "exposed_name",
    "look_over",
    "proposed_effect",
    "unlike_its_looks",
    "words_of",
]

ODD_LETTERS_MAX = 8
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_READING = frozenset(
    {"get", "list", "read", "search", "find", "show", "status", "log", "diff", "describe", "fetch", "query", "look",
     "lookup", "count", "view", "stat", "info", "tree", "directory", "convert", "current"}
)  # fmt: skip
_REMOVING = frozenset(
    {
        "delete",
        "remove",
        "drop",
        "destroy",
        "purge",
        "erase",
        "rm",
        "unlink",
        "truncate",
        "reset",
        "wipe",
        "clear",
    }
)
_CHANGING = _REMOVING | frozenset(
    {"write", "create", "update", "set", "edit", "move", "rename", "add", "insert", "put", "post", "patch", "send",
     "commit", "push", "merge", "checkout", "init", "run", "exec", "execute", "apply", "upload", "copy", "install",
     "start", "stop", "cancel", "pay", "refund", "transfer", "import", "save", "store", "submit", "approve", "grant",
     "revoke", "branch", "toggle", "trigger", "modify", "append", "replace", "publish", "kill", "mail", "email"}
)  # fmt: skip


class Standing(StrEnum):
    """`pinned` is offered; `changed` and `gone` are set aside; `new` and `unusable` were never offered."""

    PINNED = "pinned"
    CHANGED = "changed"
    NEW = "new"
    GONE = "gone"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Seen:
    """One tool of an upstream. `name` is the upstream's; `effect` what the config says, if it says anything."""

    name: str
    standing: Standing
    written: Written | None = None
    effect: Effect | None = None
    proposed: Effect = Effect.EXECUTE
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def description(self) -> str:
        text = self.written.definition.get("description") if self.written is not None else None
        return clean(text, 500) if isinstance(text, str) else ""

    @property
    def hints(self) -> Sequence[str]:
        """What the upstream claims of the tool. Untrusted."""
        given: Mapping[str, bool] = self.written.hints if self.written is not None else {}
        return [
            key.removesuffix("Hint") if value else f"not {key.removesuffix('Hint')}"
            for key, value in given.items()
        ]


def look_over(
    source: str, listed: Mapping[str, Written], pins: Mapping[str, Written], tools: Sequence[ToolConfig]
) -> list[Seen]:
    """Every tool that is listed or pinned, by name."""
    seen: list[Seen] = []
    for name in sorted({*listed, *pins}):
        now, pinned = listed.get(name), pins.get(name)
        entry = entry_of(source, name, tools)
        effect = entry.effect if entry is not None else None
        if now is None:
            seen.append(Seen(name, Standing.GONE, None, effect, notes=("it is listed no longer",)))
            continue
        proposed = proposed_effect(now)
        if pinned is not None and pinned.digest == now.digest:
            seen.append(Seen(name, Standing.PINNED, now, effect, proposed, _of_a_tool(now)))
        elif problems := _unusable(now):
            seen.append(Seen(name, Standing.UNUSABLE, now, effect, proposed, problems))
        elif pinned is not None:
            changes = tuple(differences(pinned.definition, now.definition))
            seen.append(Seen(name, Standing.CHANGED, now, effect, proposed, changes))
        else:
            seen.append(Seen(name, Standing.NEW, now, effect, proposed, _of_a_tool(now)))
    return seen


def _of_a_tool(written: Written) -> tuple[str, ...]:
    return unlike_its_looks(written.name) if written.kind is Kind.TOOL else ()


def unlike_its_looks(name: str) -> tuple[str, ...]:
    """A letter of another script can look like one of ours: `rеad_file` with a Cyrillic е is no `read_file`."""
    odd = [
        f"`{letter}` is {unicodedata.name(letter, 'a character without a name')}"
        for letter in dict.fromkeys(name)
        if not letter.isascii()
    ]
    return (f"not the name it may look like: {', '.join(odd[:ODD_LETTERS_MAX])}",) if odd else ()


def entry_of(source: str, name: str, tools: Sequence[ToolConfig]) -> ToolConfig | None:
    """The entry of `tools:` that offers the tool, or by which a resource or a prompt is read."""
    wanted = entry_name(name, kind_of(name))
    return next(
        (one for one in tools if one.source == source and (one.source_tool or one.name) == wanted), None
    )


def _unusable(written: Written) -> tuple[str, ...]:
    try:
        check_relayed(written)
        return tuple(names_problems(offered(written))) if written.kind is Kind.TOOL else ()
    except Unusable as unusable:
        return (str(unusable),)


def proposed_effect(written: Written) -> Effect:
    """A guess for a person to judge: `read` only where name and hints both say so, else the strictest that fits."""
    if written.kind is not Kind.TOOL:
        return Effect.READ
    named, hints = effect_by_name(written.name), written.hints
    claims = hints.get("readOnlyHint") is True and hints.get("destructiveHint") is not True
    return Effect.EXECUTE if named is Effect.READ and not claims else named


def effect_by_name(name: str) -> Effect:
    """What a name sounds like: `read` or `delete` where it says so, else the strictest."""
    words = words_of(name)
    if words & _REMOVING:
        return Effect.DELETE
    return Effect.READ if words & _READING and not words & _CHANGING else Effect.EXECUTE


def words_of(name: str) -> set[str]:
    """`issueRefund` and `issue_refund`: issue, refund."""
    return {word.lower() for word in _WORDS.findall(name)}


def exposed_name(source: str, name: str, taken: Collection[str], chars_max: int) -> str:
    """The name to offer a tool under: its own where every client takes it and nothing else has it.

    `taken` are the names in use, folded; `chars_max` is `limits.tool_name_max`.
    """

    def fits(one: str) -> bool:
        return (
            re.fullmatch(r"[A-Za-z0-9_-]+", one) is not None
            and len(one) <= chars_max
            and "__" not in one
            and one.casefold() not in taken
            and one.casefold() not in BUILT_IN_TOOLS
        )

    if fits(name):
        return name
    plain = re.sub(r"_{2,}", "_", re.sub(r"[^A-Za-z0-9-]+", "_", f"{source}_{name}")).strip("_")
    candidate, at = plain[:chars_max], 2
    while not fits(candidate):
        candidate = f"{plain[: chars_max - 4]}_{at}"
        at += 1
    return candidate
