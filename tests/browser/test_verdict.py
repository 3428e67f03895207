"""The verdict, warnings and events on the page, and looking into another window or class."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import msgpack
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Error, Locator, Page, Route, expect

from tests.browser.conftest import SCHEMES, SOUNDS, Open, classify, job_id, shoot
from tests.browser.test_accessibility import problems
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
RATE = 16_000
PIXELS = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let most = 0, painted = 0;
  for (let i = 0; i < data.length; i += 4) {
    most = Math.max(most, data[i], data[i + 1], data[i + 2]);
    painted += data[i + 3] === 255;
  }
  return { most, painted: painted / (data.length / 4) };
}"""


def read(name: str) -> NDArray[np.float32]:
    """A sound of the page, 5 s at 16 kHz."""
    samples, rate = soundfile.read(SOUNDS / f"{name}.flac", dtype="float32")
    assert rate == RATE
    return samples  # type: ignore[no-any-return]


def write(path: Path, samples: NDArray[Any]) -> Path:
    soundfile.write(path, samples, RATE, "PCM_16")
    return path


def two_events(path: Path) -> Path:
    """30 s of soft noise with a siren from 5 s on and a church bell from 20 s on."""
    noise = np.random.default_rng(1).normal(0, 1e-3, 30 * RATE).astype(np.float32)  # -60 dBFS
    for at, name in ((5, "siren"), (20, "church-bell")):
        sound = read(name)
        noise[at * RATE : at * RATE + len(sound)] += sound
    return write(path, noise)


def change_results(page: Page, change: Callable[[dict[str, Any]], None]) -> None:
    """The page gets each result as `change` leaves it: what a model with other thresholds would answer."""

    def changed(route: Route) -> None:
        with suppress(Error):  # the page was closed meanwhile
            response = route.fetch()
            result = msgpack.unpackb(response.body())
            change(result)
            route.fulfill(response=response, body=msgpack.packb(result))

    page.route("**/v1/jobs/*/result", changed)


def headline(page: Page) -> Locator:
    return page.locator("#prediction .top-class strong")


def spectrogram(page: Page) -> Locator:
    return page.locator(".spectrogram canvas.image").first


def view(page: Page) -> Any:
    """What is looked into: the window, the class of its class activation, and whether a request is under way."""
    return page.evaluate(
        """async () => {
          const { library } = await pageModule("library/library.js");
          const { view, looking, result } = library.selected;
          return { window: view.window, class: view.camClass, busy: looking !== null, own: view === result };
        }"""
    )


def until_looked(page: Page, window: int, name: str) -> None:
    """Wait until that window and class are shown."""
    page.wait_for_function(
        """async ([window, name]) => {
          const { view, looking } = (await pageModule("library/library.js")).library.selected;
          return !looking && view.window === window && view.camClass === name;
        }""",
        arg=[window, name],
        timeout=60_000,
    )


def test_silence_is_nothing_to_hear_and_black(page: Page, tmp_path: Path) -> None:
    """Digital silence: the headline, a warning, a black spectrogram; the confidences only on request."""
    classify(page, write(tmp_path / "silence.wav", np.zeros(5 * RATE)))
    expect(headline(page)).to_have_text("Nothing to hear")
    expect(page.locator(".sounds .state")).to_have_text("Nothing to hear")
    expect(page.locator("#announcer")).to_have_text("silence.wav: Nothing to hear")
    expect(page.get_by_role("list", name="Warnings").get_by_role("listitem")).to_have_count(1)
    expect(page.locator(".warnings")).to_contain_text("Nothing in this sound is louder than its noise.")
    expect(page.locator("#prediction .facts")).to_contain_text("digital silence")
    bars = page.locator("#prediction .bars")
    expect(bars).to_be_hidden()
    page.get_by_text("Confidences of the model all the same").click()
    expect(bars).to_be_visible()
    page.wait_for_function(f"() => ({PIXELS})(document.querySelector('.spectrogram canvas.image')).painted > 0.99")
    assert spectrogram(page).evaluate(PIXELS)["most"] < 12
    with page.expect_download() as download:
        page.locator("#sound").get_by_role("button", name="PNG").click()
    saved = Image.open(download.value.path()).convert("RGB")
    inside = np.asarray(saved)[200:600, 200:1_900]  # of the spectrogram
    assert inside.max() < 12
    shoot(page, "silence")


