"""Detections of a whole stream, from those of its windows, which overlap."""

from collections.abc import Sequence
from dataclasses import replace

from otoscope.results import Detection


class DetectionTracker:
    """Joins what is detected in each window. A detection is reported once when it begins and once when it is over.

    The worker locates a detection within its window, so that windows that contain the same event agree about its time.
    """

    def __init__(self, merge_gap: float, min_duration: float) -> None:
        """In seconds: detections of a class that are closer than `merge_gap` are one, and those shorter than
        `min_duration` are left out."""
        self._merge_gap, self._min_duration = merge_gap, min_duration
        self._open: dict[str, Detection] = {}
        self._reported: set[str] = set()  # classes of open detections that were long enough
        self._over: dict[str, float] = {}  # class -> end of its last detection

    def add(self, found: Sequence[Detection], end: float) -> tuple[list[Detection], list[Detection]]:
        """What began and what ended. The times of `found` are from the beginning of the stream, as is `end`, that of
        the window."""
        for detection in found:
            self._join(detection)
        began = [
            detection
            for name, detection in self._open.items()
            if name not in self._reported and detection.end - detection.start >= self._min_duration
        ]
        self._reported |= {detection.class_ for detection in began}
        # What comes later than this can no longer be joined.
        over = [name for name, detection in self._open.items() if detection.end + self._merge_gap < end]
        return began, [ended for name in over if (ended := self._close(name))]

    def finish(self) -> list[Detection]:
        """What ends with the stream."""
        return [ended for name in list(self._open) if (ended := self._close(name))]

    def _join(self, detection: Detection) -> None:
        name = detection.class_
        before = self._open.get(name)
        if before is None:
            # A window still contains an event that is over, until the event has left it.
            start = max(detection.start, self._over.get(name, -1.0))
            if detection.end > self._over.get(name, -1.0) + self._merge_gap:
                self._open[name] = replace(detection, start=start, peak=max(start, detection.peak))
            return
        best = detection if detection.confidence > before.confidence else before
        self._open[name] = replace(best, start=before.start, end=max(before.end, detection.end))

    def _close(self, name: str) -> Detection | None:
        """The detection that is over; None if it was too short to be reported."""
        detection = self._open.pop(name)
        self._over[name] = detection.end
        if name not in self._reported:
            return None
        self._reported.discard(name)
        return detection
