"""What a header reader returns, for each container: `Header`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """What a sound file states about itself in its header."""

    container: str  # name of its entry in `shared.audio.formats.FORMATS`
    codec: str
    rate: int  # Hz; 0 where only decoding can tell
    channels: int  # 0 where only decoding can tell
    frames: int | None  # samples per channel; None where only decoding can tell
    offset: int = 0  # bytes before what the decoder needs: the samples of WAV and AIFF, else the stream behind its tags
    prefix: bytes = b""  # what the decoder needs in front of that
    sample_format: str = ""  # of uncompressed samples: a numpy type, "<i3", "alaw" or "ulaw"

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample; 0 where samples are compressed."""
        return 1 if self.sample_format in ("alaw", "ulaw") else int(self.sample_format[-1:] or 0)
