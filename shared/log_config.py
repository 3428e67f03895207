"""What gateway and worker log, and how: words for a person at a terminal, or JSON lines for a machine.

`log.info("accepted", extra={"job": job_id, "bytes": 3})` says what happened, and `extra` what with. Whatever concerns a
job has its id under `job`, on both sides, so that a search for the id finds the whole way of the job. Where traces are
made, `trace` is the one that the line belongs to.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from shared import tracing
from shared.config.settings import LogFormat

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record has, and what uvicorn's have for its own use; the rest came with `extra`."""


def configure(how: LogFormat) -> None:
    """Log to stderr from now on. For the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    if how == "json":
        handler.setFormatter(Lines())
        logging.captureWarnings(True)
    else:
        handler.setFormatter(Words("%(asctime)s %(levelname)-7s %(name)s  %(message)s"))
        handler.addFilter(_not_of_every_job)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _not_of_every_job(record: logging.LogRecord) -> bool:
    """Nobody reads three lines for each of a hundred jobs a second; a terminal gets what needs somebody."""
    return record.levelno > logging.INFO or "job" not in vars(record)


class Words(logging.Formatter):
    """A line as it was said, and what with."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        told = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        return f"{super().formatMessage(record)}{'  ' if told else ''}{told}"


class Lines(logging.Formatter):
    """An event as one line of JSON: `time`, `level`, `logger`, `message`, what came with `extra`, and `error`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line |= _extra(record)
        if trace := tracing.trace_id():
            line["trace"] = trace
        if record.exc_info and record.exc_info[0]:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str, ensure_ascii=False)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}
