"""The sound panel: player, waveform, spectrogram and timeline, in a real browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.conftest import SCHEMES, SOUNDS, WIDTHS, Open, classify, intercepted, job_id, shoot
from tests.browser.test_accessibility import problems
from worker.model.frontend import FrontendConfig, LogMel

LONG = SOUNDS / "six-sounds.flac"
PAINTED = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(0, 0, canvas.width, canvas.height).data.some(part => part > 0);
}"""
STATE = """async () => {
  const { viewport } = await pageModule("state/viewport.js");
  const { playhead } = await pageModule("state/playhead.js");
  const { start, end, low, high, duration } = viewport;
  return { start, end, low, high, duration, time: playhead.time };
}"""
UNTIL = "async (condition) => { const { playhead } = await pageModule('state/playhead.js'); return %s; }"


def state(page: Page) -> Any:
    """The visible region, and the playback time."""
    return page.evaluate(STATE)


def show(page: Page, start: float, end: float) -> None:
    page.evaluate("async ([a, b]) => (await pageModule('state/viewport.js')).viewport.show(a, b)", [start, end])


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


def test_a_seek_before_the_file_is_loaded_is_kept(page: Page) -> None:
    """It does not go back to the beginning when the browser has read the header of the file."""
    page.evaluate("""async () => {
      const { playhead } = await pageModule("state/playhead.js");
      const onStart = ({ target }) => {
        window.states = [target.readyState];
        playhead.duration = 5; // known from the server where the browser takes longer
        playhead.seek(1.5);
        target.addEventListener("canplay", () => window.states.push(target.readyState));
      };
      document.addEventListener("loadstart", onStart, { capture: true, once: true });
    }""")
    classify(page, SOUNDS / "siren.flac")
    page.wait_for_function("() => window.states?.length > 1")
    assert page.evaluate("window.states[0]") == 0
    assert state(page)["time"] == pytest.approx(1.5, abs=0.01)
    assert page.evaluate("document.querySelector('audio').currentTime") == pytest.approx(1.5, abs=0.01)


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
    classified.wait_for_function("async () => (await pageModule('state/viewport.js')).viewport.end < 5")
    now = state(classified)
    assert now["start"] > 0
    assert [now["low"], now["high"]] == [0, 1]
    classified.keyboard.down("Shift")
    classified.mouse.wheel(0, -200)
    classified.keyboard.up("Shift")
    classified.wait_for_function("async () => (await pageModule('state/viewport.js')).viewport.high < 1")
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
        "async (all) => { const { noteName } = await pageModule('view/format.js'); return all.map(noteName); }",
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


SINE = """async ({ rate, hertz, scale, low, high, width, height }) => {
  const { finePicture } = await pageModule("sound/fine.js");
  const { FrequencyAxis } = await pageModule("sound/frequency-axis.js");
  const samples = Float32Array.from({ length: 2 * rate }, (_, i) => 0.5 * Math.sin((2 * Math.PI * hertz * i) / rate));
  const axis = new FrequencyAxis(scale, low, high);
  const region = { start: 0.5, end: 1.5, low: 0, high: 1 };
  const { signal } = new AbortController();
  const { matrix } = await finePicture({ rate, channels: [samples] }, axis, region, { width, height }, signal);
  const column = Array.from({ length: height }, (_, row) => matrix.at(row, width / 2));
  const row = column.indexOf(Math.max(...column));
  return { hertz: axis.frequencyAt((row + 0.5) / height), dbfs: column[row], floor: Math.min(...column) };
}"""


def test_the_fine_spectrogram_has_a_sine_at_its_frequency_and_level(page: Page) -> None:
    """On each axis: half of full scale is -6 dBFS, in the row of its frequency."""
    size = {"width": 200, "height": 300}
    for scale, low, high in (("mel", 10, 22_050), ("linear", 0, 8_000), ("log", 20, 16_000)):
        for hertz in (440, 3_000, 7_000):
            axis = {"scale": scale, "low": low, "high": high}
            found = page.evaluate(SINE, {"rate": 44_100, "hertz": hertz, **axis, **size})
            assert found["hertz"] == pytest.approx(hertz, rel=0.06), axis
            assert found["dbfs"] == pytest.approx(-6.02, abs=2)  # a frame's bins lie up to half a bin beside the sine
            assert found["floor"] < -60


BANDS = """async (frontend) => {
  const { bandAxis } = await pageModule("sound/frequency-axis.js");
  const axis = bandAxis(frontend);
  return Array.from({ length: frontend.n_mels }, (_, band) => axis.frequencyAt((band + 0.5) / frontend.n_mels));
}"""


