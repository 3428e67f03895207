"""Live mode: the microphone's sound and the answers while it is recorded, and what is left when it stops."""

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, shoot
from tests.e2e.conftest import Stack, running_stack

pytestmark = pytest.mark.timeout(240)

DRAWN = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
}"""
"""How many colours a canvas has."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack of one model, whose gateway is restarted."""
    with running_stack(default_model="esc50-light", models="esc50-light,tiny") as running:
        yield running


def start(page: Page) -> None:
    """Start live mode, and wait for the first answer."""
    page.get_by_role("button", name="Live", exact=True).click()
    expect(page.locator("#live .note")).to_contain_text("answered in", timeout=30_000)


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (1024, "light"), (390, "light")])
def test_the_microphone_is_answered_while_it_runs(open_page: Open, width: int, scheme: str) -> None:
    """Class, bars, detections, spectrogram and map; stopping leaves a normal result with the recording."""
    page = open_page(width=width, color_scheme=scheme)
    start(page)
    live = page.locator("#live")
    expect(live.locator("h1")).to_have_text(re.compile("^(Perhaps )?siren$"), timeout=30_000)
    expect(live.locator(".events li").first).to_contain_text("siren", timeout=30_000)
    expect(live.locator("figcaption select")).to_be_enabled()
    for canvas in live.locator("canvas").all():
        assert canvas.evaluate(DRAWN) > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert not found, [violation["id"] for violation in found]
    shoot(page, f"live-{scheme}")
    live.get_by_role("button", name="Stop").click()
    expect(live).to_have_count(0)
    page.locator("#prediction .prediction").wait_for(timeout=30_000)
    expect(page.locator(".title h1")).to_have_text(re.compile(r"^Recording \d\d-\d\d-\d\d\.wav$"))
    expect(page.get_by_role("button", name="Live", exact=True)).to_be_enabled()


def test_another_layer_is_drawn(open_page: Open) -> None:
    """The choice of a layer changes the map at once."""
    page = open_page()
    start(page)
    layers = page.locator("#live figcaption select")
    names = layers.locator("option").all_inner_texts()
    assert len(names) > 3
    layers.select_option(names[-1])
    expect(layers).to_have_value(names[-1])
    assert page.locator("#live figure canvas").last.evaluate(DRAWN) >= 2
    page.get_by_role("button", name="Discard").click()


def test_a_discarded_recording_leaves_nothing(open_page: Open) -> None:
    """Nor does it keep the microphone or the connection."""
    page = open_page()
    sockets = []
    page.on("websocket", lambda socket: sockets.append(socket))
    start(page)
    page.get_by_role("button", name="Discard").click()
    expect(page.locator("#live")).to_have_count(0)
    expect(page.locator(".sounds li")).to_have_count(0)
    page.wait_for_timeout(500)
    assert [socket.is_closed() for socket in sockets] == [True]


def test_a_lost_connection_is_opened_again(open_page: Open, stack: Stack) -> None:
    """The recording goes on meanwhile, and answers come again when the server is back."""
    page = open_page()
    page.expected_errors.append("WebSocket connection")  # type: ignore[attr-defined]
    page.expected_errors.append("ERR_CONNECTION_REFUSED")  # type: ignore[attr-defined]
    start(page)
    stack.stop("api")
    problem = page.locator("#live .problem")
    expect(problem).to_contain_text("The connection is lost", timeout=20_000)
    stack.start("api")
    stack.until_ready()
    expect(problem).to_be_hidden(timeout=30_000)
    page.get_by_role("button", name="Stop").click()
    page.locator("#prediction .prediction").wait_for(timeout=30_000)


def test_what_the_server_refuses_is_said(open_page: Open) -> None:
    """Such as a model that is no longer served; the recording is not lost."""
    page = open_page()
    page.evaluate("localStorage.setItem('otoscope', JSON.stringify({model: 'nothing'}))")
    page.route("**/v1/models", lambda route: route.abort())
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    page.reload()
    page.get_by_role("button", name="Live", exact=True).click()
    expect(page.locator("#live .problem")).to_contain_text("There is no model 'nothing'", timeout=20_000)
    page.get_by_role("button", name="Discard").click()
