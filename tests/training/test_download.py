"""Fetching ESC-50, from a server on this machine that breaks off, is busy, or sends what it should not."""

import fcntl
import hashlib
import io
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import training.data.download
from tests.conftest import REAL_SOUNDS
from training.data.download import check_esc50, default_cache, fetch_esc50
from training.data.esc50 import load_esc50
from training.errors import DatasetError

TOP = "ESC-50-master"


def check(root: Path) -> None:
    """What a small archive can satisfy: the table and its clips are there."""
    load_esc50(root)


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(data: Path) -> dict[str, bytes]:
    """What GitHub packs: the data set, and things that nobody needs for training."""
    content = {f"{TOP}/": b""}
    for path in sorted(data.rglob("*")):
        if path.is_file():
            content[f"{TOP}/{path.relative_to(data)}"] = path.read_bytes()
    extras = ("LICENSE", "README.md", "requirements.txt", "meta/esc50-human.xlsx", ".github/stale.yml", "audio/notes")
    return content | {f"{TOP}/{name}": b"text" for name in extras}


class Site:
    """What the server serves, how it misbehaves, and what it was asked for."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.etag = '"one"'
        self.ranges = True  # understands Range
        self.lengths = True  # says Content-Length
        self.statuses: list[int] = []  # answered first, one each
        self.cuts: list[int] = []  # bytes of the body after which the connection is closed, one each
        self.patience = 1_000  # requests until it is busy for good
        self.requested_ranges: list[str] = []  # the Range of each request
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.requested_ranges.append(wanted)
        if len(self.requested_ranges) > self.patience:
            self.statuses.append(503)
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start, status = 0, 200
        if self.ranges and wanted and handler.headers.get("If-Range", self.etag) == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(self.body) else 416
        part = self.body[start:]
        handler.send_response(status)
        if status != 200:
            extent = f"{start}-{len(self.body) - 1}" if part else "*"
            handler.send_header("Content-Range", f"bytes {extent}/{len(self.body)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.lengths:
            handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part[: self.cuts.pop(0)] if self.cuts else part)


@pytest.fixture
def site(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("NO_PROXY", "no_proxy"):  # a proxy in the environment would not find this machine
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(training.data.download, "BACKOFF_SECONDS", 0.0)
    served = Site(pack(files))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}/master.zip"
        yield served
        server.shutdown()
        thread.join()


def cached_files(cache: Path) -> set[str]:
    """What lies in the cache, the lock aside."""
    return {path.name for path in cache.iterdir()} - {"ESC-50.lock"}


@pytest.mark.parametrize("lengths", [True, False])
def test_fetched_once(lengths: bool, site: Site, data: Path, tmp_path: Path) -> None:
    """Every clip and the table, byte for byte, and nothing that was not wanted; the second call asks nobody.

    With and without a Content-Length: GitHub does not say how much it will send.
    """
    site.lengths = lengths
    folder = fetch_esc50(tmp_path / "cache", url=site.url, check=check)
    assert folder == tmp_path / "cache" / "ESC-50"
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    expected = {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert found == expected | {"LICENSE": b"text", "README.md": b"text"}
    assert len(load_esc50(folder).clips) == 36
    assert cached_files(tmp_path / "cache") == {"ESC-50"}

    assert fetch_esc50(tmp_path / "cache", url=site.url, check=check) == folder
    assert site.requested_ranges == [""]


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', ""])
@pytest.mark.parametrize("ranges", [True, False])
def test_broken_off_and_gone_on_with(ranges: bool, etag: str, site: Site, tmp_path: Path) -> None:
    """Each attempt asks for what is missing; a server without ranges sends everything again."""
    site.ranges, site.etag, site.cuts = ranges, etag, [1_000, 2_000]
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert site.requested_ranges == ["", "bytes=1000-", "bytes=3000-" if ranges else "bytes=2000-"]


def test_gone_on_with_by_the_next_call(site: Site, tmp_path: Path) -> None:
    """What came before everything failed is kept, for the same address only."""
    site.cuts, site.patience = [1_000], 1
    with pytest.raises(DatasetError, match=r"HTTP 503 .*; the 1,000 bytes that came are kept"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert cached_files(tmp_path) == {"ESC-50.zip.partial", "ESC-50.zip.source"}

    site.patience, site.requested_ranges = 1_000, []
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, elsewhere)
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    check(fetch_esc50(elsewhere, url=site.url + "?other", check=check))
    assert site.requested_ranges == ["bytes=1000-", ""]


@pytest.mark.parametrize(("beyond", "etag", "requests"), [(0, '"one"', 1), (1, '"one"', 2), (-1_000, '"zero"', 1)])
def test_partial_of_another_archive(beyond: int, etag: str, requests: int, site: Site, tmp_path: Path) -> None:
    """All of it is there already; more is there than there should be; the server has a newer one by now."""
    size = len(site.body) + beyond
    (tmp_path / "ESC-50.zip.partial").write_bytes(b"x" * size if beyond else site.body)
    (tmp_path / "ESC-50.zip.source").write_text(f"{site.url}\n{etag}\n")
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert site.requested_ranges == [f"bytes={size}-", ""][:requests]


def test_always_cut_at_the_same_byte(site: Site, tmp_path: Path) -> None:
    """Is given up, although every attempt brings something."""
    site.ranges = False
    site.cuts = [1_000] * 100
    with pytest.raises(DatasetError, match=r"cannot be fetched: .* are kept"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert len(site.requested_ranges) == 1 + training.data.download.MAX_ATTEMPTS


def test_busy_then_fine_and_not_found(site: Site, tmp_path: Path) -> None:
    """Neither a 503 nor a 429 is the last word; a 404 is, and the message says where."""
    site.statuses = [503, 429, 404]
    with pytest.raises(DatasetError, match=rf"{re.escape(site.url)} cannot be fetched: HTTP 404 Not Found"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert (len(site.requested_ranges), cached_files(tmp_path)) == (3, set())
    site.statuses = [503, 502]
    check(fetch_esc50(tmp_path, url=site.url, check=check))


def test_nobody_there(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, or an address that is none."""
    monkeypatch.setattr(training.data.download, "MAX_ATTEMPTS", 2)
    with pytest.raises(DatasetError, match=r"cannot be fetched: .*refused"):
        fetch_esc50(tmp_path, url="http://127.0.0.1:1/master.zip", check=check)
    with pytest.raises(DatasetError, match=r"cannot be fetched: .*protocol"):
        fetch_esc50(tmp_path, url="ftp://127.0.0.1/master.zip", check=check)
    assert cached_files(tmp_path) == set()


