"""Speed of the page in Chromium: first paint, live mode, frame rate while playing, zooming in ten minutes of sound, and
edits; bytes, elements and CPU time of views.

    otoscope up
    .venv/bin/python bench/page.py [--url http://127.0.0.1:8000] [--live | --views]

Needs Playwright and Chromium (`make browser`). Prints one line of JSON a measurement. Without a GPU, Chromium runs
WebGL on the CPU, which is the slowest case.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.page_modules import DEFINE_PAGE_MODULE

SOUNDS = Path(__file__).parent.parent / "api" / "static" / "sounds"

PAINT = """() => {
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    const entries = ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
    const early = entries.filter((entry) => entry.startTime < paint.startTime);
    return {
        first_paint_ms: Math.round(paint.startTime),
        bytes_before: early.reduce((sum, entry) => sum + entry.encodedBodySize, 0),
        bytes_in_all: entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0),
    };
}"""

# Frames of three seconds, while `each` is done once a frame.
FRAMES = """async (each) => {
    const step = new Function("frame", "viewport", "return " + each);
    const { viewport } = await pageModule("state/viewport.js");
    const times = [];
    for (let frame = 0, until = performance.now() + 3000; performance.now() < until; frame += 1) {
        step(frame, viewport);
        times.push(await new Promise(requestAnimationFrame));
    }
    const gaps = times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b);
    return {
        frames_a_second: Math.round(1000 * gaps.length / (times.at(-1) - times[0])),
        median_ms: Math.round(10 * gaps[gaps.length >> 1]) / 10,
        slowest_ms: Math.round(gaps.at(-1)),
    };
}"""

# Resolves when the bars of the next edit are painted.
NEXT_EDIT = """() => {
    const once = { once: true };
    const end = new Promise((resolve) => addEventListener("pointerup", () => resolve(performance.now()), once));
    const prediction = document.getElementById("prediction");
    window.edit = end.then((begun) => new Promise((resolve) => {
        new MutationObserver((_, observer) => {
            observer.disconnect();
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - begun)));
        }).observe(prediction, { childList: true });
    }));
}"""
SERVER = "async () => (await pageModule('library/library.js')).library.shown.job.timings.total"
EDITS = 12
ZOOMS = 10
TURNS = 20
MODELS = ("esc50-light", "esc50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--live", action="store_true", help="live mode alone")
    parser.add_argument(
        "--views", action="store_true", help="only bytes, elements and CPU time: what a busy machine does not change"
    )
    options = parser.parse_args()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        microphone = Path(folder) / "microphone.wav"
        soundfile.write(microphone, *soundfile.read(SOUNDS / "siren.flac"), "PCM_16")
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None),
            args=[
                *("--no-sandbox", "--enable-unsafe-swiftshader", "--autoplay-policy=no-user-gesture-required"),
                *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        for model in () if options.views else MODELS:
            report(f"live with {model}", live(browser, options.url, model))
        if options.live:
            browser.close()
            return
        for _ in range(3):
            page = opened(browser, options.url, height=900)
            report("first view", page.evaluate(PAINT))
            page.close()

        for model in () if options.views else MODELS:
            page = opened(browser, options.url, height=1400)
            page.get_by_label("Model").select_option(model)
            classify(page, SOUNDS / "siren.flac")
            report(f"edits with {model}", edit(page))
            page.close()

        page = opened(browser, options.url, height=900)
        report("views", views(page, 44_100, Path(folder)))
        page.close()
        if options.views:
            browser.close()
            return

        page = opened(browser, options.url, height=2400)
        classify(page, SOUNDS / "siren.flac")
        report("at rest", page.evaluate(FRAMES, "0"))
        page.get_by_role("button", name="Loop").click()
        page.get_by_role("button", name="Play").click()
        maps = page.locator("#network canvas").count()
        report(f"playing, {maps} maps on show", page.evaluate(FRAMES, "0"))
        page.locator("#network button.node[data-id*='.']").nth(2).click()  # a block in the middle
        page.get_by_role("button", name=re.compile(r"^Show all \d+ channels")).click()
        page.locator(".channel").first.wait_for()
        page.wait_for_timeout(2_000)
        maps = page.locator("#network canvas").count()
        report(f"playing, {maps} maps on show", page.evaluate(FRAMES, "0"))
        page.get_by_role("button", name="Pause").click()

        long = Path(folder) / "ten-minutes.flac"
        six, rate = soundfile.read(SOUNDS / "six-sounds.flac", dtype="float32")
        soundfile.write(long, np.tile(six, 20), rate)
        classify(page, long)
        zoom = "viewport.zoom(frame % 120 < 60 ? 0.93 : 1 / 0.93, 300, 0.5)"
        report("ten minutes, zooming", page.evaluate(FRAMES, zoom))
        page.evaluate("pageModule('state/viewport.js').then(({ viewport }) => viewport.show(0, 20, 0, 1))")
        report("ten minutes, panning", page.evaluate(FRAMES, "viewport.pan(0.5)"))
        page.get_by_role("button", name="Play").click()
        report("ten minutes, playing", page.evaluate(FRAMES, "0"))
        browser.close()


def classify(page: Page, sound: Path) -> None:
    page.get_by_label("Sound files").set_input_files(str(sound))
    page.locator(".title h1", has_text=sound.name).wait_for(timeout=120_000)
    page.locator("#prediction .top-class").wait_for(timeout=120_000)
    page.wait_for_timeout(2_000)  # images and peaks are computed in the background


def cpu_clock(page: Page) -> Callable[[], float]:
    """A clock of the CPU time of the page's main thread, in milliseconds."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def cpu() -> float:
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return 1_000 * float(metrics["TaskDuration"])

    return cpu


