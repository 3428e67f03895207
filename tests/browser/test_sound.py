"""The sound panel: player, waveform, spectrogram and timeline, in a real browser."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import SOUNDS, Open, classify, job_id, shoot

LONG = SOUNDS / "six-sounds.flac"
PAINTED = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, canvas.width, canvas.height).data.some(part => part > 0);
}"""
STATE = """async () => {
  const { viewport } = await import("/static/js/viewport.js");
  const { playhead } = await import("/static/js/playhead.js");
  const { start, end, low, high, duration } = viewport;
  return { start, end, low, high, duration, time: playhead.time };
}"""
UNTIL = "async (condition) => { const { playhead } = await import('/static/js/playhead.js'); return %s; }"


def state(page: Page) -> Any:
    """The visible region, and the playback time."""
    return page.evaluate(STATE)


def show(page: Page, start: float, end: float) -> None:
    page.evaluate("async ([a, b]) => (await import('/static/js/viewport.js')).viewport.show(a, b)", [start, end])


def position(page: Page, plot: str) -> Locator:
    return page.get_by_role("slider", name=f"Position, {plot}")


def drag(page: Page, over: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag from one point to another; points are shares of an element, from its top left."""
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box
    (a, b), (c, d) = start, end
    page.mouse.move(box["x"] + a * box["width"], box["y"] + b * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + c * box["width"], box["y"] + d * box["height"], steps=3)
    page.mouse.up()


def test_one_cursor_moves_over_every_plot(classified: Page) -> None:
    """While it plays, the cursors of waveform, spectrogram and maps move together; a pause stops them."""
    classified.get_by_role("button", name="Play").click()
    classified.wait_for_function(UNTIL % "playhead.playing && playhead.time > 0.3")
    places = "els => new Set(els.filter(el => el.style.visibility === 'visible').map(el => el.style.transform)).size"
    assert classified.locator(".plot .cursor").evaluate_all(places) == 1
    classified.get_by_role("button", name="Pause").click()
    classified.wait_for_function(UNTIL % "!playhead.playing")
    expect(classified.get_by_role("button", name="Play")).to_be_visible()


def test_keys_play_and_seek(classified: Page) -> None:
    """Arrows seek by a second and with shift by a tenth, Home and End go to the ends, space plays."""
    wave = position(classified, "waveform")
    wave.focus()
    for key, time in (
        ("ArrowRight", "1.00"),
        ("Shift+ArrowRight", "1.10"),
        ("ArrowLeft", "0.10"),
        ("End", "5.00"),
        ("Home", "0.00"),
    ):
        classified.keyboard.press(key)
        expect(wave).to_have_attribute("aria-valuenow", time)
    classified.keyboard.press("Space")
    classified.wait_for_function(UNTIL % "playhead.playing")
    classified.keyboard.press("Space")
    classified.wait_for_function(UNTIL % "!playhead.playing")


@pytest.mark.parametrize("plot", ["waveform", "spectrogram"])
def test_a_click_seeks(classified: Page, plot: str) -> None:
    """A click moves the player to the time under the pointer."""
    over = position(classified, plot)
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box
    over.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert state(classified)["time"] == pytest.approx(2.5, abs=0.05)


def test_a_drag_zooms_into_time_and_frequency_and_a_double_click_shows_all(classified: Page) -> None:
    """A rectangle on the spectrogram becomes the visible region, of the waveform too."""
    over = position(classified, "spectrogram")
    drag(classified, over, (0.2, 0.25), (0.4, 0.75))
    now = state(classified)
    assert [now["start"], now["end"], now["low"], now["high"]] == pytest.approx([1, 2, 0.25, 0.75], abs=0.03)
    expect(classified.get_by_role("scrollbar", name="Visible part of the sound")).to_have_attribute(
        "aria-valuetext", "0:01.0 to 0:02.0 of 0:05.0"
    )
    shoot(classified, "sound-zoomed")
    over.dblclick()
    now = state(classified)
    assert [now["start"], now["end"], now["low"], now["high"]] == [0, 5, 0, 1]


def test_the_wheel_zooms_only_with_a_key(classified: Page) -> None:
    """A plain wheel scrolls the page; Ctrl zooms time at the pointer, Shift the frequencies; Alt and arrows pan."""
    over = position(classified, "spectrogram")
    over.hover()
    classified.mouse.wheel(0, -100)
    assert state(classified)["end"] == 5
    over.hover()
    classified.keyboard.down("Control")
    classified.mouse.wheel(0, -200)
    classified.keyboard.up("Control")
    classified.wait_for_function("async () => (await import('/static/js/viewport.js')).viewport.end < 5")
    now = state(classified)
    assert now["start"] > 0
    assert [now["low"], now["high"]] == [0, 1]
    classified.keyboard.down("Shift")
    classified.mouse.wheel(0, -200)
    classified.keyboard.up("Shift")
    classified.wait_for_function("async () => (await import('/static/js/viewport.js')).viewport.high < 1")
    over.focus()
    classified.keyboard.press("Alt+ArrowRight")
    assert state(classified)["start"] > now["start"]


def test_value_under_the_pointer_is_shown(classified: Page) -> None:
    """Hovering the spectrogram shows time, frequency and level."""
    position(classified, "spectrogram").hover()
    reading = classified.locator(".spectrogram .reading")
    expect(reading).to_contain_text("2.5")
    expect(reading).to_contain_text("Hz")
    expect(reading).to_contain_text("dB")


def test_frequencies_have_the_names_of_notes(page: Page) -> None:
    """The nearest one of the equal temperament with its distance in cents; none below the hearing."""
    frequencies = [440, 261.6256, 27.5, 4186.01, 445, 436, 19, 0]
    names = page.evaluate(
        "async (all) => { const { noteName } = await import('/static/js/format.js'); return all.map(noteName); }",
        frequencies,
    )
    assert names == ["A4", "C4", "A0", "C8", "A4 +20 ct", "A4 −16 ct", "", ""]


def test_the_speed_of_the_player_is_kept(classified: Page) -> None:
    """Also for the next sound and after a reload; the pitch stays."""
    classified.get_by_label("Speed").select_option("0.5")
    rate = "document.querySelector('.player audio').playbackRate"
    assert classified.evaluate(rate) == 0.5
    assert classified.evaluate("document.querySelector('.player audio').preservesPitch")
    classified.reload()
    expect(classified.get_by_label("Speed")).to_have_value("0.5", timeout=30_000)
    assert classified.evaluate(rate) == 0.5


def test_play_begins_in_the_visible_region(classified: Page) -> None:
    """Zoomed in, Play begins where the visitor looks, not at a playhead that is outside."""
    show(classified, 2.0, 4.0)
    classified.get_by_role("button", name="Play").click()
    classified.get_by_role("button", name="Pause").click()
    assert 1.9 <= state(classified)["time"] <= 4.0


def test_a_loop_stays_within_the_visible_region(classified: Page) -> None:
    """Zoomed in, the visible region is looped."""
    show(classified, 1.0, 1.4)
    classified.get_by_role("button", name="Loop").click()
    classified.get_by_role("button", name="Play").click()
    classified.evaluate("""async () => {
      const { playhead } = await import("/static/js/playhead.js");
      window.turns = 0;
      let last = 0;
      playhead.addEventListener("move", () => {
        if (playhead.time < last) window.turns += 1;
        last = playhead.time;
      });
    }""")
    classified.wait_for_function("() => window.turns >= 2")
    assert 0.9 < state(classified)["time"] < 1.6
    assert state(classified)["end"] == pytest.approx(1.4)


def test_colours_and_range_are_stored(classified: Page) -> None:
    """The choices for the spectrogram survive a reload."""
    before = classified.locator(".spectrogram canvas.image").first.evaluate("canvas => canvas.toDataURL()")
    classified.get_by_label("Colours of the spectrogram").select_option("grey")
    classified.get_by_label("Range of the spectrogram").fill("50")
    expect(classified.locator(".scale")).to_contain_text("−50 dB")
    classified.wait_for_function(
        "before => document.querySelector('.spectrogram canvas.image').toDataURL() !== before", arg=before
    )
    classified.reload()
    classified.locator("#prediction .prediction").wait_for()
    expect(classified.get_by_label("Colours of the spectrogram")).to_have_value("grey")
    expect(classified.get_by_label("Range of the spectrogram")).to_have_value("50")


def test_class_activation_is_painted_over_the_spectrogram(classified: Page) -> None:
    """The class activation is painted over the spectrogram when it is switched on, with a note on the class."""
    layer = classified.locator(".spectrogram canvas.image").nth(1)
    expect(layer).to_be_hidden()
    classified.get_by_role("checkbox", name="Class activation").check()
    expect(layer).to_be_visible()
    classified.wait_for_function(f"() => ({PAINTED})(document.querySelectorAll('.spectrogram canvas.image')[1])")
    expect(classified.locator(".cam-note")).to_contain_text("for ")
    shoot(classified, "sound-cam")


def test_the_spectrogram_is_saved(classified: Page, tmp_path: Path) -> None:
    """A PNG file named after the sound, larger than the spectrogram on the page."""
    with classified.expect_download() as download:
        classified.locator("#sound").get_by_role("button", name="PNG").click()
    assert download.value.suggested_filename == "siren spectrogram.png"
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert int.from_bytes(saved.read_bytes()[16:20], "big") > 1_900


def test_a_reopened_result_offers_to_choose_its_file(classified: Page, open_page: Open) -> None:
    """The server does not keep sounds: the page explains that, draws the plots, and accepts the file."""
    page = open_page(path=f"/#job={job_id(classified)}")
    expect(page.get_by_text("The server does not keep sounds.")).to_be_visible()
    expect(page.get_by_role("button", name="Play")).to_be_disabled()
    for plot in ("waveform", "spectrogram"):
        page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.{plot} canvas.image'))")
    position(page, "waveform").focus()
    page.keyboard.press("ArrowRight")
    assert state(page)["time"] == 1
    picker = page.locator("#sound").get_by_label("The file of this result")
    picker.set_input_files(str(SOUNDS / "sea.flac"))
    expect(page.locator(".toast")).to_contain_text("That is another file")
    expect(page.get_by_role("button", name="Play")).to_be_disabled()
    picker.set_input_files(str(SOUNDS / "siren.flac"))
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    expect(page.get_by_text("The server does not keep sounds.")).to_be_hidden()


def test_unplayable_format_is_explained(page: Page, tmp_path: Path) -> None:
    """An AIFF file is classified and shown; the page explains that the browser cannot play it."""
    samples, rate = soundfile.read(SOUNDS / "siren.flac")
    soundfile.write(tmp_path / "siren.aiff", samples, rate, "PCM_16")
    classify(page, tmp_path / "siren.aiff")
    expect(page.get_by_text("This browser cannot play AIFF files.")).to_be_visible()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.waveform canvas.image'))")


def test_a_short_sound_is_shown_with_its_padding(page: Page, tmp_path: Path) -> None:
    """The time axis has the length of the model's window; the player has that of the sound."""
    samples, rate = soundfile.read(SOUNDS / "siren.flac")
    soundfile.write(tmp_path / "short.wav", samples[: 2 * rate], rate, "PCM_16")
    classify(page, tmp_path / "short.wav")
    assert state(page)["duration"] == 5
    expect(page.locator(".player .time")).to_have_text("0:00.0 / 0:02.0")


def test_a_long_sound_has_a_timeline(page: Page) -> None:
    """Every window has a label with its class; a click and the Enter key seek to it."""
    classify(page, LONG)
    windows = page.get_by_role("listbox", name="Windows of the sound")
    options = windows.get_by_role("option")
    assert options.count() > 5
    assert all(":" in label and "%" in label for label in options.evaluate_all("els => els.map(el => el.ariaLabel)"))
    expect(windows.get_by_role("option", name="the maps are of this window")).to_have_count(1)
    box = windows.bounding_box()
    assert box
    windows.locator("canvas").click(position={"x": 0.5 * box["width"], "y": 40})
    assert 10 < state(page)["time"] < 15.1
    expect(windows.locator('[aria-selected="true"]')).to_have_count(1)
    windows.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    shoot(page, "sound-long")


def test_player_and_waveform_come_before_the_result(page: Page) -> None:
    """While the server is busy, player and waveform work, and the spectrogram says what it waits for."""
    held: list[Route] = []
    page.route("**/v1/jobs", lambda route: held.append(route))
    page.get_by_label("Sound files").set_input_files(str(SOUNDS / "siren.flac"))
    expect(page.get_by_text("The spectrogram comes with the result.")).to_be_visible()
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.waveform canvas.image'))")
    expect(page.locator("#sound").get_by_role("button", name="PNG")).to_be_disabled()
    held[0].continue_()
    page.locator("#prediction .prediction").wait_for()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram canvas.image'))")


@pytest.mark.parametrize("width", [1440, 900, 390])
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_fits_every_screen(open_page: Open, width: int, theme: str) -> None:
    """No horizontal scrolling at any width; saves screenshots."""
    page = open_page(width=width, color_scheme=theme)
    classify(page, LONG)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, f"sound-{theme}")


