"""The picture of the network: all at once, what feeds what, layers opened, their channels, what a block adds."""

from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import SOUNDS, Open, job_id, shoot
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

SIREN = SOUNDS / "siren.flac"


def node(page: Page, name: str) -> Locator:
    return page.locator(f'.inside .node[data-id="{name}"]')


def opened(page: Page, name: str) -> Locator:
    """Open a layer and return what is shown of it."""
    node(page, name).click()
    expect(page.locator(".inside .detail h3")).to_have_text(name)
    return page.locator(".inside .detail")


def look_inside(page: Page, name: str) -> Locator:
    """Open a layer with all of its channels."""
    detail = opened(page, name)
    detail.get_by_role("button", name="Look at all").click()
    expect(detail.get_by_role("listbox")).to_be_visible(timeout=30_000)
    return detail


def lit(page: Page) -> list[str]:
    """What is lit up, in the order of computation."""
    found: list[str] = page.locator(".inside .node.lit").evaluate_all("all => all.map((one) => one.dataset.id)")
    return found


def focus_region(page: Page) -> dict[str, float] | None:
    """The part of the sound that the page points at."""
    region: dict[str, float] | None = page.evaluate("import('/static/js/focus.js').then(({ focus }) => focus.region)")
    return region


def submit(stack: Stack, **options: str) -> str:
    """A job made without the page."""
    with SIREN.open("rb") as sound:
        answer = httpx.post(
            f"{stack.url}/v1/jobs", files={"file": sound}, data=options, headers={"Prefer": "wait=10"}, timeout=60
        )
    job: dict[str, Any] = answer.json()
    assert job["status"] == "succeeded", job
    return str(job["id"])


@pytest.mark.parametrize("width", [1440, 900, 390])
def test_whole_network_is_on_show(open_page: Open, stack: Stack, width: int) -> None:
    """Every layer has its map, from the spectrogram to the answer, and nothing is cut off at any width."""
    page = open_page(width=width, path=f"/#job={submit(stack, model='esc50', include='maps,spectrogram,cam,windows')}")
    expect(node(page, "layer4.block2")).to_be_visible(timeout=30_000)
    card = httpx.get(f"{stack.url}/v1/models/esc50").json()
    drawn = page.locator(".inside .node").evaluate_all("all => all.map((one) => one.dataset.id)")
    layers = [layer["name"] for layer in card["layers"] if layer["kind"] != "stage"]
    assert drawn == ["input", *layers, "cam", "pool", "answer"]
    expect(node(page, "cam")).to_contain_text("What spoke for siren")
    expect(node(page, "answer")).to_contain_text("siren")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in drawn:
        box = node(page, name).bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= width - box["width"], name
    assert page.locator(".inside .link.identity").count() == 5
    assert page.locator(".inside .link.projection").count() == 3
    shoot(page, "inside")


def test_pointing_lights_up_what_feeds_a_part(classified: Page) -> None:
    """The chain back to the sound and nothing else is lit, in words too; by keyboard as well."""
    node(classified, "layer2.block1").hover()
    chain = ["input", "stem", "layer1.block1", "layer1.block2", "layer2.block1"]
    assert lit(classified) == chain
    expect(classified.locator(".inside .caption")).to_contain_text("the shortcut brings to 64 channels")
    classified.mouse.move(0, 0)
    assert lit(classified) == []
    node(classified, "stem").focus()
    for _ in range(3):
        classified.keyboard.press("ArrowRight")
    assert lit(classified) == chain


def test_layer_opens_below_the_overview_and_closes(classified: Page) -> None:
    """The overview stays in sight; arrow keys go on to the next layer, Escape closes and gives the focus back."""
    node(classified, "layer1.block2").focus()
    classified.keyboard.press("Enter")
    detail = classified.locator(".inside .detail")
    expect(detail.locator("h3")).to_have_text("layer1.block2")
    expect(detail).to_contain_text("32 × 32 × 63")
    expect(node(classified, "layer1.block2")).to_have_attribute("aria-expanded", "true")
    expect(node(classified, "layer1.block2")).to_be_in_viewport()
    expect(node(classified, "answer")).to_be_in_viewport()
    classified.keyboard.press("ArrowRight")
    expect(detail.locator("h3")).to_have_text("layer2.block1")
    detail.get_by_role("button", name="Previous layer").click()
    expect(detail.locator("h3")).to_have_text("layer1.block2")
    expect(detail.get_by_role("button", name="Previous layer")).to_be_focused()
    classified.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    expect(node(classified, "layer1.block2")).to_be_focused()


