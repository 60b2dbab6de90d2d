"""`docs/config.md` lists exactly the keys that load, with their real defaults, and no key of a later version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from comptroller_server.config.editor_schema import SCHEMA_NAME, as_text, published_schema
from comptroller_server.config.loading import config_json_schema

REFERENCE = Path(__file__).parents[2] / "docs" / "config.md"
ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
SCHEMA = config_json_schema()


def _resolved(schema: Any) -> dict[str, Any]:
    if schema in (True, False, None):
        return {}
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            return _resolved(option)
    found: dict[str, Any] = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    return found


def _keys(schema: dict[str, Any], at: str = "") -> dict[str, str]:
    """Each key path of the schema with its default as the page writes it; `NAME` is a name the operator chooses."""
    found: dict[str, str] = {}
    for key, written in schema.get("properties", {}).items():
        inside, path, required = _resolved(written), f"{at}{key}", key in schema.get("required", ())
        patterns: dict[str, Any] = inside.get("patternProperties", {"": inside.get("additionalProperties")})
        each = _resolved(next(iter(patterns.values())))
        entry = _resolved(inside.get("items"))
        if "properties" in inside:
            found |= _keys(inside, f"{path}.")
        elif "properties" in entry:
            found |= _keys(entry, f"{path}[].")
        elif "properties" in each:
            found |= _keys(each, f"{path}.NAME.")
        else:
            default = written.get("default")
            found[path] = (
                "required" if required else "" if default in (None, [], {}, "") else f"`{_text(default)}`"
            )
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_the_page_lists_every_key_and_no_other() -> None:
    listed = [key for key, _, _ in ROW.findall(REFERENCE.read_text())]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(_keys(SCHEMA))


def test_the_page_gives_the_real_defaults() -> None:
    told = {key: default.strip() for key, _, default in ROW.findall(REFERENCE.read_text())}
    real = _keys(SCHEMA)
    assert {key: default for key, default in told.items() if default != real.get(key)} == {}


def test_the_published_schema_is_made_of_the_models_and_the_page() -> None:
    current = as_text(REFERENCE.read_text())
    told = "it is older than the models or docs/config.md: run `python -m comptroller_server.config.editor_schema`"
    assert published_schema() == current, told
    assert REFERENCE.with_name(SCHEMA_NAME).read_text() == current, told
