"""The life of a sound on the page: links, reloads, cancelling, and which requests it makes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from playwright.sync_api import Page, Response, Route, expect

from tests.browser.conftest import SOUNDS, Open, classify, frozen, frozen_worker, intercepted, job_id
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
BELL = SOUNDS / "church-bell.flac"
KEPT = "The server could not be reached: it may still finish this job, and it deletes the result later."


def test_unfinished_job_survives_a_reload(page: Page, stack: Stack) -> None:
    """The address names the job from its submission on: after a reload the page continues with it."""
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        job = job_id(page)
        page.reload()
        expect(page.locator(".sounds .state")).to_have_text(re.compile("^Queued|^Running"))
        assert job_id(page) == job
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)


@contextmanager
def unreachable(page: Page, *paths: str) -> Iterator[None]:
    """Requests to those paths fail. They stay routed: a request that is under way while a route is removed may hang."""
    failing = True
    for path in paths:
        page.route(path, lambda route: route.abort() if failing else route.continue_())
    yield
    failing = False


def test_link_stays_in_the_address_while_it_is_opened(open_page: Open, stack: Stack) -> None:
    """An unreachable server does not lose the link; a removed result does not come back with the server."""
    page = open_page()
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    with unreachable(page, "**/v1/jobs/*", "**/health/live"):
        page.get_by_label("Sound files").set_input_files({"name": "empty.wav", "mimeType": "audio/wav", "buffer": b""})
        page.goto(f"/#job={'0' * 32}")
        expect(page.locator("#connection")).to_be_visible()
        assert job_id(page) == "0" * 32
        page.evaluate("pageModule('library/library.js').then(({ library }) => library.remove(library.selected))")
    expect(page.locator("#connection")).to_be_hidden(timeout=10_000)
    expect(page.locator(".sounds .name")).to_have_text(["empty.wav"])


def test_cancelled_stays_cancelled(page: Page) -> None:
    """A result that arrives after its sound was cancelled changes nothing."""
    held: list[Route] = []
    page.route("**/v1/jobs/*/result", lambda route: held.append(route))
    page.get_by_label("Sound files").set_input_files(str(SIREN))
    request = intercepted(page, held)
    response = request.fetch()
    state = page.locator(".sounds .state")
    page.get_by_role("button", name="Cancel").first.click()
    expect(state).to_have_text("Cancelled")
    request.fulfill(response=response)
    page.wait_for_timeout(200)
    expect(state).to_have_text("Cancelled")


def test_result_comes_once_and_packed(page: Page, open_page: Open) -> None:
    """A new or reopened result is fetched in one response, as MessagePack; as JSON it would be three times as large."""
    responses: list[tuple[str, str]] = []

    def on_response(response: Response) -> None:
        if re.search("/v1/jobs/[0-9a-f]+(/result)?$", response.url):
            responses.append((response.url.rpartition("/v1/")[2], response.headers["content-type"]))

    page.on("response", on_response)
    ended: list[str] = []
    for end in ("requestfinished", "requestfailed"):  # a stream ends with either
        page.on(end, lambda request: ended.append(request.url) if "/events" in request.url else None)  # type: ignore[call-overload]
    classify(page, SIREN)
    while not ended:
        page.wait_for_timeout(50)
    page.evaluate("fetch('/health/live')")  # after every request that was made before it
    job = job_id(page)
    assert responses == [(f"jobs/{job}/result", "application/msgpack")]
    responses.clear()
    page = open_page()
    page.on("response", on_response)
    page.goto(f"/#job={job}")
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)
    assert responses == [(f"jobs/{job}", "application/msgpack")]


def test_interrupted_result_is_fetched_again(page: Page) -> None:
    """The page retries after a response that breaks off, and after a proxy error without a backend (502)."""
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


def test_cancelling_is_reported_when_the_server_confirms_it(page: Page, stack: Stack) -> None:
    """Only after the server's response; where it cannot be reached, the page explains what may happen to the job."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    reason, cancel = (
        page.locator("#prediction .reason"),
        page.locator("#prediction").get_by_role("button", name="Cancel"),
    )
    held: list[Route] = []
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        job = job_id(page)
        page.route(f"**/v1/jobs/{job}", lambda route: held.append(route))
        cancel.click()
        expect(reason).to_have_text("Cancelling on the server…", timeout=20_000)
        retry = page.get_by_role("button", name="Try again")
        retry.focus()
        intercepted(page, held).abort()
        expect(reason).to_have_text(KEPT, timeout=20_000)
        expect(retry).to_be_focused()
        retry.click()
        assert job_id(page) != job
        cancel.click()
        expect(reason).to_have_text("The server keeps nothing of it.", timeout=20_000)


