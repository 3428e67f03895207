"""The page, its files and the API explorer: headers, policies, caching, compression, path traversal."""

import json
import re
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from api.static_files import EXPLORER_POLICY, POLICY, STATIC

PAGES = ("/", "/docs")
MARKER = "create_app"  # occurs in api/main.py, next to the directory of the page


def files(suffix: str = "") -> list[str]:
    """Paths of the page's files."""
    return [f"/static/{path.relative_to(STATIC)}" for path in sorted(STATIC.rglob(f"*{suffix}")) if path.is_file()]


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_html(http: httpx2.Client, path: str) -> None:
    """Both, in UTF-8."""
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>" in answer.text
    assert http.head(path).status_code == 200
    assert http.post(path).json()["code"] == "method_not_allowed"


def test_linked_files_exist(http: httpx2.Client) -> None:
    """Scripts, styles and icons are served by this gateway, and none is missing."""
    for path in PAGES:
        for link in re.findall(r'<(?:script|link|img)\b[^>]*?\b(?:src|href)="([^"]+)"', http.get(path).text):
            assert not urlsplit(link).netloc, f"{path} loads {link} from another host"
            assert http.get(httpx2.URL(http.base_url).join(path).join(link)).status_code == 200, f"{path} links {link}"


def test_pages_have_no_inline_script_or_style(http: httpx2.Client) -> None:
    """The policy blocks them."""
    for path in PAGES:
        text = http.get(path).text
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=", text), path


def test_trusted_types_are_required() -> None:
    """The browser refuses to parse any string as HTML."""
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in POLICY


@pytest.mark.parametrize("policy", [POLICY, EXPLORER_POLICY])
def test_the_policy_is_strict(policy: str) -> None:
    """Nothing inline, no eval, no other host, no frame."""
    assert not re.search(r"unsafe|http|\*", policy)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "frame-ancestors 'none'" in policy


def test_every_file_has_the_headers(http: httpx2.Client) -> None:
    """Policy, nosniff and no referrer, with 200 and with 304."""
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


def test_a_missing_file_is_a_problem_document(http: httpx2.Client) -> None:
    """A missing file, the directory itself, another method; all with nosniff."""
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
def test_no_path_leaves_the_directory(http: httpx2.Client, path: str) -> None:
    """Dots, slashes, backslashes and zero bytes, encoded once or twice, sent without normalisation."""
    assert MARKER in (STATIC.parent / "main.py").read_text()
    status, body = raw(http, path)
    assert status == 404
    assert MARKER not in body
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


def test_there_are_no_symbolic_links() -> None:
    """Every served file is a regular file of the directory."""
    assert not [path for path in STATIC.rglob("*") if path.is_symlink()]


def test_text_is_compressed_on_request(http: httpx2.Client) -> None:
    """Pages, scripts, styles and tables; plain for other clients, and `Vary` for caches."""
    for path in ("/", "/static/colormaps.json", "/static/swagger-ui.css"):
        packed = http.get(path, headers={"Accept-Encoding": "gzip"})
        plain = http.get(path, headers={"Accept-Encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.content == plain.content
        assert packed.num_bytes_downloaded < plain.num_bytes_downloaded
        assert "Accept-Encoding" in packed.headers["vary"]
        assert packed.headers["etag"].startswith('W/"')  # a strong tag would mean identical bytes


def test_scripts_have_their_media_type(http: httpx2.Client) -> None:
    """With nosniff a browser runs no module of another type, whatever the system's MIME table says of `.js`."""
    for path in (*files(".js"), "/static/swagger-ui-bundle.js"):
        assert http.get(path).headers["content-type"].startswith("text/javascript"), path
    for path in files(".css"):
        assert http.get(path).headers["content-type"].startswith("text/css"), path


def test_nothing_is_loaded_from_other_hosts() -> None:
    """No script, style or import names another host: the page works without internet access."""
    for path in map(Path, STATIC.rglob("*")):
        if path.suffix in (".html", ".js", ".css"):
            loads = re.findall(r"""(?:import|from|src=|href=|url\(|fetch\()\s*\(?["']?(?:https?:)?//[^"'\s)]+""",
                               path.read_text())  # fmt: skip
            assert not loads, path


def test_colormap_tables_are_complete(http: httpx2.Client) -> None:
    """Four colormaps of 256 colours in hexadecimal digits."""
    tables = json.loads(http.get("/static/colormaps.json").text)
    assert list(tables) == ["magma", "viridis", "cividis", "grey"]
    assert all(re.fullmatch("[0-9a-f]{1536}", table) for table in tables.values())


def test_a_second_visit_requests_the_html_only(http: httpx2.Client) -> None:
    """Files below the version of the page are kept for a year; those of another version are asked for again."""
    text = http.get("/").text
    links = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
    version = links[0].split("/")[2]
    assert len(links) > 5
    assert all(link.startswith(f"/static/{version}/") for link in links)
    for link in links:
        assert http.get(link).headers["cache-control"] == "public, max-age=31536000, immutable"
    for other in (links[0].replace(version, "v-0123456789abcdef"), links[0].replace(f"{version}/", "")):
        answer = http.get(other)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
    assert http.get(f"/static/{version}/js/none.js").status_code == 404
    assert http.get(f"/static/{version}/{version}/js/main.js").status_code == 404


def test_scripts_name_no_path_of_the_server() -> None:
    """They load others relative to themselves, so that all are of one version."""
    for path in sorted((STATIC / "js").rglob("*.js")):
        assert "/static/" not in path.read_text(), path