def test_the_rows_of_a_spectrogram_are_at_the_frequencies_of_their_filters(page: Page) -> None:
    """Whichever mel scale the front end of the model has: within the distance of two FFT bins."""
    for filters in ("htk", "slaney", "kaldi"):
        frontend = {"n_mels": 64, "f_min": 50.0, "f_max": 14_000.0, "mel_filters": filters}
        bank = LogMel(FrontendConfig.model_validate({**frontend, "sample_rate": 32_000, "n_fft": 8_192})).bank
        bins = bank.argmax(dim=0) * 32_000 / 8_192  # (mels,) Hz
        assert page.evaluate(BANDS, frontend) == pytest.approx(bins.tolist(), abs=2 * 32_000 / 8_192), filters


@pytest.fixture
def high_pitched(tmp_path: Path) -> Path:
    """Five seconds at 44.1 kHz with a tone of 1 kHz, and one of 15 kHz that no model here gets."""
    time = np.arange(5 * 44_100) / 44_100
    samples = 0.3 * np.sin(2 * np.pi * 1_000 * time) + 0.3 * np.sin(2 * np.pi * 15_000 * time)
    soundfile.write(tmp_path / "high.wav", samples, 44_100, "PCM_16")
    return tmp_path / "high.wav"


AXIS = """async () => {
  const { viewport } = await pageModule("state/viewport.js");
  const { scale, low, high } = viewport.axis;
  return { scale, low, high };
}"""


def hover_at(page: Page, hertz: float) -> str:
    """What the page reads at that frequency, in the middle of the spectrogram."""
    share = page.evaluate(
        """async (hertz) => {
          const { viewport } = await pageModule("state/viewport.js");
          return (viewport.axis.shareOf(hertz) - viewport.low) / (viewport.high - viewport.low);
        }""",
        hertz,
    )
    over = position(page, "spectrogram")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.5 * box["width"] + 1, box["y"] + 0.5 * box["height"])
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + (1 - share) * box["height"])
    return page.locator(".spectrogram .reading").inner_text()


def level_of(reading: str) -> float:
    """The level at the end of what the page reads, in dB."""
    return float(reading.split(" · ")[-1].split()[0].replace("\u2212", "-"))


def test_what_the_model_does_not_hear_is_shown_and_named(page: Page, high_pitched: Path) -> None:
    """Above the model's band the spectrogram is computed from the sound; without Fine the axis ends with the band."""
    classify(page, high_pitched)
    unheard = page.locator(".unheard")
    expect(unheard).to_contain_text("not used by the model")
    assert page.evaluate(AXIS)["high"] == 22_050
    fine = page.locator(".spectrogram [data-layer=fine]")
    expect(fine).to_be_visible()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram [data-layer=fine]'))")
    assert -11 < level_of(hover_at(page, 15_000)) < -3  # this front end adds up magnitudes: up to 6 dB more for a sine
    assert level_of(hover_at(page, 11_000)) < -60
    assert level_of(hover_at(page, 1_000)) > -20
    assert problems(page) == []
    shoot(page, "sound-unheard")
    page.get_by_label("Fine").uncheck()
    expect(unheard).to_be_hidden()
    expect(fine).to_be_hidden()
    assert page.evaluate(AXIS)["high"] < 8_000


def test_noise_is_as_bright_above_the_band_as_in_it(page: Page, tmp_path: Path) -> None:
    """Both pictures have bands of one width: white noise has no step at the border."""
    noise = 0.1 * np.random.default_rng(1).standard_normal(5 * 44_100)
    soundfile.write(tmp_path / "noise.wav", noise, 44_100, "PCM_16")
    classify(page, tmp_path / "noise.wav")
    expect(page.locator(".spectrogram [data-layer=fine]")).to_be_visible()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram [data-layer=fine]'))")
    below, above = page.evaluate("""() => {
      const border = parseFloat(document.querySelector(".unheard").style.height) / 100; // from the top
      const layers = ["canvas.image", "[data-layer=fine]"].map((one) => document.querySelector(`.spectrogram ${one}`));
      return layers.map((canvas, i) => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const y = Math.round(border * canvas.height) + (i ? -18 : 6); // a dozen rows beside the border
        const { data } = copy.getImageData(0, y, canvas.width, 12);
        return data.reduce((sum, part, at) => sum + (at % 4 === 3 ? 0 : part), 0) / (data.length * 0.75);
      });
    }""")
    assert above == pytest.approx(below, rel=0.08)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_frequency_axis_is_chosen(page: Page, high_pitched: Path, scale: str) -> None:
    """Ticks, reading, edits and the picture of the model's bands follow; the choice is kept."""
    classify(page, high_pitched)
    page.get_by_label("Fine").uncheck()
    page.get_by_label("Frequency axis of the spectrogram").select_option(scale)
    assert page.evaluate(AXIS)["scale"] == scale
    assert level_of(hover_at(page, 1_000)) > -20
    assert level_of(hover_at(page, 3_000)) < -40
    # The bright line is where the axis has 1 kHz: also as it was painted.
    place = page.evaluate("""async () => {
      const { viewport } = await pageModule("state/viewport.js");
      const canvas = document.querySelector(".spectrogram canvas.image");
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(Math.round(canvas.width / 2), 0, 1, canvas.height);
      const light = Array.from({ length: canvas.height }, (_, y) => data[4 * y] + data[4 * y + 1] + data[4 * y + 2]);
      const most = Math.max(...light);
      const rows = light.flatMap((one, y) => one > 0.97 * most ? [y] : []);
      return viewport.axis.frequencyAt(1 - (rows.reduce((a, b) => a + b) / rows.length + 0.5) / canvas.height);
    }""")
    assert place == pytest.approx(1_000, rel=0.08)
    shoot(page, f"sound-axis-{scale}")
    page.reload()
    expect(page.get_by_label("Frequency axis of the spectrogram")).to_have_value(scale, timeout=30_000)


