"""Sounds, results and edits of a visit are kept in the browser."""

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SOUNDS, classify, frozen_worker, job_id
from tests.browser.test_accessibility import problems
from tests.browser.test_edit import drag, tool, until_edits
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
SEA = SOUNDS / "sea.flac"


def until_stored(page: Page, count: int) -> None:
    """Wait until that many sounds with a result are in the database."""
    stored = """async () => {
      const { loadRecords } = await pageModule("library/storage.js");
      return (await loadRecords()).filter(({ result }) => result).length;
    }"""
    deadline = time.monotonic() + 30
    while page.evaluate(stored) != count:
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)


def test_a_file_that_was_refused_is_not_kept(page: Page, tmp_path: Path) -> None:
    """And nothing says that it is; with a sound that has a result it does."""
    page.expected_errors.append("415")  # type: ignore[attr-defined]
    note = page.locator("#visit")
    (tmp_path / "notes.wav").write_text("no sound")
    page.get_by_label("Sound files").set_input_files(tmp_path / "notes.wav")
    expect(page.locator('.sounds [data-phase="refused"]')).to_have_count(1)
    expect(note).to_be_hidden()
    classify(page, SIREN)
    expect(note).to_be_visible()


def test_sounds_are_found_again(page: Page) -> None:
    """After a reload, on the start page and in a second tab, without a request for a job: sounds, results, edits and
    files. Back and Forward move between the selected sounds."""
    classify(page, SIREN, SEA)
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=30_000)
    tool(page, "Mute").click()
    drag(page, 0.1, 0.1, 0.6, 0.9)
    until_edits(page, 1)
    siren = job_id(page)
    page.locator(".select", has_text="sea.flac").click()
    expect(page.locator(".title h1")).to_have_text("sea.flac")
    assert job_id(page) != siren
    page.go_back()
    expect(page.locator(".title h1")).to_have_text("siren (edited).wav")
    assert job_id(page) == siren
    page.go_forward()
    expect(page.locator(".title h1")).to_have_text("sea.flac")
    until_stored(page, 2)
    page.wait_for_timeout(600)  # longer than changes are collected
    sent: list[str] = []
    other = page.context.new_page()
    for each in (page, other):
        each.on("request", lambda request: sent.append(request.url) if "/v1/jobs" in request.url else None)
    page.reload()
    expect(page.locator(".title h1")).to_have_text("sea.flac")
    other.goto("/")
    for each in (page, other):
        expect(each.locator(".sounds li")).to_have_count(2)
        each.locator(".select", has_text="siren.flac").click()
        expect(each.locator(".title h1")).to_have_text("siren (edited).wav")
        expect(each.get_by_role("button", name="Play")).to_be_enabled()
        expect(each.locator("#network .node[data-id='prediction']")).to_be_visible()
        tool(each, "Undo").click()
        expect(each.locator(".top-class strong")).to_have_text("siren")
    assert sent == []
    assert problems(page) == []


def test_everything_is_forgotten(page: Page) -> None:
    """The button asks, then removes all sounds from this tab, from the others and from the database."""
    classify(page, SIREN)
    until_stored(page, 1)
    other = page.context.new_page()
    other.goto("/")
    expect(other.locator(".sounds li")).to_have_count(1)
    expect(page.locator("#visit")).to_contain_text("Kept in this browser only, up to 200 MB, for 7 days.")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Forget all").click()
    expect(page.locator(".sounds li")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Forget all").click()
    for each in (page, other):
        expect(each.locator(".sounds li")).to_have_count(0)
        expect(each.get_by_role("heading", name="Classify a sound")).to_be_visible()
    expect(page.get_by_role("button", name="Choose files")).to_be_focused()
    page.goto("/")
    page.wait_for_timeout(500)
    expect(page.locator(".sounds li")).to_have_count(0)


def test_an_unfinished_sound_continues(page: Page, stack: Stack) -> None:
    """A reload while the job is queued: the page follows the same job, with the file."""
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files(str(SIREN))
        job = job_id(page)
        page.wait_for_timeout(800)  # longer than changes are collected
        page.goto("/")
        expect(page.locator(".sounds .state")).to_have_text(re.compile("^Queued|^Running"), timeout=20_000)
        assert job_id(page) == job
    expect(page.locator(".top-class strong")).to_have_text("siren", timeout=30_000)
    expect(page.get_by_role("button", name="Play")).to_be_enabled()


def test_old_sounds_are_not_kept(page: Page) -> None:
    """A record older than a week is deleted when the page opens; without a database the page works."""
    classify(page, SIREN)
    until_stored(page, 1)
    page.wait_for_timeout(600)
    page.evaluate(
        """async () => {
          const { loadRecords, storeRecord } = await pageModule("library/storage.js");
          const [record] = await loadRecords();
          await storeRecord({ ...record, stored: record.stored - 8 * 86_400_000 });
        }"""
    )
    page.goto("/")
    until_stored(page, 0)
    expect(page.locator(".sounds li")).to_have_count(0)
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no') } })")
    page.goto("about:blank")
    page.goto("/")
    classify(page, SIREN)
    expect(page.locator(".top-class strong")).to_have_text("siren")
