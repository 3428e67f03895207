"""Uploads: every way to add a sound, and the states until its result."""

import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import SOUNDS, Open, classify, frozen_worker, intercepted, job_id, shoot
from tests.e2e.conftest import Stack

pytestmark = pytest.mark.timeout(180)

SIREN = SOUNDS / "siren.flac"
BELL = SOUNDS / "church-bell.flac"


def test_chosen_file_shows_the_result_of_the_api(page: Page, stack: Stack) -> None:
    """The page shows what the API returns for that job."""
    classify(page, SIREN)
    job = httpx2.get(f"{stack.url}/v1/jobs/{job_id(page)}").json()
    first = job["result"]["predictions"][0]
    expect(page.locator(".top-class strong")).to_have_text(first["class"])
    percent = page.evaluate("async (it) => (await pageModule('view/format.js')).percent(it)", first["confidence"])
    expect(page.locator(".bars .number").first).to_have_text(percent)
    expect(page.locator(".title h1")).to_have_text("siren.flac")
    facts = page.locator(".title .chips")
    for fact in ("FLAC", "16 kHz", "mono", "5 s"):
        expect(facts).to_contain_text(fact)
    expect(page.locator(".bars li")).to_have_count(5)
    page.get_by_role("button", name="Show all 50").click()
    expect(page.locator(".bars li")).to_have_count(50)


def test_plain_http_is_enough(open_page: Open, stack: Stack) -> None:
    """Over plain HTTP from another machine the browser has fewer features; the page still classifies a sound."""
    page = open_page(path=stack.url.replace("127.0.0.1", "otoscope.test"))
    page.expected_errors.append("Cross-Origin-Opener-Policy")  # type: ignore[attr-defined]
    assert not page.evaluate("isSecureContext")
    classify(page, SIREN)
    expect(page.locator(".top-class strong")).to_have_text("siren")


def test_dropped_files_become_a_list(page: Page) -> None:
    """Files dropped anywhere are classified, each with its own state."""
    page.evaluate(
        """async (names) => {
            const transfer = new DataTransfer();
            for (const name of names) {
                const blob = await (await fetch(`/static/sounds/${name}`)).blob();
                transfer.items.add(new File([blob], name));
            }
            for (const type of ["dragenter", "dragover", "drop"]) {
                const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(type, options));
            }
        }""",
        ["siren.flac", "church-bell.flac", "knocking.flac"],
    )
    states = page.locator(".sounds .state")
    expect(states).to_have_count(3)
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(3, timeout=30_000)
    assert sorted(text.partition(",")[0] for text in states.all_inner_texts()) == [
        "church bells",
        "door wood knock",
        "siren",
    ]


def test_bundled_sounds_are_offered_and_classified(page: Page) -> None:
    """Every sound that comes with the page is offered and classified."""
    offered = page.evaluate("pageModule('library/samples.js').then(({ samples }) => samples)")
    words = page.evaluate("pageModule('words/en.js').then(({ words }) => words)")
    names = {sample["file"]: words[sample["name"]] for sample in offered if sample["file"].endswith(".flac")}
    assert sorted(names) == sorted(sound.name for sound in SOUNDS.glob("*.flac"))
    for number, (file, name) in enumerate(names.items(), 1):
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(number, timeout=30_000)
        expect(page.locator(".title h1")).to_have_text(file)
        expect(page.locator("#prediction .prediction")).to_be_visible()


def test_limits_are_shown_before_upload(page: Page, stack: Stack) -> None:
    """The page shows the server's limits and sends no file that exceeds them."""
    limits = httpx2.get(f"{stack.url}/v1/limits").json()
    hint = page.locator(".drop .hint").last
    expect(hint).to_contain_text(f"{limits['max_upload_bytes'] / 1e6:.1f} MB")
    for known in limits["formats"]:
        expect(hint).to_contain_text(known)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method == "POST" else None)
    page.evaluate(
        "(size) => { window.big = new File([new Uint8Array(size)], 'big.wav'); }", limits["max_upload_bytes"] + 1
    )
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(window.big);
            transfer.items.add(new File([], "empty.wav"));
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    expect(page.locator(".sounds .state")).to_have_text(["The file is empty", "The file is too large"])
    assert not sent


