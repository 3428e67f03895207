"""The network panel: overview, edges, opened layers, their channels, and what a residual block computes."""

import itertools
import re
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PARALLEL, SOUNDS, Open, classify, job_id, shoot
from tests.e2e.conftest import Stack
from worker.inference.engine import Engine
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import Model, ModelConfig
from worker.model.frontend import FrontendConfig, LogMel

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
RESIDUAL = "cat-dog"
"""A residual network with a stem and four stages of two blocks. The default model may have any architecture."""


@pytest.fixture
def residual(open_page: Open) -> Page:
    """The page with the siren classified by a residual network."""
    page = open_page()
    page.get_by_label("Model").select_option(RESIDUAL)
    classify(page, SIREN)
    return page


def node(page: Page, name: str) -> Locator:
    return page.locator(f'.network .node[data-id="{name}"]')


def opened(page: Page, name: str) -> Locator:
    """Open a layer and return its details."""
    node(page, name).click()
    expect(page.locator(".network .detail h3")).to_have_text(name)
    return page.locator(".network .detail")


def with_channels(page: Page, name: str) -> Locator:
    """Open a layer with all of its channels."""
    detail = opened(page, name)
    detail.get_by_role("button", name="Show all").click()
    expect(detail.get_by_role("listbox")).to_be_visible(timeout=30_000)
    return detail


def traced(page: Page) -> list[str]:
    """The highlighted nodes, in the order of computation."""
    found: list[str] = page.locator(".network .node.traced").evaluate_all("all => all.map((one) => one.dataset.id)")
    return found


def highlighted_region(page: Page) -> dict[str, float] | None:
    """The part of the sound that the page highlights."""
    region: dict[str, float] | None = page.evaluate(
        "pageModule('state/highlight.js').then(({ highlight }) => highlight.region)"
    )
    return region


def submit(stack: Stack, **options: str) -> str:
    """Submit a job without the page, with a sound that is none of its samples; returns its id."""
    with SIREN.open("rb") as sound:
        response = httpx2.post(
            f"{stack.url}/v1/jobs", files={"file": ("own.flac", sound)}, data=options,
            headers={"Prefer": "wait=10"}, timeout=60,
        )  # fmt: skip
    job: dict[str, Any] = response.json()
    assert job["status"] == "succeeded", job
    return str(job["id"])


