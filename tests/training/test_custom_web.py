"""Importing links from a local server, with the real yt-dlp and gdown."""

import hashlib
import io
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.audio.probe import probe
from tests.support.recordings import wav_bytes
from tests.support.sounds import chirp, encode
from training.data.custom import web
from training.data.custom.drive import import_drive, is_drive_folder
from training.data.custom.importers import import_csv
from training.data.custom.manifest import read_manifest
from training.errors import DatasetError

DRIVE = "https://drive.google.com"
FOLDER = f"{DRIVE}/drive/folders/{'T' * 33}?usp=sharing"


class Site:
    """The pages of the server, and the requests it received."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, bytes]] = {}  # path with query -> content type and body
        self.headers: dict[str, str] = {}  # sent with every response
        self.cut: dict[str, int] = {}  # bytes of the body after which the connection is closed
        self.requested: list[str] = []
        self.url = ""

    def put(self, path: str, body: bytes, kind: str = "audio/wav") -> str:
        self.pages[path] = kind, body
        return self.url + path

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.requested.append(handler.path)
        if handler.path not in self.pages:
            handler.send_error(404)
            return
        kind, body = self.pages[handler.path]
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[: self.cut.get(handler.path)])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("NO_PROXY", "no_proxy"):  # a proxy from the environment could not reach the local server
        monkeypatch.setenv(name, "127.0.0.1")
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.respond(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        yield served
        server.shutdown()
        thread.join()


def write_list(folder: Path, *rows: tuple[str, str], name: str = "links.txt") -> Path:
    path = folder / name
    path.write_text("".join(f'"{link}",{label}\n' for link, label in rows))
    return path


def webm(seconds: float = 0.5) -> bytes:
    """Opus in WebM, as video sites send it."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        stream: Any = container.add_stream("libopus", rate=48_000, layout="mono")
        samples = np.ascontiguousarray(chirp(seconds, 48_000).T)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=48_000)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_links_to_files(site: Site, tmp_path: Path) -> None:
    """Each link is downloaded once, unchanged, into its class; its source is the link; failures do not abort the
    import."""
    dog, rain = wav_bytes(), wav_bytes()
    first, second = site.put("/a/dog%20one.wav", dog), site.put("/rain.ogg?take=2", rain)
    page = site.put("/login.wav", b"<html>Sign in</html>", "text/html")
    torn = site.put("/torn.wav", wav_bytes())
    site.cut["/torn.wav"] = 1_000
    rows = [(f"{site.url}/gone.wav", "dog"), (first, "dog"), (page, "dog"), (torn, "dog"), (second, "rain"),
            ("http://127.0.0.1:1/x.wav", "rain"), ("http://[/x.wav", "rain")]  # fmt: skip
    result = import_csv(write_list(tmp_path, *rows), tmp_path / "sounds")
    items = {item.label: item for item in read_manifest(tmp_path / "sounds")}
    assert result.added == len(items) == 2
    assert (tmp_path / "sounds" / items["dog"].file).read_bytes() == dog
    assert items["dog"].file.startswith("audio/dog/dog one-")
    assert items["rain"].file.endswith(".ogg")
    assert (items["rain"].source, items["rain"].origin) == (second, second)
    assert items["rain"].sha256 == hashlib.sha256(rain).hexdigest()
    assert [why.split(": ", 2)[-1][:12] for why in result.skipped[:1]] == ["HTTP 404 Not"]
    assert "links.txt, line 1: " in result.skipped[0]
    assert len(result.skipped) == 5

    site.requested.clear()
    again = import_csv(write_list(tmp_path, *rows[1:2], *rows[4:5]), tmp_path / "sounds")
    assert (again.added, again.unchanged, site.requested) == (0, 2, [])


def test_source_column_and_conflicts(site: Site, tmp_path: Path) -> None:
    """A source column takes precedence over the link; one sound under two labels is listed, and keeps the first."""
    link = site.put("/a.wav", wav_bytes())
    other = site.put("/b.wav", site.pages["/a.wav"][1])
    (tmp_path / "list.csv").write_text(f"url,label,source\n{link},dog,Rex\n")
    import_csv(tmp_path / "list.csv", tmp_path / "sounds")
    assert read_manifest(tmp_path / "sounds")[0].source == "Rex"
    for rows in ([(link, "cat")], [(other, "cat")]):
        (conflict,) = import_csv(write_list(tmp_path, *rows), tmp_path / "sounds").conflicts
        assert re.search(r" as 'cat', .*a\.wav as 'dog', which it stays", conflict)
        assert [item.label for item in read_manifest(tmp_path / "sounds")] == ["dog"]