def test_several_files_run_in_their_order(page: Page) -> None:
    """Of several files the first is selected and submitted first."""
    names = ["siren.flac", "church-bell.flac", "knocking.flac", "sea.flac"]
    page.evaluate(
        """() => pageModule('library/library.js').then(({ library }) => {
            window.order = [];
            library.on("change", ({ name, phase }) => {
                if (phase === "uploading" && !order.includes(name)) order.push(name);
            });
        })"""
    )
    page.get_by_label("Sound files").set_input_files([str(SOUNDS / name) for name in names])
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(4, timeout=40_000)
    assert page.evaluate("order") == names
    expect(page.locator(".sounds .name")).to_have_text(names)


def test_a_file_that_is_not_sent_shows_its_error(page: Page) -> None:
    """An empty file replaces the result before it on the page, as one that the server refuses."""
    empty = {"name": "empty.wav", "mimeType": "audio/wav", "buffer": b""}
    classify(page, SIREN)
    page.get_by_label("Sound files").set_input_files(empty)
    expect(page.locator("#prediction [role=alert]")).to_contain_text("empty.wav has 0 bytes.")
    bell = {"name": "bell.flac", "mimeType": "audio/flac", "buffer": BELL.read_bytes()}
    page.get_by_label("Sound files").set_input_files([bell, empty])
    expect(page.locator(".title h1")).to_have_text("bell.flac")
    expect(page.locator(".sounds .name")).to_have_text(["bell.flac", "empty.wav", "empty.wav", "siren.flac"])


def test_refused_file_shows_its_error_alone(page: Page) -> None:
    """Below the error there is no player and no spectrogram; the next sound has both."""
    page.expected_errors += ["415", "400", "422"]  # type: ignore[attr-defined]
    text = {"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"These are notes and no sound. " * 40}
    page.get_by_label("Sound files").set_input_files(text)
    expect(page.locator("#prediction [role=alert]")).to_be_visible(timeout=20_000)
    expect(page.locator("#announcer")).to_have_text("notes.wav: Not a sound file")
    page.wait_for_load_state("networkidle")
    for panel in ("#sound", "#network .panel"):
        expect(page.locator(panel)).to_be_hidden()
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 900})
        shoot(page, "refused")
    classify(page, SIREN)
    expect(page.locator("#sound .player")).to_be_visible()


def test_sample_on_a_slow_line_is_busy_and_added_once(page: Page) -> None:
    """The pressed button is busy until its sound is there; a second press adds nothing."""
    held: list[Route] = []
    page.route("**/sounds/siren.flac", lambda route: held.append(route))
    button = page.get_by_role("button", name="Siren", exact=True)
    button.click()
    expect(button).to_have_attribute("aria-busy", "true")
    button.click()
    intercepted(page, held).continue_()
    expect(page.locator(".sounds li")).to_have_count(1)
    expect(button).not_to_have_attribute("aria-busy", "true")
    assert len(held) == 1


def test_a_sample_waits_for_the_server(page: Page) -> None:
    """A sample that could not be fetched is added once, when the server responds, and no message stays behind."""
    page.expected_errors.append("ERR_FAILED")  # type: ignore[attr-defined]
    failing = [True]
    for path in ("**/sounds/*", "**/health/live"):
        page.route(path, lambda route: route.abort() if failing[0] else route.continue_())
    button = page.get_by_role("button", name="Siren", exact=True)
    button.click()
    expect(page.locator("#connection")).to_be_visible()
    button.click()
    failing[0] = False
    expect(page.locator("#connection")).to_be_hidden(timeout=10_000)
    expect(page.get_by_text("does not respond").filter(visible=True)).to_have_count(0)
    expect(page.locator("#prediction .prediction")).to_be_visible(timeout=60_000)
    expect(page.locator(".sounds .name")).to_have_text(["siren.flac"])


def test_queue_that_does_not_move_is_reported(open_page: Open, stack: Stack) -> None:
    """After twenty seconds without a change, a queued job is said to take longer than usual; a result ends that."""
    page = open_page()
    page.clock.install()
    page.reload()
    state = page.locator(".sounds .state")
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files([str(SIREN), str(BELL)])
        expect(state.last).to_have_text(re.compile(r"^Queued, position \d+$"), timeout=20_000)
        page.clock.fast_forward(21_000)
        expect(state.last).to_have_text(re.compile(r"^Queued, position \d+. This takes longer than usual$"))
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=40_000)


def test_file_dialogs_offer_what_the_server_reads(page: Page) -> None:
    """Both file dialogs offer the extensions of `/v1/limits`, M4A among them."""
    expect(page.get_by_label("Sound files")).to_have_attribute("accept", re.compile(r"\.m4a"))
    accept = page.evaluate("pageModule('input/upload.js').then(({ acceptedTypes }) => acceptedTypes())")
    assert accept == page.get_by_label("Sound files").get_attribute("accept")