def test_wrong_table(site: Site, tmp_path: Path) -> None:
    """A whole and readable data set that is not ESC-50 is not kept as ESC-50."""
    with pytest.raises(DatasetError, match="not the official table"):
        fetch_esc50(tmp_path, url=site.url)
    assert cached_files(tmp_path) == set()


UNUSABLE: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "above": (lambda files: pack({**files, "../evil.wav": b"evil"}), "would leave its folder"),
    "up and out": (lambda files: pack({**files, f"{TOP}/audio/../../../evil.wav": b"evil"}), "would leave its folder"),
    "absolute": (lambda files: pack({**files, "/tmp/evil.wav": b"evil"}), "would leave its folder"),
    "backslashes": (lambda files: pack({**files, f"{TOP}/audio\\..\\evil.wav": b"evil"}), "would leave its folder"),
    "two upper folders": (lambda files: pack({**files, "Other/README.md": b"other"}), r"README\.md twice"),
    "a clip less": (lambda files: pack({k: v for k, v in files.items() if "1-00-A-0" not in k}), "1 of 36 clips are"),
    "cut off": (lambda files: pack(files)[:-1_000], "cut off or damaged"),
    "one byte changed": (lambda files: flipped(pack(files)), "cut off or damaged"),
    "a hotel's page": (lambda _: b"<html>Welcome</html>", "not a zip archive"),
    "nothing": (lambda _: b"", "not a zip archive"),
}


