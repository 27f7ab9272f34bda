"""Logs of the service and the worker: a line for people at a terminal, a line of JSON elsewhere."""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from datetime import datetime
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from rlhf_loop.errors import ConfigError
from rlhf_loop.utils import tracing

#: The id of the request that the thread is at work on; its lines have it.
request_id: ContextVar[str | None] = ContextVar("rlhf_request_id", default=None)
FORMATS = ("auto", "text", "json")
#: The secret part of a one-time link, in what others log.
_LINK = re.compile(r"(?<=/welcome)(?:/|%2f|\\)[^\s\"'<>]+", re.IGNORECASE)
#: What a line for people has in its message, or does without.
_ASIDE = {*RESERVED_ATTRS, "request_id", "trace_id", "method", "path", "status"}


class _Json(JsonFormatter):
    """Masks links: gunicorn names the address of a request that went wrong in its own hands."""

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return {name: _LINK.sub("/...", value) if isinstance(value, str) else value for name, value in log_data.items()}


class _Text(logging.Formatter):
    """Time, level unless it is INFO, message, and what else there is; a terminal is sent no control characters."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.capitalize()}: "
        beside = [f"{name}={value}" for name, value in vars(record).items() if name not in _ASIDE and value]
        said = " ".join([f"{datetime.fromtimestamp(record.created):%H:%M:%S} {level}{record.getMessage()}", *beside])
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        lines = [said, *trace.splitlines()]
        return _LINK.sub("/...", "\n".join(map(_printable, lines)))


def check(format: str) -> str:
    """Return the format of the logs.

    Raises:
        ConfigError: there is none of that name.
    """
    if format not in FORMATS:
        raise ConfigError(f"RLHF_LOG_FORMAT={format!r} is not a valid format of logs. Choose {', '.join(FORMATS)}.")
    return format


def configure(format: str = "auto", stream: TextIO | None = None) -> None:
    """Write all that this process logs, warnings included, to a stream (stderr); replaces what was configured before.

    By "auto" as text where that is a terminal, as JSON elsewhere.

    Raises:
        ConfigError: there is no such format.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_ids)
    if check(format) == "text" or (format == "auto" and stream.isatty()):
        handler.setFormatter(_Text())
    else:
        handler.setFormatter(
            _Json(
                ["levelname", "name", "process", "request_id", "message"],
                rename_fields={"levelname": "level", "name": "logger", "process": "pid"},
                timestamp="time",
                json_ensure_ascii=False,
            )
        )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    # Each step of a new database; each request to Wikipedia, with its address, which holds the words of the question.
    for chatty in ("alembic", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _add_ids(record: logging.LogRecord) -> bool:
    if not hasattr(record, "request_id"):
        record.request_id = request_id.get()
    if found := tracing.trace_id():
        record.trace_id = found
    return True


def _printable(line: str) -> str:
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
