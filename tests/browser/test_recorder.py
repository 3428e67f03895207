"""The microphone: recording, discarding, refusal, and the server's limits."""

import json
import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, job_id, shoot
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)


def limit(page: Page, stack: Stack, **changed: float) -> None:
    """Reload the page with other limits than the server's."""
    limits = httpx2.get(f"{stack.url}/v1/limits").json() | changed
    page.route("**/v1/limits", lambda route: route.fulfill(json=limits))
    page.reload()
    expect(page.locator(".drop .hint").last).to_contain_text("Drop files anywhere")


def test_microphone_is_recorded_and_classified(page: Page) -> None:
    """The level of the microphone is shown on a meter; the recording becomes a file and is classified."""
    page.get_by_role("button", name="Record", exact=True).click()
    meter = page.get_by_role("meter", name="Level")
    expect(meter).not_to_have_attribute("aria-valuenow", "0.00", timeout=10_000)
    expect(page.locator(".recording .number")).to_have_text(re.compile(r"0:0[3-9]\.\d"), timeout=20_000)
    page.get_by_role("button", name="Stop").click()
    page.locator("#prediction .prediction").wait_for(timeout=30_000)
    expect(page.locator(".title h1")).to_have_text(re.compile(r"^Recording \d\d-\d\d-\d\d\.wav$"))
    expect(page.locator(".top-class strong")).to_have_text(re.compile("^(Perhaps )?siren$"))
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()


DRAWN = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((part, i) => i % 4 === 3 && part > 0).length;
}"""
"""How many pixels of a canvas are painted."""


def test_a_recording_has_a_waveform_while_it_runs(page: Page) -> None:
    """It grows with the recording, and is gone with it."""
    page.get_by_role("button", name="Record", exact=True).click()
    wave = page.get_by_role("img", name="Waveform of the recording")
    expect(page.locator(".recording .number")).to_have_text(re.compile(r"0:0[1-9]\.\d"), timeout=20_000)
    before = wave.evaluate(DRAWN)
    assert before > 100
    page.wait_for_timeout(1_000)
    assert wave.evaluate(DRAWN) > before
    shoot(page, "recording")
    page.get_by_role("button", name="Discard").click()
    expect(wave).to_have_count(0)


def test_the_recording_device_is_chosen_and_kept(page: Page) -> None:
    """Another device goes on with the recording at once; the next recording begins with it."""
    page.evaluate("""() => {
      window.opened = [];
      const { mediaDevices } = navigator;
      const real = mediaDevices.getUserMedia.bind(mediaDevices);
      mediaDevices.getUserMedia = async (wanted) => {
        const stream = await real(wanted);
        window.opened.push(stream.getTracks()[0]);
        return stream;
      };
    }""")
    page.get_by_role("button", name="Record", exact=True).click()
    devices = page.get_by_label("Microphone", exact=True)
    expect(devices).to_be_visible()
    ids = devices.locator("option").evaluate_all("options => options.map(({ value }) => value)")
    assert devices.input_value() in ids
    chosen = next(one for one in ids if one not in ("default", devices.input_value()))
    devices.select_option(chosen)
    page.wait_for_function("() => window.opened.length === 2 && window.opened[0].readyState === 'ended'")
    assert page.evaluate("window.opened[1].getSettings().deviceId") == chosen
    time = page.locator(".recording .number")
    before = time.inner_text()
    expect(time).not_to_have_text(before, timeout=10_000)  # the blocks go on
    page.get_by_role("button", name="Stop").click()
    page.locator("#prediction .prediction").wait_for(timeout=30_000)
    page.get_by_role("button", name="Record", exact=True).click()
    expect(devices).to_have_value(chosen)
    page.get_by_role("button", name="Discard").click()


def test_discarded_recording_leaves_nothing(page: Page) -> None:
    """A discarded recording is not sent."""
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_visible()
    expect(page.locator(".sounds li")).to_have_count(0)


def test_refused_microphone_is_explained(open_page: Open) -> None:
    """Where the microphone is not allowed, the page explains it."""
    page = open_page()
    refusal = "() => Promise.reject(new DOMException('', 'NotAllowedError'))"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refusal}; }}")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="microphone was not allowed")).to_be_visible()
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()


def test_recording_ends_at_the_longest_sound(page: Page, stack: Stack) -> None:
    """A recording stops exactly at the longest duration that the server accepts."""
    limit(page, stack, max_seconds=1.0)
    page.get_by_role("button", name="Record", exact=True).click()
    page.locator("#prediction .prediction").wait_for(timeout=30_000)
    job = httpx2.get(f"{stack.url}/v1/jobs/{job_id(page)}").json()
    assert job["audio"]["duration"] == 1.0


def test_recording_ends_at_the_largest_upload(page: Page, stack: Stack) -> None:
    """A recording stops before it has more bytes than the server accepts."""
    limit(page, stack, max_upload_bytes=100_001)
    page.get_by_role("button", name="Record", exact=True).click()
    page.locator("#prediction .prediction").wait_for(timeout=30_000)
    job = httpx2.get(f"{stack.url}/v1/jobs/{job_id(page)}").json()
    assert job["audio"]["bytes"] == 100_000


def test_refused_recording_can_be_saved(page: Page, stack: Stack) -> None:
    """A recording exists only on the page, so a refused one can be saved; a file from the disk need not be."""
    problem = {"code": "audio_too_long", "title": "Audio too long", "detail": "Too long.", "status": 413}
    page.expected_errors.append("413")  # type: ignore[attr-defined]
    page.route("**/v1/jobs", lambda route: route.fulfill(status=413, body=json.dumps(problem)))
    limit(page, stack, max_seconds=1.0)
    page.get_by_role("button", name="Record", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the recording").click(timeout=20_000)
    assert re.fullmatch(r"Recording \d\d-\d\d-\d\d\.wav", download.value.suggested_filename)
    assert Path(download.value.path()).read_bytes().startswith(b"RIFF")
    page.get_by_role("button", name="Siren").click()
    expect(page.locator("#prediction h1")).to_have_text("siren.flac")
    expect(page.get_by_role("alert").filter(has_text="Too long.")).to_be_visible()
    expect(page.get_by_role("button", name="Save the recording")).to_have_count(0)


def test_failed_recording_releases_the_microphone(page: Page) -> None:
    """Where the audio worklet cannot be loaded, the page shows an error and the microphone is released."""
    page.evaluate(
        """() => {
            const media = navigator.mediaDevices;
            const original = media.getUserMedia.bind(media);
            media.getUserMedia = async (wanted) => (window.stream = await original(wanted));
            AudioWorklet.prototype.addModule = () => Promise.reject(new DOMException("", "AbortError"));
        }"""
    )
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="recording cannot start")).to_be_visible()
    assert page.evaluate("window.stream.getTracks().map((track) => track.readyState)") == ["ended"]
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_enabled()


def test_both_ends_of_a_recording_are_in_one_line(open_page: Open) -> None:
    """Also with the longer words of German: the button that discards is never alone in a line."""
    page = open_page(locale="de-DE")
    page.get_by_role("button", name="Aufnehmen").click()
    for width in (390, 360, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        stop, discard = (page.locator(".recording button").nth(index).bounding_box() for index in (0, 1))
        assert stop
        assert discard
        assert stop["y"] == pytest.approx(discard["y"], abs=1), width
    page.locator(".recording button").nth(1).click()
