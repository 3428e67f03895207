"""Server-sent events are parsed whatever the chunks of the stream."""

import pytest

from otoscope.sse import ServerSentEvent, SSEParser

STREAM = (
    b"\xef\xbb\xbf: a comment\n\n"
    b"id: 1\r\nevent: status\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\n"
    b"retry: 1500\rid:2\rdata:k\xc3\xa4se\r\r"
    b"event: forgotten\n\n"
    b"unknown: field\ndata\n\n"
    b"data: unfinished"
)  # fmt: skip
EXPECTED = [
    ServerSentEvent("1", "status", '{"a":\n1}'),
    ServerSentEvent("2", "message", "käse"),
    ServerSentEvent("2", "message", ""),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_any_chunk_size_gives_the_same_events(size: int) -> None:
    """Line ends, characters and events may be split anywhere; all three line ends are accepted."""
    parser = SSEParser()
    events = []
    for start in range(0, len(STREAM), size):
        events += parser.feed(STREAM[start : start + size])
    assert events == EXPECTED
    assert parser.retry == 1.5


def test_a_long_line_is_scanned_once() -> None:
    """A result of megabytes in one line arrives in small chunks, and is not scanned again for each."""
    parser = SSEParser()
    for _ in range(2_000):
        assert parser.feed(b"data: " + b"x" * 4_000) == []
    (event,) = parser.feed(b"\n\n")
    assert len(event.data) > 8_000_000