@pytest.mark.parametrize(
    ("width", "model"),
    [(1440, RESIDUAL), (900, RESIDUAL), (390, RESIDUAL), (1440, "esc50"), (900, "esc50"), (390, "esc50")],
)
def test_whole_network_is_shown(open_page: Open, stack: Stack, width: int, model: str) -> None:
    """Every layer has its map, from the spectrogram to the prediction, and nothing is cut off at any width."""
    page = open_page(width=width, path=f"/#job={submit(stack, model=model, include='maps,spectrogram,cam,windows')}")
    expect(node(page, "prediction")).to_be_visible(timeout=30_000)
    card = httpx2.get(f"{stack.url}/v1/models/{model}").json()
    drawn = page.locator(".network .node").evaluate_all("all => all.map((one) => one.dataset.id)")
    layers = [layer["name"] for layer in card["layers"] if layer["kind"] != "stage"]
    assert drawn == ["input", *layers, "cam", "pool", "prediction"]
    [name] = page.locator(".network .predictions .line:first-child span").all_inner_texts()
    expect(node(page, "cam")).to_contain_text(f"Class activation: {name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = []
    for name in drawn:
        box = node(page, name).bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= width - box["width"], name
        boxes.append((name, box))
    for (one, left), (other, right) in itertools.permutations(boxes, 2):
        if left["x"] <= right["x"] and abs(left["y"] - right["y"]) < min(left["height"], right["height"]):
            assert right["x"] - left["x"] - left["width"] >= 8, (one, other)  # room for an edge
    if model == RESIDUAL:
        assert page.locator(".network .edge.identity").count() == 5
        assert page.locator(".network .edge.projection").count() == 3
    shoot(page, f"network-{model}")


def test_pointing_highlights_what_feeds_a_node(residual: Page) -> None:
    """The path back to the spectrogram and nothing else is highlighted, with a caption; by keyboard as well."""
    node(residual, "layer2.block1").hover()
    chain = ["input", "stem", "layer1.block1", "layer1.block2", "layer2.block1"]
    assert traced(residual) == chain
    expect(residual.locator(".network .caption")).to_contain_text("projects the input to 64 channels")
    residual.mouse.move(0, 0)
    assert traced(residual) == []
    node(residual, "stem").focus()
    for _ in range(3):
        residual.keyboard.press("ArrowRight")
    assert traced(residual) == chain


def test_caption_keeps_its_height(open_page: Open) -> None:
    """It grows, and does not shrink: at the end of the page that would move the nodes from under the pointer, and back,
    and so on."""
    page = open_page(width=390)
    page.get_by_label("Model").select_option(RESIDUAL)
    classify(page, SIREN)
    caption = page.locator(".network .caption")

    def height() -> float:
        return float(caption.evaluate("e => e.getBoundingClientRect().height"))

    node(page, "layer2.block1").hover()
    expect(caption).to_contain_text("Two 3 × 3 convolutions")
    longest = height()
    node(page, "pool").hover()
    expect(caption).to_contain_text("The mean of each channel")
    assert height() == longest
    page.set_viewport_size({"width": 1280, "height": 900})
    page.mouse.move(0, 0)
    page.wait_for_function("before => document.querySelector('.network .caption').offsetHeight < before", arg=longest)


def test_layer_opens_below_the_overview_and_closes(residual: Page) -> None:
    """The overview stays visible; arrow keys open the next layer, Escape closes it and restores the focus."""
    node(residual, "layer1.block2").focus()
    residual.keyboard.press("Enter")
    detail = residual.locator(".network .detail")
    expect(detail.locator("h3")).to_have_text("layer1.block2")
    expect(detail).to_contain_text("32 × 32 × 63")
    expect(node(residual, "layer1.block2")).to_have_attribute("aria-expanded", "true")
    expect(node(residual, "layer1.block2")).to_be_in_viewport()
    expect(node(residual, "prediction")).to_be_in_viewport()
    residual.keyboard.press("ArrowRight")
    expect(detail.locator("h3")).to_have_text("layer2.block1")
    detail.get_by_role("button", name="Previous layer").click()
    expect(detail.locator("h3")).to_have_text("layer1.block2")
    expect(detail.get_by_role("button", name="Previous layer")).to_be_focused()
    residual.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    expect(node(residual, "layer1.block2")).to_be_focused()


def card(stack: Stack) -> Any:
    return httpx2.get(f"{stack.url}/v1/models/{RESIDUAL}").json()


def band_edge(card: Any, band: int) -> float:
    """The lower edge of a mel band in Hz: halfway between its centre and that of the band below."""
    front = card["frontend"]
    low, high = (2_595 * np.log10(1 + front[name] / 700) for name in ("f_min", "f_max"))
    mel = low + (high - low) * (band + 0.5) / (front["n_mels"] + 1)
    return float(700 * (10 ** (mel / 2_595) - 1))


def test_cells_are_read_and_show_their_receptive_field(residual: Page, stack: Stack) -> None:
    """Pointing at a cell shows value, time and frequency, and highlights its receptive field, clipped to the sound."""
    detail = opened(residual, "layer1.block1")
    frame = detail.get_by_role("application")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    frame.hover(position={"x": box["width"] * 20.5 / 63, "y": box["height"] * 22.5 / 32})  # row 9, column 20
    result = httpx2.get(f"{stack.url}/v1/jobs/{job_id(residual)}/result").json()
    value = result["maps"]["layer1.block1"]["values"][9][20]
    expect(detail.locator(".reading")).to_have_text(f"{value:.4g} at 0:01.63, 779 Hz")
    region = highlighted_region(residual)
    field = next(layer["receptive_field"] for layer in card(stack)["layers"] if layer["name"] == "layer1.block1")
    left, low = (field["start"] + at * field["stride"] for at in (20, 9))
    assert region == pytest.approx(
        {
            "start": left / 251 * 5,
            "end": (left + field["size"]) / 251 * 5,
            "low": band_edge(card(stack), low),
            "high": band_edge(card(stack), low + field["size"]),
        }
    )
    frame.focus()
    residual.keyboard.press("Shift+ArrowLeft")
    residual.keyboard.press("Shift+ArrowLeft")
    residual.keyboard.press("Shift+ArrowLeft")
    region = highlighted_region(residual)
    assert region is not None
    assert region["start"] == 0
    residual.mouse.move(0, 0)
    residual.keyboard.press("Escape")
    assert highlighted_region(residual) is None


def test_channels_are_fetched_sorted_and_selected(residual: Page) -> None:
    """All channels are fetched on demand and sorted; a selected one is shown large beside the mean."""
    detail = with_channels(residual, "layer2.block2")
    options = detail.locator(".channel")
    expect(options).to_have_count(64)
    detail.get_by_label("Order of channels").select_option("mean")
    means = options.evaluate_all("all => all.map((one) => Number(/mean ([^,]+)/.exec(one.ariaLabel)[1]))")
    assert means == sorted(means, reverse=True)
    options.first.focus()
    residual.keyboard.press("ArrowRight")
    residual.keyboard.press("Enter")
    selected = detail.locator('[role="option"][aria-selected="true"]')
    expect(selected).to_be_focused()
    channel = selected.get_attribute("data-channel")
    expect(detail.locator(".map figcaption b")).to_have_text(["Mean of all channels", f"Channel {channel}"])
    residual.keyboard.press("Enter")
    expect(detail.locator(".map")).to_have_count(1)
    assert detail.locator(".facts").inner_text().count("%") == 2  # zeros of the mean, and of all channels


def test_selected_channel_is_seen_and_the_overview_scrolls_away(residual: Page) -> None:
    """A channel that is picked far down opens within the screen; an opened layer pins nothing to the screen."""
    detail = with_channels(residual, "layer4.block2")
    last = detail.locator(".channel").last
    last.scroll_into_view_if_needed()
    assert not residual.locator(".network .groups").evaluate("e => e.getBoundingClientRect().bottom > 0")
    last.click()
    expect(detail.locator(".map").last).to_be_in_viewport(ratio=0.9)
    for width in (390, 1440, 1024):
        residual.set_viewport_size({"width": width, "height": 900})
        shoot(residual, "channel")
    assert node(residual, "layer4.block2").evaluate("e => e.getBoundingClientRect().width") >= 70  # at 1024 px


def test_residual_block_is_explained_with_its_own_maps(residual: Page) -> None:
    """Residual and shortcut of a channel add up to its sum; a projection is described as one."""
    detail = with_channels(residual, "layer1.block2")
    block = detail.get_by_role("region", name="What this block computes")
    expect(block).to_contain_text("The input again, unchanged.")
    expect(block).to_contain_text("the same for all four")
    expect(block).to_contain_text("times as strong")
    added = residual.evaluate(
        """async () => {
            const { library } = await pageModule("library/library.js");
            const { fetchChannels } = await pageModule("network/fetch-channels.js");
            const fetched = await fetchChannels(library.selected, "layer1.block2");
            const channel = (part) => fetched.get(`layer1.block2${part}`)[3].values;
            const [sum, residual, shortcut] = [channel(""), channel(".residual"), channel(".shortcut")];
            return Math.max(...sum.map((value, i) => Math.abs(value - Math.max(0, residual[i] + shortcut[i]))));
        }"""
    )
    assert added < 0.05
    detail = with_channels(residual, "layer3.block1")
    expect(detail).to_contain_text("a 1 × 1 convolution brings the input to 128 channels and half the resolution")


def test_only_cursors_move_while_playing(residual: Page) -> None:
    """The playhead moves a line over every map, and nothing is painted again."""
    residual.set_viewport_size({"width": 1280, "height": 3000})  # all of it visible
    opened(residual, "layer2.block1")
    moved = residual.evaluate(
        """async () => {
            const { playhead } = await pageModule("state/playhead.js");
            const ready = (matrix) => matrix.querySelector(".empty:not([hidden])")
                || matrix.firstChild.width === Math.round(matrix.clientWidth * devicePixelRatio);
            const all = [...document.querySelectorAll(".network .matrix")];
            while (!all.every(ready)) await new Promise(requestAnimationFrame);
            let painted = 0;
            for (const name of ["drawImage", "putImageData", "clearRect", "fillRect"]) {
                const own = CanvasRenderingContext2D.prototype[name];
                CanvasRenderingContext2D.prototype[name] = function (...all) {
                    if (this.canvas.closest(".network")) painted += 1;
                    return own.apply(this, all);
                };
            }
            const cursors = [...document.querySelectorAll(".network .cursor")];
            const places = new Set();
            for (let time = 0; time <= 5; time += 0.25) {
                playhead.update(time, 5, true);
                for (const cursor of cursors) places.add(cursor.style.transform);
                await new Promise(requestAnimationFrame);
            }
            playhead.update(2, 5, false);
            const now = cursors.map((one) => one.style.transform);
            return { painted, cursors: cursors.length, places: places.size, now };
        }"""
    )
    assert moved["painted"] == 0
    assert moved["cursors"] == 16  # 11 in the overview, the map, and four of the block
    assert moved["places"] == 21
    assert set(moved["now"]) == {"translateX(40%)"}


def test_colours_and_scale_are_chosen_and_stored(residual: Page, open_page: Open) -> None:
    """One scale for all maps gives every layer the same legend, and the browser stores it."""
    residual.get_by_label("Colour scale of the maps").select_option("shared")
    residual.get_by_label("Colours of the maps").select_option("cividis")
    legends = []
    for name in ("stem", "layer4.block2"):
        detail = opened(residual, name)
        legends.append(detail.locator(".map .scale").inner_text())
    assert legends[0] == legends[1]
    stored = residual.evaluate("JSON.parse(localStorage.getItem('otoscope'))")
    assert (stored["mapColours"], stored["sharedScale"]) == ("cividis", True)


def test_map_is_saved_as_png(residual: Page) -> None:
    """The file name has the names of the sound and of the layer."""
    detail = opened(residual, "layer1.block1")
    with residual.expect_download() as download:
        detail.get_by_role("button", name="Save as PNG").click()
    assert download.value.suggested_filename == "siren.flac-layer1.block1-Mean-of-all-channels.png"
    with open(download.value.path(), "rb") as saved:
        assert saved.read(8) == b"\x89PNG\r\n\x1a\n"


def test_reopened_result_gets_its_channels_when_the_file_is_chosen(open_page: Open, stack: Stack) -> None:
    """Without the file the page explains what is missing; with it the channels can be fetched."""
    page = open_page(path=f"/#job={submit(stack, model=RESIDUAL, include='maps,spectrogram,cam')}")
    detail = opened(page, "layer1.block1")
    expect(detail).to_contain_text("this page does not have the file")
    with page.expect_file_chooser() as chooser:
        detail.get_by_role("button", name="Choose the file").click()
    chooser.value.set_files(str(SIREN))
    detail.get_by_role("button", name="Show all 32 channels").click()
    expect(detail.locator(".channel")).to_have_count(32, timeout=30_000)


def test_result_without_maps_is_explained(open_page: Open, stack: Stack) -> None:
    """The page offers to classify again, once it has the file, with the model of the result; also after a refusal."""
    page = open_page(path=f"/#job={submit(stack, model=RESIDUAL)}")
    panel = page.locator("#network")
    expect(panel).to_contain_text("without feature maps", timeout=30_000)
    with page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Choose the file").click()
    chooser.value.set_files(str(SIREN))
    page.expected_errors = ["400"]  # type: ignore[attr-defined]
    problem = '{"title": "Invalid request", "detail": "Refused.", "code": "invalid_request", "status": 400}'
    page.route("**/v1/jobs", lambda route: route.fulfill(status=400, body=problem))
    panel.get_by_role("button", name="Classify again").click()
    retry = page.locator("#prediction").get_by_role("button", name="Try again")
    retry.wait_for(timeout=30_000)
    page.unroute("**/v1/jobs")
    retry.click()
    expect(node(page, "layer4.block2")).to_be_visible(timeout=30_000)
    expect(page.locator(".provenance b")).to_have_text(RESIDUAL)


def test_result_of_a_removed_model_is_explained(open_page: Open, stack: Stack) -> None:
    """Without its model card a result has no axes and no layers: both panels say that the model is no longer served."""
    page = open_page()
    cards = httpx2.get(f"{stack.url}/v1/models").json()
    cards["models"] = [card for card in cards["models"] if card["name"] != "esc50"]
    page.route("**/v1/models", lambda route: route.fulfill(json=cards | {"default": cards["models"][0]["name"]}))
    page.goto("about:blank")
    page.goto(f"/#job={submit(stack, model='esc50', include='maps,spectrogram,cam')}")
    expect(page.locator("#network")).to_contain_text("esc50 is no longer served", timeout=30_000)
    expect(page.locator("#sound .state")).to_contain_text("esc50 is no longer served")


def test_opened_node_shows_no_absent_value(open_page: Open, stack: Stack) -> None:
    """What a node does not have is left out of its details, and not printed as `null` or `undefined`; with the file of
    the sound and without."""
    page = open_page(path=f"/#job={submit(stack, model=RESIDUAL, include='maps,spectrogram,cam')}")
    absent = re.compile(r"null|undefined|NaN|\[object")

    def check() -> None:
        for name in ("input", "stem", "layer1.block1", "layer2.block1", "layer4.block2", "cam"):
            node(page, name).click(timeout=30_000)
            expect(node(page, name)).to_have_attribute("aria-expanded", "true")
            expect(page.locator(".network .detail h3")).to_be_visible()
            expect(page.locator("#network")).not_to_contain_text(absent)

    check()
    page.locator("#sound").get_by_label("The file of this result").set_input_files(str(SIREN))
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    check()


def test_failed_channel_request_is_shown_and_can_be_retried(residual: Page) -> None:
    """The server's error is shown in place of the channels, and a retry works."""
    problem = '{"title": "Queue full", "detail": "Too many sounds wait.", "code": "queue_full", "status": 429}'
    residual.expected_errors = ["429"]  # type: ignore[attr-defined]
    residual.route("**/v1/jobs", lambda route: route.fulfill(status=429, body=problem))
    detail = opened(residual, "stem")
    detail.get_by_role("button", name="Show all").click()
    expect(detail.get_by_role("alert")).to_have_text("Too many sounds wait.")
    residual.unroute("**/v1/jobs")
    detail.get_by_role("button", name="Try again").click()
    expect(detail.locator(".channel")).to_have_count(32, timeout=30_000)


def test_network_of_patches_is_described(open_page: Open, stack: Stack) -> None:
    """Its stages are groups; a layer is described as it is, and a receptive field ends with its patch."""
    card = httpx2.get(f"{stack.url}/v1/models/esc50-light").json()
    path = f"/#job={submit(stack, model=card['name'], include='maps,spectrogram,cam')}"
    page = open_page(width=1440, path=path, reduced_motion="reduce")  # a map that scrolls under the pointer is not read
    expect(node(page, "layer4.block2")).to_be_visible(timeout=30_000)
    assert page.locator(".network .groups > .group").count() == 8  # input, stem, four stages, pooling, prediction
    expect(opened(page, "stem")).to_contain_text("cut into patches of 960 ms")
    detail = opened(page, "layer4.block2")
    expect(detail).to_contain_text("then a 1 × 1 convolution that mixes them into 512")
    expect(detail.get_by_role("button", name="Show all 512 channels")).to_have_count(0)  # it does not have the file
    frame = detail.get_by_role("application")
    frame.focus()
    page.keyboard.press("ArrowRight")
    region = highlighted_region(page)
    assert region is not None
    hop = card["frontend"]["hop"] / card["sample_rate"]
    assert region["end"] - region["start"] <= 96 * hop * 1.05
    shoot(page, "patches")


DESCRIBED = """async (card) => {
  const { buildNetwork } = await pageModule("network/graph.js");
  const { describe } = await pageModule("network/descriptions.js");
  const network = buildNetwork(card, { maps: new Map(), windows: [], window: 0, camClass: "", cam: null });
  return Object.fromEntries([...network.nodes].map(([id, node]) => [id, describe(node, network)]));
}"""


BASE_MODELS: tuple[tuple[dict[str, object], dict[str, str]], ...] = (
    (
        {"type": "cnn14", "width": 4},
        {
            "layer1.block1": "One 3 × 3 convolution from 1 channel to 4",
            "layer2.block2": "then the mean of each 2 × 2 cells is taken",
            "layer6.block2": "128, with negative values set to zero. There is no shortcut.",
            "pool": "Of each of 128 channels, the mean over frequency",
        },
    ),
    (
        {"type": "mobilenet-v2", "width": 0.25},
        {
            "stem": "A 3 × 3 convolution with 8 filters",
            "layer2.block1": "at half the resolution, and a 1 × 1 convolution mixes them into 8",
            "layer5.block8": "A 1 × 1 convolution mixes 80 channels into 320.",
            "pool": "Of each of 320 channels, the mean over frequency",
        },
    ),
    (
        {"type": "mobilenet-v3", "width": 0.25},
        {
            "layer3.block2": "follows, and a 1 × 1 convolution mixes them into 16",
            "layer5.block4": "A 1 × 1 convolution mixes 40 channels into 240.",
            "pool": "The mean of each of 240 channels over time and frequency; a linear layer follows.",
        },
    ),
    (
        {"type": "cnn9", "width": 4},
        {
            "layer1.block1": "Each 2 frames become one column: a logarithm of their mean power. One 3 × 3 convolution "
            "from 1 channel to 4, with negative values set to zero. There is no shortcut.",
            "layer1.block2": "One 3 × 3 convolution from 4 channels to 4",
            "layer2.block2": "set to zero; then the largest of each 2 × 2 cells is kept. There is no shortcut.",
            "layer4.block2": "One 3 × 3 convolution from 32 channels to 32, with negative values set to zero. There",
            "pool": "Of each channel, the mean over frequency, and of that the maximum over time: 32 numbers remain.",
        },
    ),
    (
        {
            "type": "parallel",
            "parts": {
                "one": {"type": "mobilenet-v1", "width": 0.25},
                "other": {"type": "resnet", "depths": [1, 1], "widths": [4, 8], "feature_pyramid": True},
                "last": {"type": "cnn9", "width": 4, "pooled_frames": 1},
            },
        },
        {
            "one.stem": "cut into patches of 1.9 s",
            "one.layer5.block2": "then a 1 × 1 convolution that mixes them into 256",
            "other.stem": "A 7 × 7 convolution with 4 filters",
            "other.layer2.block1": "the shortcut projects the input to 8 channels and half the resolution.",
            "last.layer1.block1": "Each frame becomes one column: a logarithm of its power. One 3 × 3 convolution",
            "last.layer2.block2": "then the largest of each 2 × 2 cells is kept",
            "pool": "one: The mean of each channel over time and frequency, and over patches that overlap, of which "
            "the maps show every other one: 256 numbers remain. other: A feature pyramid adds the coarse stages to the "
            "fine ones; the mean of each of its channels is taken: 512 numbers remain. last: Of each channel, the mean "
            "over frequency, and of that the maximum over time: 32 numbers remain. The numbers of all of them are "
            "classified together.",
        },
    ),
)
"""Options of an architecture, and parts of the descriptions of its layers."""


def test_layers_of_base_models_are_described(page: Page) -> None:
    """As their networks compute them, in place of what other networks do."""
    for options, expected in BASE_MODELS:
        config = parse({"classes": 3, **options})
        frontend = FrontendConfig(n_mels=64, window_seconds=1)
        network = build_network(config).eval()
        about = ModelConfig(name="m", architecture=config, frontend=frontend, classes=("a", "b", "c"))
        card = Engine(torch.device("cpu"), "torch").load(Model(about, LogMel(frontend), network)).card
        found = page.evaluate(DESCRIBED, card.model_dump(mode="json"))
        for layer, text in expected.items():
            assert text in found[layer].replace("\xa0", " "), layer
        if config.type != "parallel":  # one of its networks has it
            assert not any("max pooling" in text for text in found.values())


NAMED = """async (card) => {
  const { buildNetwork, groupName } = await pageModule("network/graph.js");
  const { displayName } = await pageModule("network/descriptions.js");
  const cam = { rows: 1, columns: 1 };
  const network = buildNetwork(card, { maps: new Map(), windows: [], window: 0, camClass: "a", cam });
  return {
    names: Object.fromEntries([...network.nodes].map(([id, node]) => [id, displayName(node)])),
    inputs: Object.fromEntries([...network.nodes].map(([id, node]) => [id, node.inputs])),
    groups: network.groups.map(groupName),
  };
}"""


def test_layers_of_networks_side_by_side_are_named(open_page: Open, stack: Stack) -> None:
    """Each layer belongs to its network; all networks begin at the spectrogram, and all of them are pooled."""
    found = open_page().evaluate(NAMED, httpx2.get(f"{stack.url}/v1/models/{PARALLEL}").json())
    names, inputs = found["names"], found["inputs"]
    assert names["mobilenet-v1.layer4.block6"] == "mobilenet-v1: block 6 of layer4"
    assert names["cnn9.layer1.block2"] == "cnn9: block 2 of layer1"
    assert names["mobilenet-v1.stem"] == "mobilenet-v1: stem"
    assert [id_ for id_, of in inputs.items() if of == ["input"]] == ["mobilenet-v1.stem", "cnn9.layer1.block1"]
    assert inputs["resnet.stem"] == ["resnet.spectrogram"]
    assert inputs["pool"] == ["mobilenet-v1.layer5.block2", "cnn9.layer4.block2", "resnet.layer1.block1"]
    assert inputs["cam"] == ["resnet.layer1.block1"]
    of_first = [f"mobilenet-v1.{name}" for name in ("stem", "layer1", "layer2", "layer3", "layer4", "layer5")]
    of_second = [f"cnn9.layer{stage}" for stage in (1, 2, 3, 4)]
    of_third = [f"resnet.{name}" for name in ("spectrogram", "stem", "layer1")]
    assert found["groups"] == ["input", *of_first, *of_second, *of_third, "cam", "prediction"]


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_networks_side_by_side_are_shown(open_page: Open, width: int) -> None:
    """Each has a heading, its own groups and its own way from the spectrogram to the pooling; nothing overlaps. One of
    them has a spectrogram of its own, to whose bands and frames its maps belong."""
    page = open_page(width=width)
    page.get_by_label("Model").select_option(PARALLEL)
    classify(page, SIREN)
    expect(page.locator(".network .lane > h3")).to_have_text(["mobilenet-v1", "cnn9", "resnet"])
    expect(page.get_by_role("group", name="cnn9: layer2")).to_be_visible()
    pooled = [
        "mobilenet-v1: mean of each channel", "cnn9: maximum of each channel", "resnet: mean of each channel",
    ]  # fmt: skip
    expect(page.locator(".network .pool span")).to_have_text(pooled)
    boxes = {}
    for name in page.locator(".network .node").evaluate_all("all => all.map((one) => one.dataset.id)"):
        box = node(page, name).bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= width - box["width"], name
        boxes[name] = box
    lowest = max(box["y"] + box["height"] for name, box in boxes.items() if name.startswith("mobilenet-v1"))
    assert lowest < min(box["y"] for name, box in boxes.items() if name.startswith("cnn9"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    node(page, "prediction").hover()
    assert len(traced(page)) == page.locator(".network .node").count() - 1  # all but the class activation
    node(page, "cnn9.layer2.block1").hover()
    assert traced(page) == ["input", "cnn9.layer1.block1", "cnn9.layer1.block2", "cnn9.layer2.block1"]
    node(page, "resnet.layer1.block1").hover()
    assert traced(page) == ["resnet.spectrogram", "resnet.stem", "resnet.layer1.block1"]
    own = opened(page, "resnet.spectrogram")
    expect(own).to_contain_text("the level in each of 128 frequency bands, 0 Hz to 8 kHz, every 20 ms")
    block = opened(page, "resnet.layer1.block1")
    expect(block).to_contain_text("540 ms, 27 of 128 bands")
    block.locator(".frame").first.hover(position={"x": 1, "y": 1})
    expect(block.locator(".reading")).to_contain_text(" kHz")
    region = highlighted_region(page)
    assert region is not None
    assert (region["start"], region["end"]) == (0, pytest.approx(14 * 0.02, abs=0.01))  # of 27 frames 13 are padding
    assert region["high"] == pytest.approx(8_000, rel=0.02)
    assert 3_500 < region["low"] < 6_000
    page.mouse.move(0, 0)
    shoot(page, "parallel")
    for name in ("mobilenet-v1.layer4.block3", "cnn9.layer3.block1"):
        opened(page, name)
        shoot(page, f"parallel-{name}")
    page.get_by_role("button", name="3-D").click()
    expect(page.locator(".space .plate")).to_have_count(len(boxes) - 2, timeout=30_000)  # not of "cam" and "pool"
    begins = page.locator(".space .name").filter(has_text=":")
    expect(begins).to_have_text(["mobilenet-v1: stem", "cnn9: layer1", "resnet: Spectrogram"])


def test_cells_of_networks_side_by_side_are_explained(open_page: Open, stack: Stack) -> None:
    """Receptive field, channels and arithmetic are those of the layer's own network."""
    page = open_page(width=1440, reduced_motion="reduce")
    page.get_by_label("Model").select_option(PARALLEL)
    classify(page, SIREN)
    fields = {
        layer["name"]: layer["receptive_field"]
        for layer in httpx2.get(f"{stack.url}/v1/models/{PARALLEL}").json()["layers"]
    }
    for name, channels, shown in (
        ("mobilenet-v1.layer2.block1", 32, "110 ms, 11 of 64 bands"),
        ("cnn9.layer2.block1", 16, "201 ms, 10 of 64 bands"),
    ):
        detail = with_channels(page, name)
        expect(detail.locator(".facts")).to_contain_text(shown)
        expect(detail.locator(".channel")).to_have_count(channels)
        frame = detail.get_by_role("application").first
        frame.focus()
        page.keyboard.press("ArrowRight")
        region, field = highlighted_region(page), fields[name]
        assert region is not None
        assert region["end"] - region["start"] == pytest.approx(field["size"] * field["pooled_frames"] / 498 * 5)
        page.keyboard.press("Enter")
        panel = detail.locator(".arithmetic")
        expect(panel.locator(".outcome")).to_be_visible(timeout=60_000)
        expect(panel.locator(".place")).to_contain_text(f"of {name}, row")
