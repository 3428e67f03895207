"""Takes docs/page.png, the screenshot of the page in the README, from a running service.

    python docs/screenshot.py              the example sound "siren"
    python docs/screenshot.py dog.ogg

Needs Playwright and Chromium (`make browser`). OTOSCOPE_URL is the address of the service.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

URL = os.environ.get("OTOSCOPE_URL", "http://127.0.0.1:8000")
SIREN = Path(__file__).parent.parent / "api" / "static" / "sounds" / "siren.flac"


def main(sound: Path) -> None:
    """The page with the sound classified, its class activation, the network in three dimensions, one block opened."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None),
            args=["--no-sandbox", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport={"width": 1440, "height": 3000}, color_scheme="dark")
        page.add_init_script("""localStorage.otoscope = '{"example":false}'""")
        page.goto(URL)
        page.get_by_label("Model").select_option("esc50")
        page.get_by_label("Sound files").set_input_files(str(sound))
        page.locator("#prediction .top-class").wait_for(timeout=60_000)
        page.get_by_role("checkbox", name="Class activation").check()
        page.get_by_role("button", name="Donut").click()
        page.get_by_role("button", name="3-D").click()
        page.locator(".space .plate").first.wait_for()
        page.locator("#network .node[data-id='resnet.layer2.block1']").click()
        page.get_by_role("button", name=re.compile(r"^Show all [\d,]+ channels")).click()
        page.locator(".channel").first.wait_for()
        page.evaluate("document.activeElement.blur()")
        page.mouse.move(0, 0)
        page.mouse.wheel(0, -10_000)
        page.wait_for_timeout(1_000)  # until everything that is drawn in animation frames has been drawn
        page.screenshot(path=Path(__file__).with_name("page.png"))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SIREN)