def test_silence_is_black_with_both_painters(page: Page) -> None:
    """A matrix of one value has no range of its own: the scale decides."""
    most = page.evaluate(
        f"""async () => {{
          const {{ createWebGLPainter }} = await pageModule("paint/webgl.js");
          const cpu = await pageModule("paint/cpu.js");
          const {{ ready }} = await pageModule("paint/painter.js");
          const {{ spectrogramScale, fullScaleOf }} = await pageModule("signal/decibels.js");
          const {{ Matrix }} = await pageModule("signal/matrix.js");
          await ready;
          const region = {{ left: 0, right: 1, bottom: 0, top: 1 }};
          const options = {{ ...spectrogramScale(fullScaleOf({{ n_fft: 1024 }})), region, smooth: true }};
          return [cpu, createWebGLPainter({{ software: true }})].filter(Boolean).map((painter) =>
            [-50, 48.16].map((value) => {{
              const canvas = document.createElement("canvas");
              [canvas.width, canvas.height] = [64, 32];
              painter.paint(canvas, new Matrix(8, 99, new Float32Array(8 * 99).fill(value)), options);
              return ({PIXELS})(canvas).most;
            }}));
        }}"""
    )
    assert most
    for silence, full_scale in most:
        assert silence < 12
        assert full_scale > 240


def test_levels_are_relative_to_full_scale(page: Page, tmp_path: Path) -> None:
    """A sine at full scale reads 0 dBFS in spectrogram and network; 40 dB softer it reads -40 dBFS and is darker."""
    # Its mel filters add up powers. Where they add up magnitudes, a sine reads more the wider its filter is.
    page.get_by_label("Model").select_option("cat-dog")
    brightness = []
    for name, level in (("loud", 0), ("soft", -40)):
        sine = 10 ** (level / 20) * np.sin(2 * np.pi * 1_000 * np.arange(5 * RATE) / RATE)
        classify(page, write(tmp_path / f"{name}.wav", 0.9999 * sine))
        expect(page.locator(".title h1")).to_have_text(f"{name}.wav", timeout=30_000)
        page.wait_for_function(f"() => ({PIXELS})(document.querySelector('.spectrogram canvas.image')).painted > 0.99")
        loudest = page.evaluate(
            """async () => {
              const { library } = await pageModule("library/library.js");
              const { fullScaleOf } = await pageModule("signal/decibels.js");
              const { model, spectrogram } = library.selected.result;
              const { frontend } = await (await fetch(`/v1/models/${model}`)).json();
              return spectrogram.statistics.max - fullScaleOf(frontend);
            }"""
        )
        assert loudest == pytest.approx(level, abs=2)
        brightness.append(spectrogram(page).evaluate(PIXELS)["most"])
        expect(page.locator(".sound .scale")).to_have_text("−90 dBFS0 dBFS")
    assert brightness[0] > brightness[1] > 60
    page.locator('.network .node[data-id="input"]').click()
    facts = page.locator(".network .detail .facts")
    expect(facts).to_contain_text(re.compile(r"Maximum−?(39|40|41)(\.\d)? dBFS"))
    expect(page.locator(".network .map .scale")).to_have_text("-90 dBFS0 dBFS".replace("-", "−"))
    page.get_by_label("Loudest level of the spectrogram").fill("40")
    expect(page.locator(".sound .scale")).to_have_text("−90 dBFS−40 dBFS")
    page.wait_for_function(f"() => ({PIXELS})(document.querySelector('.spectrogram canvas.image')).most > 200")


def test_a_quiet_sound_has_a_warning(page: Page, tmp_path: Path) -> None:
    """A sentence that a visitor understands, the measured level beside it."""
    classify(page, write(tmp_path / "quiet.wav", 10 ** (-40 / 20) * read("siren") / np.abs(read("siren")).max()))
    warning = page.locator('.warnings [data-code="quiet"]')
    expect(warning).to_contain_text("This sound is very quiet.")
    expect(warning.locator("small")).to_contain_text("dBFS")
    expect(warning.locator("small")).to_have_attribute("lang", "en")