def test_group_pattern_on_links(site: Site, tmp_path: Path) -> None:
    """`--group` applies to the file name of a link; the source column takes precedence; links that do not match are
    skipped."""
    one, two = site.put("/a/anna%20b-1.wav?x=1", wav_bytes()), site.put("/b/anna%20b-2.wav", wav_bytes())
    given, unmatched = site.put("/unmatched.wav", wav_bytes()), site.put("/c/unmatched.wav", wav_bytes())
    rows = [f"{one},dog,", f"{two},dog,", f"{given},dog,Rex", f"{unmatched},dog,", "http://[/anna-1.wav,dog,"]
    (tmp_path / "list.csv").write_text("\n".join(["url,label,source", *rows]))
    result = import_csv(tmp_path / "list.csv", tmp_path / "sounds", group="^([a-z ]+)-")
    assert [item.source for item in read_manifest(tmp_path / "sounds")] == ["anna b", "anna b", "Rex"]
    assert [why.split(": ", 1)[0] for why in result.skipped] == ["list.csv, line 5", "list.csv, line 6"]
    assert "--group does not match" in result.skipped[0]


def test_interrupted(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads before Ctrl-C are kept and not downloaded again."""
    rows = [(site.put(f"/{at}.wav", wav_bytes()), "dog") for at in range(3)]
    fetch, calls = web._download_file, []

    def interrupt(client: Any, link: str) -> tuple[str, bytes]:
        calls.append(link)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fetch(client, link)

    with monkeypatch.context() as patch:
        patch.setattr(web, "_download_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            import_csv(write_list(tmp_path, *rows), tmp_path / "sounds")
    result = import_csv(write_list(tmp_path, *rows), tmp_path / "sounds")
    assert (result.added, result.unchanged) == (2, 1)
    assert site.requested == ["/0.wav", "/1.wav", "/2.wav"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/long.wav", "/long"])
def test_too_large(path: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For files and pages."""
    monkeypatch.setattr(web, "MAX_FILE_BYTES", 2_000)
    link = site.put(path, wav_bytes(1.0))
    with pytest.raises(DatasetError, match=r"no usable sound; first: .*larger than 2,000 bytes"):
        import_csv(write_list(tmp_path, (link, "dog")), tmp_path / "sounds")


@pytest.mark.slow
def test_through_yt_dlp(site: Site, tmp_path: Path) -> None:
    """A link without audio extension: recognised by its content type; a page without audio is skipped and reported."""
    data = encode(chirp(0.5, 16_000), 16_000, "MP3", "MPEG_LAYER_III")
    link = site.put("/listen?id=7", data, "audio/mpeg")
    page = site.put("/article", b"<html><title>News</title></html>", "text/html")
    rows = [(page, "dog"), (f"{site.url}/nothing", "dog"), (link, "dog")]
    result = import_csv(write_list(tmp_path, *rows), tmp_path / "sounds")
    (item,) = read_manifest(tmp_path / "sounds")
    assert (tmp_path / "sounds" / item.file).read_bytes() == data
    assert (item.label, item.source, item.origin) == ("dog", link, link)
    assert "Unsupported URL" in result.skipped[0]
    assert "404" in result.skipped[1]
    site.requested.clear()
    assert import_csv(write_list(tmp_path, rows[2]), tmp_path / "sounds").unchanged == 1
    assert site.requested == []


@pytest.mark.slow
def test_page_with_audio(site: Site, tmp_path: Path) -> None:
    """Opus in WebM is kept as it is. Pages have similar names: each one is its own source."""
    site.put("/clip.webm", webm(), "video/webm")
    page = b'<html><title>Frogs</title><video src="/clip.webm" type="video/webm"></video></html>'
    link = site.put("/watch?v=1", page, "text/html")
    import_csv(write_list(tmp_path, (link, "frog")), tmp_path / "sounds", group="^([a-z]+)")
    (item,) = read_manifest(tmp_path / "sounds")
    header = probe((tmp_path / "sounds" / item.file).read_bytes())
    assert (header.container, header.codec, header.rate) == ("WebM", "Opus", 48_000)
    assert item.file.endswith(".webm")
    assert item.source == link


@pytest.mark.slow
def test_page_with_damaged_audio(site: Site, tmp_path: Path) -> None:
    """It is skipped, with the reason."""
    broken = site.put("/broken", webm()[:100], "video/webm")
    with pytest.raises(DatasetError, match=r"Matroska"):
        import_csv(write_list(tmp_path, (broken, "frog")), tmp_path / "sounds")


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reported before any download, and only if the package is needed."""
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DatasetError, match=r"pip install -e '.\[links\]'"):
        import_csv(write_list(tmp_path, ("https://example.org/watch", "dog")), tmp_path / "sounds")
    with pytest.raises(DatasetError, match=r"pip install -e '.\[links\]'"):
        import_drive(FOLDER, tmp_path / "sounds")


def test_drive_folder_links() -> None:
    assert is_drive_folder(FOLDER)
    assert is_drive_folder(f"{DRIVE}/drive/u/0/folders/abc-_1")
    assert not is_drive_folder(f"{DRIVE}/file/d/abc/view")
    assert not is_drive_folder("folders/abc")


@pytest.fixture
def drive(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The real gdown, with its requests to Google Drive redirected to the local server."""
    import requests

    real = requests.Session.request

    def here(session: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        assert url.startswith((DRIVE, site.url))
        return real(session, method, url.replace(DRIVE, site.url), **options)

    monkeypatch.setattr(requests.Session, "request", here)
    site.headers["Content-Disposition"] = 'attachment; filename="whatever"'
    return site


def identity(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:33]


def put_folder(site: Site, name: str, tree: dict[str, Any], key: str = "T" * 33) -> None:
    """The page of an embedded Google Drive folder, and everything below it."""
    entries = []
    for child, content in tree.items():
        inner = identity(f"{name}/{child}")
        if isinstance(content, dict):
            put_folder(site, f"{name}/{child}", content, inner)
            href = f"{DRIVE}/drive/folders/{inner}"
        else:
            href = f"{DRIVE}/file/d/{inner}/view?usp=drive_web"
            if content:
                site.put(f"/uc?id={inner}", content)
        entries.append(f'<div class="flip-entry"><a href="{href}"><div>{child}</div></a></div>')
    page = f"<html><head><title>{Path(name).name}</title></head><body>{''.join(entries)}</body></html>"
    site.put(f"/embeddedfolderview?id={key}", page.encode(), "text/html; charset=utf-8")


def test_drive_folder(drive: Site, tmp_path: Path) -> None:
    """Sub-folders at any depth are classes; failures are skipped; the next import downloads missing files only."""
    tree: dict[str, Any] = {
        "собака": {"rex 1.wav": wav_bytes(), "deep": {"rex-2.wav": wav_bytes()}, "lost.wav": b"", "notes.txt": b"no"},
        "rain": {"roof-1.wav": wav_bytes(), "roof-2.wav": b"<html>"},
        "loose.wav": wav_bytes(),
    }
    put_folder(drive, "mine", tree)
    result = import_drive(FOLDER, tmp_path / "sounds")
    items = read_manifest(tmp_path / "sounds")
    assert {(item.label, Path(item.file).name.rsplit("-", 1)[0]) for item in items} == {
        ("собака", "rex 1"), ("собака", "rex-2"), ("rain", "roof-1"),
    }  # fmt: skip
    assert all(item.source == item.origin == f"{DRIVE}/uc?id={item.origin[-33:]}" for item in items)
    assert result.added == 3
    given = " ".join(result.skipped)
    for reason in (
        "lost.wav: ",
        "notes.txt: the file name has no audio extension",
        "loose.wav: is not in a",
        "not like a sound file",
    ):
        assert reason in given

    drive.requested.clear()
    tree["rain"] = {"roof-1.wav": tree["rain"]["roof-1.wav"], "roof-2.wav": wav_bytes()}
    put_folder(drive, "mine", tree)
    again = import_drive(FOLDER, tmp_path / "sounds", group=r"^(\w+)")
    assert (again.added, again.unchanged) == (1, 3)
    assert len([path for path in drive.requested if path.startswith("/uc") and path in drive.pages]) == 1
    assert {item.source for item in read_manifest(tmp_path / "sounds")} == {"rex", "roof"}


def test_drive_folder_that_is_not_public(drive: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"cannot be listed: .*status code 404.*Anyone with the link"):
        import_drive(FOLDER, tmp_path / "sounds")
    monkeypatch.setattr("training.data.custom.drive.MAX_FILE_BYTES", 100)
    put_folder(drive, "mine", {"dog": {"a.wav": wav_bytes()}})
    with pytest.raises(DatasetError, match="larger than 100 bytes"):
        import_drive(FOLDER, tmp_path / "sounds")
