"""What becomes of a sound on the page: links, reloads, cancelling, what is fetched."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Page, Response, Route, expect

from tests.browser.conftest import SOUNDS, Open, classify, frozen, frozen_worker, job_id
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

SIREN = SOUNDS / "siren.flac"
BELL = SOUNDS / "church-bell.flac"
KEPT = "The server may still finish it; it forgets it by itself."


def test_job_under_way_outlives_a_reload(page: Page, stack: Stack) -> None:
    """The address has the job as soon as there is one: a page that is loaded anew goes on with it."""
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        job = job_id(page)
        page.reload()
        expect(page.locator(".sounds .state")).to_have_text(re.compile("^Queued|^Running"))
        assert job_id(page) == job
    expect(page.locator(".verdict strong")).to_have_text("siren", timeout=30_000)


@contextmanager
def away(page: Page, *paths: str) -> Iterator[None]:
    """Nobody answers at those paths. They stay routed: a request that is under way while a route goes may hang."""
    gone = True
    for path in paths:
        page.route(path, lambda route: route.abort() if gone else route.continue_())
    yield
    gone = False


def test_link_stays_in_the_address_while_it_is_opened(open_page: Open, stack: Stack) -> None:
    """A server that does not answer costs nobody the link; a result that was put away does not come back with it."""
    page = open_page()
    page.expected_errors += ["ERR_FAILED", "RANGE_NOT_SATISFIABLE"]  # type: ignore[attr-defined]
    with away(page, "**/v1/jobs/*", "**/health/live"):
        page.get_by_label("Sound files").set_input_files({"name": "empty.wav", "mimeType": "audio/wav", "buffer": b""})
        page.goto(f"/#job={'0' * 32}")
        expect(page.locator("#connection")).to_be_visible()
        assert job_id(page) == "0" * 32
        page.evaluate("import('/static/js/library.js').then(({ library }) => library.remove(library.selected))")
    expect(page.locator("#connection")).to_be_hidden(timeout=10_000)
    expect(page.locator(".sounds .name")).to_have_text(["empty.wav"])


def test_cancelled_stays_cancelled(page: Page) -> None:
    """A result that comes after its sound was cancelled changes nothing."""
    held: list[Route] = []
    page.route("**/v1/jobs/*/result", lambda route: held.append(route))
    page.get_by_label("Sound files").set_input_files(str(SIREN))
    while not held:
        page.wait_for_timeout(50)
    answer = held[0].fetch()
    state = page.locator(".sounds .state")
    page.get_by_role("button", name="Cancel").first.click()
    expect(state).to_have_text("Cancelled")
    held[0].fulfill(response=answer)
    page.wait_for_timeout(200)
    expect(state).to_have_text("Cancelled")


def test_result_comes_once_and_packed(page: Page, open_page: Open) -> None:
    """A result is fetched in one answer, a fresh and a reopened one, as MessagePack; as JSON it would be three times as
    large."""
    answers: list[tuple[str, str]] = []

    def heard(answer: Response) -> None:
        if re.search("/v1/jobs/[0-9a-f]+(/result)?$", answer.url):
            answers.append((answer.url.rpartition("/v1/")[2], answer.headers["content-type"]))

    page.on("response", heard)
    ended: list[str] = []
    for end in ("requestfinished", "requestfailed"):  # whichever of the two ends lets a stream go
        page.on(end, lambda request: ended.append(request.url) if "/events" in request.url else None)  # type: ignore[call-overload]
    classify(page, SIREN)
    while not ended:
        page.wait_for_timeout(50)
    page.evaluate("fetch('/health/live')")  # behind whatever else is asked for
    job = job_id(page)
    assert answers == [(f"jobs/{job}/result", "application/msgpack")]
    answers.clear()
    page = open_page()
    page.on("response", heard)
    page.goto(f"/#job={job}")
    expect(page.locator(".verdict strong")).to_have_text("siren", timeout=30_000)
    assert answers == [(f"jobs/{job}", "application/msgpack")]


def test_result_that_breaks_off_is_fetched_again(page: Page) -> None:
    """A connection that ends within an answer, or a proxy that has nobody behind it, is waited out."""
    page.expected_errors.append("502")  # type: ignore[attr-defined]
    page.evaluate(
        """() => {
            const real = fetch;
            const broken = () => new ReadableStream({ pull: (body) => body.error(new TypeError("network error")) });
            window.faults = [() => new Response(broken()), () => new Response("Bad Gateway", { status: 502 })];
            window.fetch = (path, options) =>
                path.endsWith("/result") && faults.length ? Promise.resolve(faults.pop()()) : real(path, options);
        }"""
    )
    page.get_by_label("Sound files").set_input_files([str(SIREN), str(BELL)])
    expect(page.locator("#connection")).to_be_visible(timeout=30_000)
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=30_000)
    assert page.evaluate("faults.length") == 0


def test_cancelled_job_is_said_to_be_forgotten_when_it_is(page: Page, stack: Stack) -> None:
    """The server has to have said so; where it cannot be told, the page says what may become of the job."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    end, cancel = page.locator("#answer .why"), page.locator("#answer").get_by_role("button", name="Cancel")
    held: list[Route] = []
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        job = job_id(page)
        page.route(f"**/v1/jobs/{job}", lambda route: held.append(route))
        cancel.click()
        expect(end).to_have_text("The server is being told.", timeout=20_000)
        retry = page.get_by_role("button", name="Try again")
        retry.focus()
        held[0].abort()
        expect(end).to_have_text(KEPT, timeout=20_000)
        expect(retry).to_be_focused()
        retry.click()
        assert job_id(page) != job
        cancel.click()
        expect(end).to_have_text("Nothing of it is kept on the server.", timeout=20_000)