def card(stack: Stack) -> Any:
    return httpx.get(f"{stack.url}/v1/models/esc50").json()


def test_cells_are_read_and_show_what_they_hear(classified: Page, stack: Stack) -> None:
    """A cell tells value, time and frequency, and the page points at its receptive field, clipped to the sound."""
    detail = opened(classified, "layer1.block1")
    frame = detail.get_by_role("application")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    frame.hover(position={"x": box["width"] * 20.5 / 63, "y": box["height"] * 22.5 / 32})  # row 9, column 20
    result = httpx.get(f"{stack.url}/v1/jobs/{job_id(classified)}/result").json()
    value = result["maps"]["layer1.block1"]["values"][9][20]
    expect(detail.locator(".reading")).to_have_text(f"{value:.4g} at 0:01.63, 779 Hz")
    region = focus_region(classified)
    field = next(layer["receptive_field"] for layer in card(stack)["layers"] if layer["name"] == "layer1.block1")
    left, low = (field["start"] + at * field["stride"] for at in (20, 9))
    assert region == pytest.approx(
        {
            "start": left / 251 * 5,
            "end": (left + field["size"]) / 251 * 5,
            "low": low / 128,
            "high": (low + field["size"]) / 128,
        }
    )
    frame.focus()
    classified.keyboard.press("Shift+ArrowLeft")
    classified.keyboard.press("Shift+ArrowLeft")
    classified.keyboard.press("Shift+ArrowLeft")
    region = focus_region(classified)
    assert region is not None
    assert region["start"] == 0
    classified.mouse.move(0, 0)
    classified.keyboard.press("Escape")
    assert focus_region(classified) is None


def test_channels_are_fetched_sorted_and_picked(classified: Page) -> None:
    """All channels come on demand, sorted as asked; one can be read large beside the mean."""
    detail = look_inside(classified, "layer2.block2")
    options = detail.locator(".channel")
    expect(options).to_have_count(64)
    detail.get_by_label("Order of channels").select_option("mean")
    means = options.evaluate_all("all => all.map((one) => Number(/mean ([^,]+)/.exec(one.ariaLabel)[1]))")
    assert means == sorted(means, reverse=True)
    options.first.focus()
    classified.keyboard.press("ArrowRight")
    classified.keyboard.press("Enter")
    picked = detail.locator('[role="option"][aria-selected="true"]')
    expect(picked).to_be_focused()
    channel = picked.get_attribute("data-channel")
    expect(detail.locator(".map figcaption b")).to_have_text(["Mean of all channels", f"Channel {channel}"])
    classified.keyboard.press("Enter")
    expect(detail.locator(".map")).to_have_count(1)
    assert detail.locator(".facts").inner_text().count("%") == 2  # zeros of the mean, and of all channels


def test_residual_block_is_explained_with_its_own_maps(classified: Page) -> None:
    """Input, residual, shortcut and sum of a channel add up to what is drawn; a projection is called one."""
    detail = look_inside(classified, "layer1.block2")
    block = detail.get_by_role("region", name="What this block does")
    expect(block).to_contain_text("The input again, unchanged.")
    expect(block).to_contain_text("the same for all four")
    expect(block).to_contain_text("times as strong")
    added = classified.evaluate(
        """async () => {
            const { library } = await import("/static/js/library.js");
            const { lookInto } = await import("/static/js/inside/look.js");
            const looked = await lookInto(library.selected, "layer1.block2");
            const channel = (part) => looked.get(`layer1.block2${part}`)[3].values;
            const [sum, residual, shortcut] = [channel(""), channel(".residual"), channel(".shortcut")];
            return Math.max(...sum.map((value, i) => Math.abs(value - Math.max(0, residual[i] + shortcut[i]))));
        }"""
    )
    assert added < 0.05
    detail = look_inside(classified, "layer3.block1")
    expect(detail).to_contain_text("a 1 × 1 convolution brings the input to 128 channels and half the resolution")


