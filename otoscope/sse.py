"""A parser of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) in any chunks.

It is our own, with a regular expression for line ends, because the parsers of libraries (httpx2's included) loop over
each character in Python, and the `data` of a result event is one line of up to several megabytes.
"""

import codecs
import re
from dataclasses import dataclass

from otoscope.errors import OtoscopeError
from otoscope.responses import MAX_ANSWER_BYTES

_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")  # a carriage return at the very end may be half of a \r\n


@dataclass(frozen=True)
class ServerSentEvent:
    """One event: its id, its type and its data."""

    id: str
    event: str
    data: str


class SSEParser:
    """Feed it chunks of the stream; it returns the events that they complete. Raises OtoscopeError for an event beyond
    MAX_ANSWER_BYTES."""

    def __init__(self) -> None:
        self.retry: float | None = None  # reconnection time in seconds, as set by the server
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest: list[str] = []  # pieces of an unfinished line: one line may be megabytes
        self._id = self._event = ""
        self._data: list[str] = []
        self._size = 0  # bytes since the last event

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise OtoscopeError(f"An event of the stream has more than {MAX_ANSWER_BYTES:,} bytes.")
        text = self._decoder.decode(chunk)
        ended_in_return = bool(self._rest) and self._rest[-1].endswith("\r")
        self._rest.append(text)
        if not ended_in_return and "\n" not in text and "\r" not in text:
            return []
        *lines, rest = _LINE_END.split("".join(self._rest))
        self._rest = [rest]
        events = []
        for line in lines:
            if line:
                self._field(line)
            else:
                self._size = 0
                if event := self._dispatch():
                    events.append(event)
        return events

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch(r"[0-9]{1,9}", value):
            self.retry = int(value) / 1_000

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return ServerSentEvent(self._id, event or "message", "\n".join(data)) if data else None
