"""`retrieval`, `safety.require_citations` and `cites`: what is wrong with them is told at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from comptroller_server.config.loading import load_config
from comptroller_server.config.safety import citation_terms
from comptroller_server.errors import ConfigInvalid
from comptroller_server.installation import Installation
from tests.server.test_config import findings, write

BASE = """\
sources: {desk: {python: comptroller_tools.desk.tools}}
retrieval: {sources: [desk], freshness_sla_minutes: 5}
safety: {require_citations: true}
tools:
  - {name: lookup_invoice, allow_actions: [read], records: [{kind: invoice, id: "{output.invoice_id}"}]}
  - {name: issue_refund, allow_actions: [create], resource: "invoice:{input.invoice_id}", cites: [invoice]}
"""

WRONG = [
    (
        "sources: [desk],",
        "sources: [desk, crm],",
        2,
        "`retrieval.sources[1]` is `crm`, which names no source",
    ),
    ("sources: [desk],", "sources: [],", 2, "`retrieval.sources`"),
    ("minutes: 5", "minutes: 0", 2, "`retrieval.freshness_sla_minutes` must be greater than 0"),
    ("minutes: 5", "minutes: soon", 2, "`retrieval.freshness_sla_minutes` must be a number"),
    ("minutes: 5", "minutes: 525601", 2, "`retrieval.freshness_sla_minutes` must be less"),
    ("citations: true", "citations: 1", 3, "`safety.require_citations` must be `true` or `false`"),
    ("require_citations", "require_citation", 3, "write `require_citations`"),
    ("cites: [invoice]", "cites: invoice", 6, "`tools[1].cites` must be a list"),
    ("cites: [invoice]", "cites: [a b]", 6, "`tools[1].cites[0]` must match"),
]
UNMEETABLE = [
    ("cites: [invoice]", "cites: [ticket]", 6, "`tools[1].cites`: no call could ever cite a `ticket`"),
    ("cites: [invoice]", "cites: [invoice], why: false", 6, "`tools[1].why`: cannot be false beside `cites`"),
    (", records: [", ", cites: [invoice], records: [", 5, "`tools[0].cites`: is for side effects"),
    (
        '{output.invoice_id}"}]',
        '{output.payments[].payment_id}"}]',
        6,
        "no call could ever cite an `invoice`",
    ),
    (
        "cites: [invoice]",
        "constraints: {pattern: {invoice_id: '('}}",
        6,
        "`tools[1].constraints.pattern.invoice_id`",
    ),
]


@pytest.mark.parametrize(("old", "new", "line", "said"), WRONG)
def test_a_wrong_value_is_told_at_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert BASE.count(old) == 1
    (found,) = findings(tmp_path, BASE.replace(old, new))
    assert found.startswith(f"comptroller.yaml:{line}: ") and said in found


@pytest.mark.parametrize(("old", "new", "line", "said"), UNMEETABLE)
def test_a_demand_that_cannot_be_met_is_told_at_its_line(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    assert BASE.count(old) == 1
    config = load_config(write(tmp_path, BASE.replace(old, new)), data_dir=tmp_path)
    with pytest.raises(ConfigInvalid) as raised:
        Installation(config).check()
    told = [str(finding) for finding in raised.value.findings]
    assert any(f"comptroller.yaml:{line}: " in one and said in one for one in told), told


def test_what_is_written_is_what_holds(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, BASE), data_dir=tmp_path)
    terms = citation_terms(config.retrieval, config.safety)
    assert (terms.required, terms.sources, terms.fresh_ms) == (True, frozenset({"desk"}), 300_000)
    Installation(config).check()
    silent = load_config(write(tmp_path, BASE.split("retrieval")[0]), data_dir=tmp_path)
    terms = citation_terms(silent.retrieval, silent.safety)
    assert (terms.required, terms.sources, terms.fresh_ms) == (False, None, None)


def test_each_of_the_keys_makes_another_bundle(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return Installation(load_config(write(tmp_path, text), data_dir=tmp_path)).bundle_digest

    others = [
        BASE.replace("minutes: 5", "minutes: 6"),
        BASE.replace("sources: [desk], ", ""),
        BASE.replace("citations: true", "citations: false"),
        BASE.replace(", cites: [invoice]", ""),
    ]
    assert len({digest(text) for text in (BASE, *others)}) == 5
