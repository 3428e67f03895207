"""A real browser with a real stack. Skipped, with the reason, where there is no browser."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import pytest
from _pytest.runner import runtestprotocol
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from tests.conftest import ROOT, write_parallel_model
from tests.e2e.conftest import Stack, running_stack
from tests.support.page_modules import DEFINE_PAGE_MODULE

SOUNDS = ROOT / "api" / "static" / "sounds"
SHOTS = ROOT / "runs" / "screenshots"  # for people to look at; never compared
WITH_SHOTS = bool(os.environ.get("SCREENSHOTS"))  # a second or two each
HOST = "otoscope.test"
PARALLEL = "parallel"
"""A MobileNet-v1 and a CNN9 side by side, with random weights."""
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",  # WebGL2 without a GPU
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1",  # plain HTTP and not loopback: not a secure context
)
WIDTHS = (1440, 900, 390)
SCHEMES: tuple[Literal["dark"], Literal["light"]] = ("dark", "light")
MEDIA = ("color_scheme", "reduced_motion", "forced_colors")  # options that a tab can have without a profile of its own


RETURNING = """if (location.protocol.startsWith("http")) localStorage.otoscope ??= '{"example":false}'"""
"""A script that runs before those of the page, for a visitor who has closed the example."""

NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
_network_changes: list[str] = []
"""The messages with that error in the test that runs."""


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test, and up to two times again if it failed and the network of the machine changed during it.

    When an address of the machine is added or removed (a container or a VPN starts), Chromium fails all requests that
    wait for a connection, to loopback too, with ERR_NETWORK_CHANGED. It has no flag to disable that.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for again in (True, True, False):
        _network_changes.clear()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not (again and _network_changes and any(report.failed for report in reports)):
            break
        time.sleep(3)  # Chromium acts on a change after two seconds
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """A separate stack with the shipped models and PARALLEL: these tests stop and restart its processes."""
    more = {PARALLEL: write_parallel_model}
    with running_stack(default_model="esc50", more=more, allowed_hosts=HOST, share_sounds="true") as running:
        yield running


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, with a fake microphone that plays the siren.

    It is closed with this package: while it runs, no other test in the same thread could run an event loop.
    """
    driver = subprocess.run([*compute_driver_executable(), "--version"], capture_output=True, text=True, timeout=60)
    if driver.returncode != 0:  # a Node.js, which a bare system has no libraries for
        pytest.skip(f"Playwright does not run: {driver.stderr.strip() or driver.returncode}")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    microphone = tmp_path_factory.mktemp("microphone") / "siren.wav"
    write_wav(SOUNDS / "siren.flac", microphone)
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium: `apt install chromium` or `playwright install chromium`")
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
        try:
            browser = playwright.chromium.launch(executable_path=path, args=flags)
        except PlaywrightError as error:
            if "shared libraries" not in str(error) and "dependencies" not in str(error):
                raise
            pytest.skip("Chromium needs libraries of the system: `sudo .venv/bin/playwright install-deps chromium`")
        yield browser
        browser.close()


def write_wav(source: Path, target: Path) -> None:
    import soundfile

    samples, rate = soundfile.read(source)
    soundfile.write(target, samples, rate, "PCM_16")


Open = Callable[..., Page]


class Windows:
    """Windows of the browser that stay open, one for each site. A tab in one of them costs half as much as a window
    with a profile of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._blank: dict[str, Page] = {}  # keeps a window open

    def new_profile(self, url: str, **options: object) -> BrowserContext:
        """A new window with an empty profile, for the site at `url`; `options` are those of Playwright."""
        context = self._browser.new_context(
            base_url=url,
            viewport={"width": 1280, "height": 900},
            permissions=["microphone", "clipboard-read", "clipboard-write"],
            **options,  # type: ignore[arg-type]
        )
        context.add_init_script(DEFINE_PAGE_MODULE)
        return context

    def empty_profile(self, url: str) -> BrowserContext:
        """The window of the site at `url`, if none of its tabs is open, without what pages have stored in its profile;
        else a new one."""
        if url not in self._blank:
            self._blank[url] = self.new_profile(url).new_page()
        blank = self._blank[url]
        if blank.context.pages != [blank]:
            return self.new_profile(url)
        blank.context.clear_cookies()
        session = blank.context.new_cdp_session(blank)
        for origin in (url, url.replace("127.0.0.1", HOST)):
            session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
        session.detach()
        return blank.context

    def close(self, page: Page) -> None:
        """Close the tabs of a page's window, and the window unless it stays open."""
        kept = [blank for blank in self._blank.values() if blank.context == page.context]
        if not kept:
            page.context.close()
        for tab in page.context.pages:
            if tab not in kept:
                tab.close()


