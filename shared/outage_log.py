"""What the log says of something that is tried again and again while a server is away: when that begins and ends."""

import logging
from typing import Any


class OutageLog:
    """One warning for each reason of an outage, and one line when it is over, however many attempts there are."""

    def __init__(self, log: logging.Logger, lost: str, back: str, **fields: Any) -> None:
        """`lost` and `back` are the messages, `fields` those of both."""
        self._log, self._lost, self._back, self._fields = log, lost, back, fields
        self._reasons: set[str] = set()  # of this outage

    def failed(self, reason: object) -> None:
        """An attempt has failed."""
        if (text := str(reason)) not in self._reasons:
            self._reasons.add(text)
            self._log.warning("%s: %s", self._lost, text, extra=self._fields)

    def succeeded(self) -> None:
        """An attempt has succeeded."""
        if self._reasons:
            self._reasons.clear()
            self._log.info(self._back, extra=self._fields)
