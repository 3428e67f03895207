"""Writes api/static/example.msgpack: the result with which the page opens for a visitor who has no sound yet.

    python docs/example.py

It is the result of the synthetic siren by `esc50`, from a running service, as the page would get it, with the card of
the model: the page shows it without a free worker. It is written again when the model or the sound changes, which
tests/browser/test_landing.py checks. OTOSCOPE_URL is the address of the service.
"""

import os
from pathlib import Path

import httpx2
import msgpack

URL = os.environ.get("OTOSCOPE_URL", "http://127.0.0.1:8000")
STATIC = Path(__file__).parent.parent / "api" / "static"
SOUND, MODEL = STATIC / "sounds" / "siren.flac", "esc50"
PARTS = "maps,waveform,windows,cam,detections,full_spectrogram"  # as in api/static/js/library/jobs.js


def example(url: str) -> bytes:
    """MessagePack of the `job`, with its result, and the `card` of its model; without what belongs to one run."""
    with httpx2.Client(base_url=url, timeout=120) as http:
        answer = http.post(
            "/v1/jobs",
            files={"file": (SOUND.name, SOUND.read_bytes())},
            data={"model": MODEL, "include": PARTS, "top_k": "1000"},
            headers={"Prefer": "wait=60", "Accept": "application/msgpack"},
        )
        job = msgpack.unpackb(answer.raise_for_status().content)
        card = http.get(f"/v1/models/{MODEL}").raise_for_status().json()
        http.delete(f"/v1/jobs/{job['id']}")
    job |= {"id": "", "links": {}, "created_at": None, "started_at": None, "finished_at": None, "timings": {}}
    packed: bytes = msgpack.packb({"job": job, "card": card})
    return packed


if __name__ == "__main__":
    (STATIC / "example.msgpack").write_bytes(example(URL))
