"""The page for everybody: by keyboard, by screen reader, on a phone, in the dark and in the light."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import SOUNDS, WIDTHS, Open, classify, shoot

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

SIREN = SOUNDS / "siren.flac"


def problems(page: Page) -> list[str]:
    """What axe-core finds wrong, WCAG 2.2 AA and its best practices."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:5]}" for one in found]


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_accessibility_problem_is_found(open_page: Open, scheme: str, width: int) -> None:
    """axe-core finds nothing on the empty page nor on a whole result, in either scheme, wide or narrow."""
    page = open_page(width=width, color_scheme=scheme)
    expect(page.get_by_label("Model")).to_be_enabled()
    assert problems(page) == []
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("meter", name="Level")).to_be_visible()
    assert problems(page) == []
    page.get_by_role("button", name="Discard").click()
    classify(page, SIREN)
    expect(page.locator("#inside canvas").first).to_be_visible(timeout=20_000)
    assert problems(page) == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_its_width(open_page: Open, width: int, scheme: str) -> None:
    """Nothing makes the page scroll sideways, at any width, with one window or with many."""
    page = open_page(width=width, color_scheme=scheme)
    shoot(page, f"empty-{scheme}")
    for sound in ("siren", "six-sounds"):
        classify(page, SOUNDS / f"{sound}.flac")
        expect(page.locator(".title h1")).to_have_text(f"{sound}.flac", timeout=30_000)
        expect(page.locator("#inside canvas").first).to_be_visible(timeout=20_000)
        page.wait_for_load_state("networkidle")
        shoot(page, f"{sound}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_keyboard_alone_is_enough(page: Page) -> None:
    """From the first Tab to the answer without a mouse; the focus is always seen."""
    expect(page.get_by_label("Model")).to_be_enabled()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Siren":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.locator("#answer .answer").wait_for(timeout=30_000)
    expect(page.locator("#announcer")).to_have_text(re.compile(r"^siren.flac: siren, \d+ percent$"))
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('#list, #answer, #sound, #inside')?.id"))
    assert {"list", "answer", "sound", "inside"} <= reached


def test_colours_are_chosen_and_remembered(page: Page) -> None:
    """Dark, light, or as the system has it: what was chosen is there the next time."""
    button = page.locator("#theme")
    expect(button).to_have_accessible_name("Colours: as the system has it")
    button.click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    button.click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(button).to_have_accessible_name("Colours: dark")


def test_reduced_motion_is_respected(open_page: Open) -> None:
    """Nothing moves by itself for whoever asked for that."""
    page = open_page(reduced_motion="reduce")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator(".recording .dot")).to_have_css("animation-name", "none")
    page.get_by_role("button", name="Discard").click()
