"""Logs: ours by structlog and those of libraries, on standard error; standard output belongs to results."""

from __future__ import annotations

import json
import logging
import sys
import time
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


LIBRARY_LINES_PER_S_MAX = 20
LIBRARY_CHARS_MAX = 2_000
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


class _Libraries(logging.Filter):
    """What libraries log, bounded: others than us decide how often that is and what stands in it.

    A traceback shrinks to the kind of the exception and its place, for its text may be all that was sent to us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0.0
        self._lines = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("comptroller"):
            return True
        now = time.monotonic()
        if now - self._second >= 1:
            self._second, self._lines = now, 0
        self._lines += 1
        if self._lines > LIBRARY_LINES_PER_S_MAX:
            self._left_out += 1
            return False
        message = cast("object", record.msg)
        if isinstance(message, dict):  # the library logs with structlog too; the formatter reads its fields
            record.msg = _shortened(cast("dict[str, Any]", message), self._left_out)
            self._left_out = 0
            return True
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            text = f"{text[:LIBRARY_CHARS_MAX]} ({_named(record.exc_info[1])})"
        elif len(text) > LIBRARY_CHARS_MAX:
            text = f"{text[:LIBRARY_CHARS_MAX]}…"
        if self._left_out:
            text, self._left_out = f"{text} [{self._left_out} more lines of libraries are left out]", 0
        record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        return True


def _shortened(fields: dict[str, Any], left_out: int) -> dict[str, Any]:
    """The fields without a traceback, the longer ones cut."""
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        text = value if isinstance(value, str) else str(value)
        if name in ("exc_info", "exception", "stack_info"):
            continue
        kept[name] = f"{text[:LIBRARY_CHARS_MAX]}…" if len(text) > LIBRARY_CHARS_MAX else value
    if left_out:
        kept["left_out"] = f"{left_out} more lines of libraries"
    return kept


def _named(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__qualname__}{place}"


class _Stderr(logging.Handler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 -- standard error is closed, or whatever it is: a log breaks nothing it tells of
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
    handler.addFilter(_Libraries())
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
