"""Content negotiation and preferences: `Accept` and `If-None-Match` (RFC 9110), `Prefer` (RFC 7240)."""

import re

from starlette.datastructures import Headers

from api.rendering.results import JSON
from otoscope.errors import NotAcceptable

MAX_ELEMENTS = 32
"""Elements of a list header that are read: no client needs more, and each one costs time."""


def parse_list_header(headers: Headers, name: str) -> list[str]:
    """The elements of a list header; several lines of it are one list (RFC 9110, section 5.3)."""
    elements = ",".join(headers.getlist(name)).split(",", MAX_ELEMENTS)[:MAX_ELEMENTS]
    return [element.strip() for element in elements if element.strip()]


def etag_matches(headers: Headers, etag: str) -> bool:
    """Whether If-None-Match lists that entity tag, by weak comparison (RFC 9110, section 8.8.3.2)."""
    known = [each.removeprefix("W/") for each in parse_list_header(headers, "if-none-match")]
    return etag.removeprefix("W/") in known


def negotiate(headers: Headers, offered: tuple[str, ...]) -> str:
    """The media type to send: the one with the highest q-value in `Accept`, of several the one that is listed first.

    JSON where the header is absent or leaves the choice. Raises NotAcceptable.
    """
    accept = parse_list_header(headers, "accept")
    if not accept:
        return JSON
    ranges: dict[str, tuple[float, int]] = {}  # media range -> q-value, and minus its position
    for position, clause in enumerate(accept):
        media_range, *parameters = (part.strip().lower() for part in clause.split(";"))
        ranges.setdefault(media_range, (_q_value(parameters), -position))

    def preference(media_type: str) -> tuple[float, int]:
        """That of the most specific range that matches."""
        return next((ranges[each] for each in (media_type, "application/*", "*/*") if each in ranges), (0.0, 0))

    best = max(offered, key=preference)
    if not preference(best)[0]:
        raise NotAcceptable(f"None of {', '.join(accept)} is available; available are {', '.join(offered)}.")
    return best


def _q_value(parameters: list[str]) -> float:
    text = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    return float(text) if re.fullmatch(r"0(\.[0-9]*)?|1(\.0*)?", text) else 0.0


def preferred_wait(headers: Headers, max_wait: float) -> float | None:
    """Seconds of `Prefer: wait=N`, at most `max_wait`; a preference that cannot be honoured is ignored (RFC 7240)."""
    for preference in parse_list_header(headers, "prefer"):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            number = value.strip().strip('"')
            return min(float(number), max_wait) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) else None
    return None
