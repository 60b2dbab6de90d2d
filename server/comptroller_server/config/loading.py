"""Load `comptroller.yaml` and `comptroller.d/*.yaml` into one immutable `Config`, or say all that is wrong at once.

Files are read with their lines (`yaml_lines`), merged, checked for shape (`model`) and across fields
(`checks`); then references are resolved (`values`). Loading writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from platformdirs import user_data_path
from pydantic import ValidationError

from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.errors import Finding
from comptroller_policy.model import PolicyFile
from comptroller_server.config.checks import cross_findings
from comptroller_server.config.findings import empty_values, shape_findings
from comptroller_server.config.model import Config, Document, StoreSettings, config_json_schema
from comptroller_server.config.paths import KeyPath, finding_at, without, written_part
from comptroller_server.config.values import (
    fixed_secrets_of,
    judge_keys_of,
    misplaced_secrets,
    pins_of,
    policy_files,
    source_files,
    store_settings,
    streams_of,
    telemetry_secrets_of,
    upstreams_of,
)
from comptroller_server.config.yaml_lines import Node, read_yaml, yaml_text
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.upstream.pins import Pins, PinsInvalid, pins_in, pins_tree

__all__ = [
    "FILES_MAX",
    "FINDINGS_MAX",
    "FRAGMENTS",
    "Config",
    "StoreSettings",
    "config_json_schema",
    "config_of",
    "data_directory",
    "kept_of",
    "load_config",
]

FRAGMENTS = "comptroller.d"
FILES_MAX = 100
"""Files in `comptroller.d`."""
FINDINGS_MAX = 200
"""Findings shown; beyond it only their number is told."""


def data_directory(given: Path | None) -> Path:
    """What `{data_dir}` stands for: the folder that was named, else the platform's for user data."""
    return (given or user_data_path("comptroller", appauthor=False)).absolute()


def load_config(path: Path, *, data_dir: Path | None = None) -> Config:
    """Read the configuration at `path` with the `comptroller.d/*.yaml` beside it.

    `data_dir` replaces `{data_dir}` and defaults to the platform's directory for user data. Relative paths start
    at the directory of `path`. Raises ConfigInvalid with every finding, each placed at `file:line`.
    """
    base_dir = path.absolute().parent
    files = [path, *_fragments(path)]
    return _loaded(_Read(*_merged(files)), files, base_dir, data_directory(data_dir))


def config_of(kept: Mapping[str, Any], shown: str, own: Config) -> Config:
    """The configuration that `kept_of` made `kept` of, beside the store and in the place of `own`.

    `shown` is its name in findings. Raises ConfigInvalid, as where a secret or a file it names is not there any more.
    """
    document = {**kept["document"], "store": _store_of(own.tree)}
    tree, findings = yaml_text(json.dumps(document), shown)
    assert tree is not None
    policies = tuple(PolicyFile(str(one["name"]), str(one["text"])) for one in kept["policies"])
    try:
        pins = pins_in(kept["pins"])
    except PinsInvalid as error:
        raise ConfigInvalid([Finding(shown, str(error))]) from None
    read = _Read(tree, findings, True, policies, pins)
    return _loaded(read, own.files, own.base_dir, own.data_dir)


def kept_of(config: Config) -> JsonObject:
    """What a configuration says, to be kept: all files as one document without `store`, policy files, the lock file."""
    plain = cast("JsonObject", config.tree.plain())
    return {
        "document": {key: value for key, value in plain.items() if key != "store"},
        "policies": [{"name": file.name, "text": file.text} for file in config.policies],
        "pins": pins_tree(config.pins) if config.pins else None,
    }