def flipped(archive: bytes) -> bytes:
    middle = len(archive) // 2
    return archive[:middle] + bytes([archive[middle] ^ 0xFF]) + archive[middle + 1 :]


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("which", UNUSABLE)
def test_unusable_archive(which: str, lengths: bool, site: Site, files: dict[str, bytes], tmp_path: Path) -> None:
    """Is refused as a whole; nothing of it stays, neither in the cache nor outside of it."""
    make, message = UNUSABLE[which]
    site.body, site.lengths = make(files), lengths
    with pytest.raises(DatasetError, match=message):
        fetch_esc50(tmp_path / "cache", url=site.url, check=check)
    assert cached_files(tmp_path / "cache") == set()
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_ARCHIVE_BYTES", "sends more than 20 bytes"),
        ("MAX_UNPACKED_BYTES", "at most 20"),
        ("MAX_FILES", "at most 20"),
    ],
)
def test_too_large(limit: str, message: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes sent, too many unpacked, too many files."""
    monkeypatch.setattr(training.data.download, limit, 20)
    with pytest.raises(DatasetError, match=message):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert cached_files(tmp_path) == set()


def test_pinned_archive(site: Site, tmp_path: Path) -> None:
    """By its SHA-256, in either case of letters."""
    right = hashlib.sha256(site.body).hexdigest()
    with pytest.raises(DatasetError, match=f"its SHA-256 is {right}, not {'0' * 64}"):
        fetch_esc50(tmp_path, url=site.url, sha256="0" * 64, check=check)
    assert cached_files(tmp_path) == set()
    check(fetch_esc50(tmp_path, url=site.url, sha256=right.upper(), check=check))


def test_disk_full(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While unpacking: nothing of it stays, but the archive does and is not fetched again."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(training.data.download.shutil, "copyfileobj", full)
        with pytest.raises(DatasetError, match=r"cannot be kept in .*No space left"):
            fetch_esc50(tmp_path, url=site.url, check=check)
    assert cached_files(tmp_path) == {"ESC-50.zip", "ESC-50.zip.source"}
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert site.requested_ranges == [""]
    assert cached_files(tmp_path) == {"ESC-50"}


def test_folder_that_is_not_whole(site: Site, tmp_path: Path) -> None:
    """Somebody removed a clip: it is said, and nothing is overwritten."""
    folder = fetch_esc50(tmp_path, url=site.url, check=check)
    next((folder / "audio").iterdir()).unlink()
    with pytest.raises(DatasetError, match=f"1 of 36 clips are missing.*; remove {folder} to have it fetched again"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert site.requested_ranges == [""]


def test_two_at_once(site: Site, tmp_path: Path) -> None:
    """The second is told to wait, and does not touch what the first unpacks."""
    (tmp_path / "ESC-50.partial").mkdir()
    with (tmp_path / "ESC-50.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another process is fetching"):
            fetch_esc50(tmp_path, url=site.url, check=check)
    assert (tmp_path / "ESC-50.partial").is_dir()
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert cached_files(tmp_path) == {"ESC-50"}


def test_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the desktop's standard says; a relative path there is to be ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/otoscope")
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert default_cache() == Path.home() / ".cache" / "otoscope"


@pytest.mark.usefixtures("real_sounds")
def test_official_table_passes(tmp_path: Path) -> None:
    """The real data set is accepted, and not with one clip emptied."""
    real = REAL_SOUNDS / "esc50-16k"
    check_esc50(real)
    shutil.copytree(real / "meta", tmp_path / "meta")
    (tmp_path / "audio").mkdir()
    for clip in load_esc50(real).clips:
        (tmp_path / "audio" / clip.path.name).symlink_to(clip.path)
    check_esc50(tmp_path)
    emptied = next((tmp_path / "audio").iterdir())
    emptied.unlink()
    emptied.touch()
    with pytest.raises(DatasetError, match=f"{emptied.name} is empty"):
        check_esc50(tmp_path)
