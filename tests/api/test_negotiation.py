"""Accept (RFC 9110) and Prefer (RFC 7240)."""

from collections.abc import Callable

import httpx2
import pytest
from starlette.datastructures import Headers

from api.http.negotiation import negotiate, preferred_wait
from api.rendering.results import JOB_TYPES, JSON, MSGPACK, NPZ, RESULT_TYPES
from otoscope.errors import NotAcceptable
from tests.api.conftest import FakeWorker, wav


@pytest.mark.parametrize(
    "accept", ["", ",", "*/*", "application/*", "text/html, */*;q=0.1", "*/*, application/x-npz;q=0.9"]
)
def test_json_is_the_default(accept: str) -> None:
    """For browsers and curl."""
    assert (
        negotiate(Headers({"accept": accept}), RESULT_TYPES)
        == negotiate(Headers({"accept": accept}), JOB_TYPES)
        == JSON
    )


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/msgpack, */*", MSGPACK),
        ("application/x-npz, application/msgpack", NPZ),
        ("application/json;q=0, */*;q=0.5", MSGPACK),
        ("*/*, application/json;q=0.2", MSGPACK),
        ("application/*;q=0.3, */*;q=0.9, application/x-npz;q=0.4", NPZ),
        ("application/json;q=0.5;charset=utf-8, application/msgpack;q=0.500", JSON),
        ("APPLICATION/X-NPZ ; Q=1.0", NPZ),
    ],
)
def test_the_most_specific_range_counts(accept: str, kind: str) -> None:
    """At any position in the list; of equal q-values the one that is listed first is taken."""
    assert negotiate(Headers({"accept": accept}), RESULT_TYPES) == kind


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "application/json;q=2", "*/*, application/*;q=0"])
def test_an_unacceptable_representation_is_not_sent(accept: str) -> None:
    """The error lists the available media types."""
    with pytest.raises(NotAcceptable, match="application/x-npz"):
        negotiate(Headers({"accept": accept}), RESULT_TYPES)


def test_only_the_first_elements_of_a_list_count() -> None:
    """A list of 64 KB of commas would block the event loop for a tenth of a second."""
    few, many = ["text/html"] * 31 + [NPZ], ["text/html"] * 32 + [NPZ]
    assert negotiate(Headers({"accept": ", ".join(few)}), RESULT_TYPES) == NPZ
    with pytest.raises(NotAcceptable):
        negotiate(Headers({"accept": ", ".join(many)}), RESULT_TYPES)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("", None),
        ("respond-async, WAIT = 10", 10.0),
        ('wait="7"; here="b"', 7.0),
        ("wait=600", 60.0),
        ("wait=999999999", 60.0),
        ("wait=0", 0.0),
        ("wait=abc", None),
        ("wait=-1", None),
        ("wait=nan", None),
        ("wait", None),
        ("wait=x, wait=5", None),  # the first counts
    ],
)
def test_preferences_that_cannot_be_honoured_are_ignored(prefer: str, seconds: float | None) -> None:
    """A longer time than the limit is cut to it."""
    assert preferred_wait(Headers({"prefer": prefer}), 60.0) == seconds


def test_several_lines_of_a_header_are_one_list(http: httpx2.Client, worker: FakeWorker) -> None:
    """RFC 9110, section 5.3."""
    headers = [("Accept", "text/html"), ("Accept", MSGPACK), ("Prefer", "respond-async"), ("Prefer", "wait=0.01")]
    answer = http.post("/v1/jobs", files={"file": wav()}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (202, MSGPACK)
    assert answer.headers["preference-applied"] == "wait=0.01"


def test_preference_applied_has_the_applied_time(
    start_gateway: Callable[..., httpx2.Client], worker: FakeWorker
) -> None:
    """Not the requested one; it is absent where the preference was ignored."""
    http = start_gateway(max_wait=0.1)
    for preference, applied in (("wait=600", "wait=0.1"), ("wait=abc", None)):
        answer = http.post("/v1/jobs", files={"file": wav()}, headers={"Prefer": preference})
        assert (answer.status_code, answer.headers.get("preference-applied")) == (202, applied)