def views(page: Page, rate: int, folder: Path) -> dict[str, Any]:
    """CPU time of the page's thread for a step of the network in three dimensions and for the finer spectrogram of a
    zoomed region, and how many elements the page has."""
    elements = "document.querySelectorAll('*').length"
    wide = folder / "wide.wav"
    seconds = np.arange(5 * rate) / rate
    soundfile.write(wide, 0.3 * np.sin(2 * np.pi * (200 * seconds + 1_500 * seconds**2)), rate)
    classify(page, wide)
    cpu = cpu_clock(page)
    closed = page.evaluate(elements)
    before = cpu()
    for number in range(ZOOMS):
        start = number / ZOOMS
        page.evaluate(f"pageModule('state/viewport.js').then(({{ viewport }}) => viewport.show({start}, {start + 1}))")
        page.wait_for_timeout(1_000)  # the picture is computed after a pause without a change
    zoomed = (cpu() - before) / ZOOMS
    page.get_by_role("button", name="3-D").click()
    page.locator(".space .plate").first.wait_for()
    page.locator(".space .view").focus()
    page.wait_for_timeout(1_000)
    before = cpu()
    for _ in range(TURNS):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    return {
        "cpu_of_a_zoom_ms": round(zoomed),
        "cpu_of_a_turn_ms": round((cpu() - before) / TURNS, 1),
        "elements": closed,
        "elements_with_3d": page.evaluate(elements),
    }


def edit(page: Page) -> dict[str, Any]:
    """Mute a part of the spectrogram again and again: milliseconds to the new bars, those of the server and of the CPU
    of the page's thread, and how many processes were running or waiting meanwhile."""
    page.locator("[data-tool=mute]").click()
    overlay = page.locator(".spectrogram .overlay")
    overlay.scroll_into_view_if_needed()
    page.wait_for_timeout(1_000)
    box = overlay.bounding_box()
    assert box
    taken, server = [], []
    cpu = cpu_clock(page)
    before = cpu()
    for number in range(EDITS):
        left, top = box["x"] + box["width"] * number / EDITS, box["y"] + 20
        page.evaluate(NEXT_EDIT)
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move(left + box["width"] / EDITS, top + box["height"] / 2, steps=3)
        page.mouse.up()
        taken.append(page.evaluate("() => window.edit"))
        server.append(1_000 * page.evaluate(SERVER))
    return {
        "median_ms": round(float(np.median(taken))),
        "fastest_ms": round(min(taken)),
        "slowest_ms": round(max(taken)),
        "cpu_of_the_page_ms": round((cpu() - before) / EDITS),
        "median_of_the_server_ms": round(float(np.median(server))),
        "load": round(os.getloadavg()[0], 1),
    }


def opened(browser: Browser, url: str, *, height: int) -> Page:
    """The page, loaded."""
    page = browser.new_page(viewport={"width": 1440, "height": height}, bypass_csp=True)
    page.add_init_script(DEFINE_PAGE_MODULE)
    page.goto(url, wait_until="networkidle")
    return page


def live(browser: Browser, url: str, model: str) -> dict[str, Any]:
    """Frames while spectrogram and feature map scroll, and the milliseconds of the service for the last answer."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, permissions=["microphone"], bypass_csp=True, base_url=url
    )
    page = context.new_page()
    page.add_init_script(DEFINE_PAGE_MODULE)
    page.goto("/", wait_until="networkidle")
    page.locator("#model").select_option(model)
    page.get_by_role("button", name="Live", exact=True).click()
    note = page.locator("#live .note")
    note.filter(has_text="the last 5.0 s").wait_for(timeout=60_000)
    figures: dict[str, Any] = page.evaluate(FRAMES, "0")
    late = re.search(r"in (\d+) ms", note.inner_text())
    context.close()
    return {**figures, "answer_ms": int(late[1]) if late else None, "load": round(os.getloadavg()[0], 1)}


def report(what: str, figures: dict[str, Any]) -> None:
    print(json.dumps({"measured": what, **figures}), flush=True)


if __name__ == "__main__":
    main()