def test_upload_cancelled_before_its_response_leaves_no_job(page: Page, stack: Stack) -> None:
    """The file was sent whole, so the server creates a job; the page waits for its id and cancels it."""
    responses: list[Response] = []
    page.on("response", lambda response: responses.append(response) if response.url.endswith("/v1/jobs") else None)
    reason = page.locator("#prediction .reason")
    page.locator("#sound .sound").wait_for(state="attached")  # the last files that the page loads
    page.wait_for_load_state("networkidle")
    with frozen_worker(stack):
        with frozen(stack, "api"):
            page.get_by_label("Sound files").set_input_files(str(SIREN))
            expect(page.locator(".sounds .state")).to_have_text("Uploaded", timeout=20_000)
            page.locator("#prediction").get_by_role("button", name="Cancel").click()
            expect(reason).to_have_text("Cancelling on the server…", timeout=20_000)
        expect(reason).to_have_text("The server keeps nothing of it.", timeout=20_000)
        [response] = responses
        assert httpx2.get(f"{stack.url}/v1/jobs/{response.json()['id']}").json()["status"] == "cancelled"


def test_link_that_was_not_opened_can_be_opened_again(classified: Page, open_page: Open) -> None:
    """Cancelling a link does not cancel its job, and the link opens when it is followed again."""
    job = job_id(classified)
    page = open_page()
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    with unreachable(page, "**/v1/jobs/*"):
        page.goto(f"/#job={job}")
        page.locator("#prediction").get_by_role("button", name="Cancel").click()
        expect(page.locator("#prediction .reason")).to_have_text("The link was not opened.", timeout=20_000)
    page.goto("/#")
    page.goto(f"/#job={job}")
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)
    expect(page.locator(".sounds li")).to_have_count(1)


def test_file_for_an_expired_link_is_a_new_sound(open_page: Open) -> None:
    """A file chosen for a result that no longer exists is classified; no file is requested while the link is opened."""
    page = open_page()
    page.expected_errors.append("404")  # type: ignore[attr-defined]
    held: list[Route] = []
    page.route(f"**/v1/jobs/{'0' * 32}", lambda route: held.append(route))
    page.goto(f"/#job={'0' * 32}")
    choose = page.get_by_role("button", name="Choose the file")
    expect(page.locator("#sound .sound")).to_be_visible(timeout=20_000)
    expect(choose).to_be_hidden()
    intercepted(page, held).continue_()
    expect(page.get_by_role("heading", name="This result no longer exists")).to_be_visible(timeout=20_000)
    expect(choose).to_be_visible()
    expect(page.locator("#sound")).to_be_hidden()  # there is nothing to hear or to see
    page.locator("#prediction").get_by_label("The file of this result").set_input_files(str(SIREN))
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)


def test_parts_that_cannot_be_loaded_wait_for_the_server(page: Page) -> None:
    """What is loaded with its first use works when the server is back; until then the page says what it lacks."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    classify(page, SIREN)
    parts = ["input/recording-wave", "live/panel", "network/space", "start/model-cards"]
    connection, problem = page.locator("#connection"), page.locator(".drop .problem")
    space = page.get_by_role("button", name="3-D")
    with unreachable(page, "**/health/live", *(f"**/js/{part}.js" for part in parts)):
        space.click()
        expect(connection).to_be_visible()
        expect(space).to_have_attribute("aria-pressed", "false")
        for name in ("Classes, accuracy, licences", "Live", "Record"):
            page.get_by_role("button", name=name, exact=True).click()
        expect(problem).to_have_text("The recording cannot start: the server does not respond.")
    expect(connection).to_be_hidden(timeout=20_000)
    expect(problem).to_be_hidden()
    space.click()
    expect(page.locator(".network .space")).to_be_visible()
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Discard").click()


def test_job_that_is_not_followed_waits_everywhere(page: Page, stack: Stack) -> None:
    """While the server does not respond, the spectrogram waits for it as well, and not for a place in the queue."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    classify(page, SIREN)
    with frozen_worker(stack), unreachable(page, "**/v1/jobs/*/events*", "**/health/live"):
        page.get_by_label("Sound files").set_input_files(str(SOUNDS / "church-bell.flac"))
        expect(page.locator("#prediction .number")).to_have_text("Waiting for the server", timeout=20_000)
        text = "The spectrogram comes with the result. Waiting for the server."
        expect(page.locator("#sound .state")).to_have_text(text)


def test_retried_upload_shows_its_progress(page: Page) -> None:
    """A sound that was cancelled while the server was unreachable does not wait for it when it is submitted again."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    state, held = page.locator(".sounds .state"), list[Route]()
    with unreachable(page, "**/v1/jobs"):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        expect(state).to_have_text("Waiting for the server", timeout=20_000)
        page.get_by_role("button", name="Cancel").first.click()
    page.route("**/v1/jobs", lambda route: held.append(route))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".sounds li")).to_have_attribute("data-phase", "uploading", timeout=20_000)
    expect(state).to_have_text(re.compile("^Uploading|^Uploaded"))
    intercepted(page, held).continue_()
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)


def test_removed_sounds_leave_nothing_behind(page: Page) -> None:
    """The document's nodes, detached ones included, do not grow with the sounds that came and went."""
    devtools = page.context.new_cdp_session(page)

    def nodes_after(sounds: int) -> int:
        for _ in range(sounds):
            classify(page, SIREN)
            page.locator("#network .node").first.wait_for()
            page.get_by_role("button", name="Remove from the list").click()
            page.wait_for_timeout(100)
        devtools.send("HeapProfiler.collectGarbage")
        return int(devtools.send("Memory.getDOMCounters")["nodes"])

    before = nodes_after(2)
    assert nodes_after(6) < before + 300
