"""The page of a service that requires an API key."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from shared.api_keys import Scope, new_key, read_keys, write_keys
from tests.browser.conftest import SOUNDS, Open, classify, shoot
from tests.browser.test_accessibility import problems
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

REQUIRED = "This service requires an API key"


@pytest.fixture(scope="module")
def keys(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The stack's gateway with API keys required; the keys by name. Rewriting the file revokes one."""
    both = [Scope.SUBMIT, Scope.READ]
    kinds = {"good": both, "submits": [Scope.SUBMIT], "revoked": both, "soon revoked": both}
    made = {name: new_key(name, scopes) for name, scopes in kinds.items()}
    file = tmp_path_factory.mktemp("keys") / "keys"
    write_keys(file, [key for name, (key, _) in made.items() if name != "revoked"])
    stack.stop("api")
    stack.environment["OTOSCOPE_KEYS_FILE"] = str(file)
    stack.start("api")
    stack.until_ready()
    yield {name: text for name, (_, text) in made.items()}
    stack.stop("api")
    del stack.environment["OTOSCOPE_KEYS_FILE"]
    stack.start("api")
    stack.until_ready()


def enter(page: Page, key: str) -> None:
    page.locator("#key-input").fill(key)
    page.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_key_is_required_stored_and_forgotten(keys: dict[str, str], open_page: Open, width: int, scheme: str) -> None:
    """The form is shown at once and accessible, reports what is wrong with a key, and accepts a valid one, which is
    stored for this site alone until it is deleted."""
    page = open_page(width=width, color_scheme=scheme)
    page.expected_errors += ["401", "403"]  # type: ignore[attr-defined]
    heading = page.get_by_role("heading", name=REQUIRED)
    expect(heading).to_be_visible()
    expect(page.locator("#key-input")).to_be_focused()
    expect(page.get_by_role("button", name="Forget the key")).to_be_hidden()
    shoot(page, f"key-{scheme}")
    assert problems(page) == []
    for key, problem in (("nonsense", "not a key"), (keys["revoked"], "revoked"), (keys["submits"], "scope read")):
        enter(page, key)
        expect(page.locator("#key [role=alert]")).to_contain_text(problem)
        assert not page.context.cookies()
    shoot(page, f"key-refused-{scheme}")
    assert problems(page) == []
    enter(page, keys["good"])
    expect(heading).to_be_hidden()
    expect(page.get_by_label("Model")).to_be_enabled()
    [cookie] = page.context.cookies()
    assert (cookie["name"], cookie["value"], cookie["sameSite"]) == ("otoscope_key", keys["good"], "Strict")
    classify(page, SOUNDS / "siren.flac")
    page.reload()
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)
    expect(heading).to_be_hidden()
    page.get_by_role("button", name="Forget the key").click()
    expect(heading).to_be_visible()
    assert not page.context.cookies()


OPEN_STREAM = """() => new Promise((resolve) => {
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/stream?rate=16000`);
  socket.onmessage = ({ data }) => resolve(JSON.parse(data).type);
  socket.onclose = ({ code }) => resolve(code);
})"""
"""The type of the first message of a stream, or the code that it was closed with."""


def test_live_mode_has_the_key_of_the_page(keys: dict[str, str], open_page: Open) -> None:
    """A stream without a key is refused; with the key that was entered the microphone is answered."""
    page = open_page()
    page.expected_errors += ["401", "WebSocket connection"]  # type: ignore[attr-defined]
    expect(page.get_by_role("heading", name=REQUIRED)).to_be_visible()
    assert page.evaluate(OPEN_STREAM) != "opened"
    enter(page, keys["good"])
    expect(page.get_by_label("Model")).to_be_enabled()
    assert page.evaluate(OPEN_STREAM) == "opened"
    page.get_by_role("button", name="Live", exact=True).click()
    expect(page.locator("#live .note")).to_contain_text("answered in", timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    page.locator("#prediction .prediction").wait_for(timeout=60_000)


def test_sounds_continue_after_a_new_key(keys: dict[str, str], open_page: Open, stack: Stack) -> None:
    """A key is revoked while the page is open: the sound waits, the form is shown, and a new key lets it continue."""
    page = open_page()
    page.expected_errors.append("401")  # type: ignore[attr-defined]
    enter(page, keys["soon revoked"])
    expect(page.get_by_label("Model")).to_be_enabled()
    fresh, text = new_key("fresh", [Scope.SUBMIT, Scope.READ])
    file = Path(stack.environment["OTOSCOPE_KEYS_FILE"])
    write_keys(file, [fresh, *(key for key in read_keys(file).values() if key.name != "soon revoked")])
    with stack.client() as http:
        while http.get("/v1/models", headers={"Authorization": f"Bearer {keys['soon revoked']}"}).status_code == 200:
            page.wait_for_timeout(100)
    page.get_by_label("Sound files").set_input_files(str(SOUNDS / "siren.flac"))
    expect(page.get_by_role("heading", name=REQUIRED)).to_be_visible()
    expect(page.locator("#list .state")).to_have_text(re.compile("API key"))
    enter(page, text)
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)
