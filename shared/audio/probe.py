"""`probe()`: a sound file checked by its header, under limits. The gateway calls it; it needs no native code."""

from otoscope.errors import (
    AudioChannels,
    AudioEmpty,
    AudioRate,
    AudioTooLong,
    AudioTooShort,
    AudioTruncated,
    AudioUnsupported,
)
from shared.audio.formats import describe_formats, read_header
from shared.audio.headers import Decoder, Header
from shared.audio.limits import AudioLimits

LENGTH_TOLERANCE = 0.5  # seconds above the limit that are accepted: codecs pad sounds that were cut to its length


def probe(
    data: bytes, limits: AudioLimits | None = None, *, strict: bool = False, header: Header | None = None
) -> Header:
    """Check a file by its header, and return the header. Raises an AudioError: what was found and what is accepted.

    `header` is that of `read_header`, where the caller has read it.

    A file that ends early is an error only if it is to be `strict`, or if it has no sound at all.
    """
    limits = limits or AudioLimits()
    if not data:
        raise AudioEmpty("The file is empty.", accepted=describe_formats(limits.formats))
    if header is None:
        header = read_header(data, limits.formats)
    if header.container not in limits.formats:
        raise AudioUnsupported(
            f"{header.container} is not accepted here: it is disabled.", accepted=describe_formats(limits.formats)
        )
    for each in header.all:
        if each.truncated and (strict or each.frames == 0):
            raise AudioTruncated(each.truncated)
        if each.decoder is not Decoder.PYAV:  # others state wrong ones; those of the decoder are checked
            check_header(each, limits)
    if header.seconds is not None:
        check_length(header.seconds, limits, header.truncated)
    return header


def check_header(header: Header, limits: AudioLimits) -> None:
    """Raises AudioChannels or AudioRate."""
    if not 1 <= header.channels <= limits.max_channels:
        raise AudioChannels(f"The file has {header.channels} channels; 1 to {limits.max_channels} are accepted.")
    if not limits.min_rate <= header.rate <= limits.max_rate:
        raise AudioRate(
            f"The file's sample rate is {header.rate:,} Hz; {limits.min_rate:,} to {limits.max_rate:,} are accepted."
        )


def check_length(seconds: float, limits: AudioLimits, truncated: str = "") -> None:
    """`truncated`: what is missing, where that is why it is short. Raises AudioEmpty, AudioTruncated, AudioTooShort or
    AudioTooLong."""
    if truncated and seconds < limits.min_seconds:
        raise AudioTruncated(truncated)
    if seconds == 0:
        raise AudioEmpty("The file holds no samples.")
    if seconds < limits.min_seconds:
        raise AudioTooShort(
            f"The sound lasts {seconds * 1_000:.3g} ms; at least {limits.min_seconds * 1_000:g} ms are needed."
        )
    if seconds > limits.max_seconds + LENGTH_TOLERANCE:
        raise AudioTooLong(f"The sound lasts {seconds:,.1f} s; at most {limits.max_seconds:g} s are accepted.")