def test_upload_that_is_cancelled_before_its_answer_becomes_no_job(page: Page, stack: Stack) -> None:
    """All of it has been sent, so the server makes a job of it; the page waits for its id to cancel that."""
    made: list[Response] = []
    page.on("response", lambda answer: made.append(answer) if answer.url.endswith("/v1/jobs") else None)
    end = page.locator("#answer .why")
    page.locator("#sound .sound").wait_for(state="attached")  # the last thing that the page itself needs of the server
    page.wait_for_load_state("networkidle")
    with frozen_worker(stack):
        with frozen(stack, "api"):
            page.get_by_label("Sound files").set_input_files(str(SIREN))
            expect(page.locator(".sounds .state")).to_have_text("Sent", timeout=20_000)
            page.locator("#answer").get_by_role("button", name="Cancel").click()
            expect(end).to_have_text("The server is being told.", timeout=20_000)
        expect(end).to_have_text("Nothing of it is kept on the server.", timeout=20_000)
        [answer] = made
        assert httpx.get(f"{stack.url}/v1/jobs/{answer.json()['id']}").json()["status"] == "cancelled"


def test_link_that_was_not_opened_can_be_opened_again(classified: Page, open_page: Open) -> None:
    """Giving up on a link leaves its result alone, and the link opens when it is followed again."""
    job = job_id(classified)
    page = open_page()
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    with away(page, "**/v1/jobs/*"):
        page.goto(f"/#job={job}")
        page.locator("#answer").get_by_role("button", name="Cancel").click()
        expect(page.locator("#answer .why")).to_have_text("It was not opened.", timeout=20_000)
    page.goto("/#")
    page.goto(f"/#job={job}")
    expect(page.locator(".verdict strong")).to_have_text("siren", timeout=30_000)
    expect(page.locator(".sounds li")).to_have_count(1)


def test_sound_of_a_link_that_is_gone_is_a_new_sound(open_page: Open) -> None:
    """A file chosen for a result that cannot be had is classified; none is asked for while the link is being opened."""
    page = open_page()
    page.expected_errors.append("404")  # type: ignore[attr-defined]
    held: list[Route] = []
    page.route(f"**/v1/jobs/{'0' * 32}", lambda route: held.append(route))
    page.goto(f"/#job={'0' * 32}")
    choose = page.get_by_role("button", name="Choose the file")
    expect(page.locator("#sound .sound")).to_be_visible(timeout=20_000)
    expect(choose).to_be_hidden()
    held[0].continue_()
    expect(page.get_by_role("heading", name="This result is gone")).to_be_visible(timeout=20_000)
    expect(choose).to_be_visible()
    page.get_by_label("The file of this result").set_input_files(str(SIREN))
    expect(page.locator(".verdict strong")).to_have_text("siren", timeout=30_000)


def test_upload_that_is_tried_again_shows_its_progress(page: Page) -> None:
    """What was cancelled while the server was away waits for it no longer when it is sent again."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    state, held = page.locator(".sounds .state"), list[Route]()
    with away(page, "**/v1/jobs"):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        expect(state).to_have_text("Waiting for the server", timeout=20_000)
        page.get_by_role("button", name="Cancel").first.click()
    page.route("**/v1/jobs", lambda route: held.append(route))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".sounds li")).to_have_attribute("data-phase", "uploading", timeout=20_000)
    expect(state).to_have_text(re.compile("^Uploading|^Sent"))
    held[0].continue_()
    expect(page.locator(".verdict strong")).to_have_text("siren", timeout=30_000)
