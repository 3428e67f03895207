"""The first visit: the example, the tour, the cards of the models."""

import subprocess
import sys

import httpx2
import msgpack
import pytest
from playwright.sync_api import Page, Route, expect

from docs import example
from otoscope.types import ModelCard
from tests.browser.conftest import Open, classify, shoot
from tests.browser.test_accessibility import problems
from tests.browser.test_network import SIREN, node
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

PREPARED = example.STATIC / "example.msgpack"


@pytest.fixture
def landing(open_page: Open) -> Page:
    """The page of a visitor who has never been here, with the example; nothing is animated."""
    page = open_page(first_visit=True, reduced_motion="reduce")
    expect(page.locator("#prediction .example")).to_be_visible(timeout=30_000)
    return page


def test_the_prepared_result_is_that_of_the_shipped_model(stack: Stack) -> None:
    """Written again after a change of the sound or of the model: the same card, and predictions within the rounding."""
    prepared, now = msgpack.unpackb(PREPARED.read_bytes()), msgpack.unpackb(example.example(stack.url))
    ModelCard.model_validate(prepared["card"])
    assert prepared["card"] == now["card"]
    first = [one["job"]["result"]["predictions"][:3] for one in (prepared, now)]
    for there, here in zip(*first, strict=True):
        assert there["confidence"] == pytest.approx(here["confidence"], abs=0.02)
    assert prepared["job"]["audio"] == now["job"]["audio"]
    assert prepared["job"]["result"].keys() <= now["job"]["result"].keys()  # parts that are newer are not needed


def test_the_example_is_open_without_a_job(open_page: Open) -> None:
    """Answer, spectrogram, network and player are there; nothing was sent, and the address names no job."""
    page = open_page(first_visit=True, path="/health/live")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    page.goto("/")
    expect(page.locator("#prediction .top-class")).to_contain_text("siren", timeout=30_000)
    expect(node(page, "prediction")).to_be_visible()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled(timeout=30_000)
    expect(page.locator("#prediction")).to_contain_text("This sound is synthetic")
    expect(page.locator(".sounds .state")).to_contain_text("Example: siren")
    assert "#job" not in page.url
    assert any("example.msgpack" in request for request in sent)
    assert not [request for request in sent if request.startswith("POST")]
    expect(page.locator("#visit")).to_be_hidden()
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 900})
        shoot(page, "landing")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_example_needs_no_worker_and_no_catalogue(open_page: Open) -> None:
    """Also while no model is served."""
    page = open_page(first_visit=True, path="/health/live")
    page.route("**/v1/**", lambda route: route.fulfill(status=503, json={"code": "not_ready", "title": "Not ready"}))
    page.expected_errors.append("503")  # type: ignore[attr-defined]
    page.goto("/")
    expect(page.locator("#prediction .top-class")).to_contain_text("siren", timeout=30_000)
    expect(node(page, "mobilenet-v1.stem")).to_be_visible()


def test_a_closed_example_does_not_come_back(landing: Page) -> None:
    """Nor one that was removed from the list; a sound of one's own is added above it."""
    classify(landing, SIREN)
    expect(landing.locator(".title h1")).to_have_text("siren.flac", timeout=30_000)
    expect(landing.locator(".sounds .name")).to_have_text(["siren.flac", "Siren, an example"])
    landing.locator(".sounds .select").nth(1).click()
    landing.get_by_role("button", name="Close the example").click()
    expect(landing.locator(".sounds .name")).to_have_text(["siren.flac"])
    landing.reload()
    expect(landing.locator(".sounds .name")).to_have_text(["siren.flac"], timeout=30_000)


def test_a_visitor_with_a_link_sees_what_it_names(open_page: Open) -> None:
    """And not the example."""
    page = open_page(first_visit=True, path=f"/#job={'0' * 32}")
    page.expected_errors.append("404")  # type: ignore[attr-defined]
    expect(page.locator("#prediction h2")).to_have_text("This result no longer exists", timeout=30_000)
    page.wait_for_timeout(500)
    expect(page.locator(".sounds li")).to_have_count(1)


def test_the_tour_has_five_steps_and_can_be_left(landing: Page) -> None:
    """By keyboard too: each step is announced and marks what it is about; Escape leaves it, and the focus returns."""
    start = landing.get_by_role("button", name="Show me around")
    start.focus()
    landing.keyboard.press("Enter")
    dialog = landing.get_by_role("dialog")
    titles = []
    for step in range(5):
        expect(dialog).to_contain_text(f"Step {step + 1} of 5")
        expect(landing.locator("[data-toured]")).to_have_count(1)
        titles.append(dialog.locator("h2").inner_text())
        expect(landing.locator("#announcer")).to_contain_text(titles[-1])
        if step == 3:
            expect(landing.locator(".network .detail")).to_be_visible()
            assert problems(landing) == []
            for width in (1440, 390):
                landing.set_viewport_size({"width": width, "height": 900})
                shoot(landing, "tour")
            landing.set_viewport_size({"width": 1280, "height": 900})
        dialog.locator("button.primary").click()
    assert len(set(titles)) == 5
    expect(dialog).to_have_count(0)
    expect(landing.locator("[data-toured]")).to_have_count(0)
    start.focus()
    landing.keyboard.press("Enter")
    expect(dialog).to_be_focused()
    landing.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(start).to_be_focused()


def test_models_are_described_before_anything_is_sent(open_page: Open, stack: Stack) -> None:
    """Classes, what it was trained and measured on, and licence of every model; a model can be chosen there."""
    page = open_page()
    page.get_by_role("button", name="Classes, accuracy, licences").click()
    dialog = page.get_by_role("dialog")
    cards = httpx2.get(f"{stack.url}/v1/models").json()["models"]
    expect(dialog.locator(".model-list > section")).to_have_count(len(cards))
    for card in cards:
        article = dialog.locator(f'[data-model="{card["name"]}"]')
        for text in (card["description"], card["licence"], f"{len(card['classes'])},"):
            expect(article).to_contain_text(text)
        for accuracy in card["accuracy"]:
            expect(article).to_contain_text(f"({accuracy['correct']} of {accuracy['total']}) on {accuracy['data']}")
    first = dialog.locator('[data-model="esc50-light"]')
    first.locator("summary").click()
    expect(first.locator(".class-list li")).to_have_count(50)
    assert problems(page) == []
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        shoot(page, "models")
    first.get_by_role("button", name="Use this one").click()
    expect(dialog).to_have_count(0)
    expect(page.locator("#model")).to_have_value("esc50-light")
    page.get_by_role("button", name="Classes, accuracy, licences").click()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Classes, accuracy, licences")).to_be_focused()


def test_a_broken_example_leaves_the_page_as_it_is(open_page: Open) -> None:
    """Where the file cannot be loaded, the visitor sees the empty page."""

    def fail(route: Route) -> None:
        route.abort()

    page = open_page(first_visit=True, path="/health/live")
    page.route("**/example.msgpack", fail)
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    page.goto("/")
    expect(page.get_by_role("heading", name="Classify a sound")).to_be_visible()
    expect(page.get_by_role("button", name="Choose files")).to_be_enabled()


def test_the_example_is_made_by_a_command() -> None:
    """The script can be started by itself; without a service it says so."""
    command = [sys.executable, str(example.STATIC.parents[1] / "docs" / "example.py")]
    failed = subprocess.run(
        command, env={"OTOSCOPE_URL": "http://127.0.0.1:9"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert failed.returncode != 0
    assert "Connect" in failed.stderr or "refused" in failed.stderr
