from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from comptroller_server.cli import cli
from comptroller_server.config.editor_schema import SCHEMA_NAME, published_schema, texts_of

ROOT = Path(__file__).parents[2]
SAMPLES = [
    "tools/comptroller_tools/desk/comptroller.yaml",
    "tools/comptroller_tools/desk/article/comptroller.yaml",
    "tools/comptroller_tools/desk/article/comptroller.d/desk.yaml",
    "tests/benchmarks/warehouse.yaml",
    "tests/simulation/bank.yaml",
]


def complaints(text: str) -> list[str]:
    """What an editor would mark, as `key path: message`."""
    yaml: Any = YAML(typ="safe", pure=True)
    tree: Any = yaml.load(text)
    validator = jsonschema_rs.Draft7Validator(json.loads(published_schema()))
    return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(tree)]


def test_the_command_prints_what_the_package_carries() -> None:
    result = CliRunner().invoke(cli, ["config", "schema"])
    assert result.exit_code == 0
    assert result.stdout == published_schema()


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample_is_right_for_an_editor_and_begins_with_the_way_to_the_schema(sample: str) -> None:
    text = (ROOT / sample).read_text()
    assert complaints(text) == []
    if "article/comptroller.yaml" in sample:  # it is the article's own text
        return
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert found is not None
    assert ((ROOT / sample).parent / found[1]).resolve() == ROOT / "docs" / SCHEMA_NAME


def test_the_example_of_the_readme_is_right_for_an_editor() -> None:
    example = re.search(
        r"^```yaml\n(agent:.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert example is not None
    assert complaints(example[1]) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("agent:", "agnet:"),
        ("max_tool_calls:", "max_tool_cals:"),
        ("- name: get_ticket", "- nmae: get_ticket"),
        ("unit: refunded_usd,", "unit:,"),
        ("allow_actions: [create]", "allow_actions: [crate]"),
    ],
)
def test_a_misspelt_key_or_word_and_a_key_without_a_value_are_marked(right: str, wrong: str) -> None:
    text = (ROOT / SAMPLES[0]).read_text()
    assert right in text
    assert complaints(text.replace(right, wrong)) != []


def test_every_key_shows_the_text_of_the_page() -> None:
    texts = texts_of((ROOT / "docs" / "config.md").read_text())
    schema: Any = json.loads(published_schema())
    for key, text in texts.items():
        at = schema
        for part in key.replace("[]", ".[]").split("."):
            at = _step(at, part)
        assert at["description"] == text and "](" not in text, key


def _step(schema: Any, part: str) -> Any:
    if part == "[]":
        return schema["items"]
    if part == "NAME":
        return schema["additionalProperties"] or next(iter(schema["patternProperties"].values()))
    return schema["properties"][part]
