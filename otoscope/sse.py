"""Server-sent events out of a stream of bytes, however it is cut."""

import codecs
import re
from dataclasses import dataclass

_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")  # a carriage return at the very end may be half of a \r\n


@dataclass(frozen=True)
class Message:
    """One event: its id, its type and its data."""

    id: str
    event: str
    data: str


class EventParser:
    """Feed it what arrives; it returns the events that became complete."""

    def __init__(self) -> None:
        self.retry: float | None = None  # seconds that the server wants between connections
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest: list[str] = []  # pieces of an unfinished line: one line may be megabytes
        self._id = self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Message]:
        text = self._decoder.decode(chunk)
        ended_in_return = bool(self._rest) and self._rest[-1].endswith("\r")
        self._rest.append(text)
        if not ended_in_return and "\n" not in text and "\r" not in text:
            return []
        *lines, rest = _LINE_END.split("".join(self._rest))
        self._rest = [rest]
        messages = []
        for line in lines:
            if line:
                self._field(line)
            elif message := self._dispatch():
                messages.append(message)
        return messages

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isdigit():
            self.retry = int(value) / 1_000

    def _dispatch(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return Message(self._id, event or "message", "\n".join(data)) if data else None
