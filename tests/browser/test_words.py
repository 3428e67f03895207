"""The words of the page: one file per language, complete, chosen by the browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect

from otoscope.errors import BY_CODE, AudioError, Busy, JobFailure
from tests.browser.conftest import SOUNDS, Open, shoot
from tests.browser.test_accessibility import problems
from tests.conftest import ROOT, shipped_models
from training.base_models.audioset import ontology

pytestmark = pytest.mark.timeout(180)

PAGE = ROOT / "api" / "static" / "js"
LANGUAGES = sorted((PAGE / "words").glob("*.js"))
TEMPLATE = re.compile(r"`([a-z][\w.]*\.)\$\{[^}`]+\}([\w.]*)`")
KEY = re.compile(r'^  "([\w.]+)":', re.MULTILINE)


def entries(path: Path) -> dict[str, str]:
    """The texts of a language by key, as they are written in the file."""
    text = path.read_text()
    marks = list(KEY.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [text.rindex("};")]
    return {mark[1]: text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)}


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_every_language_has_every_text_with_its_values(path: Path) -> None:
    """The keys of en.js, once each, and the same values in braces."""
    english, other = entries(PAGE / "words" / "en.js"), entries(path)
    assert list(other) == list(english)
    assert len(KEY.findall(path.read_text())) == len(other)
    for key, text in other.items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", english[key])), key


@pytest.mark.parametrize("path", sorted((PAGE / "words" / "classes").glob("*.js")), ids=lambda path: path.stem)
def test_the_classes_of_shipped_models_have_names_in_every_language(path: Path) -> None:
    """Those of ESC-50 and of AudioSet, with what they are kinds of, and no others."""
    entry = re.compile(r'^  (?:"([^"]+)"|(\w+)): "[^"]+",$', re.MULTILINE)
    named = [quoted or plain for quoted, plain in entry.findall(path.read_text())]
    configs = [json.loads((model / "config.json").read_text()) for model in shipped_models()]
    expected = {name for config in configs for name in config["classes"]}
    expected |= {name for entry in ontology() for name in (entry.name, *entry.parents)}
    assert sorted(named) == sorted(expected)


FOR_PROGRAMMERS = (
    "The page has no such element",
    "The size of an FFT",
    "The MessagePack document",
    "MessagePack type",
    "The network has no node",
    "The overview has no node",
)
"""How errors begin that no visitor sees."""


def sentences(path: Path) -> list[str]:
    """String literals of a module that begin with a capital letter and have several words."""
    code = re.sub(r"/\*.*?\*/|(?<!:)//[^\n]*", "", path.read_text(), flags=re.DOTALL)
    found = re.findall(r"\"((?:[^\"\\\n]|\\.)*)\"|`((?:[^`\\]|\\.)*)`", code)
    texts = [re.sub(r"\$\{.*?\}", "", double or template) for double, template in found]
    return [text for text in texts if re.match(r"[A-Z][a-z]+ [a-z]{2,}", text)]


def test_no_words_are_left_in_the_modules() -> None:
    """Sentences are in words/ alone, in every language; what only a programmer sees may be English."""
    left = {
        f"{path.relative_to(PAGE)}: {text}"
        for path in sorted(PAGE.rglob("*.js"))
        if "words" not in path.parts
        for text in sentences(path)
        if not text.startswith(FOR_PROGRAMMERS)
    }
    assert not left


def test_no_text_is_unused() -> None:
    """Each key occurs in a module, whole or as a template with one computed part."""
    modules = "".join(path.read_text() for path in PAGE.rglob("*.js") if "words" not in path.parts)
    modules += (PAGE.parent / "index.html").read_text()
    templates = [re.escape(before) + r"\w+" + re.escape(after) for before, after in TEMPLATE.findall(modules)]
    missing = [
        key
        for key in entries(PAGE / "words" / "en.js")
        if f'"{key.removesuffix(".touch")}"' not in modules
        and not any(re.fullmatch(template, key) for template in templates)
    ]
    assert not missing


def test_the_page_is_in_the_language_of_the_browser(open_page: Open) -> None:
    """German for a German browser; English for a language without a file. Nothing overflows."""
    page = open_page(first_visit=True, locale="de-DE", reduced_motion="reduce")  # axe does not wait for transitions
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.locator(".tagline")).to_contain_text("durch das Netz")
    expect(page.get_by_role("button", name="Dateien wählen")).to_be_visible()
    expect(page.locator("#prediction")).to_contain_text("Hohe Konfidenz", timeout=30_000)
    expect(page.locator("#prediction .top-class strong")).to_have_text("Sirene")
    expect(page.locator(".network h2")).to_have_text("Im Netz")
    page.locator('.network .node[data-id="mobilenet-v1.layer2.block1"]').click()
    expect(page.locator(".network .detail .description")).to_contain_text("Faltung")
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 900})
        shoot(page, "german")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert problems(page) == []
    other = open_page(locale="fr-FR")
    expect(other.locator("html")).to_have_attribute("lang", "en")
    expect(other.get_by_role("button", name="Choose files")).to_be_visible()


def test_german_has_a_decimal_comma(open_page: Open) -> None:
    """Where 32.768 are thousands, 2.186 would be too: every fraction has a comma."""
    page = open_page(first_visit=True, locale="de-DE", reduced_motion="reduce")
    page.locator('.network .node[data-id="mobilenet-v1.layer2.block1"]').click(timeout=30_000)
    facts = page.locator(".network .detail .facts")
    expect(facts).to_contain_text("256.000")
    expect(page.locator("#prediction")).to_contain_text("99,9 %")
    assert re.search(r"Maximum\s+\d,\d", facts.inner_text())
    expect(page.locator(".drop .hint").last).to_contain_text(" MB")
    assert not re.findall(r"(?<![\d.])\d+\.\d{1,2}(?!\d)", page.locator("body").inner_text())


def test_errors_are_in_the_language_of_the_page(open_page: Open, tmp_path: Path) -> None:
    """Title and text by the code of the error, with the limits of the server, before and after a job was accepted."""
    page = open_page(locale="de-DE")
    page.expected_errors += ["415", "422"]  # type: ignore[attr-defined]
    expect(page.locator(".drop .hint").last).to_contain_text("Kanäle")  # the limits are known
    alert = page.locator("#prediction [role=alert]")
    choose = page.get_by_label("Klangdateien")
    short = tmp_path / "short.wav"
    soundfile.write(short, [0.0] * 10, 16_000)
    choose.set_input_files(short)
    expect(alert.locator("h2")).to_have_text("Der Klang ist zu kurz", timeout=20_000)
    expect(alert.locator(".reason")).to_have_text(re.compile(r"^Der Server nimmt Klänge ab 50\sms an\.$"))
    expect(page.locator(".sounds .state")).to_have_text("Der Klang ist zu kurz")
    choose.set_input_files({"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"These are notes. " * 40})
    expect(alert.locator("h2")).to_have_text("Keine Klangdatei", timeout=20_000)
    expect(alert.locator(".reason")).to_contain_text("Accepted: WAV")  # what was found, as the server says it


def test_german_has_every_error_of_a_sound(page: Page) -> None:
    """Those of a sound, of a full service and of a failed job; no text names a value that is not known."""
    limits = ("largest", "shortest", "longest", "channels", "lowest", "highest", "detail")
    errors = page.evaluate("pageModule('words/de.js').then(({ errors }) => errors)")
    assert set(errors) <= set(BY_CODE)
    kinds = (AudioError, Busy, JobFailure)
    needed = {code for code, error in BY_CODE.items() if issubclass(error, kinds)} - {"cancelled"}
    assert needed <= set(errors)
    for title, text in errors.values():
        assert set(re.findall(r"\{(\w+)\}", title + text)) <= set(limits)


def test_warnings_and_the_combination_of_windows_are_german(open_page: Open, tmp_path: Path) -> None:
    """What the server writes about a warning in English, with measured values, is beside the sentence and marked."""
    page = open_page(locale="de-DE")
    samples, rate = soundfile.read(SOUNDS / "six-sounds.flac", dtype="float32")
    soundfile.write(tmp_path / "loud.wav", np.clip(50 * samples, -1, 1), rate)
    page.get_by_label("Klangdateien").set_input_files(tmp_path / "loud.wav")
    warning = page.locator('.warnings [data-code="clipped"]')
    expect(warning).to_contain_text("ihre lautesten Stellen sind abgeschnitten.", timeout=60_000)
    expect(warning.locator('small[lang="en"]')).to_contain_text("of the samples")
    expect(page.locator(".provenance")).to_contain_text("Fenstern")


def test_touch_devices_have_touch_words(open_page: Open) -> None:
    """Tap, and not click, where there is no mouse."""
    page = open_page(width=390, has_touch=True, is_mobile=True, first_visit=True)
    expect(page.locator(".network .caption")).to_contain_text("Tap a node to open it", timeout=30_000)
    expect(page.locator("#sound-hint")).to_contain_text("Tap to seek")
    expect(page.locator(".pick-hint")).to_contain_text("Tap a class")


def test_right_to_left_fits(open_page: Open) -> None:
    """Pictures keep their direction, since time goes to the right in them; nothing is cut off."""
    page = open_page(first_visit=True)
    expect(page.locator(".network .node").first).to_be_visible(timeout=30_000)
    page.evaluate("document.documentElement.dir = 'rtl'")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        shoot(page, "rtl")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    directions = page.locator(".plot, .overview, .matrix").evaluate_all(
        "all => [...new Set(all.map((one) => getComputedStyle(one).direction))]"
    )
    assert directions == ["ltr"]


def test_the_page_can_be_installed(open_page: Open) -> None:
    """A manifest with a name and an icon, of the type that browsers require."""
    page = open_page()
    manifest = page.evaluate(
        """async () => {
            const link = document.querySelector("link[rel=manifest]");
            const response = await fetch(link.href);
            const { name, start_url, display, icons } = await response.json();
            const icon = await fetch(icons[0].src);
            return [response.headers.get("Content-Type"), name, start_url, display, icon.status];
        }"""
    )
    assert manifest == ["application/manifest+json", "Otoscope", "/", "standalone", 200]
