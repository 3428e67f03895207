"""A small Hugging Face Hub on this machine: the endpoints that `huggingface_hub` needs to push and to pull a model."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by name, each a commit of files; `large` are the files that arrive through Git LFS."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.uploaded_large: list[str] = []
        self.messages: list[str] = []
        self.tokens: set[str] = set()

    def commit(self, repository: str) -> str:
        """The id of the commit."""
        files = self.repositories[repository]
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            path = unquote(urlsplit(self.path).path)
            hub.tokens.add(self.headers.get("Authorization", ""))
            if self.headers.get("Authorization") != "Bearer secret":
                return self._json({"error": "Invalid username or password."}, 401)
            if path == "/api/validate-yaml":
                assert json.loads(body)["content"].startswith("---\n")
                return self._json({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
                if name in hub.repositories:
                    return self._json({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
                hub.repositories[name], hub.private[name] = {}, asked.get("visibility") == "private"
                return self._json({"url": f"{hub.url}/{name}"})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                return self._json({"transfer": "basic", "objects": objects})
            repository, _, action = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
            if action == "preupload":
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".npy")) else "regular",
                        "shouldIgnore": False,
                    }
                    for one in json.loads(body)["files"]
                ]
                return self._json({"files": files})
            if action == "commit":
                for line in map(json.loads, body.decode().splitlines()):
                    value = line["value"]
                    if line["key"] == "header":
                        hub.messages.append(value["summary"])
                    elif line["key"] == "file":
                        hub.repositories[repository][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.uploaded_large.append(value["path"])
                        hub.repositories[repository][value["path"]] = hub.large[value["oid"]]
                made = hub.commit(repository)
                address = f"{hub.url}/{repository}/commit/{made}"
                return self._json({"success": True, "commitOid": made, "commitUrl": address, "hookOutput": ""})
            return self._json({"error": f"no {path}"}, 404)

        def do_PUT(self) -> None:
            body = self._body()
            name = self.path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == name
            hub.large[name] = body
            self._json({})

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if "/resolve/" in path:
                repository, _, rest = path.removeprefix("/").partition("/resolve/")
                name = rest.partition("/")[2]
                content = hub.repositories.get(repository, {}).get(name)
                if content is None:
                    return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                tag = hashlib.sha256(content).hexdigest()
                return self._send(content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit(repository)})
            repository = path.removeprefix("/api/models/").partition("/revision/")[0]
            repository, _, tree = repository.partition("/tree/")
            if repository not in hub.repositories:
                return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            files = hub.repositories[repository]
            if tree:
                return self._json(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in files.items()
                    ]
                )
            siblings = [{"rfilename": name} for name in files]
            return self._json(
                {"id": repository, "modelId": repository, "sha": hub.commit(repository), "siblings": siblings,
                 "private": hub.private[repository], "tags": [], "downloads": 0, "likes": 0}
            )  # fmt: skip

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts: list[bytes] = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

        def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
