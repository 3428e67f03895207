"""A link that carries the sound: only where the visitor wants it, as long as the page says, and deleted on demand."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import WIDTHS, Open, classify, job_id, shoot
from tests.browser.test_accessibility import problems
from tests.browser.test_visit import until_stored
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

DATE = r"\w{3} \d{1,2}, \d{4}, "
UNTIL = rf"({DATE})?\d{{1,2}}:\d\d"
"""A time in American English; with the date if it is not today, as in the last hour of a day."""


def row(page: Page) -> Locator:
    """What the result says of its link."""
    return page.locator("#prediction .share")


def share(page: Page) -> str:
    """Share the shown sound; the link."""
    row(page).get_by_role("button", name="Share with sound").click()
    field = row(page).get_by_label("Link with the sound")
    expect(field).to_be_visible(timeout=30_000)
    return field.input_value()


def sound_of(stack: Stack, link: str) -> httpx2.Response:
    return httpx2.get(f"{stack.url}/v1/jobs/{link.rpartition('=')[2]}/audio")


def test_whoever_opens_the_link_hears_the_sound(page: Page, open_page: Open, stack: Stack, own_sound: Path) -> None:
    """The link names a job of its own, and is copied; who opens it can play the sound and look into it. Without the
    button the server keeps nothing."""
    classify(page, own_sound)
    plain = job_id(page)
    expect(row(page)).to_contain_text("keeps the sound for 60 min")
    link = share(page)
    assert page.evaluate("navigator.clipboard.readText()") == link
    assert link != page.url
    assert job_id(page) == plain
    expect(row(page)).to_contain_text(re.compile(rf"The server keeps the sound until {UNTIL}"))
    assert sound_of(stack, plain).status_code == 404
    assert sound_of(stack, link).content == own_sound.read_bytes()
    other = open_page(path=link)
    expect(other.locator(".title h1")).to_have_text("own.flac", timeout=30_000)
    expect(other.get_by_role("button", name="Play")).to_be_enabled()
    other.wait_for_function("document.querySelector('audio').duration > 1")  # known once it has loaded
    carried = r"^This link includes the sound\. The server keeps it until "
    expect(row(other)).to_have_text(re.compile(carried + UNTIL))
    other.get_by_role("button", name="Which part matters?").click()
    expect(other.locator(".colour-controls .occlusion")).to_contain_text("part", timeout=60_000)
    expect(other.locator(".spectrogram [data-layer=cam]")).to_be_visible(timeout=30_000)
    other.clock.set_fixed_time(datetime.now() - timedelta(days=2))
    other.reload()
    expect(row(other)).to_have_text(re.compile(carried + DATE), timeout=30_000)
    row(page).get_by_role("button", name="Stop sharing").click()
    expect(row(page).get_by_role("button", name="Share with sound")).to_be_focused()
    assert sound_of(stack, link).status_code == 404


@pytest.mark.parametrize("how", ["remove", "forget"])
def test_a_removed_sound_is_deleted_on_the_server(page: Page, stack: Stack, own_sound: Path, how: str) -> None:
    """Also after a reload: the page remembers what it has shared."""
    classify(page, own_sound)
    link = share(page)
    until_stored(page, 1)
    page.wait_for_timeout(600)  # longer than changes are collected
    page.reload()
    expect(row(page).get_by_label("Link with the sound")).to_have_value(link)
    assert sound_of(stack, link).status_code == 200
    with page.expect_request(lambda request: request.method == "DELETE") as deleted:
        if how == "remove":
            page.get_by_role("button", name="Remove from the list").click()
        else:
            page.once("dialog", lambda dialog: dialog.accept())
            page.get_by_role("button", name="Forget all").click()
    response = deleted.value.response()
    assert response is not None
    assert response.status == 204
    assert sound_of(stack, link).status_code == 404


def test_nothing_is_offered_where_the_server_keeps_no_sounds(page: Page, own_sound: Path) -> None:
    """As by default."""

    def without(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"share_sounds": False})

    page.route("**/v1/limits", without)
    page.reload()
    classify(page, own_sound)
    expect(page.locator("#network canvas").first).to_be_visible(timeout=20_000)
    expect(row(page)).to_be_empty()


def test_a_refused_sound_can_be_shared_again(page: Page, own_sound: Path) -> None:
    """The reason is shown, and the button stays."""
    page.expected_errors.append("429")  # type: ignore[attr-defined]
    classify(page, own_sound)
    problem = {"code": "queue_full", "title": "Queue full", "detail": "Sounds that are kept are accepted again later."}
    page.route("**/v1/jobs", lambda route: route.fulfill(status=429, body=json.dumps(problem)), times=1)
    row(page).get_by_role("button", name="Share with sound").click()
    expect(row(page).get_by_role("alert")).to_have_text(problem["detail"])
    share(page)
    expect(row(page).get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
def test_the_row_fits_and_is_accessible(open_page: Open, own_sound: Path, locale: str) -> None:
    """Before and after sharing, at every width, in both languages."""
    page = open_page(locale=locale)

    def fits(name: str) -> None:
        for width in (1024, *WIDTHS):
            page.set_viewport_size({"width": width, "height": 900})
            shoot(page, f"{name}-{locale}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.locator("#upload input[type=file]").set_input_files(own_sound)
    button = row(page).get_by_role("button")
    expect(button).to_be_visible(timeout=60_000)
    expect(page.locator("#network canvas").first).to_be_visible(timeout=20_000)
    fits("share")
    button.click()
    expect(row(page).get_by_role("textbox")).to_be_visible(timeout=30_000)
    fits("shared")
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert problems(page) == []


def test_a_link_to_a_sample_has_its_sound(classified: Page, open_page: Open) -> None:
    """The page has the samples itself, so the server need not keep them."""
    page = open_page(path=f"/#job={job_id(classified)}")
    expect(page.locator(".title h1")).to_have_text("siren.flac", timeout=30_000)
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
