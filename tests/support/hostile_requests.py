"""Hostile HTTP requests, as bytes so that they can be malformed.

The same seed and number always make the same request. Used by the tests and by `bench/fuzz.py`.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.support.corrupt_audio import Dice, damage, damaged, sources
from tests.support.http_requests import FILE, Address, Answer, multipart, request, send_request

ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**31, 2**63, 2**70, float("nan"), float("inf"), "", " ", "\0", "\ud800", "é" * 300,
    "maps", "maps,cam", "a" * 5_000, [], {}, ["maps", "maps"], [None], {"a": {}}, "../../etc", "tiny", "stem",
)  # fmt: skip
ODD_TEXTS = (
    "", "0", "-1", "1e999", "nan", "9" * 400, "%00", "%ff", "%ed%a0%80", "..%2f..", "a" * 3_000, "maps", "maps,,cam",
    "magma", "true", "%F0%9F%90%95", "+", ";", "&&=", "stem",
)  # fmt: skip
ODD_HEADERS = (
    "Accept: */*;q=nan", "Accept: application/msgpack", "Accept: application/x-npz", "Accept: " + "a/b," * 500,
    "Accept: text/html", "Accept: ;;,,", "Prefer: wait=0.001", "Prefer: wait=999999", "Prefer: wait=-1", "Prefer: wait",
    "Prefer: " + "respond-async," * 200, "Last-Event-ID: 0-0", "Last-Event-ID: 9999999999999999999-0",
    "Last-Event-ID: \xff", "Range: bytes=0-0", "Range: bytes=-1,5-2,9999999999999-", "If-None-Match: *",
    "Idempotency-Key: \xff\xfe", "Idempotency-Key: same", "Content-Encoding: gzip", "Accept-Encoding: gzip;q=nan",
    "Expect: 100-continue", "X-Forwarded-Host: evil.example", "Content-Type: multipart/form-data; boundary=\xff",
    "Content-Type: application/json; charset=utf-16", "Origin: null", "Cookie: " + "a=b;" * 500,
)  # fmt: skip
OPTIONS = ("model", "top_k", "include", "window", "layer", "wait", "cmap", "width", "spelling", "include_result", "x")
PATHS = (
    "/v1/jobs/{}", "/v1/jobs/{}", "/v1/jobs/{}/result", "/v1/jobs/{}/events", "/v1/jobs/{}/spectrogram.png",
    "/v1/jobs/{}/full_spectrogram.png", "/v1/jobs/{}/cam.png", "/v1/jobs/{}/audio", "/v1/jobs/{}/maps/stem.png",
    "/v1/models", "/v1/models/{}", "/v1/limits", "/health/live", "/health/ready", "/metrics", "/", "/docs",
    "/openapi.json", "/static/js/main.js", "/static/{}",
)  # fmt: skip


def outcome(address: Address, request: bytes, timeout: float = 20.0) -> tuple[str, bool, Answer]:
    """(status and code in words, whether that is acceptable, response)."""
    try:
        answer = send_request(address, request, timeout)
    except TimeoutError:
        # A head without an end has no response: the bytes that were removed may have been its last.
        return "no answer", b"\r\n\r\n" not in request.lstrip(), Answer(0, {}, b"")
    if not answer.status:
        return "closed without an answer", True, answer
    is_problem = answer.headers.get("content-type") == "application/problem+json" and answer.body
    code = json.loads(answer.body)["code"] if is_problem else ""
    return f"{answer.status} {code}".strip(), answer.status < 500 or answer.status in (501, 503), answer


def hostile_request(seed: int, number: int, jobs: Sequence[str]) -> tuple[str, bytes]:
    """(kind, request); `jobs` are ids of jobs to read."""
    dice = np.random.default_rng((seed, number))
    kind = ("sound", "sound", "sound", "options", "envelope", "read")[number % 6]
    if kind == "read":
        whole = _read(dice, jobs)
    else:
        files = sources()
        _, sound = damaged(seed, number) if kind == "sound" else files[number // 6 % len(files)]
        whole = _submission(dice, sound, odd=kind == "options")
    if kind == "envelope" or (kind == "read" and dice.integers(2)):
        whole = _corrupt_envelope(dice, whole)
    return kind, whole


def _pick(dice: Dice, among: Sequence[Any]) -> Any:
    return among[int(dice.integers(len(among)))]


def _submission(dice: Dice, sound: bytes, *, odd: bool) -> bytes:
    """In one of the forms that the gateway accepts, with valid or odd options."""
    form = int(dice.integers(4))
    headers = [f"Prefer: wait={10 * int(dice.integers(2))}"]
    options = {"include": "maps,spectrogram,cam", "top_k": 3} if dice.integers(2) else {}
    if odd:
        headers = [_pick(dice, ODD_HEADERS) for _ in range(dice.integers(3))]
        options = {_pick(dice, OPTIONS): _pick(dice, ODD_VALUES) for _ in range(dice.integers(4))}
    if form == 0:
        query = "&".join(f"{_pick(dice, OPTIONS)}={_pick(dice, ODD_TEXTS)}" for _ in options) if odd else ""
        return request("POST", f"/v1/jobs?{query}", ["Content-Type: audio/wav", *headers], sound)
    if form == 1:
        fields = [(f'Content-Disposition: form-data; name="{name}"', _text(value)) for name, value in options.items()]
        kind = "Content-Type: multipart/form-data; boundary=x"
        return request("POST", "/v1/jobs", [kind, *headers], multipart((FILE, sound), *fields))
    path = "/v1/jobs" if form == 2 else "/evaluate"
    tree = {"audio_data": base64.b64encode(sound).decode(), **options}
    return request("POST", path, ["Content-Type: application/json", *headers], json.dumps(tree).encode())


def _text(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _read(dice: Dice, jobs: Sequence[str]) -> bytes:
    method = _pick(dice, ("GET", "GET", "GET", "GET", "HEAD", "DELETE", "PUT", "OPTIONS"))
    known = bool(jobs) and bool(dice.integers(4))
    path = _pick(dice, PATHS).format(_pick(dice, jobs if known else ODD_TEXTS))
    query = "&".join(f"{_pick(dice, OPTIONS)}={_pick(dice, ODD_TEXTS)}" for _ in range(dice.integers(3)))
    return request(method, f"{path}?{query}", [_pick(dice, ODD_HEADERS) for _ in range(dice.integers(3))])


def _corrupt_envelope(dice: Dice, whole: bytes) -> bytes:
    """Corrupt the head, or the first bytes after it, but not the sound."""
    head, gap, body = whole.partition(b"\r\n\r\n")
    if body and dice.integers(2):
        return head + gap + damage(dice, body[:200]) + body[200:]
    return damage(dice, head) + gap + body
