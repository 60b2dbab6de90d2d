"""`streams` in the configuration: what is refused, with its place, and what is unwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_server.config.loading import load_config
from comptroller_server.config.streams import stream_warnings
from comptroller_server.errors import ConfigInvalid
from tests.scenarios.kit import placed

SECRET = "secret://env/HOOK"
HOOK = {"to": "webhook", "url": "https://soc.example.com/in", "secret": SECRET}


def loaded(folder: Path, **streams: dict[str, Any]) -> Any:
    def changes(config: dict[str, Any]) -> None:
        config["streams"] = streams

    return load_config(placed(folder, changes), data_dir=folder)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"to": "file"}, "needs `file`"),
        ({"to": "syslog"}, "needs `address`"),
        ({"to": "file", "file": "a", "url": "https://x.example.com"}, "`url` means nothing"),
        ({"to": "otlp", "url": "https://x.example.com", "format": "ocsf"}, "a shape of its own"),
        ({"to": "syslog", "address": "tls://siem.example.com"}, "HOST:PORT"),
        ({"to": "syslog", "address": "http://siem.example.com:1"}, "HOST:PORT"),
        ({**HOOK, "url": "http://soc.example.com/in"}, "https://"),
        ({**HOOK, "url": "https://me:pass@soc.example.com/in"}, "`headers`, as a reference"),
        ({**HOOK, "secret": "written-in-the-open"}, "must be a reference"),
        ({**HOOK, "secret": "secret://env/SHORT"}, "can be guessed"),
        ({**HOOK, "headers": {"Authorization": "Bearer abc"}}, "must be a reference"),
        ({**HOOK, "headers": {"Webhook-Id": "1"}}, "written by Comptroller itself"),
        ({**HOOK, "ca_file": "nowhere.pem"}, "is not there"),
        ({"to": "file", "file": "{data_dir}/keys.json"}, "something else already"),
    ],
)
def test_what_cannot_be_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("HOOK", "a-secret-of-sixteen")
    monkeypatch.setenv("SHORT", "short")
    with pytest.raises(ConfigInvalid) as refused:
        loaded(tmp_path, soc=written)
    (finding,) = refused.value.findings
    assert told in finding.message
    assert "`streams.soc" in finding.message


def test_two_streams_do_not_share_a_file(tmp_path: Path) -> None:
    one = {"to": "file", "file": "{data_dir}/copy.jsonl"}
    with pytest.raises(ConfigInvalid, match=r"streams\.b\.file"):
        loaded(tmp_path, a=one, b=one)


def test_the_secret_is_withheld_everywhere_and_in_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "a-secret-of-sixteen")
    config = loaded(tmp_path, soc={**HOOK, "headers": {"x-key": SECRET}})
    assert "a-secret-of-sixteen" in config.secrets
    assert "a-secret-of-sixteen" not in repr(config)
    before = config.digest_material()
    assert SECRET not in str(before["streams"])
    assert loaded(tmp_path, soc={**HOOK, "url": "https://else.example.com"}).digest_material() != before


def test_what_goes_in_the_clear_or_unheard_is_unwise(tmp_path: Path) -> None:
    def warned(address: str) -> int:
        config = loaded(tmp_path, siem={"to": "syslog", "address": address})
        return len(list(stream_warnings(config.streams)))

    assert [
        warned(f"{scheme}://{host}:514")
        for scheme in ("udp", "tcp", "tls")
        for host in ("127.0.0.1", "siem.example.com")
    ] == [1, 2, 0, 1, 0, 0]
