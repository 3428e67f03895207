"""Accessibility: keyboard, screen reader, narrow screens, dark and light theme."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCHEMES, SOUNDS, WIDTHS, Open, classify, frozen_worker, shoot
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"


def problems(page: Page) -> list[str]:
    """Violations that axe-core finds: WCAG 2.2 AA and its best practices; what still fades in has no contrast yet."""
    page.wait_for_function("""() => document.getAnimations().every(
        (one) => one.playState !== "running" || one.effect.getTiming().iterations === Infinity
    )""")
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:5]}" for one in found]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_no_accessibility_problem_is_found(open_page: Open, scheme: str, width: int) -> None:
    """axe-core finds nothing on the empty page nor on a whole result, in either scheme, wide and narrow."""
    page = open_page(width=width, color_scheme=scheme)
    expect(page.get_by_label("Model")).to_be_enabled()
    assert problems(page) == []
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.get_by_role("meter", name="Level")).to_be_visible()
    assert problems(page) == []
    page.get_by_role("button", name="Discard").click()
    classify(page, SIREN)
    expect(page.locator("#network canvas").first).to_be_visible(timeout=20_000)
    assert problems(page) == []


def test_page_fits_its_width(page: Page) -> None:
    """Nothing makes the page scroll sideways, at any width, with one window or with many."""
    for sound in ("empty", "siren", "six-sounds"):
        if sound != "empty":
            classify(page, SOUNDS / f"{sound}.flac")
            expect(page.locator(".title h1")).to_have_text(f"{sound}.flac", timeout=30_000)
            expect(page.locator("#network canvas").first).to_be_visible(timeout=20_000)
            page.wait_for_load_state("networkidle")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                shoot(page, f"{sound}-{scheme}")
                assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_keyboard_alone_is_enough(page: Page) -> None:
    """From the first Tab to the prediction without a mouse; the focus is visible."""
    expect(page.get_by_label("Model")).to_be_enabled()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Siren":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.locator("#prediction .prediction").wait_for(timeout=30_000)
    expect(page.locator("#announcer")).to_have_text(re.compile(r"^siren.flac: siren, \d+(\.\d)? percent$"))
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('#list, #prediction, #sound, #network')?.id"))
    assert {"list", "prediction", "sound", "network"} <= reached


def test_theme_is_chosen_and_stored(page: Page) -> None:
    """Dark, light or the system's theme; the choice survives a reload."""
    button = page.locator("#theme")
    expect(button).to_have_accessible_name("Theme: system")
    button.click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    button.click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(button).to_have_accessible_name("Theme: dark")


def test_reduced_motion_is_respected(open_page: Open) -> None:
    """No animation runs where the system prefers reduced motion."""
    page = open_page(reduced_motion="reduce")
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator(".recording .dot")).to_have_css("animation-name", "none")
    page.get_by_role("button", name="Discard").click()


def test_progress_leaves_the_focus_and_the_pointer_alone(page: Page, stack: Stack) -> None:
    """While the queue position changes, Cancel stays the same element: it keeps the focus, and a press on it counts."""
    files, names = page.get_by_label("Sound files"), ("siren", "church-bell", "sea")
    with frozen_worker(stack):
        for name in names:
            files.set_input_files(str(SOUNDS / f"{name}.flac"))
            expect(page.locator("#prediction .number")).to_have_text(re.compile("^Queued|^Running"), timeout=20_000)
        expect(page.locator("#prediction .number")).to_have_text(re.compile(r"^Queued, position \d"))
        before = page.locator("#prediction .number").inner_text()
        cancel = page.locator("#prediction").get_by_role("button", name="Cancel")
        cancel.focus()
        cancel.hover()
        page.mouse.down()
        page.evaluate("pageModule('library/library.js').then(({ library }) => library.cancel(library.sounds[1]))")
        expect(page.locator("#prediction .number")).not_to_have_text(before, timeout=10_000)
        expect(cancel).to_be_focused()
        page.mouse.up()
        expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()
        expect(page.locator("#result")).to_be_focused()


def test_focus_stays_in_the_list(page: Page) -> None:
    """Where the pressed button is removed, the focus moves to its neighbour and not to the top of the page."""
    page.expected_errors.append("RANGE_NOT_SATISFIABLE")  # type: ignore[attr-defined]
    for name in ("one", "two", "three"):
        empty = {"name": f"{name}.wav", "mimeType": "audio/wav", "buffer": b""}
        page.get_by_label("Sound files").set_input_files(empty)
    items = page.locator(".sounds li")
    expect(items).to_have_count(3)
    for at, next_one in ((1, "one.wav"), (1, "three.wav")):
        items.nth(at).get_by_role("button", name="Remove from the list").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".select", has_text=next_one)).to_be_focused()
    for place in (".sounds", "#prediction"):  # the last one
        page.locator(place).get_by_role("button", name="Remove").focus()
        page.keyboard.press("Enter")
        expect(items).to_have_count(0)
        expect(page.get_by_role("button", name="Choose files")).to_be_focused()
        page.get_by_label("Sound files").set_input_files(empty)


def test_bars_are_visible_with_forced_colours(open_page: Open) -> None:
    """Where the system forces its colours, the bars of confidences and of stages are still there."""
    page = open_page(forced_colors="active")
    classify(page, SOUNDS / "siren.flac")
    canvas = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for bar in (".bars .bar", ".stages > *", ".timings li"):
        pseudo = "::before" if bar.endswith("li") else None
        drawn = page.evaluate(
            "([bar, pseudo]) => getComputedStyle(document.querySelector(bar), pseudo).backgroundColor", [bar, pseudo]
        )
        assert drawn not in (canvas, "rgba(0, 0, 0, 0)"), bar
    shoot(page, "forced-colours")
