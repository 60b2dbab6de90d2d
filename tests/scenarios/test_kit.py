"""What the scenarios are spared is what the product would have done."""

from __future__ import annotations

from pathlib import Path

from comptroller_server.config.yaml_lines import read_yaml
from tests.scenarios.kit import json_read, placed


def test_a_configuration_is_read_as_the_product_reads_it(tmp_path: Path) -> None:
    path = placed(tmp_path)
    assert json_read(path, "here") == read_yaml(path, "here")