@pytest.fixture(scope="package")
def windows(browser: Browser) -> Windows:
    return Windows(browser)


@pytest.fixture
def open_page(windows: Windows, stack: Stack) -> Iterator[Open]:
    """Opens the page in an empty profile: `open_page(width=390, path="/#job=…", **options of Playwright)`. While one is
    open, another one has a profile of its own, as on another machine.

    The visitor has been here before and closed the example; with `first_visit=True` it is the first time.

    Every error or warning in the console fails the test, unless an entry of `page.expected_errors` is a part of it.
    """
    opened: list[tuple[Page, list[str]]] = []

    def open_one(
        width: int = 1280, height: int = 900, path: str = "/", first_visit: bool = False, **options: object
    ) -> Page:
        media = {name: options.pop(name) for name in MEDIA if name in options}
        context = windows.new_profile(stack.url, **options) if options else windows.empty_profile(stack.url)
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(**media)  # type: ignore[arg-type]
        if not first_visit:
            page.add_init_script(RETURNING)
        errors: list[str] = []
        page.expected_errors = []  # type: ignore[attr-defined]

        def on_console(message: ConsoleMessage) -> None:
            if NETWORK_CHANGED in message.text:
                _network_changes.append(message.text)
            if message.type in ("error", "warning") and "GPU stall" not in message.text:
                errors.append(f"{message.text} ({message.location.get('url', '')})")

        page.on("console", on_console)
        page.on("pageerror", lambda error: errors.append(f"{error.name}: {error.message}\n{error.stack}"))
        opened.append((page, errors))
        try:
            page.goto(path)
        except PlaywrightError as error:
            if NETWORK_CHANGED in str(error):
                _network_changes.append(str(error))
            raise
        return page

    yield open_one
    for page, errors in opened:
        expected = page.expected_errors  # type: ignore[attr-defined]
        windows.close(page)
        unexpected = [error for error in errors if not any(part in error for part in expected)]
        assert not unexpected, unexpected


@pytest.fixture
def page(open_page: Open) -> Page:
    """The page, 1280 px wide, without a sound."""
    return open_page()


@pytest.fixture
def own_sound(tmp_path: Path) -> Path:
    """The siren under another name: a sound of the visitor, which is none of the samples of the page."""
    return Path(shutil.copy(SOUNDS / "siren.flac", tmp_path / "own.flac"))


@pytest.fixture
def classified(page: Page) -> Page:
    """The page with the siren classified by `esc50`."""
    classify(page, SOUNDS / "siren.flac")
    return page


@contextmanager
def frozen(stack: Stack, name: str) -> Iterator[None]:
    """`api` or `worker`, stopped (SIGSTOP) until the end of the block."""
    process = stack.processes[name]
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def frozen_worker(stack: Stack) -> AbstractContextManager[None]:
    """The worker, stopped (SIGSTOP) until the end of the block."""
    return frozen(stack, "worker")


def classify(page: Page, *sounds: Path) -> None:
    """Choose files in the page's file dialog, and wait for the prediction of the first."""
    page.get_by_label("Sound files").set_input_files([str(sound) for sound in sounds])
    page.locator("#prediction .prediction").wait_for(timeout=60_000)


def job_id(page: Page) -> str:
    """The id of the job that the page shows."""
    page.wait_for_url(re.compile("#job=[0-9a-f]{32}$"))
    return page.url.rpartition("=")[2]


def intercepted(page: Page, routes: list[Route]) -> Route:
    """The first of the requests that a test holds back: it arrives here after the page shows that it was sent."""
    while not routes:
        page.wait_for_timeout(20)
    return routes[0]


def shoot(page: Page, name: str) -> None:
    """Save a screenshot of the whole page, where they are requested."""
    if not WITH_SHOTS:
        return
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-{page.viewport_size['width']}.png", full_page=True)  # type: ignore[index]
