"""The page, its files and the API's explorer: how they are served, and what their headers keep out."""

import json
import re
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from api.static_files import EXPLORER_POLICY, POLICY, STATIC

PAGES = ("/", "/docs")
SOUGHT = "create_app"  # stands in api/main.py, next to the directory of the page


def files(suffix: str = "") -> list[str]:
    """Addresses of the page's files."""
    return [f"/static/{path.relative_to(STATIC)}" for path in sorted(STATIC.rglob(f"*{suffix}")) if path.is_file()]


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_html(http: httpx2.Client, path: str) -> None:
    """Both are there, in UTF-8, on the first request."""
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>" in answer.text
    assert http.head(path).status_code == 200
    assert http.post(path).json()["code"] == "method_not_allowed"


def test_everything_that_pages_name_is_there(http: httpx2.Client) -> None:
    """Scripts, styles and icons come from this gateway, and none is missing."""
    for path in PAGES:
        for link in re.findall(r'<(?:script|link|img)\b[^>]*?\b(?:src|href)="([^"]+)"', http.get(path).text):
            assert not urlsplit(link).netloc, f"{path} loads {link} from elsewhere"
            assert http.get(httpx2.URL(http.base_url).join(path).join(link)).status_code == 200, f"{path} names {link}"


def test_pages_have_no_script_or_style_of_their_own(http: httpx2.Client) -> None:
    """The policy would not run them; a page that has some is broken."""
    for path in PAGES:
        text = http.get(path).text
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=", text), path


def test_text_never_becomes_html_on_the_page() -> None:
    """Whatever a script does by mistake: the browser refuses to parse strings."""
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in POLICY


@pytest.mark.parametrize("policy", [POLICY, EXPLORER_POLICY])
def test_the_policy_lets_nothing_in(policy: str) -> None:
    """Nothing inline, nothing evaluated, nothing from elsewhere, nobody's frame."""
    assert not re.search(r"unsafe|http|\*", policy)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "frame-ancestors 'none'" in policy


def test_every_file_carries_the_headers(http: httpx2.Client) -> None:
    """Policy, nosniff and no referrer, on what is there, and also where the answer is that nothing has changed."""
    for path in (*PAGES, *files()):
        first = http.get(path)
        again = http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code) == (200, 304), path
        assert again.content == b""
        assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
        for answer in (first, again):
            assert answer.headers["content-security-policy"] == (EXPLORER_POLICY if path == "/docs" else POLICY)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"


def test_what_is_not_there_is_a_problem_document(http: httpx2.Client) -> None:
    """A file that does not exist, the directory itself, and another method; none may be guessed to be a script."""
    for method, path, code in (
        ("GET", "/static/none.js", "not_found"),
        ("GET", "/static/", "not_found"),
        ("GET", "/static/js", "not_found"),
        ("GET", f"/static/{'a' * 3_000}", "not_found"),
        ("POST", "/static/colormaps.json", "method_not_allowed"),
    ):
        answer = http.request(method, path)
        assert answer.json()["code"] == code, path
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../main.py",
        "/static/%2e%2e/main.py",
        "/static/..%2fmain.py",
        "/static/%2e%2e%2fmain.py",
        "/static/%252e%252e%252fmain.py",
        "/static/js/../../main.py",
        "/static/js/..%2f..%2fmain.py",
        "/static/....//main.py",
        "/static/..\\main.py",
        "/static/..%5cmain.py",
        f"/static/{STATIC.parent}/main.py",
        f"/static/%2f{STATIC.parent}/main.py",
        f"/static/file:{STATIC.parent}/main.py",
        "/static/../../../../../../../../etc/passwd",
        "/static/..%00/main.py",
        "/static/colormaps.json%00.py",
        "/../main.py",
        "/docs/../main.py",
    ],
)
def test_no_path_leads_out_of_the_directory(http: httpx2.Client, path: str) -> None:
    """Dots, slashes, backslashes and zero bytes, encoded once or twice, as a client that tidies nothing sends them."""
    assert SOUGHT in (STATIC.parent / "main.py").read_text()
    status, body = raw(http, path)
    assert status == 404
    assert SOUGHT not in body
    assert "root:" not in body


def raw(client: httpx2.Client, path: str) -> tuple[int, str]:
    """Status and body of a GET of exactly that path."""
    connection = HTTPConnection(client.base_url.host, client.base_url.port or 80, timeout=20)
    try:
        connection.putrequest("GET", path, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_links_out_of_the_directory_are_not_followed() -> None:
    """What is served lies there itself."""
    assert not [path for path in STATIC.rglob("*") if path.is_symlink()]


def test_text_is_compressed_on_request(http: httpx2.Client) -> None:
    """Pages, scripts, styles and tables; who cannot read that gets them plain, and caches keep both apart."""
    for path in ("/", "/static/colormaps.json", "/static/swagger-ui.css"):
        packed = http.get(path, headers={"Accept-Encoding": "gzip"})
        plain = http.get(path, headers={"Accept-Encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.content == plain.content
        assert packed.num_bytes_downloaded < plain.num_bytes_downloaded
        assert "Accept-Encoding" in packed.headers["vary"]
        assert packed.headers["etag"].startswith('W/"')  # a strong one would say that the bytes are the same


def test_scripts_are_named_scripts(http: httpx2.Client) -> None:
    """A browser that may not guess runs no module of another type, whatever this machine thinks of `.js`."""
    for path in (*files(".js"), "/static/swagger-ui-bundle.js"):
        assert http.get(path).headers["content-type"].startswith("text/javascript"), path
    for path in files(".css"):
        assert http.get(path).headers["content-type"].startswith("text/css"), path


def test_nothing_is_loaded_from_elsewhere() -> None:
    """No script, style or import of the page's own names another host: it works without internet."""
    for path in map(Path, STATIC.rglob("*")):
        if path.suffix in (".html", ".js", ".css"):
            loads = re.findall(r"""(?:import|from|src=|href=|url\(|fetch\()\s*\(?["']?(?:https?:)?//[^"'\s)]+""",
                               path.read_text())  # fmt: skip
            assert not loads, path


def test_colour_tables_are_whole(http: httpx2.Client) -> None:
    """Four maps of 256 colours, each as hexadecimal digits."""
    tables = json.loads(http.get("/static/colormaps.json").text)
    assert list(tables) == ["magma", "viridis", "cividis", "grey"]
    assert all(re.fullmatch("[0-9a-f]{1536}", table) for table in tables.values())
