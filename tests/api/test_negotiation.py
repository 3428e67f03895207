"""Accept and Prefer, as RFC 9110 and RFC 7240 read them."""

from collections.abc import Callable

import httpx2
import pytest
from starlette.datastructures import Headers

from api.http.negotiation import negotiate, preferred_wait
from api.rendering.results import JOB_TYPES, JSON, MSGPACK, NPZ, RESULT_TYPES
from otoscope.errors import NotAcceptable
from tests.api.conftest import StandInWorker, wav


@pytest.mark.parametrize(
    "accept", ["", ",", "*/*", "application/*", "text/html, */*;q=0.1", "*/*, application/x-npz;q=0.9"]
)
def test_json_is_what_undecided_clients_get(accept: str) -> None:
    """Browsers and curl get JSON."""
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
def test_the_narrowest_range_counts(accept: str, kind: str) -> None:
    """Wherever it stands; of equals the one that is named first is taken."""
    assert negotiate(Headers({"accept": accept}), RESULT_TYPES) == kind


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "application/json;q=2", "*/*, application/*;q=0"])
def test_what_is_not_wanted_is_not_sent(accept: str) -> None:
    """The refusal names what there is."""
    with pytest.raises(NotAcceptable, match="application/x-npz"):
        negotiate(Headers({"accept": accept}), RESULT_TYPES)


def test_of_a_long_list_the_beginning_counts() -> None:
    """64 KB of commas are a list, too, and took a tenth of a second of everybody's."""
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
def test_what_cannot_be_honoured_is_ignored(prefer: str, seconds: float | None) -> None:
    """And what can be in part is, in part."""
    assert preferred_wait(Headers({"prefer": prefer}), 60.0) == seconds


def test_lines_of_a_header_are_one_list(http: httpx2.Client, worker: StandInWorker) -> None:
    """Whatever a proxy has made of them."""
    headers = [("Accept", "text/html"), ("Accept", MSGPACK), ("Prefer", "respond-async"), ("Prefer", "wait=0.01")]
    answer = http.post("/v1/jobs", files={"file": wav()}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (202, MSGPACK)
    assert answer.headers["preference-applied"] == "wait=0.01"


def test_the_preference_that_is_told_is_the_one_that_was_applied(
    start_gateway: Callable[..., httpx2.Client], worker: StandInWorker
) -> None:
    """Not the one that was sent; and none where it was ignored."""
    http = start_gateway(max_wait=0.1)
    for asked, applied in (("wait=600", "wait=0.1"), ("wait=abc", None)):
        answer = http.post("/v1/jobs", files={"file": wav()}, headers={"Prefer": asked})
        assert (answer.status_code, answer.headers.get("preference-applied")) == (202, applied)
