"""The limits that a sound file must keep."""

from dataclasses import dataclass, field

from shared.audio.formats import format_names

HEAD_SECONDS = 600.0
"""A sound of up to ten minutes is in memory as a whole. A longer one is classified while it is decoded; what depends on
the whole sound, such as a constant offset, is then decided on its first ten minutes, and it gets its time limits once
for every ten minutes."""
WHOLE_SECONDS = HEAD_SECONDS + 1
"""The longest sound that is in memory as a whole: ten minutes, and the samples that a codec adds."""
NO_FULL_SPECTROGRAM = (
    f"full_spectrogram is for sounds of up to {HEAD_SECONDS:g} s; this one is longer. Its spectrogram with fewer"
    " columns is requested with include=ltsa, that of a window with window=N and include=spectrogram."
)
"""The detail of the error of a request for it."""


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted. The bounds on the rate keep resampling from inflating a small file."""

    min_seconds: float = 0.05
    max_seconds: float = 7_200.0
    max_channels: int = 64
    min_rate: int = 1_000  # Hz
    max_rate: int = 768_000  # Hz
    formats: tuple[str, ...] = field(default_factory=lambda: format_names())
    """Names of the accepted formats (`shared.audio.formats`)."""
