"""Predictions, links, comparison, errors. The large panels have test modules of their own."""

import json
import re
from pathlib import Path

import httpx2
import msgpack
import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import SOUNDS, Open, classify, job_id, shoot, write_wav
from tests.browser.test_accessibility import problems
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
BELL = SOUNDS / "church-bell.flac"


def test_arrays_on_the_page_are_those_of_the_api(classified: Page, stack: Stack) -> None:
    """The page's own MessagePack and float16 readers give the numbers of the JSON form."""
    job = job_id(classified)
    read = classified.evaluate(
        """async (job) => {
            const { getResult } = await pageModule("server/api.js");
            const got = await getResult(job);
            const plain = ({ rows, columns, values }) => ({ shape: [rows, columns], values: [...values] });
            return {
                spectrogram: plain(got.spectrogram), cam: plain(got.cam), waveform: plain(got.waveform),
                first: plain([...got.maps.values()][0]), layers: [...got.maps.keys()], windows: got.windows,
            };
        }""",
        job,
    )
    expected = httpx2.get(f"{stack.url}/v1/jobs/{job}/result").json()
    assert read["layers"] == list(expected["maps"])
    for window in expected["windows"]:  # of which improbable classes are not kept
        ranked = enumerate(window["predictions"])
        window["predictions"] = [one for rank, one in ranked if rank < 10 or one["confidence"] >= 0.005]
    assert read["windows"] == expected["windows"]
    for name, array in (
        ("spectrogram", expected["full_spectrogram"]),
        ("cam", expected["cam"]),
        ("first", next(iter(expected["maps"].values()))),
    ):
        flat = [value for row in array["values"] for value in row]
        assert read[name]["shape"] == array["shape"]
        assert read[name]["values"] == pytest.approx(flat, rel=1e-3, abs=1e-6)
    assert read["waveform"]["values"] == pytest.approx(
        expected["waveform"]["min"] + expected["waveform"]["max"], rel=1e-3, abs=1e-6
    )


def test_every_kind_of_value_is_read(page: Page) -> None:
    """Texts of every length and more names than the reader keeps, each twice; numbers of every size."""
    names = [f"class {i} of {'é' if i % 7 == 0 else 'e'}" for i in range(6_000)]
    texts = [letter * size for letter in "aé" for size in (0, 1, 15, 16, 31, 32, 33, 255, 256, 70_000)]
    numbers = [0, 127, 128, 65_536, 2**40, -1, -32, -33, -40_000, -(2**40), 0.1, -1e300]
    document = {"names": names + names, "texts": texts, "numbers": numbers, "rest": [None, True, False, {}, []]}
    read = "async (bytes) => (await pageModule('server/msgpack.js')).decode(new Uint8Array(bytes).buffer)"
    assert page.evaluate(read, list(msgpack.packb(document))) == document
    for broken in (b"\xa5abc", b"\xcb\0", b"", b"\x81\xa9__proto__\x01", b"\xc0\xc0"):
        with pytest.raises(PlaywrightError, match="MessagePack"):
            page.evaluate(read, list(broken))


def test_link_reopens_the_result(page: Page, open_page: Open, own_sound: Path) -> None:
    """The address of a result shows it on another machine, without the sound, and explains that; the skip link keeps
    that address, and the copied link is the result's."""
    classify(page, own_sound)
    job = job_id(page)
    page.get_by_role("link", name="Skip to the result").press("Enter")
    expect(page.locator("#result")).to_be_focused()
    assert job_id(page) == job
    page.evaluate("history.replaceState(null, '', '#elsewhere')")
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.endswith(f"/#job={job}")
    other = open_page(path=link)
    expect(other.locator(".top-class strong")).to_have_text("siren", timeout=30_000)
    expect(other.locator(".title h1")).to_have_text("own.flac")
    expect(other.locator("#sound")).to_contain_text("does not keep sounds")


def test_link_to_an_expired_result_is_explained(open_page: Open) -> None:
    """A link whose result has expired or never existed is explained; removing it returns to the start."""
    page = open_page(path=f"/#job={'0' * 32}")
    page.expected_errors.append("404")  # type: ignore[attr-defined]
    expect(page.get_by_role("heading", name="This result no longer exists")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_role("heading", name="Classify a sound")).to_be_visible()


def test_result_is_copied_and_saved(classified: Page, stack: Stack) -> None:
    """The copied JSON has the predictions, the saved JSON has the arrays as well."""
    classified.get_by_role("button", name="Copy JSON").click()
    copied = json.loads(classified.evaluate("navigator.clipboard.readText()"))
    assert copied["result"]["predictions"][0]["class"] == "siren"
    assert copied["id"] == job_id(classified)
    with classified.expect_download() as download:
        classified.get_by_role("button", name="Save everything").click()
    assert download.value.suggested_filename == "siren.json"
    saved = json.loads(Path(download.value.path()).read_text())
    card = httpx2.get(f"{stack.url}/v1/models/esc50").json()
    assert set(saved["maps"]) == {layer["name"] for layer in card["layers"]}


def test_interrupted_save_is_reported(classified: Page) -> None:
    """Where the connection breaks off within the saved result, the page shows an error and saves nothing."""
    classified.evaluate(
        """() => {
            const broken = () => new ReadableStream({ pull: (body) => body.error(new TypeError("network error")) });
            window.fetch = async () => new Response(broken());
        }"""
    )
    classified.get_by_role("button", name="Save everything").click()
    expect(classified.locator(".toast")).to_have_text("The server does not respond")


