"""`comptroller suggest`: what ran, as the least of a configuration, with nothing of anybody in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from comptroller_server.commands.suggest import read_suggestion
from comptroller_server.reporting.suggesting import CALLS_MIN
from tests.scenarios.kit import Shop, code_of, opened, tool_of
from tests.server.cli_kit import run_in_thread

pytestmark = pytest.mark.anyio


def roomy(config: dict[str, Any]) -> None:
    config["budgets"] = {}
    config["limits"] = {"identical_calls_max": 1_000}
    config["safety"] = {"pii_redaction": ["email"]}
    tool_of(config, "issue_refund")["approval"] = []


def tools_of(shop: Shop, **more: Any) -> dict[str, dict[str, Any]]:
    told: Any = read_suggestion(shop.service.installation, None, more.get("task")).as_json()
    return {entry["name"]: entry for entry in told["tools"]}


async def test_it_says_what_ran_with_ranges_choices_and_shapes(tmp_path: Path) -> None:
    async with opened(tmp_path, roomy) as shop:
        invoices = shop.paid()[: CALLS_MIN + 1]
        for at, invoice in enumerate(invoices):
            reason = ("goodwill", "duplicate_charge")[at % 2]
            assert code_of(await shop.refund(invoice, 3 + at, reason=reason)) is None
            assert code_of(await shop.call("lookup_invoice", invoice_id=invoice)) is None
        assert code_of(await shop.refund(invoices[0], 5_000)) == "denied"  # what was refused did not run
        found = tools_of(shop)
        refund = found["issue_refund"]
        assert refund["allow_actions"] == ["create"]
        assert refund["roles"] == ["support_agent"]
        assert refund["constraints"] == {
            "min_amount_usd": 3,
            "max_amount_usd": 3 + CALLS_MIN,
            "one_of": {"reason_code": ["duplicate_charge", "goodwill"]},
            "pattern": refund["constraints"]["pattern"],
        }
        assert refund["constraints"]["pattern"]["invoice_id"].startswith("inv_[")
        suggestion = read_suggestion(shop.service.installation, None, None)
        told: Any = suggestion.as_json()
        assert told["budgets"]["max_tool_calls"] == 2 * len(invoices)
        assert "search_tickets" in told["not_called"]
        yaml: Any = YAML(typ="safe", pure=True)
        read = yaml.load(suggestion.text())
        assert read == {key: told[key] for key in ("budgets", "tools")}
        assert "# Not called:" in suggestion.text()
        unknown = read_suggestion(shop.service.installation, None, "no such task")
        assert unknown.as_json()["tools"] == []
        assert "nothing to suggest" in unknown.text()

    printed = await run_in_thread(tmp_path, "suggest", "--since", "all")
    assert (printed.exit_code, printed.stdout) == (0, suggestion.text())
    as_json = await run_in_thread(tmp_path, "suggest", "--since", "all", "--json")
    assert json.loads(as_json.stdout) == told

    def narrowed(config: dict[str, Any]) -> None:
        roomy(config)
        for name, entry in found.items():
            tool = tool_of(config, name)
            tool |= {key: value for key, value in entry.items() if key != "constraints"}
            tool["constraints"] = entry.get("constraints", {})

    async with opened(tmp_path / "again", narrowed) as shop:  # it would have let the same calls through
        for at, invoice in enumerate(invoices):
            reason = ("goodwill", "duplicate_charge")[at % 2]
            assert code_of(await shop.refund(invoice, 3 + at, reason=reason)) is None
        assert code_of(await shop.refund(invoices[0], 50)) == "denied"


async def test_what_is_withheld_free_or_seldom_gives_no_value(tmp_path: Path) -> None:
    def hiding(config: dict[str, Any]) -> None:
        roomy(config)
        tool_of(config, "issue_refund")["redact"] = [{"path": name} for name in ("reason_code", "amount_usd")]

    async with opened(tmp_path, hiding) as shop:
        invoices = shop.paid()[: CALLS_MIN + 1]
        for invoice in invoices:
            assert code_of(await shop.refund(invoice, 4)) is None
            assert code_of(await shop.call("search_tickets", query="ann@example.com")) is None
        assert code_of(await shop.call("lookup_invoice", invoice_id=invoices[0])) is None
        suggestion = read_suggestion(shop.service.installation, None, None)
        found = tools_of(shop)
        assert set(found["issue_refund"]["constraints"]) == {"pattern"}
        assert "constraints" not in found["search_tickets"] | found["lookup_invoice"]
        told = json.dumps(suggestion.as_json()) + suggestion.text()
        assert "ann@" not in told
        assert "goodwill" not in told
        assert invoices[0] not in told
        assert "# nothing is said of: amount_usd, reason_code " in suggestion.text()
