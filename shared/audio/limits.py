"""The limits that a sound file must keep."""

from dataclasses import dataclass, field

from shared.audio.formats import format_names


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted. The bounds on the rate keep resampling from inflating a small file."""

    min_seconds: float = 0.05
    max_seconds: float = 600.0
    max_channels: int = 8
    min_rate: int = 4_000  # Hz
    max_rate: int = 192_000  # Hz
    formats: tuple[str, ...] = field(default_factory=lambda: format_names())
    """Names of the accepted formats (`shared.audio.formats`). By default those that this process can decode; the
    gateway, which only reads headers, sets those that its workers can decode."""