def test_position_in_the_queue_moves_and_cancel_works(page: Page, stack: Stack) -> None:
    """The page shows the queue position, updates it when a job ahead is cancelled, and shows the result."""
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files([str(SIREN)])
        first = page.locator(".sounds li", has_text="siren.flac")
        expect(first.locator(".state")).to_have_text(re.compile("^Queued|^Running"), timeout=20_000)
        page.get_by_label("Sound files").set_input_files([str(BELL)])
        bell = page.locator(".sounds li", has_text="church-bell.flac")
        expect(bell.locator(".state")).to_have_text(re.compile(r"Queued, position \d"), timeout=20_000)
        page.get_by_label("Sound files").set_input_files([str(SOUNDS / "sea.flac")])
        last = page.locator(".sounds li", has_text="sea.flac").locator(".state")
        expect(last).to_have_text(re.compile(r"Queued, position \d"), timeout=20_000)
        before = int(last.inner_text().rpartition(" ")[2])
        bell.get_by_role("button", name="Cancel").click()
        expect(bell.locator(".state")).to_have_text("Cancelled")
        expect(last).to_have_text(f"Queued, position {before - 1}", timeout=10_000)
    expect(last).to_have_text(re.compile("^sea waves"), timeout=30_000)
    expect(bell.locator(".state")).to_have_text("Cancelled")
    bell.locator(".select").click()
    page.get_by_role("button", name="Try again").click()
    expect(bell.locator(".state")).to_have_text(re.compile("^church bells"), timeout=30_000)


def test_many_sounds_at_once_leave_the_page_usable(page: Page, stack: Stack, tmp_path: Path) -> None:
    """More jobs are followed than a browser opens connections: each is updated, and other requests get through."""
    sounds = [tmp_path / f"sound-{number}.flac" for number in range(9)]
    for sound in sounds:
        sound.write_bytes(BELL.read_bytes())
    states = page.locator(".sounds .state")
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files([str(sound) for sound in sounds])
        expect(page.locator('.sounds [data-phase="queued"]')).to_have_count(9, timeout=30_000)
        page.get_by_role("button", name="Cancel").first.click()
        expect(page.locator('.sounds [data-phase="cancelled"]')).to_have_count(1)
        assert page.evaluate("fetch('/health/live').then((response) => response.status)") == 200
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(8, timeout=40_000)
    assert sum(text.startswith("church bells") for text in states.all_inner_texts()) == 8


def test_unreachable_server_is_reported_and_waited_for(page: Page, stack: Stack) -> None:
    """Without the gateway the page shows a banner and no result, and continues automatically when it is back."""
    page.expected_errors += ["ERR_", "Failed to load resource", "net::"]  # type: ignore[attr-defined]
    with frozen_worker(stack):
        page.get_by_label("Sound files").set_input_files([str(SIREN)])
        state = page.locator(".sounds .state").first
        expect(state).to_have_text(re.compile("^Queued|^Running"), timeout=20_000)
        stack.stop("api")
    try:
        banner = page.locator("#connection")
        expect(banner).to_be_visible(timeout=20_000)
        expect(banner).to_have_text(re.compile("does not respond"))
        expect(state).to_have_text("Waiting for the server")
        expect(page.locator("#prediction .prediction")).to_have_count(0)
        # A sound that is added meanwhile waits as well.
        page.get_by_label("Sound files").set_input_files([str(BELL)])
        expect(page.locator('.sounds [data-phase="waiting"]')).to_have_count(1)
    finally:
        stack.start("api")
        stack.until_ready()
    expect(page.locator('.sounds [data-phase="succeeded"]')).to_have_count(2, timeout=40_000)
    expect(banner).to_be_hidden()


def test_file_deleted_from_disk_is_explained(page: Page, tmp_path: Path) -> None:
    """A file that the browser can no longer read is refused without a retry, and not reported as a connection error."""
    page.expected_errors += ["ERR_", "Failed to load resource"]  # type: ignore[attr-defined]
    sound = tmp_path / "siren.flac"
    sound.write_bytes(SIREN.read_bytes())
    classify(page, sound)
    sound.unlink()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method == "POST" else None)
    page.get_by_label("Model").select_option("esc50-light")
    page.get_by_role("button", name="Classify again with esc50-light").click()
    expect(page.locator("#prediction [role=alert]")).to_contain_text("can no longer be read", timeout=10_000)
    expect(page.locator(".sounds .state").first).to_have_text("The file can no longer be read")
    expect(page.locator("#connection")).to_be_hidden()
    assert len(sent) == 1
