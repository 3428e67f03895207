"""Downloading ESC-50 from a local server that closes connections, is overloaded, or sends invalid data."""

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
import training.download
from tests.conftest import REAL_SOUNDS
from training.data.download import check_esc50, fetch_esc50
from training.data.esc50 import load_esc50
from training.download import default_cache
from training.errors import DatasetError

TOP = "ESC-50-master"


def check(root: Path) -> None:
    """A check that a small archive passes: the table and its clips are present."""
    load_esc50(root)


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(data: Path) -> dict[str, bytes]:
    """An archive like GitHub's: the data set, and files that training does not need."""
    content = {f"{TOP}/": b""}
    for path in sorted(data.rglob("*")):
        if path.is_file():
            content[f"{TOP}/{path.relative_to(data)}"] = path.read_bytes()
    extras = ("LICENSE", "README.md", "requirements.txt", "meta/esc50-human.xlsx", ".github/stale.yml", "audio/notes")
    return content | {f"{TOP}/{name}": b"text" for name in extras}


class Site:
    """The response of the server, its faults, and the requests it received."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.etag = '"one"'
        self.ranges = True  # supports Range requests
        self.lengths = True  # sends Content-Length
        self.statuses: list[int] = []  # error statuses sent first, one per request
        self.cuts: list[int] = []  # bytes after which the connection is closed, one per request
        self.available_requests = 1_000  # requests before it returns 503 permanently
        self.requested_ranges: list[str] = []  # Range header of each request
        self.url = ""

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        requested = handler.headers.get("Range", "")
        self.requested_ranges.append(requested)
        if len(self.requested_ranges) > self.available_requests:
            self.statuses.append(503)
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start, status = 0, 200
        if self.ranges and requested and handler.headers.get("If-Range", self.etag) == self.etag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
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
    for name in ("NO_PROXY", "no_proxy"):  # a proxy from the environment could not reach the local server
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(training.download, "BACKOFF_SECONDS", 0.0)
    served = Site(pack(files))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.respond(self)

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
    """The files in the cache, without the lock."""
    return {path.name for path in cache.iterdir()} - {"ESC-50.lock"}


@pytest.mark.parametrize("lengths", [True, False])
def test_fetched_once(lengths: bool, site: Site, data: Path, tmp_path: Path) -> None:
    """Every clip and the table are identical; other files are not unpacked; the second call sends no request.

    With and without Content-Length: GitHub sends none.
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
def test_interrupted_download_is_resumed(ranges: bool, etag: str, site: Site, tmp_path: Path) -> None:
    """Each attempt requests the missing bytes; a server without Range support sends everything again."""
    site.ranges, site.etag, site.cuts = ranges, etag, [1_000, 2_000]
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert site.requested_ranges == ["", "bytes=1000-", "bytes=3000-" if ranges else "bytes=2000-"]


def test_next_call_resumes_the_download(site: Site, tmp_path: Path) -> None:
    """Bytes received before the failure are kept, but are used for the same URL only."""
    site.cuts, site.available_requests = [1_000], 1
    with pytest.raises(DatasetError, match=r"HTTP 503 .*; the 1,000 bytes received so far are kept"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert cached_files(tmp_path) == {"ESC-50.zip.partial", "ESC-50.zip.source"}

    site.available_requests, site.requested_ranges = 1_000, []
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, elsewhere)
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    check(fetch_esc50(elsewhere, url=site.url + "?other", check=check))
    assert site.requested_ranges == ["bytes=1000-", ""]


@pytest.mark.parametrize(("beyond", "etag", "requests"), [(0, '"one"', 1), (1, '"one"', 2), (-1_000, '"zero"', 1)])
def test_partial_of_another_archive(beyond: int, etag: str, requests: int, site: Site, tmp_path: Path) -> None:
    """The partial file is complete; it is too long; the archive on the server has changed."""
    size = len(site.body) + beyond
    (tmp_path / "ESC-50.zip.partial").write_bytes(b"x" * size if beyond else site.body)
    (tmp_path / "ESC-50.zip.source").write_text(f"{site.url}\n{etag}\n")
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert site.requested_ranges == [f"bytes={size}-", ""][:requests]


