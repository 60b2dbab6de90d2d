"""`/metrics`: what is looked up for it, and who may read it."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from comptroller_audit.database import Row
from comptroller_audit.errors import StoreError
from comptroller_audit.query import calls_in_state
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState
from comptroller_budgets.standing import Standing, window_standings
from comptroller_server.installation import TENANT, Installation
from comptroller_server.streaming.status import StreamState, stream_states
from comptroller_server.telemetry.exposition import CONTENT_TYPE
from comptroller_server.telemetry.measures import Now
from comptroller_server.telemetry.watching import Telemetry
from comptroller_server.upkeep.readiness import Readiness

__all__ = ["KEPT_S", "Headers", "Metrics", "Response", "metrics_of"]

Headers = Sequence[tuple[bytes, bytes]]
Response = tuple[int, bytes, bytes, *tuple[tuple[bytes, bytes], ...]]
"""Status, body, content type, and further headers."""

KEPT_S = 2.0
"""For how long one look at the store answers everybody who asks, seconds."""
_OPEN = (CallState.PENDING, CallState.COMMITTED, CallState.IN_DOUBT)
_TEXT = b"text/plain; charset=utf-8"
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


@dataclass(slots=True)
class Metrics:
    """What the HTTP face serves. Without a token it is for this machine: what came through a proxy is refused."""

    telemetry: Telemetry
    look: Callable[[], Awaitable[Now]]
    token: str | None
    _now: Now | None = None
    _at: float = 0.0

    async def answer(self, method: str, headers: Headers) -> Response:
        """What a request for `/metrics` is answered."""
        if method not in ("GET", "HEAD"):
            return 405, b"Use GET.\n", _TEXT, (b"allow", b"GET, HEAD")
        if self.may_read(headers):
            return 200, (await self.text()).encode(), CONTENT_TYPE.encode()
        if self.token is None:
            return 403, b"Through a proxy these are read with a token: telemetry.metrics.token.\n", _TEXT
        challenge = (b"www-authenticate", b'Bearer realm="comptroller metrics"')
        return (
            401,
            b"The token of telemetry.metrics is needed: Authorization: Bearer TOKEN.\n",
            _TEXT,
            challenge,
        )

    def may_read(self, headers: Headers) -> bool:
        """Whether a request with these headers is answered. Fails closed: a header that came twice is none."""
        if self.token is None:
            return not any(name.lower() in _FORWARDED for name, _ in headers)
        given = [value for name, value in headers if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.token.encode())

    async def text(self) -> str:
        """The metrics, of a moment that is `KEPT_S` seconds old at most."""
        now_s = time.monotonic()
        if self._now is None or now_s - self._at >= KEPT_S:
            self._now, self._at = await self.look(), now_s
        measures = self.telemetry.measures
        assert measures is not None
        return measures.text(self._now, self.telemetry.sent)


def metrics_of(parts: Callable[[], tuple[Installation, Readiness]], telemetry: Telemetry) -> Metrics | None:
    """`/metrics` as it is configured, None where it is not. `parts` are those of the rules in force."""
    if telemetry.measures is None:
        return None
    token = parts()[0].config.telemetry_secrets.token

    async def look() -> Now:
        installation, readiness = parts()
        ready, _ = await readiness.look()
        store = installation.store
        batches, units = store.written
        ups = {one.name: one.up for one in readiness.upstreams}
        now = Now(ready, upstreams=ups, batches=batches, units=units)
        try:
            return await store.read(lambda reader: _read(reader, installation, now))
        except StoreError:  # then there is nothing to say but that it is not ready
            return replace(now, ready=False)

    return Metrics(telemetry, look, token.get_secret_value() if token is not None else None)


def _read(reader: Reader, i: Installation, now: Now) -> Now:
    head = reader.head(TENANT)
    record_ms, records = (head.record_ms, head.size) if head is not None else (0, 0)
    now_ms = max(i.ambient.clock.now_ms(), record_ms)
    actors = list(i.config.identity.local.clients)
    standings = window_standings(reader, TENANT, i.principal_key, actors, i.config.budgets, now_ms)
    return replace(
        now,
        records=records,
        open_calls={state.value: 0 for state in _OPEN} | _states(calls_in_state(reader, TENANT, _OPEN)),
        used=_used(standings),
        left=_left(standings),
        streams={
            one.name: (one.lag, _waits_s(one, now_ms)) for one in stream_states(reader, i.config.streams)
        },
    )


def _waits_s(stream: StreamState, now_ms: int) -> float:
    return max(0.0, (now_ms - stream.waiting_ms) / 1000) if stream.waiting_ms is not None else 0.0


def _states(calls: Sequence[tuple[str, Row]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, row in calls:
        found[str(row["state"])] = found.get(str(row["state"]), 0) + 1
    return found


def _used(standings: Sequence[Standing]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for one in standings:
        share = (one.used_micro + one.held_micro) / one.max_micro if one.max_micro else 1.0
        found[one.limit.id] = max(found.get(one.limit.id, 0.0), round(share, 6))
    return found


def _left(standings: Sequence[Standing]) -> Mapping[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for one in standings:
        at = (one.limit.id, one.limit.unit)
        left = one.left_micro / 1_000_000
        found[at] = min(found.get(at, left), left)
    return found
