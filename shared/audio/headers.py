"""What a header reader returns, for each container: `Header`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto

from otoscope.errors import AudioCorrupt


class Decoder(Enum):
    """What turns the bytes into samples; `shared.audio.decoders` implements them."""

    PCM = auto()  # numpy: uncompressed samples, no native decoder
    SNDFILE = auto()  # libsndfile
    PYAV = auto()  # FFmpeg


@dataclass(frozen=True)
class Header:
    """What a sound file states about itself in its header."""

    container: str  # name of its entry in `shared.audio.formats.FORMATS`
    codec: str
    rate: int  # Hz; 0 where only decoding can tell
    channels: int  # 0 where only decoding can tell
    frames: int | None  # samples per channel, of those that the file has; None where only decoding can tell
    offset: int = 0  # bytes before what the decoder needs: the samples of uncompressed sound, else the stream
    prefix: bytes = b""  # what the decoder needs in front of that
    suffix: bytes = b""  # and behind it
    sample_format: str = ""  # of uncompressed samples: a numpy type, "<i3", "alaw" or "ulaw"
    unframed: bool = False  # nothing says where its frames end: the decoder gets all of them as one packet
    decoder: Decoder = Decoder.PCM
    end: int | None = None  # bytes before what follows the sound; None: it may reach to the end of the file
    truncated: str = ""  # what the header announces and the file lacks, in a sentence; "" if nothing is missing
    tracks: int = 1  # of sound, as a decoder found them; the first is decoded
    more: tuple["Header", ...] = ()  # the sounds behind this one in the same file

    def stream(self, data: bytes) -> bytes:
        """What the decoder gets of the file, unless its samples are uncompressed."""
        return b"".join((self.prefix, memoryview(data)[self.offset : self.end], self.suffix))

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample; 0 where samples are compressed."""
        return 1 if self.sample_format in ("alaw", "ulaw") else int(self.sample_format[-1:] or 0)

    @property
    def seconds(self) -> float | None:
        """Of this sound and those behind it; None where only decoding can tell."""
        lengths = [each.frames / each.rate if each.frames is not None and each.rate else None for each in self.all]
        known = [length for length in lengths if length is not None]
        return sum(known) if len(known) == len(lengths) else None

    @property
    def all(self) -> tuple["Header", ...]:
        """This sound and those behind it."""
        return (self, *self.more)


def missing(container: str, announced: int, present: int, unit: str, seconds: float | None = None) -> str:
    """The sentence of `Header.truncated`; `seconds` of the sound are missing."""
    sentence = f"The {container} header announces {announced:,} {unit}; the file has {present:,}"
    return sentence + (f": {describe_seconds(seconds)} are missing." if seconds else ".")


def describe_seconds(seconds: float) -> str:
    """For messages: three digits, or whole seconds."""
    if seconds < 1:
        return f"{seconds * 1_000:.3g} ms"
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


@dataclass
class _Steps:
    left: int
    excess: str  # the error's detail where none are left


_steps: ContextVar[_Steps | None] = ContextVar("steps", default=None)


@contextmanager
def limited_steps(number: int, excess: str) -> Iterator[None]:
    """Inside the block, `step` raises AudioCorrupt with the text `excess` after so many steps. Inside another such
    block, the steps count for both."""
    around = _steps.get()
    own = _Steps(number, excess) if around is None or number < around.left else _Steps(around.left, around.excess)
    begin = own.left
    token = _steps.set(own)
    try:
        yield
    finally:
        _steps.reset(token)
        if around is not None:
            around.left -= begin - own.left


def step(number: int = 1) -> None:
    """A header reader calls this for each unit of a file that it looks at, such as a frame or a block, so that a file
    of countless tiny units takes a time in proportion to its size. A step is about half a microsecond.

    Raises AudioCorrupt where `limited_steps` allows no more.
    """
    steps = _steps.get()
    if steps is None:  # a reader that is used alone
        return
    steps.left -= number
    if steps.left < 0:
        raise AudioCorrupt(steps.excess)
