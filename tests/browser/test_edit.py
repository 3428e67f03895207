"""Parts of the sound are muted or kept in the spectrogram, and the edited sound is classified again."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import SOUNDS, Open, classify, frozen_worker, shoot
from tests.browser.test_accessibility import problems
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
RATE = 16_000
EDIT = """async ({ samples, rate, region, action }) => {
  const { editRegion } = await pageModule("edit/region.js");
  const { start = -Infinity, end = Infinity, low = 0, high = Infinity } = region;
  return [...await editRegion(Float32Array.from(samples), rate, { start, end, low, high }, action)];
}"""


def edit_region(page: Page, samples: NDArray[np.float32], action: str, **region: float) -> NDArray[np.float32]:
    arguments = {"samples": samples.tolist(), "rate": RATE, "region": region, "action": action}
    return np.array(page.evaluate(EDIT, arguments), np.float32)


def decibels(samples: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(samples)) + 1e-20))


def tool(page: Page, name: str) -> Locator:
    return page.locator("#sound .editor").get_by_role("button", name=name, exact=True)


def drag(page: Page, left: float, bottom: float, right: float, top: float) -> None:
    """Drag with the mouse over a part of the spectrogram, in shares of its width and height."""
    overlay = page.locator(".spectrogram .overlay")
    box = None
    while box is None or box != overlay.bounding_box():  # the page may be scrolling
        overlay.scroll_into_view_if_needed()
        box = overlay.bounding_box()
        page.wait_for_timeout(100)
    x = [box["x"] + box["width"] * share for share in (left, right)]
    y = [box["y"] + box["height"] * (1 - share) for share in (bottom, top)]
    page.mouse.move(x[0], y[0])
    page.mouse.down()
    page.mouse.move(x[1], y[1], steps=4)
    page.mouse.up()


def until_edits(page: Page, count: int) -> None:
    """Wait until that many edits are applied and none is under way."""
    edits = """async () => {
      const { selected } = (await pageModule("library/library.js")).library;
      return selected.pendingVersion ? -1 : selected.edits;
    }"""
    deadline = time.monotonic() + 60
    while page.evaluate(edits) != count:  # `wait_for_function` does not wait for promises
        assert time.monotonic() < deadline, f"not {count} edits: {page.locator('.edit-state').inner_text()}"
        page.wait_for_timeout(50)


def loudest(page: Page) -> float:
    """The loudest cell of the shown spectrogram from 1 to 4 s, from a sixth to three quarters of its height; in dB."""
    found: float = page.evaluate(
        """async () => {
          const { library } = await pageModule("library/library.js");
          const { result } = library.shown;
          const { spectrogram, duration } = result;
          let most = -Infinity;
          for (let row = Math.ceil(spectrogram.rows / 6); row < 0.75 * spectrogram.rows; row += 1)
            for (let at = 1; at < 4; at += 0.05)
              most = Math.max(most, spectrogram.at(row, Math.floor((at / duration) * spectrogram.columns)));
          return most;
        }"""
    )
    return found


def test_a_region_is_muted_or_kept(page: Page) -> None:
    """Two tones: one is muted for a second and the rest stays; what is muted and what is kept add up to the sound."""
    seconds = np.arange(3 * RATE) / RATE
    deep, shrill = (0.4 * np.sin(2 * np.pi * frequency * seconds) for frequency in (500, 3_000))
    sound = (deep + shrill).astype(np.float32)
    region = {"start": 1, "end": 2, "low": 2_000, "high": 4_000}
    muted, kept = (edit_region(page, sound, action, **region) for action in ("mute", "keep"))
    inside, outside = slice(int(1.1 * RATE), int(1.9 * RATE)), slice(0, int(0.9 * RATE))
    np.testing.assert_allclose(muted[inside], deep[inside], atol=1e-3)
    np.testing.assert_allclose(muted[outside], sound[outside], atol=1e-6)
    np.testing.assert_allclose(muted + kept, sound, atol=1e-6)
    assert decibels(kept[outside]) < -150
    np.testing.assert_allclose(edit_region(page, sound, "keep"), sound, atol=1e-6)
    silence = edit_region(page, sound, "mute", start=1, end=2)
    assert decibels(silence[inside]) < -120
    odd = edit_region(page, sound[:1_001], "mute", start=0.02, end=0.021)  # shorter than a frame
    assert len(odd) == 1_001
    assert np.isfinite(odd).all()


def test_a_file_of_samples_is_read_back(page: Page, tmp_path: Path) -> None:
    """16-bit PCM with both channels; what is beyond full scale is cut off."""
    written = page.evaluate(
        """async () => {
          const { wavFile } = await pageModule("signal/wav.js");
          const file = wavFile([Float32Array.of(0, 0.5, 2), Float32Array.of(-1, -3, 0.25)], 22050, "two.wav");
          return [...new Uint8Array(await file.arrayBuffer())];
        }"""
    )
    path = tmp_path / "two.wav"
    path.write_bytes(bytes(written))
    samples, rate = soundfile.read(path)
    assert rate == 22_050
    np.testing.assert_allclose(samples, [[0, -1], [0.5, -1], [1, 0.25]], atol=1e-4)


def test_a_part_is_muted_and_the_answer_moves(classified: Page) -> None:
    """A drag mutes, the sound is classified again, and the original stays beside it; undo and redo send nothing."""
    before = loudest(classified)
    sent: list[str] = []
    classified.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    classified.locator(".network .node[data-id='cam']").click()
    expect(classified.locator(".network .detail h3")).to_contain_text("Class activation")
    tool(classified, "Mute").click()
    drag(classified, 0.1, 0.05, 0.9, 0.95)
    until_edits(classified, 1)
    assert len(sent) == 1
    assert loudest(classified) < before - 20
    expect(classified.locator("#prediction .before")).to_contain_text("The original: siren")
    expect(classified.locator("#prediction .bars .was").first).to_contain_text("was")
    expect(classified.locator("#prediction .bars [data-class='siren']")).to_be_visible()
    expect(classified.locator(".sounds .state")).to_contain_text("; edited: ")
    expect(classified.locator(".network .detail h3")).to_contain_text("Class activation")  # of the edited sound now
    assert problems(classified) == []
    shoot(classified, "edited")
    with classified.expect_download() as download:
        tool(classified, "WAV").click()
    assert download.value.suggested_filename == "siren (edited).wav"
    samples, rate = soundfile.read(download.value.path())
    original, _ = soundfile.read(SIREN)
    assert (rate, len(samples)) == (RATE, len(original))
    assert decibels(samples[RATE : 4 * RATE]) < decibels(original[RATE : 4 * RATE]) - 20
    tool(classified, "Original").click()
    expect(classified.locator(".top-class strong")).to_have_text("siren")
    assert loudest(classified) == before
    tool(classified, "Edited").click()
    assert loudest(classified) < before - 20
    tool(classified, "Undo").click()
    expect(classified.locator("#prediction .before")).to_have_count(0)
    tool(classified, "Redo").click()
    expect(classified.locator("#prediction .before")).to_have_count(1)
    tool(classified, "Keep only").click()
    drag(classified, 0.02, 0.05, 0.3, 0.5)
    until_edits(classified, 2)
    assert len(sent) == 2
    tool(classified, "Zoom").click()
    drag(classified, 0.2, 0.2, 0.6, 0.6)
    until_edits(classified, 2)  # it zooms


def test_the_keyboard_is_enough(classified: Page) -> None:
    """Arrow keys move and resize the box, Enter applies it, Ctrl + Z undoes it, Escape ends editing."""
    tool(classified, "Mute").click()
    overlay = classified.locator(".spectrogram .overlay")
    overlay.focus()
    box = classified.locator(".selection.brush")
    classified.keyboard.press("ArrowLeft")
    expect(box).to_be_visible()
    narrow = box.bounding_box()
    for _ in range(8):
        classified.keyboard.press("Shift+ArrowRight")
    wide = box.bounding_box()
    assert narrow
    assert wide
    assert wide["width"] > narrow["width"] * 1.5
    assert wide["x"] == pytest.approx(narrow["x"], abs=1)
    expect(classified.locator("#announcer")).to_contain_text("kHz")
    classified.keyboard.press("Enter")
    until_edits(classified, 1)
    expect(overlay).to_be_focused()
    expect(box).to_be_hidden()
    classified.keyboard.press("Control+z")
    until_edits(classified, 0)
    classified.keyboard.press("Control+Shift+z")
    until_edits(classified, 1)
    classified.keyboard.press("Escape")
    expect(tool(classified, "Zoom")).to_have_attribute("aria-pressed", "true")


def test_an_edit_that_is_not_classified_changes_nothing(classified: Page, stack: Stack) -> None:
    """A refusal is explained and the sound stays as it was; while the server is busy or its worker stopped, the edit
    waits and can be discarded."""
    classified.expected_errors += ["422", "429"]  # type: ignore[attr-defined]
    answers = [(422, {}), (429, {"Retry-After": "1"})]

    def refuse(route: Route) -> None:
        status, headers = answers.pop(0)
        problem: dict[str, Any] = {"code": "audio_corrupt", "title": "Refused", "detail": "For the test."}
        route.fulfill(status=status, headers=headers, body=json.dumps(problem))

    state = classified.locator(".edit-state")
    classified.route("**/v1/jobs", refuse, times=2)
    tool(classified, "Mute").click()
    drag(classified, 0.1, 0.1, 0.5, 0.9)
    expect(state).to_have_text("The edited sound could not be classified, so nothing has changed. For the test.")
    until_edits(classified, 0)
    expect(classified.locator(".top-class strong")).to_have_text("siren")
    drag(classified, 0.1, 0.1, 0.5, 0.9)
    expect(state).to_contain_text("Retrying in 1 s. Undo discards this edit.")
    until_edits(classified, 1)  # after the retry
    with frozen_worker(stack):
        drag(classified, 0.5, 0.1, 0.9, 0.9)
        expect(state).to_have_text("Classifying the edited sound…")
        tool(classified, "Undo").click()
        until_edits(classified, 1)
        expect(state).to_contain_text("One edit")


def test_the_part_that_matters_is_found(page: Page, tmp_path: Path) -> None:
    """A siren of a second in soft noise: the occlusion map is brightest there, and is measured once."""
    samples, _ = soundfile.read(SIREN, dtype="float32")
    sound = np.random.default_rng(1).normal(0, 1e-3, 5 * RATE).astype(np.float32)
    sound[2 * RATE : 3 * RATE] += samples[2 * RATE : 3 * RATE]
    soundfile.write(tmp_path / "part.wav", sound, RATE)
    classify(page, tmp_path / "part.wav")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    text = page.locator(".colour-controls .occlusion")
    matters = page.get_by_role("button", name="Which part matters?")
    activation = page.get_by_role("checkbox", name="Class activation")
    for _ in range(2):
        matters.click()
        expect(text).to_contain_text(re.compile("^(Without the brightest part|No single part)"), timeout=60_000)
        expect(page.locator(".spectrogram [data-layer=cam]")).to_be_visible()
        expect(activation).to_be_disabled()  # it is not what is drawn
        matters.click()
        expect(text).to_be_empty()
        expect(activation).to_be_enabled()
    assert len(sent) == 1
    by_column = page.evaluate(
        """async () => {
          const { library } = await pageModule("library/library.js");
          const [{ matrix }] = await Promise.all(library.shown.occlusions.values());
          return Array.from({ length: matrix.columns }, (_, column) =>
            Math.max(...Array.from({ length: matrix.rows }, (_, row) => matrix.at(row, column))));
        }"""
    )
    assert len(by_column) == 10  # of half a second
    assert int(np.argmax(by_column)) in (4, 5)
    assert problems(page) == []


def test_no_part_matters_for_a_class_that_is_not_heard(classified: Page) -> None:
    """A confidence of 0.0 % cannot fall: that is said, and nothing is measured."""
    classified.get_by_role("button", name="Show all 50").click()
    bar = classified.locator("#prediction .bars button").last
    name = bar.locator(".class").inner_text()
    bar.click()
    expect(classified.locator(".colour-controls .cam-note")).to_contain_text(name, timeout=60_000)
    sent: list[str] = []
    classified.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    matters = classified.get_by_role("button", name="Which part matters?")
    matters.click()
    said = f"The confidence of {name} is too low here for any part to matter."
    expect(classified.locator(".colour-controls .occlusion")).to_have_text(said)
    expect(matters).to_have_attribute("aria-pressed", "false")
    assert not sent


def test_a_finger_edits(open_page: Open) -> None:
    """On a narrow screen with touch the tools fit, and a drag of one finger selects the region."""
    page = open_page(width=390, has_touch=True, is_mobile=True)
    classify(page, SIREN)
    tool(page, "Mute").tap()
    expect(page.locator("#sound-hint")).to_contain_text("one finger")
    overlay = page.locator(".spectrogram .overlay")
    overlay.scroll_into_view_if_needed()
    box = overlay.bounding_box()
    assert box
    session = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8), ("touchEnd", 0.8)):
        point = {"x": box["x"] + share * box["width"], "y": box["y"] + box["height"] * (1 - share)}
        points = [] if kind == "touchEnd" else [point]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    until_edits(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert problems(page) == []
    shoot(page, "edited")
