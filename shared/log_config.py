"""Logging of gateway and worker: text for a terminal, or JSON lines for a log collector.

`log.info("accepted", extra={"job": job_id, "bytes": 3})`: the message is an event, `extra` its fields. An event that
concerns a job has the job's id as `job` in both processes, so that a search for the id finds everything about it. Where
tracing is enabled, `trace` is the id of the current trace.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from otoscope.text import CONTROLS, escape_controls
from shared import tracing
from shared.config.settings import LogFormat

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""Attributes that every record has, and those that uvicorn adds for itself; all others came with `extra`."""


def configure(log_format: LogFormat) -> None:
    """Log to stderr in that format. Call once, at start."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JSONFormatter())
        logging.captureWarnings(True)
    else:
        format_ = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
        handler.setFormatter(TextFormatter(format_, colour=sys.stderr.isatty()))
        handler.addFilter(_drop_job_info)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _drop_job_info(record: logging.LogRecord) -> bool:
    """Three lines for each of a hundred jobs a second are unreadable: a terminal gets only a job's warnings and
    errors."""
    return record.levelno > logging.INFO or "job" not in vars(record)


class TextFormatter(logging.Formatter):
    """The message, followed by the fields of `extra` as `name=value`: one line, without control characters.

    With `colour` warnings and errors are red.
    """

    def __init__(self, format_: str, *, colour: bool = False) -> None:
        super().__init__(format_)
        self._colour = colour

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        line = escape_controls(f"{super().formatMessage(record)}{'  ' if fields else ''}{fields}")
        return f"\x1b[31m{line}\x1b[0m" if self._colour and record.levelno >= logging.WARNING else line

    def formatException(self, ei: Any) -> str:
        return escape_controls(super().formatException(ei), keep_lines=True)


class JSONFormatter(logging.Formatter):
    """One line of JSON per event: `time`, `level`, `logger`, `message`, the fields of `extra`, `trace` and `error`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line |= _extra(record)
        if trace := tracing.trace_id():
            line["trace"] = trace
        if record.exc_info and record.exc_info[0]:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        text = json.dumps(line, default=str, ensure_ascii=False)  # it escapes those below a space
        return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
