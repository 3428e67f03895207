"""/v1/limits: the limits of uploads, for clients that check a file before they send it."""

from fastapi import APIRouter

from api.dependencies import GatewayDep
from otoscope.types import Limits
from shared.audio.formats import BY_NAME
from shared.audio.limits import HEAD_SECONDS

router = APIRouter(prefix="/v1/limits", tags=["limits"])


@router.get("")
async def limits(gateway: GatewayDep) -> Limits:
    """Accepted sizes, durations, sample rates and formats; the longest wait; how long results are kept,
    and whether sounds may be kept, too."""
    settings, audio = gateway.settings, gateway.settings.audio_limits
    formats = [BY_NAME[name] for name in audio.formats]
    return Limits(
        max_upload_bytes=settings.max_upload_bytes,
        max_seconds=audio.max_seconds,
        min_seconds=audio.min_seconds,
        max_channels=audio.max_channels,
        min_rate=audio.min_rate,
        max_rate=audio.max_rate,
        formats=[str(each) for each in formats],
        extensions=[extension for each in formats for extension in each.extensions],
        max_wait=settings.max_wait,
        result_ttl=settings.result_ttl,
        max_full_spectrogram_seconds=HEAD_SECONDS,
        share_sounds=settings.share_sounds,
        queue_limit=gateway.store.queue_limit,
    )
