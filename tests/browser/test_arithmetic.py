"""The arithmetic of a cell, the logits, and what excites a channel: real numbers of the served model."""

import base64
import math
import re
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open, classify, job_id, shoot
from tests.browser.test_network import RESIDUAL, SIREN, node, opened, submit, with_channels
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(240)

WAIT = 60_000  # ms: other programs may use the cores


@pytest.fixture(params=[RESIDUAL, "esc50-light"])
def model(request: pytest.FixtureRequest) -> str:
    """A residual network, and depthwise separable convolutions."""
    return str(request.param)


def opened_page(open_page: Open, model: str, width: int = 1280, **options: object) -> Page:
    page = open_page(width=width, **options)
    page.get_by_label("Model").select_option(model)
    classify(page, SIREN)
    return page


def pick_cell(frame: Locator, row: int, column: int, rows: int, columns: int) -> None:
    """Click the middle of a cell of a map."""
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    x, y = box["width"] * (column + 0.5) / columns, box["height"] * (1 - (row + 0.5) / rows)
    frame.click(position={"x": x, "y": y})


def numbers(text: str) -> list[float]:
    """The numbers in a text, in their order."""
    found = re.findall(r"[−-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)
    return [float(one.replace("−", "-")) for one in found]


def card_of(stack: Stack, model: str) -> Any:
    return httpx2.get(f"{stack.url}/v1/models/{model}").json()


def explained(stack: Stack, model: str, cell: str) -> Any:
    """The same cell through the API, without the page."""
    with SIREN.open("rb") as sound:
        response = httpx2.post(
            f"{stack.url}/v1/jobs",
            files={"file": sound},
            data={"model": model, "cell": cell, "layer": cell.partition(":")[0]},
            headers={"Prefer": "wait=30"},
            timeout=60,
        )
    return response.json()["result"]


def test_a_cell_is_explained_with_the_numbers_of_the_served_model(open_page: Open, stack: Stack, model: str) -> None:
    """A click on a cell of a channel: the steps end with the number on the map, and each sum is the sum of its rows."""
    page = opened_page(open_page, model)
    layer = "layer2.block1"
    detail = with_channels(page, layer)
    channels, rows, columns = next(one["shape"] for one in card_of(stack, model)["layers"] if one["name"] == layer)
    detail.locator(".channel").nth(3).click()
    place = (rows // 2, columns // 3)
    pick_cell(detail.locator(".map").nth(1).get_by_role("application"), *place, rows, columns)
    panel = detail.locator(".arithmetic")
    expect(panel.locator(".outcome")).to_be_visible(timeout=WAIT)
    row, column = place
    expect(panel.locator(".place")).to_have_text(f"Channel 3 of {layer}, row {row} from the bottom, column {column}")
    result = explained(stack, model, f"{layer}:3:{row}:{column}")
    value = result["arithmetic"]["operations"][0]["value"]
    shown, *_ = numbers(panel.locator(".outcome").inner_text())
    assert shown == pytest.approx(value, rel=1e-3, abs=1e-3)
    assert shown == pytest.approx(result["channels"][layer]["values"][3][row][column], rel=2e-2, abs=2e-2)
    first = panel.locator(".steps > li:has(> .terms-list, > .by-channel)").first
    *_, total = numbers(first.locator("> .formula").inner_text())
    terms = [numbers(text)[-1] for text in first.locator(".terms-list > li .number").all_inner_texts()]
    bias = re.search(r"bias (\S+)", first.locator("> .formula").inner_text())
    expected = sum(terms) + (float(bias[1].replace("−", "-")) if bias else 0.0)
    assert total == pytest.approx(expected, rel=1e-2, abs=2e-2)
    assert panel.locator(".steps").count() >= 1
    shoot(page, f"arithmetic-{model}")
    assert channels > 6
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_inputs_of_a_sum_lead_to_the_layer_before(open_page: Open, stack: Stack) -> None:
    """Unfolded, an input shows its own convolution; a cell of the layer before opens that layer with its arithmetic."""
    page = opened_page(open_page, "esc50-light")
    detail = with_channels(page, "layer2.block1")
    detail.locator(".channel").nth(5).click()
    frame = detail.locator(".map").nth(1).get_by_role("application")
    frame.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel = detail.locator(".arithmetic")
    expect(panel.locator(".outcome")).to_be_visible(timeout=WAIT)
    summary = panel.locator("summary").first
    summary.click()
    inner = panel.locator("details[open] .steps").first
    expect(inner.locator("table.numbers")).to_have_count(3)
    grids = [
        np.array([numbers(text)[0] for text in grid.locator("td").all_inner_texts()])
        for grid in inner.locator("table.numbers").all()
    ]
    patch, kernel, products = grids
    np.testing.assert_allclose(patch * kernel, products, rtol=0.1, atol=0.02)
    inner.locator("button.link").first.click()
    expect(page.locator(".network .detail h3")).not_to_have_text("layer2.block1")
    expect(page.locator(".network .arithmetic .outcome")).to_be_visible(timeout=WAIT)
    shoot(page, "arithmetic-before")


def test_a_cell_of_the_mean_shows_its_strongest_channel(open_page: Open, stack: Stack) -> None:
    """The mean has no arithmetic of its own; the strongest channel is named, and the channels appear as well."""
    page = opened_page(open_page, RESIDUAL)
    detail = opened(page, "stem")
    channels, rows, columns = next(one["shape"] for one in card_of(stack, RESIDUAL)["layers"] if one["name"] == "stem")
    pick_cell(detail.get_by_role("application"), 10, 20, rows, columns)
    panel = detail.locator(".arithmetic")
    expect(panel.locator(".outcome")).to_be_visible(timeout=WAIT)
    expect(panel).to_contain_text(f"mean of {channels} channels")
    channel = int(numbers(panel.locator(".place").inner_text())[0])
    result = explained(stack, RESIDUAL, f"stem:{channel}:10:20")
    column = [values[10][20] for values in result["channels"]["stem"]["values"]]
    assert channel == int(np.argmax(column))
    expect(detail.locator(".channel")).to_have_count(channels)
    panel.get_by_role("button", name="Close the arithmetic").click()
    expect(panel).to_be_hidden()
    expect(detail.get_by_role("application").first).to_be_focused()


def test_softmax_is_explained_with_the_logits(open_page: Open, stack: Stack) -> None:
    """The confidences are those of the answer and follow from the logits; another class shows its own sum."""
    page = opened_page(open_page, "esc50-light")
    node(page, "prediction").focus()
    page.keyboard.press("Enter")
    table = page.locator(".softmax-table")
    expect(table.locator("tbody tr")).to_have_count(8, timeout=WAIT)
    rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
    answer = httpx2.get(f"{stack.url}/v1/jobs/{job_id(page)}/result").json()["predictions"]
    assert rows[0][0] == answer[0]["class"].replace("_", " ")
    assert numbers(rows[0][-1])[0] == pytest.approx(100 * answer[0]["confidence"], abs=1.5)
    powers = [numbers(row[-2])[0] for row in rows]
    assert sum(powers[:-1]) == pytest.approx(powers[-1], rel=1e-2)
    assert powers[:6] == pytest.approx([math.exp(numbers(row[-3])[0]) for row in rows[:6]], rel=1e-2)
    assert 100 * powers[0] / powers[-1] == pytest.approx(numbers(rows[0][-1])[0], abs=0.5)
    second = table.get_by_role("button").nth(1)
    name = second.inner_text()
    second.click()
    expect(page.locator(".network .detail h4")).to_have_text(f"Where the logit of {name} comes from", timeout=WAIT)
    *_, total = numbers(page.locator(".network .detail .steps > li > .formula").last.inner_text())
    assert total == pytest.approx(numbers(rows[1][1])[0], rel=1e-2, abs=1e-2)
    shoot(page, "softmax")


def test_what_excites_a_channel_can_be_heard(open_page: Open) -> None:
    """The sound masked by the map: a channel that responds to high tones leaves the low ones out; it can be saved."""
    page = opened_page(open_page, RESIDUAL)
    detail = with_channels(page, "layer1.block1")
    detail.get_by_label("Order of channels").select_option("max")
    detail.locator(".channel").first.click()
    area = detail.locator(".excites")
    area.get_by_role("button", name="Hear what excites it").click()
    expect(area.get_by_role("button", name="Stop")).to_be_visible(timeout=WAIT)
    expect(area).to_contain_text("dB louder")
    area.get_by_role("button", name="Stop").click()
    with page.expect_download() as saved:
        area.get_by_role("button", name="Save as WAV").click()
    assert "channel" in saved.value.suggested_filename
    samples, rate = soundfile.read(saved.value.path())
    assert len(samples) == pytest.approx(5 * rate, abs=rate / 10)
    assert 0.3 < np.abs(samples).max() <= 1
    area.locator(".moments button").first.click()
    assert page.evaluate("pageModule('state/playhead.js').then(({ playhead }) => playhead.time)") > 0


def test_the_mask_lets_through_what_the_map_has(page: Page) -> None:
    """A map whose upper half is on: of two tones only the high one remains; where it is 1, nothing changes."""
    encoded = page.evaluate(
        """async () => {
            const { maskOf } = await pageModule("network/excites.js");
            const { maskSound } = await pageModule("edit/region.js");
            const { Matrix } = await pageModule("signal/matrix.js");
            const rate = 16000, seconds = 1;
            const axes = { seconds, low: 0, high: 8000, start: 0, shareOf: (f) => f / 8000 };
            const map = new Matrix(4, 4, Float32Array.from([0,0,0,0, 0,0,0,0, 2,2,2,2, 2,2,2,2]));
            const whole = new Matrix(1, 1, Float32Array.of(3));
            const tone = Float32Array.from({ length: rate }, (_, i) =>
                0.3 * Math.sin(2 * Math.PI * 500 * i / rate) + 0.3 * Math.sin(2 * Math.PI * 7000 * i / rate));
            const masked = await maskSound(tone, rate, maskOf(map, axes));
            const same = await maskSound(tone, rate, maskOf(whole, axes));
            const bytes = (one) => btoa(String.fromCharCode(...new Uint8Array(one.buffer)));
            return [tone, masked, same].map(bytes);
        }"""
    )
    tone, masked, same = (np.frombuffer(base64.b64decode(text), np.float32) for text in encoded)
    assert np.abs(same - tone).max() < 1e-4
    spectrum = np.abs(np.fft.rfft(masked)) / np.abs(np.fft.rfft(tone)).max()
    assert spectrum[7000] == pytest.approx(1, abs=0.05)
    assert spectrum[500] < 0.01


def test_without_the_file_it_is_asked_for(open_page: Open, stack: Stack) -> None:
    """A result that was opened by its link: the server does not keep sounds."""
    page = open_page(path=f"/#job={submit(stack, model=RESIDUAL, include='maps,spectrogram,cam,windows')}")
    detail = opened(page, "layer1.block1")
    frame = detail.get_by_role("application")
    frame.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(detail.locator(".arithmetic .problem")).to_contain_text("Choose the same file again")