def test_every_warning_has_a_sentence(page: Page) -> None:
    """Each of the stable codes; a code of a newer server shows its detail."""
    from otoscope.results import WARNINGS

    texts = page.evaluate(
        """async (codes) => {
          const { warningText } = await pageModule("result/verdict.js");
          return codes.map((code) => warningText({ code, detail: "the detail" }));
        }""",
        [*WARNINGS, "of_a_newer_server", "toString"],
    )
    assert texts[-2:] == ["the detail", "the detail"]
    assert len(set(texts[:-2])) == len(WARNINGS)
    assert all(text.endswith(".") for text in texts[:-2])


def test_an_unknown_sound_is_not_named(page: Page, tmp_path: Path) -> None:
    """The headline names no class; the closest one is smaller, and the confidences are folded."""
    change_results(page, lambda result: result.update(verdict="unknown", known=0.02))
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * RATE)
    classify(page, write(tmp_path / "noise.wav", noise))
    expect(headline(page)).to_have_text("None of the 50 classes of this model")
    expect(page.locator(".top-class .note")).to_have_text(re.compile(r"^closest: [a-z ]+, \d+\s%$"))
    expect(page.locator(".sounds .state")).to_have_text("Unknown sound")
    expect(page.locator("#prediction .bars")).to_be_hidden()
    shoot(page, "unknown")


def test_an_unsure_answer_says_perhaps(page: Page) -> None:
    """Below the confidence from which on the model is usually right."""
    change_results(page, lambda result: result.update(verdict="unsure"))
    classify(page, SIREN)
    expect(headline(page)).to_have_text("Perhaps siren")
    expect(page.locator(".top-class .badge")).to_have_text(re.compile(r"^Not sure: \d+(\.\d)?\s%$"))
    expect(page.locator(".sounds .state")).to_have_text(re.compile("^perhaps siren, "))
    expect(page.locator("#prediction .bars")).to_be_visible()


def test_result_of_an_older_server_is_shown(page: Page) -> None:
    """Without verdict, level, warnings and detections."""

    def older(result: dict[str, Any]) -> None:
        for name in ("verdict", "known", "level", "warnings", "detections"):
            del result[name]
        for window in result["windows"]:
            for name in ("active", "known", "level"):
                del window[name]

    change_results(page, older)
    classify(page, SOUNDS / "six-sounds.flac")
    expect(page.locator(".top-class .badge")).to_contain_text("confidence")
    expect(page.get_by_role("listbox", name="Windows of the sound")).to_be_visible()
    expect(page.locator(".events")).to_have_count(0)


def test_a_long_sound_is_a_list_of_events(page: Page, stack: Stack, tmp_path: Path) -> None:
    """The events of the API with their times; each moves the playhead, and is drawn on the timeline with a legend."""
    classify(page, two_events(tmp_path / "two.wav"))
    job = httpx2.get(f"{stack.url}/v1/jobs/{job_id(page)}").json()
    detections = job["result"]["detections"]
    assert {"siren", "church_bells"} <= {one["class"] for one in detections}
    expect(headline(page)).to_have_text(f"{len(detections)} events")
    events = page.locator(".events .event")
    expect(events).to_have_count(len(detections))
    for event, detection in zip(events.all(), detections, strict=True):
        expect(event).to_contain_text(detection["class"].replace("_", " "))
    bell = next(at for at, one in enumerate(detections) if one["class"] == "church_bells")
    events.nth(bell).click()
    time = page.evaluate("pageModule('state/playhead.js').then(({ playhead }) => playhead.time)")
    assert time == pytest.approx(detections[bell]["start"], abs=0.05)
    assert time == pytest.approx(20, abs=1.5)
    expect(page.locator(".timeline .event-legend")).to_contain_text("church bells")
    expect(page.locator(".event-legend")).to_have_count(1)
    coloured = page.evaluate(
        """async () => {
            const { library } = await pageModule("library/library.js");
            const { classHues } = await pageModule("result/class-colours.js");
            return [...classHues(library.selected.result).keys()].length;
        }"""
    )
    expect(page.locator(".event-legend li")).to_have_count(coloured)
    bars = page.locator(".timeline .event-bars")
    assert bars.evaluate(PIXELS)["most"] > 100
    box = bars.bounding_box()
    assert box
    bars.click(position={"x": box["width"] * 6.5 / 30, "y": 8})
    time = page.evaluate("pageModule('state/playhead.js').then(({ playhead }) => playhead.time)")
    assert time == pytest.approx(5, abs=1.5)
    expect(page.locator(".sounds .state")).to_contain_text("siren")
    shoot(page, "events")