def _store_of(tree: Node) -> Json:
    store = tree.value.get("store") if isinstance(tree.value, Mapping) else None
    return store.plain() if store is not None else {}


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of a configuration. Policies and pins that are None stand beside it, in files."""

    tree: Node
    findings: list[Finding]
    whole: bool
    policies: tuple[PolicyFile, ...] | None = None
    pins: Pins | None = None


def _loaded(read: _Read, files: Sequence[Path], base_dir: Path, data_dir: Path) -> Config:
    tree, findings, path = read.tree, list(read.findings), files[0]
    empty = empty_values(tree)
    findings += [finding_at(tree, at, "has no value; give it one or remove the line") for at in empty]
    document, right, shape = _validated(tree, empty)
    findings += shape
    findings += misplaced_secrets(tree)
    if read.whole:
        findings += cross_findings(tree, right, document)
    store, secrets, store_findings = store_settings(right, document.store, base_dir, data_dir)
    policies, policy_findings = (
        policy_files(right, document.policies, base_dir) if read.policies is None else (read.policies, [])
    )
    judge_keys, key_secrets, key_findings = judge_keys_of(right, document.judges, base_dir, data_dir)
    upstreams, upstream_secrets, upstream_findings = upstreams_of(right, document.sources, base_dir, data_dir)
    fixed, fixed_values, fixed_findings = fixed_secrets_of(right, document.tools, base_dir, data_dir)
    streams, stream_secrets, stream_findings = streams_of(right, document.streams, store, base_dir, data_dir)
    watched, watched_findings = telemetry_secrets_of(right, document.telemetry, base_dir, data_dir)
    pins, pin_findings = pins_of(base_dir) if read.pins is None else (read.pins, [])
    findings += [
        *upstream_findings,
        *fixed_findings,
        *stream_findings,
        *watched_findings,
        *pin_findings,
        *key_findings,
        *store_findings,
        *policy_findings,
        *source_files(right, document.sources, base_dir),
    ]
    if findings or store is None:
        raise ConfigInvalid(_ordered(findings, files))
    return Config(
        path=path.absolute(),
        base_dir=base_dir,
        data_dir=data_dir,
        files=tuple(file.absolute() for file in files),
        agent=document.agent,
        store=store,
        identity=document.identity,
        sources=document.sources,
        upstreams=upstreams,
        pins=pins,
        budgets=document.budgets,
        models=document.models,
        prices=document.prices,
        retrieval=document.retrieval,
        safety=document.safety,
        tasks=document.tasks,
        judges=document.judges,
        judge_keys=judge_keys,
        fixed_secrets=fixed,
        tools=document.tools,
        policies=policies,
        mode=document.mode,
        rollout=document.rollout,
        approvals=document.approvals,
        limits=document.limits,
        logging=document.logging,
        http=document.http,
        streams=streams,
        telemetry=document.telemetry,
        telemetry_secrets=watched,
        environment=document.environment,
        secrets=(*secrets, *key_secrets, *upstream_secrets, *fixed_values, *stream_secrets, *watched.values),
        tree=tree,
    )


def _fragments(path: Path) -> list[Path]:
    """The files of `comptroller.d`, by name. One that looks like config but would not be read is refused."""
    folder = path.parent / FRAGMENTS
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigInvalid(
            [Finding(str(folder), f"cannot be listed ({reason}); check its permissions")]
        ) from None
    misnamed = [
        entry for entry in entries if entry.suffix.lower() in (".yml", ".yaml") and entry.suffix != ".yaml"
    ]
    if misnamed:
        raise ConfigInvalid(
            [Finding(str(file), "is not read; rename it to end in `.yaml`") for file in misnamed]
        )
    files = [entry for entry in entries if entry.suffix == ".yaml"]
    if len(files) > FILES_MAX:
        raise ConfigInvalid(
            [Finding(str(folder), f"holds {len(files)} files; {FILES_MAX} are the most, join some")]
        )
    return files


def _merged(files: Sequence[Path]) -> tuple[Node, list[Finding], bool]:
    """One tree of all files, what is wrong, and whether every file is in the tree."""
    merged = Node(str(files[0]), 1, {})
    whole = True
    findings: list[Finding] = []
    for at, file in enumerate(files):
        shown = str(file)
        tree, found = read_yaml(file, shown)
        findings += found
        whole = whole and not (tree is None and found)
        if tree is None or tree.value is None:
            if at == 0 and not found:
                findings.append(
                    Finding(f"{shown}:1", "the file is empty; declare at least `sources` and `tools`")
                )
        elif not isinstance(tree.value, Mapping):
            findings.append(
                Finding(tree.where, "the file must be `key: value` lines; begin with `agent:` or `tools:`")
            )
        else:
            merged = _joined(merged, tree, (), findings)
    return merged, findings, whole


def _joined(first: Node, second: Node, path: KeyPath, findings: list[Finding]) -> Node:
    """`second` added to `first`: mappings merge, `tools` by name, anything else may be set once."""
    if isinstance(first.value, Mapping) and isinstance(second.value, Mapping):
        entries = dict(first.value)
        for key, node in second.value.items():
            entries[key] = _joined(entries[key], node, (*path, key), findings) if key in entries else node
        return Node(first.file, first.line, entries)
    if path == ("tools",) and isinstance(first.value, tuple) and isinstance(second.value, tuple):
        return Node(first.file, first.line, _joined_tools(first.value, second.value, findings))
    shown = ".".join(str(part) for part in path)
    findings.append(
        Finding(second.where, f"`{shown}` is already set in {first.where}; keep it in one of the two files")
    )
    return first


def _joined_tools(first: Sequence[Node], second: Sequence[Node], findings: list[Finding]) -> tuple[Node, ...]:
    """All entries; one that an earlier file names too adds its other keys to that one.

    An entry that repeats a name of its own file stays, for the check of names to find.
    """
    entries = list(first)
    named = {name: at for at, entry in enumerate(entries) if (name := _name_of(entry)) is not None}
    for node in second:
        name = _name_of(node) or ""
        at = named.get(name)
        if at is None or not isinstance(node.value, Mapping) or node.file in _files_of(entries[at]):
            entries.append(node)
            continue
        rest = replace(node, value={key: value for key, value in node.value.items() if key != "name"})
        entries[at] = replace(_joined(entries[at], rest, ("tools", name), findings), at=entries[at].at)
    return tuple(entries)


def _name_of(entry: Node) -> str | None:
    name = entry.value.get("name") if isinstance(entry.value, Mapping) else None
    return name.value if name is not None and isinstance(name.value, str) else None


def _files_of(entry: Node) -> set[str]:
    """The files that wrote keys of this entry."""
    return {child.file for child in entry.value.values()} if isinstance(entry.value, Mapping) else set()


def _validated(tree: Node, empty: Sequence[KeyPath]) -> tuple[Document, Node, list[Finding]]:
    """The document of what has the right shape, the tree of just that, and what is wrong.

    Wrong values are left out one by one, so that the other checks still see everything around them.
    """
    findings: list[Finding] | None = None
    while True:
        try:
            return _parsed(tree), tree, findings or []
        except ValidationError as error:
            if findings is None:
                findings = shape_findings(tree, error, empty)
            details = error.errors(include_url=False, include_context=False, include_input=False)
        wrong = {written_part(tree, one["loc"]) for one in details} - {()}
        if not wrong:
            return Document(), replace(tree, value={}), findings
        # Backwards, so that leaving out a list entry moves none that is still to be left out.
        for path in sorted(wrong, key=_backwards, reverse=True):
            tree = without(tree, path)


def _backwards(path: KeyPath) -> list[tuple[str, int]]:
    return [("", part) if isinstance(part, int) else (part, 0) for part in path]


def _parsed(tree: Node) -> Document:
    # Through JSON, because strict validation there still takes lists for tuples and text for enums; by_name is
    # off so that `schema` has one spelling.
    return Document.model_validate_json(json.dumps(tree.plain()), strict=True, by_alias=True, by_name=False)


def _ordered(findings: Sequence[Finding], files: Sequence[Path]) -> list[Finding]:
    """Without repeats, in the order of files and lines, at most FINDINGS_MAX."""
    order = {str(file): at for at, file in enumerate(files)}

    def place(finding: Finding) -> tuple[int, int]:
        file, _, line = finding.where.rpartition(":")
        return order.get(file, len(order)), int(line) if line.isdigit() else 0

    ordered = sorted(dict.fromkeys(findings), key=place)
    if len(ordered) <= FINDINGS_MAX:
        return ordered
    more = len(ordered) - FINDINGS_MAX
    return [*ordered[:FINDINGS_MAX], Finding(str(files[0]), f"{more} findings more; fix these first")]
