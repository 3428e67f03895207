"""/v1/limits: what is accepted, so that it can be told before anything is sent."""

from fastapi import APIRouter

from api.service import Here
from otoscope.types import Limits
from shared.audio.decode import accepted_formats

router = APIRouter(prefix="/v1/limits", tags=["limits"])

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "WAV": (".wav", ".wave"),
    "FLAC": (".flac",),
    "Ogg (Vorbis or Opus)": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3",),
    "AIFF": (".aif", ".aiff", ".aifc"),
    "M4A": (".m4a",),
}
"""How file names of each accepted format end. What counts is what is in the file: this is for file pickers."""


@router.get("")
async def limits(gateway: Here) -> Limits:
    """Sizes, lengths, rates and formats that are accepted here, and how long answers are waited for and kept."""
    settings, audio = gateway.settings, await gateway.audio_limits()
    formats = accepted_formats(audio.aac).split(", ")
    return Limits(
        max_upload_bytes=settings.max_upload_bytes,
        max_seconds=audio.max_seconds,
        min_seconds=audio.min_seconds,
        max_channels=audio.max_channels,
        min_rate=audio.min_rate,
        max_rate=audio.max_rate,
        formats=formats,
        extensions=[extension for name in formats for extension in EXTENSIONS[name]],
        max_wait=settings.max_wait,
        result_ttl=settings.result_ttl,
        queue_limit=settings.queue_limit,
    )
