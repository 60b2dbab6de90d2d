"""The JSON Schema of `comptroller.yaml` for editors: the models' grammar, and for each key the text of docs/config.md.

It is published as a file of this package, which installations print (`comptroller config schema`), and beside the page.
After a change of either source run, in a checkout:

    python -m comptroller_server.config.editor_schema
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from comptroller_server.config.model import config_json_schema

__all__ = ["SCHEMA_NAME", "as_text", "editor_schema", "publish", "published_schema", "texts_of"]

SCHEMA_NAME = "comptroller.schema.json"
_DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest that the YAML language server reads in full (its README). Nothing here needs a newer one."""
_ROW = re.compile(r"^\| `([^`]+)` \| [^|]+ \|[^|]*\| ([^|]+) \|$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_LEFT_OUT = frozenset({"title", "$defs", "default", "description"})


def texts_of(page: str) -> dict[str, str]:
    """Key path to its text, from the tables of docs/config.md (`NAME` for a chosen name, `[]` for a list's entry)."""
    return {key: _LINK.sub(r"\1", text).strip() for key, text in _ROW.findall(page)}


def editor_schema(texts: Mapping[str, str]) -> dict[str, Any]:
    """The grammar without references, so that each place has a description of its own.

    Stricter than the models' schema in what editors should mark: null is no value here, and names must fit.
    """
    grammar = config_json_schema()
    written = _Inlined(grammar.get("$defs", {}), texts).schema(grammar, "")
    return {
        "$schema": _DIALECT,
        "title": "comptroller.yaml",
        **{k: v for k, v in written.items() if k != "$schema"},
    }


class _Inlined:
    def __init__(self, definitions: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        self._definitions = definitions
        self._texts = texts

    def schema(self, written: Any, at: str, inside: tuple[str, ...] = ()) -> Any:
        """`written` at the key path `at`; `inside` are the definitions on the way, since a grammar may repeat itself."""
        if not isinstance(written, dict):
            return written
        whole = cast("dict[str, Any]", written)
        if "$ref" in whole:
            name = str(whole["$ref"]).rsplit("/", 1)[-1]
            if name in inside:
                return {}
            rest = {key: value for key, value in whole.items() if key != "$ref"}
            return self.schema({**self._definitions[name], **rest}, at, (*inside, name))
        options = [one for one in whole.get("anyOf", ()) if one != {"type": "null"}]
        if len(options) == 1:
            rest = {key: value for key, value in whole.items() if key != "anyOf"}
            return self.schema({**options[0], **rest}, at, inside)
        made = {
            key: self._member(key, value, at, inside) for key, value in whole.items() if key not in _LEFT_OUT
        }
        if "patternProperties" in made:
            made.setdefault("additionalProperties", False)
        default = whole.get("default")
        if isinstance(default, bool | int | float | str) and default != "":
            made["default"] = default
        text = self._texts.get(at) or " ".join(str(whole.get("description", "")).split())
        return {"description": text, **made} if text else made

    def _member(self, key: str, value: Any, at: str, inside: tuple[str, ...]) -> Any:
        if key == "properties":
            return {
                name: self.schema(one, f"{at}.{name}" if at else name, inside) for name, one in value.items()
            }
        if key == "patternProperties":
            return {pattern: self.schema(one, f"{at}.NAME", inside) for pattern, one in value.items()}
        if key == "additionalProperties":
            return self.schema(value, f"{at}.NAME", inside)
        if key == "items":
            return self.schema(value, f"{at}[]", inside)
        if key == "anyOf":  # what is said of the key is said once, above the kinds of value it may have
            return [self.schema(one, "", inside) for one in value if one != {"type": "null"}]
        return value


def published_schema() -> str:
    """The text of the schema that this package carries."""
    return files("comptroller_server.config").joinpath(SCHEMA_NAME).read_text(encoding="utf-8")


def as_text(page: str) -> str:
    """The file's content for a docs/config.md."""
    return json.dumps(editor_schema(texts_of(page)), indent=1, ensure_ascii=False) + "\n"


def publish(checkout: Path) -> None:
    """Write the schema into the package and beside the page it was made from."""
    docs = checkout / "docs"
    text = as_text((docs / "config.md").read_text(encoding="utf-8"))
    for place in (Path(__file__).with_name(SCHEMA_NAME), docs / SCHEMA_NAME):
        place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    publish(Path.cwd())