def test_only_cursors_move_while_playing(classified: Page) -> None:
    """The playhead moves a line over every map, and no picture is painted again."""
    classified.set_viewport_size({"width": 1280, "height": 3000})  # all of it in sight
    opened(classified, "layer2.block1")
    moved = classified.evaluate(
        """async () => {
            const { playhead } = await import("/static/js/playhead.js");
            const ready = (picture) => picture.querySelector(".empty:not([hidden])")
                || picture.firstChild.width === Math.round(picture.clientWidth * devicePixelRatio);
            const all = [...document.querySelectorAll(".inside .picture")];
            while (!all.every(ready)) await new Promise(requestAnimationFrame);
            let painted = 0;
            for (const name of ["drawImage", "putImageData", "clearRect", "fillRect"]) {
                const own = CanvasRenderingContext2D.prototype[name];
                CanvasRenderingContext2D.prototype[name] = function (...all) {
                    if (this.canvas.closest(".inside")) painted += 1;
                    return own.apply(this, all);
                };
            }
            const cursors = [...document.querySelectorAll(".inside .cursor")];
            const places = new Set();
            for (let time = 0; time <= 5; time += 0.25) {
                playhead.at(time, 5, true);
                for (const cursor of cursors) places.add(cursor.style.transform);
                await new Promise(requestAnimationFrame);
            }
            playhead.at(2, 5, false);
            const now = cursors.map((one) => one.style.transform);
            return { painted, cursors: cursors.length, places: places.size, now };
        }"""
    )
    assert moved["painted"] == 0
    assert moved["cursors"] == 16  # 11 in the overview, the map, and four of the block
    assert moved["places"] == 21
    assert set(moved["now"]) == {"translateX(40%)"}


def test_colours_and_scale_are_chosen_and_remembered(classified: Page, open_page: Open) -> None:
    """One scale for all maps gives every layer the same legend, and the page remembers it."""
    classified.get_by_label("Colour scale of the maps").select_option("shared")
    classified.get_by_label("Colours of the maps").select_option("cividis")
    legends = []
    for name in ("stem", "layer4.block2"):
        detail = opened(classified, name)
        legends.append(detail.locator(".map .scale").inner_text())
    assert legends[0] == legends[1]
    stored = classified.evaluate("JSON.parse(localStorage.getItem('otoscope'))")
    assert (stored["mapColours"], stored["sharedScale"]) == ("cividis", True)


def test_map_is_saved_as_png(classified: Page) -> None:
    """The picture carries the name of the sound and of the layer."""
    detail = opened(classified, "layer1.block1")
    with classified.expect_download() as download:
        detail.get_by_role("button", name="Save as PNG").click()
    assert download.value.suggested_filename == "siren.flac-layer1.block1-Mean-of-all-channels.png"
    with open(download.value.path(), "rb") as saved:
        assert saved.read(8) == b"\x89PNG\r\n\x1a\n"


def test_reopened_result_gets_its_channels_when_the_file_is_chosen(open_page: Open, stack: Stack) -> None:
    """Without the file the page says what is missing; with it the look goes on."""
    page = open_page(path=f"/#job={submit(stack, model='esc50', include='maps,spectrogram,cam')}")
    detail = opened(page, "layer1.block1")
    expect(detail).to_contain_text("This page does not have the sound, and the server keeps none.")
    with page.expect_file_chooser() as chooser:
        detail.get_by_role("button", name="Choose the file").click()
    chooser.value.set_files(str(SIREN))
    detail.get_by_role("button", name="Look at all 32 channels").click()
    expect(detail.locator(".channel")).to_have_count(32, timeout=30_000)


def test_result_without_maps_says_so(open_page: Open, stack: Stack) -> None:
    """Nothing is invented: the page offers to classify again, once it has the file."""
    page = open_page(path=f"/#job={submit(stack, model='esc50')}")
    inside = page.locator("#inside")
    expect(inside).to_contain_text("made without looking inside: it has no maps", timeout=30_000)
    with page.expect_file_chooser() as chooser:
        inside.get_by_role("button", name="Choose the file").click()
    chooser.value.set_files(str(SIREN))
    inside.get_by_role("button", name="Classify again").click()
    expect(node(page, "layer4.block2")).to_be_visible(timeout=30_000)


def test_failed_look_is_told_and_can_be_tried_again(classified: Page) -> None:
    """What the server says is shown where the channels would be, and trying again works."""
    problem = '{"title": "Queue full", "detail": "Too many sounds wait.", "code": "queue_full", "status": 429}'
    classified.expected_errors = ["429"]  # type: ignore[attr-defined]
    classified.route("**/v1/jobs", lambda route: route.fulfill(status=429, body=problem))
    detail = opened(classified, "stem")
    detail.get_by_role("button", name="Look at all").click()
    expect(detail.get_by_role("alert")).to_have_text("Too many sounds wait.")
    classified.unroute("**/v1/jobs")
    detail.get_by_role("button", name="Try again").click()
    expect(detail.locator(".channel")).to_have_count(32, timeout=30_000)
