"""The main path in Firefox as the distribution ships it. Skipped, with the reason, where it is not installed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import SHOTS, SOUNDS, WITH_SHOTS
from tests.browser.firefox import Firefox, running_firefox
from tests.browser.test_sound import PAINTED
from tests.e2e.conftest import Stack
from tests.support.page_modules import PAGE_MODULE

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(PROGRAM is None, reason="needs Firefox: `apt install firefox-esr`"),
]

RIGHT, ENTER = "\ue014", "\ue007"  # of WebDriver


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Firefox]:
    assert PROGRAM is not None
    with running_firefox(PROGRAM, tmp_path) as running:
        yield running


def button(name: str) -> str:
    """An expression for the visible button with that name."""
    return (
        f"[...document.querySelectorAll('button')].find((one) => one.checkVisibility() && "
        f"[one.ariaLabel, one.textContent.trim()].includes('{name}'))"
    )


def module(name: str, expression: str) -> str:
    """An expression with the exports of a module of the page."""
    return f"({PAGE_MODULE})('{name}.js').then(({{ {name.rpartition('/')[2]} }}) => {expression})"


def test_the_main_path(firefox: Firefox, stack: Stack) -> None:
    """The example, a file, playing, zooming, an edit, a layer, the network in three dimensions; without an error."""
    firefox.open(f"{stack.url}/", 1280, 900)
    assert firefox.until("document.querySelector('.top-class strong')?.textContent") == "siren"
    firefox.choose_file("document.querySelector('#upload input[type=file]')", SOUNDS / "church-bell.flac")
    firefox.until("document.querySelector('.title h1')?.textContent === 'church-bell.flac'")
    assert firefox.until("document.querySelector('.top-class strong')?.textContent") == "church bells"
    for plot in ("waveform", "spectrogram"):
        firefox.until(f"({PAINTED})(document.querySelector('.{plot} canvas.image'))")

    firefox.click(button("Play"))
    firefox.until(module("state/playhead", "playhead.playing && playhead.time > 0.3"))
    firefox.click(button("Pause"))

    firefox.evaluate("document.querySelector('.spectrogram .overlay').focus()")
    firefox.press(*"++++")
    firefox.until("!document.querySelector('.spectrogram [data-layer=fine]').hidden")
    firefox.until(f"({PAINTED})(document.querySelector('.spectrogram [data-layer=fine]'))")
    if WITH_SHOTS:
        firefox.screenshot(SHOTS / "firefox-zoomed-1280.png")
    firefox.press("0")
    firefox.until(module("state/viewport", "viewport.whole"))

    firefox.click("document.querySelector('.editor [data-tool=mute]')")
    firefox.evaluate("document.querySelector('.spectrogram .overlay').focus()")
    firefox.press(RIGHT, ENTER)
    firefox.until(module("library/library", "library.selected.edits === 1 && !library.selected.pendingVersion"))

    firefox.click("document.querySelector('.network .node[data-id=\"resnet.layer2.block1\"]')")
    assert firefox.until("document.querySelector('.network .detail h3')?.textContent") == "resnet.layer2.block1"
    firefox.until(f"({PAINTED})(document.querySelector('.network .detail canvas'))")
    firefox.click(button("3-D"))
    firefox.until("document.querySelectorAll('.space .plate').length > 10")
    firefox.until(f"({PAINTED})(document.querySelector('.space .plate canvas'))")
    if WITH_SHOTS:
        firefox.screenshot(SHOTS / "firefox-1280.png")
    assert firefox.errors == []
