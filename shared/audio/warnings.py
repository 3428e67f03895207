"""Warnings about a decoded sound: what was changed because of its level, and what it lacks for a model."""

from otoscope.results import Level, SoundWarning
from shared.audio.formats import BY_NAME
from shared.audio.headers import Header
from shared.audio.level import CLIPPED_SHARE

_OVERSHOOT = 2.0  # lossy codecs go beyond full scale, by less than this factor
_NARROW = 0.55  # of the model's band: telephones and some recorders use less
_BAND_PEAK_DBFS = -30.0  # of a quieter sound the upper frequencies may lie below the rounding of 16 bits
_ULTRASONIC = 5  # times the model's rate: recorders for bats, 192 kHz and more


def level_warnings(header: Header, level: Level, peak: float, scale: float, removed: float) -> list[SoundWarning]:
    """`peak` is that of the samples in the file, `scale` the factor by which they were changed, and `removed` the
    offset that was removed, or 0."""
    warnings: list[SoundWarning] = []
    if scale != 1.0:
        detail = f"Samples as large as {peak:.6g}, where full scale is 1: they were divided by {1 / scale:,.0f}."
        warnings.append(SoundWarning("beyond_full_scale", detail))
    elif peak > (1.0 if BY_NAME[header.container].lossless else _OVERSHOOT):
        detail = f"Samples as large as {peak:.3g}, where full scale is 1."
        warnings.append(SoundWarning("beyond_full_scale", detail))
    if removed:
        detail = f"A constant offset of {removed:.3g} of full scale was removed."
        warnings.append(SoundWarning("dc_offset", detail))
    if level.clipped > CLIPPED_SHARE:
        detail = f"{level.clipped:.2%} of the samples are at full scale: the recording was too loud."
        warnings.append(SoundWarning("clipped", detail))
    return warnings


def band_warnings(header: Header, level: Level, rate: int) -> list[SoundWarning]:
    """Whether the sound has less than a model at `rate` Hz listens to, or far more."""
    if header.rate < rate * 0.99:
        detail = f"The file's sample rate is {header.rate:,} Hz; the model listens at {rate:,} Hz."
        return [SoundWarning("resampled_up", detail)]
    if header.rate >= _ULTRASONIC * rate:
        detail = f"The file has frequencies up to {header.rate // 2:,} Hz; the model listens up to {rate // 2:,} Hz."
        return [SoundWarning("narrow_band", detail)]
    loud_enough = level.peak_dbfs is not None and level.peak_dbfs > _BAND_PEAK_DBFS
    if loud_enough and level.bandwidth is not None and level.bandwidth < _NARROW * rate / 2:
        detail = f"The sound has nothing above {level.bandwidth:,.0f} Hz; the model listens up to {rate // 2:,} Hz."
        return [SoundWarning("narrow_band", detail)]
    return []