def test_a_zoomed_region_is_computed_from_the_sound(page: Page, tmp_path: Path) -> None:
    """Two tones of 1,000 and 1,040 Hz are one line for the model, and two where it is zoomed."""
    time = np.arange(5 * 16_000) / 16_000
    samples = 0.2 * np.sin(2 * np.pi * 1_000 * time) + 0.2 * np.sin(2 * np.pi * 1_040 * time)
    soundfile.write(tmp_path / "two.wav", samples, 16_000, "PCM_16")
    classify(page, tmp_path / "two.wav")
    fine = page.locator(".spectrogram [data-layer=fine]")
    expect(fine).to_be_hidden()
    page.evaluate("""async () => {
      const { viewport } = await pageModule("state/viewport.js");
      viewport.show(1, 4, viewport.axis.shareOf(940), viewport.axis.shareOf(1100));
    }""")
    expect(fine).to_be_visible()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram [data-layer=fine]'))")
    levels = [level_of(hover_at(page, hertz)) for hertz in (1_000, 1_020, 1_040)]
    assert levels[0] - levels[1] > 6
    assert levels[2] - levels[1] > 6
    shoot(page, "sound-fine")


def test_the_keyboard_measures(classified: Page) -> None:
    """Ctrl with up and down moves a frequency, which is read at the time of the playhead."""
    over = position(classified, "spectrogram")
    over.focus()
    reading = classified.locator(".spectrogram .reading")
    classified.keyboard.press("ArrowRight")
    classified.keyboard.press("Control+ArrowUp")
    expect(reading).to_contain_text("1.00 s")
    expect(reading).to_contain_text("dB")
    first = reading.inner_text()
    classified.keyboard.press("Control+ArrowUp")
    assert reading.inner_text() != first
    expect(classified.locator("#announcer")).to_have_text(reading.inner_text())
    expect(classified.locator(".level-line")).to_be_visible()
    position(classified, "waveform").focus()
    expect(reading).to_be_empty()


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
      const { playhead } = await pageModule("state/playhead.js");
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
    layer = classified.locator(".spectrogram [data-layer=cam]")
    expect(layer).to_be_hidden()
    classified.get_by_role("checkbox", name="Class activation").check()
    expect(layer).to_be_visible()
    classified.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram [data-layer=cam]'))")
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


def test_a_reopened_result_offers_to_choose_its_file(page: Page, open_page: Open, own_sound: Path) -> None:
    """The server does not keep sounds: the page explains that, draws the plots, and accepts the file."""
    classify(page, own_sound)
    page = open_page(path=f"/#job={job_id(page)}")
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


def test_a_cut_file_plays_as_long_as_it_is(page: Page, tmp_path: Path) -> None:
    """Its header announces the length before it was cut, which the browser believes."""
    cut = tmp_path / "cut.flac"
    cut.write_bytes((SOUNDS / "siren.flac").read_bytes()[:60_000])
    classify(page, cut)
    seconds = page.evaluate("pageModule('library/library.js').then(({ library }) => library.selected.result.duration)")
    assert 1 < seconds < 4
    page.wait_for_function("document.querySelector('audio').duration > 4.5")
    whole, part = divmod(round(seconds * 10), 10)
    expect(page.locator(".player")).to_contain_text(f"/ 0:0{whole}.{part}")
    assert page.evaluate(UNTIL % "playhead.duration") == pytest.approx(seconds)