def test_another_model_is_chosen(classified: Page) -> None:
    """The model picker offers the served models; the same sound can be classified again, and both results stay."""
    classified.get_by_label("Model").select_option("esc50-light")
    classified.get_by_role("button", name="Classify again with esc50-light").click()
    expect(classified.locator(".provenance b")).to_have_text("esc50-light", timeout=30_000)
    states = classified.locator(".sounds .state")
    expect(states).to_have_text([re.compile(r"\(esc50-light\)$"), re.compile(r"\(esc50\)$")])
    classified.reload()
    expect(classified.get_by_label("Model")).to_have_value("esc50-light")


def test_two_results_are_compared(page: Page) -> None:
    """Two results as full panels: spectrograms, their difference, every stage, on shared scales."""
    classify(page, SIREN, BELL)
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=30_000)
    page.get_by_role("button", name="Compare").click()
    sides = page.locator(".compare .side")
    expect(sides).to_have_count(2)
    texts = sorted(side.locator("p b").inner_text().partition(",")[0] for side in sides.all())
    assert texts == ["church bells", "siren"]
    page.locator(".compare summary").click()
    expect(page.locator(".stage-maps .picture").first).to_be_visible()
    page.wait_for_timeout(500)
    for canvas in page.locator(".compare .picture canvas").all():
        colours = canvas.evaluate(
            "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
        )
        assert colours > 8, "the canvas is empty"
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 900})
        shoot(page, "compare")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert problems(page) == []
    page.get_by_role("button", name="Close").click()
    expect(sides).to_have_count(0)


def test_file_that_is_no_sound_is_explained(page: Page, tmp_path: Path) -> None:
    """The error says what was found. The same file would be refused again: another one can be chosen in its place."""
    page.expected_errors.append("415")  # type: ignore[attr-defined]
    text = tmp_path / "notes.wav"
    text.write_text("this is not audio")
    page.get_by_label("Sound files").set_input_files([str(text)])
    alert = page.locator("#prediction [role=alert]")
    expect(alert).to_contain_text("WAV", timeout=20_000)
    expect(alert.get_by_role("button", name="Try again")).to_have_count(0)
    with page.expect_file_chooser() as chooser:
        alert.get_by_role("button", name="Choose another").click()
    chooser.value.set_files(str(text))
    expect(page.locator(".sounds li")).to_have_count(1)
    expect(alert).to_contain_text("WAV", timeout=20_000)
    alert.get_by_role("button", name="Remove").click()
    expect(page.locator(".sounds li")).to_have_count(0)


def test_file_name_is_text(page: Page, tmp_path: Path) -> None:
    """A file name made of HTML is shown as text and does nothing."""
    hostile = tmp_path / "<img src=x onerror=document.title='owned'>&amp;.wav"
    write_wav(SIREN, hostile)
    classify(page, hostile)
    expect(page.locator(".title h1")).to_have_text(hostile.name)
    assert page.locator("main img").count() == 0
    assert "owned" not in page.title() or hostile.name in page.title()


def _bytes_before_first_paint(page: Page) -> int:
    """Of responses, compressed, whose requests began before the page that is loaded again showed something."""
    page.reload(wait_until="networkidle")
    size: int = page.evaluate(
        """() => {
            const [paint] = performance.getEntriesByName("first-contentful-paint");
            const entries = ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
            const early = entries.filter((entry) => entry.startTime < paint.startTime);
            return early.reduce((sum, entry) => sum + entry.encodedBodySize, 0);
        }"""
    )
    return size


@pytest.mark.parametrize("first_visit", [False, True])
def test_nothing_is_loaded_from_other_hosts(open_page: Open, stack: Stack, first_visit: bool) -> None:
    """The first view is small, with the example as well, and no request goes to another host."""
    page = open_page(first_visit=first_visit)
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    # A busy machine paints later, when requests for what is below the first view have begun as well.
    assert any(0 < _bytes_before_first_paint(page) < 100_000 for _ in range(4))
    classify(page, SIREN)
    others = [url for url in seen if not url.startswith((stack.url, "blob:"))]
    assert not others


def test_every_panel_shows_the_sound_that_is_selected(page: Page) -> None:
    """Another sound is selected while the page still loads the model of the first: the panels show the selected one."""
    page.expected_errors.append("RANGE_NOT_SATISFIABLE")  # type: ignore[attr-defined]
    held: list[Route] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.reload()  # without a loaded model
    page.get_by_label("Sound files").set_input_files({"name": "empty.wav", "mimeType": "audio/wav", "buffer": b""})
    expect(page.locator("#prediction h1")).to_have_text("empty.wav")
    page.get_by_label("Sound files").set_input_files(str(SIREN))
    expect(page.locator(".sounds .state").first).to_contain_text("siren", timeout=30_000)
    page.locator(".select", has_text="empty.wav").click()
    for route in held:
        route.continue_()
    page.wait_for_function("pageModule('main.js').then(() => !document.getElementById('model').disabled)")
    expect(page).to_have_title("empty.wav – Otoscope")
    page.wait_for_timeout(200)
    expect(page.locator("#prediction h1")).to_have_text("empty.wav")
