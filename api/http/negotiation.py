"""What the headers of a request say beside what is asked for: in which form, how long who asks would wait, and what it
has already."""

import re

from starlette.datastructures import Headers

from api.rendering.results import JSON
from otoscope.errors import NotAcceptable

MOST = 32
"""Elements of a list that are read: nobody means more, and each takes its time."""


def listed(headers: Headers, name: str) -> list[str]:
    """A header that is a list, whose lines are one (RFC 9110, 5.3)."""
    elements = ",".join(headers.getlist(name)).split(",", MOST)[:MOST]
    return [element.strip() for element in elements if element.strip()]


def has_copy(headers: Headers, tag: str) -> bool:
    """Whether If-None-Match names that entity tag, weak or not."""
    known = [each.removeprefix("W/") for each in listed(headers, "if-none-match")]
    return tag.removeprefix("W/") in known


def negotiate(headers: Headers, offered: tuple[str, ...]) -> str:
    """Which of the representations the Accept header asks for: of those it likes best the one it names first, and JSON
    where it leaves the choice. Raises NotAcceptable."""
    accept = listed(headers, "accept")
    if not accept:
        return JSON
    ranges: dict[str, tuple[float, int]] = {}  # of each its quality, and how early it is named
    for place, clause in enumerate(accept):
        kind, *parameters = (part.strip().lower() for part in clause.split(";"))
        ranges.setdefault(kind, (_quality(parameters), -place))

    def liked(kind: str) -> tuple[float, int]:
        """As the narrowest range says that it is in."""
        return next((ranges[range] for range in (kind, "application/*", "*/*") if range in ranges), (0.0, 0))

    best = max(offered, key=liked)
    if not liked(best)[0]:
        raise NotAcceptable(f"None of {', '.join(accept)} can be sent; {', '.join(offered)} can.")
    return best


def _quality(parameters: list[str]) -> float:
    given = next((text[2:] for text in parameters if text.startswith("q=")), "1")
    return float(given) if re.fullmatch(r"0(\.[0-9]*)?|1(\.0*)?", given) else 0.0


def preferred_wait(headers: Headers, most: float) -> float | None:
    """Seconds of `Prefer: wait=N`, cut to what is possible; what cannot be honoured is ignored, as RFC 7240 wants."""
    for preference in listed(headers, "prefer"):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            number = value.strip().strip('"')
            return min(float(number), most) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) else None
    return None