def test_a_printed_page_has_the_sound_and_its_answer(open_page: Open) -> None:
    """In light colours, whatever the theme is; controls and the network are for the screen."""
    page = open_page(color_scheme="dark")
    classify(page, SOUNDS / "siren.flac")
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram canvas.image'))")
    theme = "document.documentElement.dataset.theme"
    page.evaluate(f"addEventListener('afterprint', () => (window.restored = {theme}))")
    page.evaluate(f"addEventListener('beforeprint', () => (window.printed = {theme}))")
    page.pdf()
    assert page.evaluate("[window.printed, window.restored]") == ["light", "dark"]
    page.emulate_media(media="print")
    for shown in (".top-class", ".bars .bar", ".spectrogram"):
        expect(page.locator(shown).first).to_be_visible()
    for hidden in ("#upload", ".player", ".colour-controls", "#network"):
        expect(page.locator(hidden).first).to_be_hidden()


def test_the_axis_ends_with_the_band_where_the_browser_cannot_decode(page: Page, high_pitched: Path) -> None:
    """The browser has nothing to show above it, and does not try again."""
    aiff = high_pitched.with_suffix(".aiff")
    soundfile.write(aiff, *soundfile.read(high_pitched), "PCM_16")
    classify(page, aiff)
    expect(page.locator(".unheard")).to_be_hidden()
    assert page.evaluate(AXIS)["high"] < 8_000
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram canvas.image'))")


def test_a_short_sound_is_shown_as_the_model_gets_it(page: Page, tmp_path: Path) -> None:
    """Repeated: the time axis has the length of the model's window; the player has that of the sound."""
    samples, rate = soundfile.read(SOUNDS / "siren.flac")
    soundfile.write(tmp_path / "short.wav", samples[: 2 * rate], rate, "PCM_16")
    classify(page, tmp_path / "short.wav")
    assert state(page)["duration"] == 5
    expect(page.locator(".player .time")).to_have_text("0:00.0 / 0:02.0")
    columns = page.evaluate(
        """async () => {
          const { library } = await pageModule("library/library.js");
          const { rows, columns, values } = library.shown.result.spectrogram;
          const at = (column) => Array.from({ length: rows }, (_, row) => values[row * columns + column]);
          return [50, 275, 212].map(at); // of 10 ms
        }"""
    )
    np.testing.assert_allclose(columns[0], columns[1], atol=1.5)  # 2.25 s later it is the same moment
    assert max(columns[2]) < max(columns[0]) - 30  # the pause


def test_a_moment_of_a_repetition_is_that_of_the_sound(page: Page) -> None:
    """An edit where the sound is repeated edits the sound; the finer spectrogram shows the repetitions, too."""
    moved, samples, none = page.evaluate(
        """async () => {
          const { inSound, repetitionOf } = await pageModule("sound/axes.js");
          const { repeated } = await pageModule("sound/fine.js");
          const card = (repeat_pause) => ({ window_seconds: 5, frontend: { repeat_pause } });
          const repetition = repetitionOf({ duration: 1.5 }, card(0.5));
          const move = (start, end) => inSound({ start, end, low: 1, high: 2 }, repetition);
          const filled = repeated(Float32Array.of(1, 2, 3), 2, repetition);
          const pairs = [[1.5, null], [4.8, 0.5], [5.1, 0.5]];
          const none = pairs.map(([duration, pause]) => repetitionOf({ duration }, card(pause)));
          return [[move(0.2, 0.4), move(2.5, 3), move(4.1, 4.9), move(1, 3)], [...filled], none];
        }"""
    )
    assert [(one["start"], one["end"]) for one in moved] == [
        (0.2, 0.4), (0.5, 1), (pytest.approx(0.1), pytest.approx(0.9)), (1, 2),
    ]  # fmt: skip
    assert moved[1]["low"] == 1
    assert samples == [1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    assert none == [None, None, None]


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
    intercepted(page, held).continue_()
    page.locator("#prediction .prediction").wait_for()
    page.wait_for_function(f"() => ({PAINTED})(document.querySelector('.spectrogram canvas.image'))")


def test_it_fits_every_screen(page: Page) -> None:
    """No horizontal scrolling at any width; saves screenshots."""
    classify(page, LONG)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for theme in SCHEMES:
            page.emulate_media(color_scheme=theme)
            shoot(page, f"sound-{theme}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_both_painters_paint_the_same(page: Page) -> None:
    """GPU and CPU paint a matrix alike, zoomed in and out, and at its edges."""
    far = page.evaluate("""async () => {
      const { createWebGLPainter } = await pageModule("paint/webgl.js");
      const cpu = await pageModule("paint/cpu.js");
      const { ready } = await pageModule("paint/painter.js");
      const { Matrix } = await pageModule("signal/matrix.js");
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
