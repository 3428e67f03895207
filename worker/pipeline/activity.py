"""Which windows of a sound have something to hear: louder than a threshold, or well above the sound's own noise floor.

A level alone cannot decide: the noise of a microphone at -60 dBFS is silence, and a bird at -70 dBFS in a recording
whose noise is at -95 dBFS is not. So the noise floor is measured in the sound itself, as the level that a twentieth of
it stays below.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.audio.level import BLOCK_SECONDS, FRAME_SECONDS, frame_levels
from worker.model.answers import AnswerConfig

_FLOOR_QUANTILE = 0.05


@dataclass(frozen=True)
class Activity:
    """The level of a sound over time, and the level from which on there is something to hear."""

    levels: NDArray[np.float64]  # (frames,): dBFS of each 0.1 s, one every 20 ms
    threshold_dbfs: float

    @property
    def loudest_dbfs(self) -> float:
        return float(self.levels.max())

    @property
    def active(self) -> bool:
        """Whether there is anything to hear at all."""
        return self.loudest_dbfs > self.threshold_dbfs

    def frames(self, start: float, end: float) -> slice:
        """The frames that are wholly between two times in seconds; at least one."""
        last = len(self.levels) - 1
        first = min(max(0, round(start / BLOCK_SECONDS)), last)
        return slice(first, max(first, min(round((end - FRAME_SECONDS) / BLOCK_SECONDS), last)) + 1)

    def windows(self, spans: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
        """(windows,): whether there is something to hear in each span of (start, end) seconds."""
        return np.array([self.levels[self.frames(*span)].max() > self.threshold_dbfs for span in spans])


def measure_activity(waveform: NDArray[np.float32], rate: int, config: AnswerConfig) -> Activity:
    """The activity of a waveform, (samples,) at `rate` Hz."""
    return activity_of(frame_levels(waveform, rate), config)


def activity_of(levels: NDArray[np.float64], config: AnswerConfig) -> Activity:
    """The activity of a sound with these levels, as of `shared.audio.level.frame_levels`."""
    sounding = levels[levels > config.digital_floor_dbfs - 10]  # gaps of zeros are no noise floor
    # Not np.quantile, which takes ten times as long for a few hundred numbers.
    lowest = np.sort(sounding)
    floor = float(lowest[int(_FLOOR_QUANTILE * len(lowest))]) if len(lowest) else config.digital_floor_dbfs
    above_floor = max(floor + config.active_range_db, config.digital_floor_dbfs)
    return Activity(levels, min(config.active_dbfs, above_floor))
