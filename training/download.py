"""Downloads one file over HTTP: interrupted downloads are resumed, failed attempts repeated, checksums compared."""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
from tqdm import tqdm

from training.errors import DownloadError, cause
from training.progress import progress_bar

MAX_ATTEMPTS = 5  # consecutive attempts without any new bytes
BACKOFF_SECONDS = 1.0  # seconds before the first retry; doubled after each

_TIMEOUT = httpx2.Timeout(60.0, connect=20.0)  # seconds per read, not for the whole transfer


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/otoscope` or `~/.cache/otoscope` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "otoscope"


class _RetryableError(Exception):
    """This attempt failed; a later one may succeed."""


@dataclass(frozen=True)
class Download:
    """A file in a folder, named `.partial` until it is complete, with a `.source` file that stores its URL and ETag."""

    path: Path
    url: str
    max_bytes: int  # a server that sends more sends something else

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    @property
    def _source(self) -> Path:
        return self.path.with_name(self.path.name + ".source")

    @property
    def complete(self) -> bool:
        """Whether an earlier call downloaded the whole file."""
        return self.path.is_file() and self._read_source()[0] == self.url

    @property
    def received(self) -> int:
        """Bytes from which the download can resume; 0 if the partial file came from another URL."""
        return self.partial.stat().st_size if self.partial.is_file() and self._read_source()[0] == self.url else 0

    @property
    def etag(self) -> str:
        """Strong ETag of the partial file; empty if the server sent none or a weak one (RFC 9110, section 13.1.5)."""
        return self._read_source()[1]

    def restart(self, etag: str) -> None:
        """Discard everything and start a new download."""
        self.delete()
        self._source.write_text(f"{self.url}\n{'' if etag.startswith('W/') else etag}\n", encoding="utf-8")

    def delete(self) -> None:
        for path in (self.path, self.partial, self._source):
            path.unlink(missing_ok=True)

    def _read_source(self) -> tuple[str, str]:
        if not self._source.is_file():
            return "", ""
        lines = self._source.read_text(encoding="utf-8", errors="replace").splitlines()
        return (lines[0], lines[1]) if len(lines) == 2 else ("", "")

    def fetch(self) -> None:
        """Download the file unless it is complete; retry as long as attempts make progress.

        Raises DownloadError, and OSError if it cannot be stored.
        """
        if self.complete:
            return
        furthest, failures = self.received, 0
        try:
            client = httpx2.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
        except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:  # invalid proxy settings
            raise DownloadError(f"{self.url} cannot be fetched: {cause(error)}") from error
        with client, progress_bar(desc=self.path.stem, unit="B", unit_scale=True, unit_divisor=1024) as bar:
            while True:
                try:
                    self._request_missing(client, bar)
                    break
                except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
                    raise DownloadError(f"{self.url} cannot be fetched: {error}") from error
                except (httpx2.TransportError, _RetryableError) as error:
                    # Progress is measured against the furthest position so far: a server that always cuts the
                    # connection at the same byte counts as a failure.
                    failures = 0 if self.received > furthest else failures + 1
                    furthest = max(furthest, self.received)
                    reason = str(error) or type(error).__name__
                    if failures >= MAX_ATTEMPTS:
                        kept = (
                            f"; the {self.received:,} bytes received so far are kept for the next attempt"
                            if self.received
                            else ""
                        )
                        raise DownloadError(f"{self.url} cannot be fetched: {reason}{kept}") from error
                    bar.set_postfix_str(reason)
                    time.sleep(BACKOFF_SECONDS * 2 ** max(failures - 1, 0))
        os.replace(self.partial, self.path)

    def _request_missing(self, client: httpx2.Client, bar: tqdm) -> None:
        """Request the missing bytes (RFC 9110, section 14)."""
        received = self.received
        headers = {"Range": f"bytes={received}-"} if received else {}
        if received and self.etag:
            headers["If-Range"] = self.etag  # the server sends the whole file if it has changed
        with client.stream("GET", self.url, headers=headers) as response:
            status, content_range = response.status_code, response.headers.get("Content-Range", "")
            if status == 416 and content_range == f"bytes */{received}":
                return  # the file was complete; only the end of the response was missing
            if status == 416 or (status == 206 and not content_range.startswith(f"bytes {received}-")):
                self.delete()
                raise _RetryableError(
                    f"{received:,} bytes are here, but the server continues with {content_range or 'no Content-Range'}"
                )
            if status == 429 or status >= 500:
                raise _RetryableError(f"HTTP {status} {response.reason_phrase}".strip())
            if status not in (200, 206):
                raise DownloadError(f"{self.url} cannot be fetched: HTTP {status} {response.reason_phrase}".strip())
            if status == 200:
                received = 0
                self.restart(response.headers.get("ETag", ""))
            length = response.headers.get("Content-Length")
            bar.total = received + int(length) if length else None  # GitHub sends no Content-Length
            bar.n = received
            bar.set_postfix_str("")
            with self.partial.open("ab") as file:
                for chunk in response.iter_raw():
                    received += len(chunk)
                    if received > self.max_bytes:
                        self.delete()
                        raise DownloadError(
                            f"{self.url} sends more than {self.max_bytes:,} bytes: this is not {self.path.stem}"
                        )
                    file.write(chunk)
                    bar.update(len(chunk))

    def verify(self, sha256: str | None) -> None:
        """Compare the file with a SHA-256; None matches every file. Raises DownloadError."""
        if sha256 is None:
            return
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise DownloadError(f"its SHA-256 is {found}, not {sha256.lower()}")
