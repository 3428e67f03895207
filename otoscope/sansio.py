"""What a call can ask of its driver, and a call under way.

A call is a generator, a `Flow`: it yields steps, is given what came of each, and returns the answer. It knows nothing
of blocking or awaiting; `otoscope.client` has the two loops that carry steps out.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import httpx

from otoscope.audio import Sound
from otoscope.types import Job


@dataclass(frozen=True)
class JobEvent:
    """A change of a job: `status` at every change, `result` at the end; `job` is the job as it was then."""

    id: str
    kind: Literal["status", "result"]
    job: Job


@dataclass(frozen=True)
class Call:
    """A request, but for the address of the service."""

    method: str
    path: str
    hold: float | None = None  # seconds that the service may wait for news before it answers
    patience: float = 15.0  # seconds that each wait for bytes may take beyond that
    headers: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] | None = None
    files: dict[str, tuple[str, bytes]] | None = None


@dataclass(frozen=True)
class Send:
    """Reply: the answer, read. Raises httpx.TransportError."""

    call: Call


@dataclass(frozen=True)
class Open:
    """Reply: the answer, its body still to come where it is a success. Raises httpx.TransportError."""

    call: Call


@dataclass(frozen=True)
class More:
    """Reply: the next bytes of what was opened last; none at its end. Raises httpx.TransportError."""


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Load:
    """Reply: name and bytes of the sound, read or written off the event loop."""

    sound: Sound
    rate: int | None


@dataclass(frozen=True)
class Emit:
    """Hand an event to the caller."""

    event: JobEvent


Step = Send | Open | More | Pause | Load | Emit
T = TypeVar("T")
Flow = Generator[Step, Any, T]


class Running(Generic[T]):
    """A flow under way: `step` is what to do next, None at the end, when `value` is the answer.

    What the flow raises comes out of the method that moved it on.
    """

    def __init__(self, flow: Flow[T]) -> None:
        self.step: Step | None = None
        self.value: T
        self._flow = flow
        self.reply(None)

    def reply(self, value: Any) -> None:
        """Tell what came of the step."""
        try:
            self.step = self._flow.send(value)
        except StopIteration as end:
            self.step, self.value = None, end.value

    def fail(self, error: httpx.TransportError) -> None:
        """Tell that the connection failed; the flow may know what to do."""
        try:
            self.step = self._flow.throw(error)
        except StopIteration as end:
            self.step, self.value = None, end.value
