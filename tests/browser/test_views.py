"""The network in three dimensions and the donut of confidences: views that are loaded when they are opened."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SOUNDS, Open, classify, shoot
from tests.browser.test_accessibility import problems

pytestmark = pytest.mark.timeout(240)

LOADED = "name => performance.getEntriesByType('resource').some((one) => one.name.endsWith(name))"


@pytest.fixture
def example(open_page: Open) -> Page:
    """The example of the first visit."""
    page = open_page(width=1440, first_visit=True)
    page.locator(".network .node").first.wait_for(timeout=30_000)
    return page


def turn_of(page: Page) -> list[str]:
    """How the scene is turned and enlarged."""
    found: list[str] = page.locator(".space .scene").evaluate(
        "scene => ['--yaw', '--pitch', '--zoom'].map((name) => scene.style.getPropertyValue(name))"
    )
    return found


def open_space(page: Page) -> None:
    page.get_by_role("button", name="3-D").click()
    page.locator(".space .plate").first.wait_for(timeout=30_000)


def test_the_network_is_turned_by_mouse_keys_and_buttons(example: Page) -> None:
    """It costs nothing before it is opened; it has every layer, and closing removes it."""
    assert not example.evaluate(LOADED, "/space.js")
    assert example.locator(".space").count() == 0
    open_space(example)
    layers = example.locator(".network .overview .node[data-id*='.']").count()
    assert example.locator(".space .plate").count() == layers + 2  # the spectrogram and the prediction
    view = example.get_by_role("application", name="The maps of the network")
    first = turn_of(example)
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    assert box
    example.mouse.move(box["x"] + 200, box["y"] + 40)
    example.mouse.down()
    example.mouse.move(box["x"] + 300, box["y"] + 60, steps=4)
    example.mouse.up()
    dragged = turn_of(example)
    assert dragged[0] != first[0]
    assert dragged[1] != first[1]
    view.focus()
    for key, part in (("ArrowLeft", 0), ("ArrowUp", 1), ("+", 2)):
        before = turn_of(example)
        example.keyboard.press(key)
        changed = [a != b for a, b in zip(before, turn_of(example), strict=True)]
        assert changed == [at == part for at in range(3)], key
    example.get_by_role("button", name="Turn to the right").click()
    example.keyboard.press("Enter")
    example.get_by_role("button", name="Turn back").click()
    assert turn_of(example) == first
    shoot(example, "space")
    assert problems(example) == []
    example.get_by_role("button", name="3-D").click()
    expect(example.locator(".space")).to_have_count(0)


def test_a_layer_is_opened_from_its_stack(example: Page) -> None:
    """As from the overview, by pointer and keyboard; the stack of the opened layer is marked."""
    open_space(example)
    plate = example.get_by_role("button", name=re.compile(r"^Open resnet: block 2 of layer3, "))
    plate.focus()
    example.keyboard.press("Enter")
    expect(example.locator(".network .detail h3")).to_have_text("resnet.layer3.block2")
    expect(plate).to_have_attribute("data-open", "")
    painted = plate.locator("canvas").evaluate("canvas => canvas.width * canvas.height")
    assert painted > 0


def test_a_swipe_turns_the_network(open_page: Open) -> None:
    """On a phone, where a vertical swipe scrolls the page; nothing moves by itself where less motion is wanted."""
    page = open_page(width=390, has_touch=True, is_mobile=True, first_visit=True, reduced_motion="reduce")
    page.locator(".network .node").first.wait_for(timeout=30_000)
    page.get_by_role("button", name="3-D").tap()
    page.locator(".space .plate").first.wait_for(timeout=30_000)
    view = page.locator(".space .view")
    view.scroll_into_view_if_needed()
    assert view.evaluate("view => getComputedStyle(view).touchAction") == "pan-y"
    assert page.locator(".space .scene").evaluate("scene => getComputedStyle(scene).transitionDuration") == "0s"
    box = view.bounding_box()
    assert box
    before = turn_of(page)
    touch: Any = page.context.new_cdp_session(page)
    x, y = box["x"] + 100, box["y"] + 60
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 6):
        point = {"x": x + 20 * step, "y": y}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function(
        "before => document.querySelector('.space .scene').style.getPropertyValue('--yaw') !== before", arg=before[0]
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shoot(page, "space")


def test_a_donut_stands_beside_the_bars(page: Page) -> None:
    """It is loaded when it is chosen; its parts are the first classes and the rest, and the choice is kept."""
    classify(page, SOUNDS / "siren.flac")
    assert not page.evaluate(LOADED, "/donut.js")
    page.get_by_role("button", name="Donut").click()
    donut = page.locator(".donut svg")
    expect(donut).to_have_attribute(
        "aria-label", re.compile(r"^Confidences as parts of a whole: siren \d.*45 other classes")
    )
    lengths = donut.locator("circle").evaluate_all(
        "arcs => arcs.map((arc) => Number(arc.getAttribute('stroke-dasharray').split(' ')[0]) / arc.getTotalLength())"
    )
    assert len(lengths) == 6
    assert sum(lengths) == pytest.approx(1, abs=0.01)
    shown = float(page.locator(".bars .number").first.inner_text().split()[0]) / 100
    assert lengths[0] == pytest.approx(shown, abs=0.01)
    same = "([arc, bar]) => getComputedStyle(arc).stroke === getComputedStyle(bar).backgroundColor"
    assert page.evaluate(f"({same})([document.querySelector('.donut circle'), document.querySelector('.bars .bar')])")
    assert problems(page) == []
    shoot(page, "donut")
    page.reload()
    expect(donut).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Donut").click()
    expect(donut).to_have_count(0)
