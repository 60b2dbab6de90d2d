"""Logs: ours by structlog and those of libraries, on standard error; standard output belongs to results."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, cast

import structlog

from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.call.roads import is_our_id
from comptroller_server.commands.showing import plain

__all__ = ["log_to_stderr", "release_logs", "released_line"]

_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


_STAMPED = ("timestamp", "level")


class _Road:
    """What everything on standard error goes through, as soon as a configuration says what must not be shown."""

    release: Release = Release()


def release_logs(release: Release) -> None:
    """From now on logs and the errors of commands show what `release` lets a log show."""
    _Road.release = release


def released_line(text: str) -> str:
    """A line for standard error."""
    return _Road.release.text(text, Audience.LOG)


def _released(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An event as logs may show it, tracebacks and what libraries say included. Our own ids stay."""
    stamped = {key: event.pop(key) for key in _STAMPED if key in event}
    ids = {key: value for key, value in event.items() if isinstance(value, str) and is_our_id(value)}
    rest: JsonObject = {key: _plain(value) for key, value in event.items() if key not in ids}
    shown = _Road.release.release(rest, Audience.LOG).value
    return {**stamped, **(shown if isinstance(shown, dict) else {"event": shown}), **ids}


def _plain(value: Any) -> Json:
    """What no JSON document can hold is searched as the text that would be written of it."""
    try:
        return cast("Json", json.loads(json.dumps(value, default=str)))
    except (TypeError, ValueError, RecursionError):
        return str(value)


class _Stderr(logging.Handler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # standard error is closed: a log must not break what it tells of
            return


def log_to_stderr(as_json: bool = False) -> None:
    """Send every log there, one line each: `time level event key=value…`, or JSON. See `release_logs`."""
    _Road.release = Release()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _released,
                structlog.processors.JSONRenderer() if as_json else _line,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("comptroller").setLevel(logging.INFO)
    logging.getLogger("comptroller_server").setLevel(logging.INFO)


def _line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    """One escaped line; a traceback follows on lines of its own."""
    time, level, text = event.pop("timestamp", ""), event.pop("level", ""), str(event.pop("event", ""))
    trace = str(event.pop("exception", ""))
    pairs = [f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in event.items()]
    first = plain(" ".join([str(time), str(level), text, *pairs]))
    return "\n".join([first, *(f"  {plain(line)}" for line in trace.splitlines())])
