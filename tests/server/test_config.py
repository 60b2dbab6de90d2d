"""Loading a configuration: what it becomes, how files join, where values lead, what a digest holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema_rs
import pytest

import comptroller_tools.desk
from comptroller_audit.vocabulary import Effect
from comptroller_policy.declarations import RolloutMode
from comptroller_policy.errors import Finding
from comptroller_server.config.loading import Config, config_json_schema, load_config
from comptroller_server.errors import ConfigInvalid

DESK = """\
agent: {name: support-triage, objective: "Resolve low-risk billing tickets"}
store:
  url: "sqlite:///{data_dir}/comptroller.db"
  keys: {file: "{data_dir}/keys.json"}
  checkpoints: [{file: "{data_dir}/checkpoints.log"}]
identity:
  local:
    roles: [support_agent]
    clients: {claude-desktop: {interactive: true}, triage-bot: {}}
sources:
  desk: {python: "comptroller_tools.desk.tools"}
budgets:
  max_steps: 8
  max_tool_calls: 10
  timeout_seconds: 60
  windows:
    - {scope: principal, window: day, unit: refunded_usd, max: 500}
    - {scope: tool, name: issue_refund, window: hour, unit: calls, max: 30}
tools:
  - name: lookup_invoice
    schema: InvoiceLookup
    allow_actions: [read]
    resource: "invoice:{input.invoice_id}"
    records: [{kind: invoice, id: "{output.invoice_id}", version: "{output.updated_at}"}]
  - {name: find_refund, allow_actions: [read]}
  - name: issue_refund
    schema: RefundRequest
    allow_actions: [create]
    roles: [support_agent]
    resource: "invoice:{input.invoice_id}"
    constraints: {max_amount_usd: 50, require_reason_code: true}
    units: {refunded_usd: "input.amount_usd"}
    facts:
      invoice: {tool: lookup_invoice, arguments: {invoice_id: "{input.invoice_id}"}}
    derived:
      remaining_usd: "facts.invoice.paid_usd - facts.invoice.refunded_usd"
    history:
      principal.refunds_today: {count: issue_refund, window: day}
    approval:
      - {role: approver, at_least: 1, when: 'context.input.amount_usd.greaterThan(decimal("20"))'}
    verify:
      - {fact: invoice, expect: {refunded_usd: "facts.invoice.refunded_usd + input.amount_usd"}}
    recover: {tool: find_refund, arguments: {effect_key: "{call.effect_key}"}, absent_means: not_done}
    limits: {timeout_s: 10, response_kib_max: 64, concurrency_max: 4}