def test_connection_always_closed_at_the_same_byte(site: Site, tmp_path: Path) -> None:
    """The download fails eventually, although every attempt receives some bytes."""
    site.ranges = False
    site.cuts = [1_000] * 100
    with pytest.raises(DatasetError, match=r"cannot be fetched: .* are kept"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert len(site.requested_ranges) == 1 + training.download.MAX_ATTEMPTS


def test_retryable_and_final_statuses(site: Site, tmp_path: Path) -> None:
    """503, 502 and 429 are retried; 404 is final, and the message contains the URL."""
    site.statuses = [503, 429, 404]
    with pytest.raises(DatasetError, match=rf"{re.escape(site.url)} cannot be fetched: HTTP 404 Not Found"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert (len(site.requested_ranges), cached_files(tmp_path)) == (3, set())
    site.statuses = [503, 502]
    check(fetch_esc50(tmp_path, url=site.url, check=check))


def test_unreachable_server(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connection refused, or an unsupported URL."""
    monkeypatch.setattr(training.download, "MAX_ATTEMPTS", 2)
    with pytest.raises(DatasetError, match=r"cannot be fetched: .*refused"):
        fetch_esc50(tmp_path, url="http://127.0.0.1:1/master.zip", check=check)
    with pytest.raises(DatasetError, match=r"cannot be fetched: .*protocol"):
        fetch_esc50(tmp_path, url="ftp://127.0.0.1/master.zip", check=check)
    assert cached_files(tmp_path) == set()


def test_wrong_table(site: Site, tmp_path: Path) -> None:
    """A complete and readable data set that is not ESC-50 is not cached as ESC-50."""
    with pytest.raises(DatasetError, match="not the official table"):
        fetch_esc50(tmp_path, url=site.url)
    assert cached_files(tmp_path) == set()


UNUSABLE: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "above": (lambda files: pack({**files, "../evil.wav": b"evil"}), "path outside its folder"),
    "up and out": (lambda files: pack({**files, f"{TOP}/audio/../../../evil.wav": b"evil"}), "path outside its folder"),
    "absolute": (lambda files: pack({**files, "/tmp/evil.wav": b"evil"}), "path outside its folder"),
    "backslashes": (lambda files: pack({**files, f"{TOP}/audio\\..\\evil.wav": b"evil"}), "path outside its folder"),
    "two upper folders": (lambda files: pack({**files, "Other/README.md": b"other"}), r"README\.md twice"),
    "a clip less": (lambda files: pack({k: v for k, v in files.items() if "1-00-A-0" not in k}), "1 of 36 clips are"),
    "cut off": (lambda files: pack(files)[:-1_000], "truncated or damaged"),
    "one byte changed": (lambda files: flipped(pack(files)), "truncated or damaged"),
    "a login page": (lambda _: b"<html>Welcome</html>", "not a zip archive"),
    "empty": (lambda _: b"", "not a zip archive"),
}


def flipped(archive: bytes) -> bytes:
    middle = len(archive) // 2
    return archive[:middle] + bytes([archive[middle] ^ 0xFF]) + archive[middle + 1 :]


@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("which", UNUSABLE)
def test_unusable_archive(which: str, lengths: bool, site: Site, files: dict[str, bytes], tmp_path: Path) -> None:
    """The archive is rejected as a whole; nothing remains in the cache or outside of it."""
    make, message = UNUSABLE[which]
    site.body, site.lengths = make(files), lengths
    with pytest.raises(DatasetError, match=message):
        fetch_esc50(tmp_path / "cache", url=site.url, check=check)
    assert cached_files(tmp_path / "cache") == set()
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_ARCHIVE_BYTES", "sends more than 20 bytes"), ("MAX_UNPACKED_BYTES", "limit is 20"), ("MAX_FILES", "is 20")],
)
def test_too_large(limit: str, message: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes received, too many bytes unpacked, too many files."""
    monkeypatch.setattr(training.data.download, limit, 20)
    with pytest.raises(DatasetError, match=message):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert cached_files(tmp_path) == set()


def test_pinned_archive(site: Site, tmp_path: Path) -> None:
    """By its SHA-256, in lower or upper case."""
    digest = hashlib.sha256(site.body).hexdigest()
    with pytest.raises(DatasetError, match=f"its SHA-256 is {digest}, not {'0' * 64}"):
        fetch_esc50(tmp_path, url=site.url, sha256="0" * 64, check=check)
    assert cached_files(tmp_path) == set()
    check(fetch_esc50(tmp_path, url=site.url, sha256=digest.upper(), check=check))


def test_disk_full(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While unpacking: the partial folder is removed, but the archive is kept and not downloaded again."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(training.data.download.shutil, "copyfileobj", full)
        with pytest.raises(DatasetError, match=r"cannot be stored in .*No space left"):
            fetch_esc50(tmp_path, url=site.url, check=check)
    assert cached_files(tmp_path) == {"ESC-50.zip", "ESC-50.zip.source"}
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert site.requested_ranges == [""]
    assert cached_files(tmp_path) == {"ESC-50"}


def test_incomplete_folder(site: Site, tmp_path: Path) -> None:
    """A clip was removed from outside: an error is raised, and nothing is overwritten."""
    folder = fetch_esc50(tmp_path, url=site.url, check=check)
    next((folder / "audio").iterdir()).unlink()
    with pytest.raises(DatasetError, match=f"1 of 36 clips are missing.*; remove {folder} to fetch it again"):
        fetch_esc50(tmp_path, url=site.url, check=check)
    assert site.requested_ranges == [""]


def test_concurrent_download(site: Site, tmp_path: Path) -> None:
    """The second download fails and does not touch the files of the first."""
    (tmp_path / "ESC-50.partial").mkdir()
    with (tmp_path / "ESC-50.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another process is downloading"):
            fetch_esc50(tmp_path, url=site.url, check=check)
    assert (tmp_path / "ESC-50.partial").is_dir()
    check(fetch_esc50(tmp_path, url=site.url, check=check))
    assert cached_files(tmp_path) == {"ESC-50"}


def test_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG Base Directory Specification: a relative path is ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/otoscope")
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert default_cache() == Path.home() / ".cache" / "otoscope"


@pytest.mark.usefixtures("real_sounds")
def test_official_table_passes(tmp_path: Path) -> None:
    """The real data set is accepted; it is rejected if a clip is empty."""
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