def test_both_painters_paint_the_same(page: Page) -> None:
    """GPU and CPU paint a matrix alike, zoomed in and out, and at its edges."""
    far = page.evaluate("""async () => {
      const { createWebGLPainter } = await import("/static/js/paint/webgl.js");
      const cpu = await import("/static/js/paint/cpu.js");
      const { ready } = await import("/static/js/paint/painter.js");
      const { Matrix } = await import("/static/js/matrix.js");
      await ready;
      const gpu = createWebGLPainter({ software: true });
      if (!gpu) return null;
      const [rows, columns] = [24, 9001]; // more columns than a strip of the texture has
      const matrix = new Matrix(rows, columns, Float32Array.from({ length: rows * columns }, (_, i) =>
        Math.sin((i % columns) * 0.013) * 30 + Math.floor(i / columns)));
      const pixels = (painter, region, smooth) => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [301, 97];
        painter.paint(canvas, matrix, { colours: "viridis", min: -20, max: 40, region, smooth });
        return canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, 301, 97).data;
      };
      return [[0, 1, 0, 1], [0.452, 0.459, 0.1, 0.8], [0.9, 1.05, -0.11, 0.7], [0.5, 0.503, 0.31, 0.52]].flatMap(
        ([left, right, bottom, top]) => [true, false].map((smooth) => {
          const region = { left, right, bottom, top };
          const [a, b] = [pixels(gpu, region, smooth), pixels(cpu, region, smooth)];
          return a.filter((part, i) => Math.abs(part - b[i]) > 4).length / a.length;
        }));
    }""")
    if far is None:
        pytest.skip("needs WebGL2")
    assert max(far) < 0.01
