"""The steps of an API call without I/O, and the state of a running call.

A call is a generator, a `Flow`: it yields steps, is sent the reply to each, and returns the answer. It neither blocks
nor awaits (https://sans-io.readthedocs.io); the two clients in `otoscope.client` carry the steps out.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from otoscope.audio import AudioInput
from otoscope.types import Job


@dataclass(frozen=True)
class JobEvent:
    """A change of a job: `status` at every change, `result` at the end; `job` is the job at that time."""

    id: str
    kind: Literal["status", "result"]
    job: Job


@dataclass(frozen=True)
class Request:
    """An HTTP request without the address of the service."""

    method: str
    path: str
    wait: float | None = None  # seconds that the service may hold the request (long poll)
    read_timeout: float = 15.0  # seconds beyond `wait` that each read from the connection may take
    deadline: float = math.inf  # of a monotonic clock, by which the whole response must have arrived
    headers: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None  # (field, (file name, content))


@dataclass(frozen=True)
class SendRequest:
    """Reply: the response with its body. Raises httpx2.TransportError."""

    request: Request


@dataclass(frozen=True)
class OpenStream:
    """Reply: the response; the body of a success is still to be read. Raises httpx2.TransportError."""

    request: Request


@dataclass(frozen=True)
class ReadChunk:
    """Reply: the next bytes of the stream that was opened last, empty at its end. Raises httpx2.TransportError."""


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class LoadAudio:
    """Reply: file name and bytes of the upload, read or encoded off the event loop. Raises what `load` does."""

    sound: AudioInput
    rate: int | None


@dataclass(frozen=True)
class EmitEvent:
    """Yield an event to the caller."""

    event: JobEvent


Step = SendRequest | OpenStream | ReadChunk | Sleep | LoadAudio | EmitEvent
T = TypeVar("T")
Flow = Generator[Step, Any, T]


class FlowRunner(Generic[T]):
    """A running flow: `step` is the next step, None at the end, when `value` is the answer.

    What the flow raises comes out of the method that advanced it.
    """

    def __init__(self, flow: Flow[T]) -> None:
        self.step: Step | None = None
        self.value: T
        self._flow = flow
        self.send(None)

    def send(self, reply: Any) -> None:
        """Advance with the reply to the step."""
        try:
            self.step = self._flow.send(reply)
        except StopIteration as end:
            self.step, self.value = None, end.value

    def throw(self, error: Exception) -> None:
        """Advance with the failure of the step; the flow may retry, or go on without it."""
        try:
            self.step = self._flow.throw(error)
        except StopIteration as end:
            self.step, self.value = None, end.value