def test_windows_have_names_by_touch_and_keyboard(open_page: Open, tmp_path: Path) -> None:
    """The name of the touched window, and of the one that the keyboard has selected, is visible text."""
    page = open_page(width=390, has_touch=True)
    classify(page, two_events(tmp_path / "two.wav"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    windows = page.get_by_role("listbox", name="Windows of the sound")
    name = page.locator(".timeline .window-name")
    windows.scroll_into_view_if_needed()
    box = windows.bounding_box()
    assert box
    page.touchscreen.tap(box["x"] + box["width"] * 7.5 / 30, box["y"] + 40)
    expect(name).to_contain_text("siren")
    windows.focus()
    page.keyboard.press("End")
    expect(name).to_contain_text("0:25.0 to 0:30.0: nothing to hear")
    page.keyboard.press("Home")
    expect(name).to_contain_text("0:00.0 to 0:05.0")


def test_a_place_on_the_timeline_is_looked_into(page: Page, tmp_path: Path) -> None:
    """The sound is sent again for the maps and the class activation of that window; they replace those on the page, and
    the job's result stays."""
    classify(page, two_events(tmp_path / "two.wav"))
    before = job_id(page)
    windows = page.get_by_role("listbox", name="Windows of the sound")
    expect(page.locator(".network .node[data-id='cam']")).to_contain_text("Class activation")
    target = 8 if view(page)["window"] != 8 else 2  # the window of 20 to 25 s, or that of 5 to 10 s
    name = {8: "church_bells", 2: "siren"}[target]
    windows.focus()
    page.keyboard.press("Home")
    for _ in range(target):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until_looked(page, target, name)
    words = name.replace("_", " ")
    expect(page.locator(".network .node[data-id='cam']")).to_contain_text(f"Class activation: {words}")
    expect(page.locator(".cam-note")).to_contain_text(f"for {words}, in the window from")
    expect(windows.get_by_role("option", name="the maps are of this window")).to_have_count(1)
    expect(windows.get_by_role("option").nth(target)).to_have_accessible_name(re.compile("maps are of this window"))
    assert job_id(page) == before
    assert not view(page)["own"]
    expect(windows).to_be_focused()


def test_class_activation_of_any_class(classified: Page) -> None:
    """A click on the bar of a class shows where it would be heard; the sound is sent again once, and again not."""
    sent: list[str] = []
    classified.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    rows = classified.locator("#prediction .bars button")
    layer = classified.locator(".spectrogram [data-layer=cam]")
    expect(layer).to_be_hidden()
    second = rows.nth(1).get_attribute("data-class")
    assert second
    for _ in range(2):
        rows.nth(1).click()
        until_looked(classified, 0, second)
        expect(rows.nth(1)).to_have_attribute("aria-pressed", "true")
        expect(layer).to_be_visible()
        expect(classified.locator(".cam-note")).to_have_text(f"for {second.replace('_', ' ')}")
        rows.nth(0).click()
        until_looked(classified, 0, "siren")
        expect(rows.nth(1)).to_have_attribute("aria-pressed", "false")
    assert view(classified)["own"]
    assert len(sent) == 1
    rows.nth(0).click()
    expect(layer).to_be_hidden()
    expect(rows.nth(0)).to_be_focused()


def test_looking_into_a_class_needs_the_file(page: Page, open_page: Open, own_sound: Path) -> None:
    """A result that was opened by its link has no file: the page explains that."""
    classify(page, own_sound)
    page = open_page(path=f"/#job={job_id(page)}")
    page.locator("#prediction .bars button").nth(1).click()
    expect(page.locator(".toast")).to_contain_text("choose the file again")
    expect(page.locator("#prediction .bars button").nth(0)).to_have_attribute("aria-pressed", "true")


def test_events_are_saved(page: Page, tmp_path: Path) -> None:
    """The chosen format, in a file named after the sound."""
    classify(page, two_events(tmp_path / "two.wav"))
    for name, start in (
        ("Audacity labels", r"\d+\.\d+\t\d+\.\d+\t"), ("WebVTT", "WEBVTT"), ("Raven selection table", "Selection\t"),
    ):  # fmt: skip
        page.get_by_label("Format of the saved events").select_option(name)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save the events").click()
        assert download.value.suggested_filename.startswith("two.")
        assert re.match(start, Path(download.value.path()).read_text()), name


def test_no_accessibility_problem_is_found(open_page: Open, tmp_path: Path) -> None:
    """axe-core finds nothing on a silent, an unknown and a long result, in either scheme."""
    silence = write(tmp_path / "silence.wav", np.zeros(5 * RATE))
    for sound, change in (
        (silence, {}),
        (SIREN, {"verdict": "unknown"}),
        (SIREN, {"verdict": "unsure"}),
        (two_events(tmp_path / "two.wav"), {"warnings": [{"code": "clipped", "detail": "2 % of the samples."}]}),
    ):
        page = open_page()
        change_results(page, lambda result, change=change: result.update(change))  # type: ignore[misc]
        classify(page, sound)
        expect(page.locator("#network canvas").first).to_be_visible(timeout=20_000)
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert problems(page) == []
            shoot(page, f"verdict-{scheme}-{sound.stem}")
        page.close()


def test_verdicts_fit_every_screen(open_page: Open, tmp_path: Path) -> None:
    """Nothing makes the page scroll sideways; saves screenshots."""
    for name, change in (("named", {}), ("unknown", {"verdict": "unknown"}), ("silent", {}), ("long", {})):
        page = open_page()
        change_results(page, lambda result, change=change: result.update(change))  # type: ignore[misc]
        sounds = {
            "silent": lambda: write(tmp_path / "silent.wav", np.zeros(5 * RATE)),
            "long": lambda: two_events(tmp_path / "long.wav"),
        }
        classify(page, sounds.get(name, lambda: SIREN)())
        expect(page.locator("#network canvas").first).to_be_visible(timeout=20_000)
        for width in (1440, 1024, 390):
            page.set_viewport_size({"width": width, "height": 900})
            shoot(page, f"verdict-{name}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


COLUMNS = """(canvas, loud) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  const found = [];
  for (let x = 0; x < canvas.width; x += 1) {
    for (let i = 4 * x; i < data.length; i += 4 * canvas.width) {
      if (data[i + 3] === 255 && (!loud || data[i] > 200)) { found.push(x / canvas.width); break; }
    }
  }
  return [found[0], found.at(-1)];
}"""


def painted_columns(canvas: Locator) -> tuple[float, float]:
    """The first and the last column of a picture that is painted, as shares of its width."""
    first, last = canvas.evaluate(COLUMNS, False)
    return first, last


def loud_columns(canvas: Locator) -> tuple[float, float]:
    """The same of what has the colours of loud sound."""
    first, last = canvas.evaluate(COLUMNS, True)
    return first, last


@pytest.mark.parametrize("noise", [0, 1e-4])
def test_a_recording_of_more_than_ten_minutes_is_classified(page: Page, tmp_path: Path, noise: float) -> None:
    """Its spectrogram has the means of several frames, and is finer in the window that is looked into. Of a large file
    the page reads the length first; a small one, of silence here, is refused with all frames and sent again."""
    page.expected_errors.append("422")  # type: ignore[attr-defined]
    samples = np.random.default_rng(1).normal(0, noise, 11 * 60 * RATE).astype(np.float32)
    siren = read("siren")
    samples[60 * RATE : 60 * RATE + len(siren)] += siren
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_label("Model").select_option("esc50-light")
    page.get_by_label("Sound files").set_input_files(write(tmp_path / "long.flac", samples))
    expect(headline(page)).to_have_text("siren", timeout=100_000)
    assert len(sent) == (1 if noise else 2)
    if not noise:
        return
    expect(page.get_by_text("A column of this spectrogram is the mean of")).to_be_visible()
    average, detail = spectrogram(page), page.locator(".spectrogram [data-layer=detail]")
    page.wait_for_function(f"canvas => ({PIXELS})(canvas).painted > 0.99", arg=average.element_handle())
    assert loud_columns(average) == pytest.approx((60 / 660, 65 / 660), abs=0.01)
    first, last = painted_columns(detail)
    assert 59 / 660 < first < last < 66 / 660
    windows = page.get_by_role("listbox", name="Windows of the sound")
    box = windows.bounding_box()
    assert box
    windows.locator("canvas").click(position={"x": 0.5 * box["width"], "y": 40})
    expect(page.locator("#announcer")).to_contain_text("5:2", timeout=100_000)
    moved = f"canvas => ({COLUMNS})(canvas, false).every((share) => Math.abs(share - 0.5) < 0.01)"
    page.wait_for_function(moved, arg=detail.element_handle())
    page.wait_for_timeout(700)  # longer than changes are collected
    page.reload()
    expect(headline(page)).to_have_text("siren")
    back = f"canvas => ({COLUMNS})(canvas, false).every((share) => Math.abs(share - 62.5 / 660) < 0.01)"
    page.wait_for_function(back, arg=detail.element_handle())
    shoot(page, "verdict-ten-minutes")


def test_reliability_of_the_model_is_drawn(page: Page) -> None:
    """The bins of its evaluation, with their figures for screen readers; nothing for a model without them."""
    bins = [
        {"low": 0.5, "high": 0.6, "sounds": 20, "confidence": 0.55, "accuracy": 0.4},
        {"low": 0.9, "high": 1.0, "sounds": 80, "confidence": 0.97, "accuracy": 0.95},
    ]

    def measured(route: Route) -> None:
        response = route.fetch()
        models = response.json()
        for card in models["models"]:
            card["accuracy"] = [
                {"data": "made up", "protocol": "none", "correct": 84, "total": 100, "reliability": bins}
            ]
        route.fulfill(response=response, json=models)

    page.route("**/v1/models", measured)
    page.reload()
    classify(page, SIREN)
    page.get_by_text("How reliable its confidences are").click()
    diagram = page.locator(".reliability svg")
    expect(diagram).to_be_visible()
    expect(diagram).to_have_attribute("aria-label", re.compile(r"Confidence 90\s% to 100\s%: 95\s% of 80 right"))
    expect(page.locator(".reliability figcaption")).to_contain_text("100 sounds of made up")
    heights = [float(bar.get_attribute("height") or 0) for bar in diagram.locator("rect").all()]
    assert heights == pytest.approx([40, 95])
    assert problems(page) == []


def test_several_classes_can_be_right(page: Page) -> None:
    """Of a model with several classes at once: independent confidences, which have neither a lead nor an entropy, and
    what a class is a kind of."""

    def with_several(route: Route) -> None:
        response = route.fetch()
        models = response.json()
        for card in models["models"]:
            card["multi_label"] = True
            card["parents"] = {"siren": ["Alarm"], "Alarm": ["Sounds of things"]}
        route.fulfill(response=response, json=models)

    def independent(result: dict[str, Any]) -> None:
        for one, confidence in zip(result["predictions"], (0.94, 0.83, 0.71), strict=False):
            one["confidence"] = confidence

    page.route("**/v1/models", with_several)
    change_results(page, independent)
    page.reload()
    classify(page, SIREN)
    for at, text in enumerate(("94 %", "83 %", "71 %")):
        expect(page.locator("#prediction .bars .number").nth(at)).to_have_text(text)
    expect(page.locator(".provenance")).to_contain_text("Several classes can be right at once.")
    expect(page.locator("#prediction")).not_to_contain_text("Lead over the second class")
    expect(page.locator("#prediction")).not_to_contain_text("Entropy")
    siren = page.locator("#prediction .bars button[data-class='siren']")
    expect(siren).to_have_attribute("title", re.compile("siren – Sounds of things › Alarm"))
    assert problems(page) == []
    shoot(page, "several-classes")


def test_progress_of_a_long_sound_is_a_share(page: Page) -> None:
    """Of its windows; a job without that has a bar without a value."""
    texts = page.evaluate(
        """async () => {
          const { showProgress, stateText } = await pageModule("library/sound-list.js");
          const shown = (progress) => {
            const sound = { phase: "running", connected: true, ended: false, job: { progress } };
            const bar = document.createElement("progress");
            showProgress(bar, sound);
            return [stateText(sound), bar.getAttribute("value")];
          };
          return [null, { done: 30, of: 120 }, { done: 30, of: null }].map(shown);
        }"""
    )
    assert texts == [["Running", None], ["Running, 30 of 120 windows", "0.25"], ["Running, 30 windows", None]]