policies: ["policies/*.cedar"]
rollout: {mode: auto}
approvals: {expires_s: 3600}
limits: {halt_wait_s: 1.5}
environment: test
"""


def write(folder: Path, text: str = DESK, **fragments: str) -> Path:
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "refunds.cedar").write_text("// none yet\n")
    (folder / "comptroller.yaml").write_text(text)
    for name, fragment in fragments.items():
        (folder / "comptroller.d").mkdir(exist_ok=True)
        (folder / "comptroller.d" / f"{name}.yaml").write_text(fragment)
    return folder / "comptroller.yaml"


def load(folder: Path, text: str = DESK, **fragments: str) -> Config:
    return load_config(write(folder, text, **fragments), data_dir=folder / "data")


def findings(folder: Path, text: str, **fragments: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load(folder, text, **fragments)
    return [str(finding).replace(f"{folder}{os.sep}", "") for finding in caught.value.findings]


def test_the_desk_of_the_grammar_loads_as_written(tmp_path: Path) -> None:
    config = load(tmp_path)
    refund = config.tool("issue_refund")
    assert refund is not None
    assert (refund.schema_name, refund.effect, refund.limits.timeout_s) == (
        "RefundRequest",
        Effect.CREATE,
        10,
    )
    assert refund.recover is not None
    assert config.budgets.windows[0].max == 500
    assert config.rollout.mode is RolloutMode.AUTO
    assert config.identity.local.clients["claude-desktop"].interactive is True
    assert config.identity.local.effective_subject == str(os.getuid())
    assert config.store.url.get_secret_value() == f"sqlite:///{tmp_path}/data/comptroller.db"
    assert config.store.keys_file == tmp_path / "data" / "keys.json"
    assert config.store.checkpoint_files == (tmp_path / "data" / "checkpoints.log",)
    assert [file.name for file in config.policies] == ["policies/refunds.cedar"]
    assert (config.approvals.expires_s, config.limits.halt_wait_s, config.environment) == (3600, 1.5, "test")


def test_the_demo_desk_of_the_package_loads(tmp_path: Path) -> None:
    path = Path(comptroller_tools.desk.__file__).with_name("comptroller.yaml")
    config = load_config(path, data_dir=tmp_path)
    assert config.tool("issue_refund") is not None
    assert config.policies


def test_what_is_not_said_has_its_documented_default(tmp_path: Path) -> None:
    config = load(tmp_path, "sources: {desk: {python: desk}}\n")
    assert config.store.url.get_secret_value() == f"sqlite:///{tmp_path}/data/comptroller.db"
    assert config.store.checkpoint_interval_s == 10
    assert config.approvals.expires_s == 86_400
    assert config.approvals.allow_same_uid_file is False
    assert config.limits.attempts_per_minute_max == 120
    assert list(config.identity.local.clients) == ["default"]
    assert config.policies == ()


def test_the_data_directory_is_the_platforms_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    config = load_config(write(tmp_path))
    assert config.data_dir.is_absolute()
    assert config.data_dir.is_relative_to(tmp_path)
    assert config.data_dir.name == "comptroller"
    assert not config.data_dir.exists(), "loading writes nothing"


def test_relative_paths_start_at_the_config_file_and_not_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "conf").mkdir()
    write(
        tmp_path / "conf",
        "store: {url: 'sqlite:///x/c.db', keys: {file: ../k.json}}\npolicies: [policies/*.cedar]",
    )
    monkeypatch.chdir(tmp_path / "here")
    config = load_config(Path("../conf/comptroller.yaml"), data_dir=Path("data"))
    assert os.path.realpath(config.store.keys_file) == str(tmp_path / "k.json")
    url = config.store.url.get_secret_value().removeprefix("sqlite:///")
    assert os.path.realpath(url) == str(tmp_path / "conf" / "x" / "c.db")
    assert len(config.policies) == 1
    assert config.data_dir == tmp_path / "here" / "data"


def test_fragments_add_sections_keys_and_tools(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        DESK,
        more="tools: [{name: get_ticket, allow_actions: [read]}]\nlimits: {queue_max: 5}\nsources: {b: {python: b}}\n",
        note="# nothing but a comment\n",
    )
    assert [tool.name for tool in config.tools][-1] == "get_ticket"
    assert (config.limits.queue_max, config.limits.halt_wait_s) == (5, 1.5)
    assert set(config.sources) == {"desk", "b"}
    assert [file.name for file in config.files] == ["comptroller.yaml", "more.yaml", "note.yaml"]


def test_the_same_leaf_in_two_files_names_both_places(tmp_path: Path) -> None:
    found = findings(tmp_path, DESK, z="budgets:\n  max_steps: 9\npolicies: ['x/*.cedar']\n")
    assert found == [
        "comptroller.d/z.yaml:2: `budgets.max_steps` is already set in comptroller.yaml:13; keep it in one of the two files",
        "comptroller.d/z.yaml:3: `policies` is already set in comptroller.yaml:45; keep it in one of the two files",
    ]


def test_a_tool_named_in_two_files_has_the_keys_of_both(tmp_path: Path) -> None:
    more = "tools: [{name: find_refund, description: Finds it., limits: {timeout_s: 3}}]"
    found = load(tmp_path, z=more).tool("find_refund")
    assert found is not None
    assert (found.allow_actions, found.description, found.limits.timeout_s) == (
        (Effect.READ,),
        "Finds it.",
        3,
    )
    assert len(load(tmp_path, z=more).tools) == len(load(tmp_path).tools)


def test_a_tools_key_in_two_files_names_both_places(tmp_path: Path) -> None:
    again = "tools:\n  - name: issue_refund\n    roles: [everyone]\n    constraints: {max_amount_usd: 5000}\n"
    found = "\n".join(findings(tmp_path, DESK, z=again))
    assert "z.yaml:3: `tools.issue_refund.roles` is already set in comptroller.yaml:" in found
    assert "z.yaml:4: `tools.issue_refund.constraints.max_amount_usd` is already set in" in found


def test_a_mapping_in_one_file_and_a_value_in_the_other_do_not_merge(tmp_path: Path) -> None:
    assert "is already set in comptroller.yaml:12" in findings(tmp_path, DESK, z="budgets: 4\n")[0]


def test_a_tool_twice_in_two_files_names_both_places_and_the_index_in_its_own_file(tmp_path: Path) -> None:
    found = findings(tmp_path, DESK, z="tools:\n  - {name: Issue_Refund}\n  - {name: ok, whi: false}\n")
    assert found == [
        "comptroller.d/z.yaml:2: `tools[0].name` repeats `Issue_Refund`, "
        + "which comptroller.yaml:26 declares (case does not matter); rename one",
        "comptroller.d/z.yaml:3: `tools[1].whi` is not a key here; write `why`",
    ]


def test_a_fragment_that_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    write(tmp_path, DESK, a="{}")
    (tmp_path / "comptroller.d" / "limits.yml").write_text("limits: {queue_max: 1}")
    with pytest.raises(ConfigInvalid, match=r"limits\.yml: is not read; rename it to end in `\.yaml`"):
        load_config(tmp_path / "comptroller.yaml")


def test_findings_of_later_stages_get_file_line_and_the_path_as_written(tmp_path: Path) -> None:
    config = load(tmp_path, DESK, more="tools:\n  - {name: a, allow_actions: [read]}\n  - {name: b}\n")
    places = {
        "tools[2].constraints": ("comptroller.yaml:31", "tools[2].constraints"),
        "tools.issue_refund.constraints.max_x": ("comptroller.yaml:31", "tools[2].constraints.max_x"),
        "tools.issue_refund.history.principal.refunds_today.count": (
            "comptroller.yaml:38",
            "tools[2].history.principal.refunds_today.count",
        ),
        "tools.issue_refund.approval[0].when": ("comptroller.yaml:40", "tools[2].approval[0].when"),
        "tools[4]": ("more.yaml:3", "tools[1]"),
        "tools.b.name": ("more.yaml:3", "tools[1].name"),
        "tools.missing": ("comptroller.yaml:19", "tools.missing"),
        "sources.desk.python": ("comptroller.yaml:11", "sources.desk.python"),
        "sources": ("comptroller.yaml:10", "sources"),
    }
    for path, (place, shown) in places.items():
        (finding,) = config.placed([Finding(path, "is odd")])
        assert finding.where.endswith(f"{os.sep}{place}"), path
        assert finding.message == f"`{shown}`: is odd"
    elsewhere = Finding("policies/refunds.cedar:3", "does not parse")
    assert config.placed([elsewhere]) == (elsewhere,)


def test_a_url_with_a_password_shows_it_nowhere_and_lists_it_to_withhold(tmp_path: Path) -> None:
    text = "store: {url: 'postgresql+psycopg://app:p%40ss-word@db.example/c?sslmode=require'}\n"
    config = load(tmp_path, text)
    assert set(config.secrets) == {"p%40ss-word", "p@ss-word"}
    assert "ss-word" not in f"{config!r} {config.store!r} {config.tree!r}"
    assert "ss-word" not in json.dumps(config.digest_material())
    assert "p%40ss-word@db.example" in config.store.url.get_secret_value()


def test_a_reference_to_the_environment_is_resolved_and_withheld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://app:hunter2@db/c"
    monkeypatch.setenv("STORE_URL", url)
    config = load(tmp_path, "store: {url: 'secret://env/STORE_URL'}\n")
    assert config.store.url.get_secret_value() == url
    assert config.secrets == (url, "hunter2")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in f"{config.store!r} {config.tree!r}"


def test_a_reference_to_a_file_is_resolved_when_only_its_owner_can_read_it(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql+psycopg://app:hunter2@db/c\n")
    secret.chmod(0o600)
    for reference in ("secret://file/url", f"secret://file/{secret}"):
        config = load(tmp_path, f"store: {{url: '{reference}'}}\n")
        assert config.store.url.get_secret_value() == "postgresql+psycopg://app:hunter2@db/c"
    secret.chmod(0o644)
    assert "chmod 600" in findings(tmp_path, "store: {url: 'secret://file/url'}\n")[0]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("secret://env/NOT_SET_HERE", "environment variable NOT_SET_HERE, which is not set"),
        ("secret://file/none", "cannot be read (No such file or directory)"),
        ("secret://vault/x", "write `secret://env/NAME`"),
        ("secret://env/9 bad", "write `secret://env/NAME`"),
        ("secret://env/ODD_URL", "must begin with `sqlite:///`"),
        ("secret://env/NO_URL", "is not a database URL"),
    ],
)
def test_a_secret_that_cannot_be_used_names_the_field_and_never_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, said: str
) -> None:
    monkeypatch.setenv("ODD_URL", "hunter2://hunter2:hunter2@hunter2/hunter2")
    monkeypatch.setenv("NO_URL", "hunter2 hunter2")
    found = findings(tmp_path, f"store:\n  url: '{reference}'\n")
    assert len(found) == 1
    assert found[0].startswith("comptroller.yaml:2: `store.url` ")
    assert said in found[0]
    assert "hunter2" not in found[0]


def test_the_digest_changes_with_what_shapes_decisions_and_with_nothing_else(tmp_path: Path) -> None:
    first = load(tmp_path).digest_material()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = DESK.replace("  - {name: find_refund, allow_actions: [read]}\n", "").replace(
        "{data_dir}/keys", "keys"
    )
    same = load(
        elsewhere, moved, more="tools: [{name: find_refund, allow_actions: [read]}]"
    ).digest_material()
    assert same == first
    json.dumps(first, allow_nan=False)
    for old, new in {
        "max_amount_usd: 50": "max_amount_usd: 51",
        "environment: test": "environment: live",
        "max: 500": "max: 501",
        "mode: auto": "mode: human_approval",
        "expires_s: 3600": "expires_s: 3601",
        "roles: [support_agent]\n    clients": "roles: [other]\n    clients",
        "desk.tools": "desk.other",
    }.items():
        assert old in DESK
        assert load(tmp_path, DESK.replace(old, new)).digest_material() != first, new
    write(tmp_path)
    (tmp_path / "policies" / "refunds.cedar").write_text("// changed\n")
    assert load_config(tmp_path / "comptroller.yaml").digest_material() != first


def test_the_published_schema_accepts_what_loads_and_refuses_an_unknown_key(tmp_path: Path) -> None:
    validator = jsonschema_rs.Draft202012Validator(config_json_schema())
    written = load(tmp_path).tree.plain()
    assert isinstance(written, dict)
    assert validator.is_valid(written)
    assert not validator.is_valid({**written, "toolz": []})
