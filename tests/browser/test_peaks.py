"""The waveform of a file: decoded by the browser where that takes little memory, otherwise the server's."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect

from tests.browser.conftest import SOUNDS, Open, classify
from tests.browser.test_sound import PAINTED

pytestmark = pytest.mark.timeout(180)

DRAWN = f"() => ({PAINTED})(document.querySelector('.waveform canvas.image'))"
# Counts the decodes and the most at the same time; each takes 0.3 s longer than it would.
COUNTED = """
    window.decodes = { begun: 0, running: 0, most: 0 };
    const decode = OfflineAudioContext.prototype.decodeAudioData;
    OfflineAudioContext.prototype.decodeAudioData = async function (data) {
        decodes.begun += 1;
        decodes.running += 1;
        decodes.most = Math.max(decodes.most, decodes.running);
        await new Promise((resolve) => setTimeout(resolve, 300));
        const audio = await decode.call(this, data);
        decodes.running -= 1;
        return audio;
    };
"""


@pytest.fixture
def counted(open_page: Open) -> Page:
    """The page, counting decodes in `window.decodes`."""
    page = open_page()
    page.add_init_script(COUNTED)
    page.reload()
    return page


@pytest.mark.parametrize(("seconds", "channels", "decoded"), [(122, 1, 1), (122, 2, 0)])
def test_long_sound_is_not_decoded(counted: Page, tmp_path: Path, seconds: int, channels: int, decoded: int) -> None:
    """Decoded sound takes memory by length times channels; above the limit, the server's waveform is drawn."""
    noise = np.random.default_rng(0).normal(0, 0.1, (8_000 * seconds, channels))
    soundfile.write(tmp_path / "long.wav", noise, 8_000, "PCM_16")
    classify(counted, tmp_path / "long.wav")
    counted.wait_for_function(DRAWN)
    counted.wait_for_function("() => decodes.running === 0")
    assert counted.evaluate("decodes.begun") == decoded


def test_one_sound_is_decoded_at_a_time(counted: Page) -> None:
    """Selecting several sounds quickly keeps one of them in memory at a time, and shows the last one."""
    names = ["siren", "church-bell", "sea", "rain"]
    classify(counted, *(SOUNDS / f"{name}.flac" for name in names))
    expect(counted.locator('.sounds [data-phase="succeeded"]')).to_have_count(4, timeout=30_000)
    for name in names:
        counted.locator(".select", has_text=name).click()
    counted.wait_for_function("() => decodes.begun >= 2 && decodes.running === 0")
    counted.wait_for_function(DRAWN)
    assert counted.evaluate("decodes.most") == 1
