"""Two results as full panels: confidences in one chart, one position for both sounds, the difference picture."""

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SOUNDS, Open, classify
from tests.browser.test_network import RESIDUAL

pytestmark = pytest.mark.timeout(180)

SIREN, BELL = SOUNDS / "siren.flac", SOUNDS / "church-bell.flac"


@pytest.fixture
def compared(page: Page) -> Page:
    """The siren beside the church bell."""
    classify(page, SIREN, BELL)
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=60_000)
    page.get_by_role("button", name="Compare").click()
    return page


def results(page: Page) -> list[dict[str, float]]:
    """The confidences of both by class, left first."""
    found: list[dict[str, float]] = page.evaluate(
        """async () => {
            const { library } = await pageModule("library/library.js");
            const left = library.selected;
            const right = library.sounds.find((one) => one !== left);
            return [left, right].map(({ result }) =>
                Object.fromEntries(result.predictions.map(({ class: name, confidence }) => [name, confidence])));
        }"""
    )
    return found


def test_each_class_has_both_confidences_in_one_row(compared: Page) -> None:
    """The marks lie where the confidences are, and the line between them; a screen reader gets both numbers."""
    left, right = results(compared)
    rows = compared.locator(".dumbbells li")
    names = [row.get_attribute("data-class") for row in rows.all()]
    assert names[0] in ("siren", "church_bells")
    assert len(names) == len(set(names))
    for row, name in zip(rows.all(), names, strict=True):
        track = row.locator(".track").bounding_box()
        assert track is not None
        for side, confidences in (("left", left), ("right", right)):
            box = row.locator(f'.mark[data-side="{side}"]').bounding_box()
            assert box is not None
            middle = (box["x"] + box["width"] / 2 - track["x"]) / track["width"]
            assert middle == pytest.approx(confidences[str(name)], abs=0.02)
    expect(rows.first.locator(".visually-hidden")).to_contain_text("left")


def test_both_sounds_share_one_position(compared: Page) -> None:
    """Switching goes on at the same time; a click on a picture seeks; only one sound plays, also beside the player."""
    left, right = (compared.locator(f'.side[data-side="{side}"]') for side in ("left", "right"))
    left.locator(".picture").click(position={"x": 100, "y": 50})
    positions = compared.locator(".comparison .sides .cursor").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().left - one.parentElement.getBoundingClientRect().left)"
    )
    assert positions == pytest.approx([100, 100], abs=2)
    compared.locator(".player").get_by_role("button", name="Play").click()
    expect(compared.locator(".player").get_by_role("button", name="Pause")).to_be_visible()
    left.get_by_role("button", name="Play").click()
    expect(compared.locator(".player").get_by_role("button", name="Play")).to_be_visible(timeout=10_000)
    expect(left.get_by_role("button", name="Pause")).to_be_visible(timeout=10_000)
    right.get_by_role("button", name="Play").click()
    expect(right.get_by_role("button", name="Pause")).to_be_visible(timeout=10_000)
    expect(left.get_by_role("button", name="Play")).to_be_visible()
    right.get_by_role("button", name="Pause").click()


def test_the_difference_is_right_minus_left(page: Page) -> None:
    """Cell by cell, over the length of the shorter one; there is none for other axes."""
    values = page.evaluate(
        """async () => {
            const { difference } = await pageModule("compare/difference.js");
            const { Matrix } = await pageModule("signal/matrix.js");
            const a = new Matrix(2, 3, Float32Array.from([1, 2, 3, 4, 5, 6]));
            const b = new Matrix(2, 2, Float32Array.from([10, 20, 30, 40]));
            const none = difference(a, new Matrix(3, 2, new Float32Array(6)));
            return [[...difference(a, b).values], none];
        }"""
    )
    np.testing.assert_array_equal(values[0], [9, 18, 26, 35])
    assert values[1] is None


def test_a_sound_of_the_same_model_is_proposed(open_page: Open) -> None:
    """Until the user has chosen another one: the classes of two models differ."""
    page = open_page()
    page.get_by_label("Model").select_option(RESIDUAL)
    classify(page, SIREN)
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(1, timeout=60_000)
    page.get_by_label("Model").select_option("esc50")
    done = page.locator('.sounds [data-phase="succeeded"]')
    for count, sound in enumerate((SIREN, BELL), 2):
        classify(page, sound)
        expect(done).to_have_count(count, timeout=60_000)
    chosen = page.locator(".compare select")
    names = chosen.locator("option")
    expect(names).to_have_count(2)
    assert "(esc50)" in names.nth(chosen.evaluate("select => select.selectedIndex")).inner_text()
    other = next(text for text in names.all_inner_texts() if RESIDUAL in text)
    chosen.select_option(label=other)
    page.get_by_role("button", name="Compare").click()
    assert chosen.evaluate("select => select.selectedOptions[0].text") == other


def test_two_models_of_one_sound_are_compared(open_page: Open) -> None:
    """Both on one frequency axis; where the models hear differently, the page says why there is no difference."""
    page = open_page()
    page.get_by_label("Model").select_option("esc50")
    classify(page, SIREN)
    page.get_by_label("Model").select_option(RESIDUAL)
    page.get_by_role("button", name=f"Classify again with {RESIDUAL}").click()
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=60_000)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".compare .side")).to_have_count(2)
    expect(page.locator(".comparison")).to_contain_text("use different frequencies or times")
    ticks = [side.locator(".frequency span").all_inner_texts() for side in page.locator(".side").all()]
    assert len(set(ticks[0]) & set(ticks[1])) >= 3
