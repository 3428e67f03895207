"""Pictures of a finished job's arrays, read back pixel by pixel."""

import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from api.rendering.png import colormaps, image_size, render_png
from api.static_files import STATIC
from tests.api.conftest import LAYERS, StandInWorker, wav

PARTS = "spectrogram,full_spectrogram,maps,cam"


def finished(http: httpx2.Client, worker: StandInWorker, include: str = PARTS) -> str:
    """The address of a job that has those parts."""
    job_id = http.post("/v1/jobs", files={"file": wav()}, data={"include": include}).json()["id"]
    worker.finish(job_id)
    return f"/v1/jobs/{job_id}"


def pixels(png: bytes) -> NDArray[np.uint8]:
    """(height, width, 3)"""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("name", "height"),
    [("spectrogram", 400), ("full_spectrogram", 133), ("cam", 300), *((f"maps/{layer}", 400) for layer in LAYERS)],
)
def test_every_array_has_a_picture(http: httpx2.Client, worker: StandInWorker, name: str, height: int) -> None:
    """A PNG of the width that was asked for, its cells square."""
    answer = http.get(f"{finished(http, worker)}/{name}.png", params={"width": 600})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert pixels(answer.content).shape == (height, 600, 3)


@pytest.mark.parametrize("colours", ["magma", "viridis", "cividis", "grey"])
def test_low_left_is_the_first_value(http: httpx2.Client, worker: StandInWorker, colours: str) -> None:
    """Time runs right and low frequency is at the bottom; the least and greatest value have the ends of the map."""
    answer = http.get(f"{finished(http, worker)}/spectrogram.png", params={"cmap": colours, "width": 60})
    table = json.loads((STATIC / "colormaps.json").read_text())[colours]
    drawn = pixels(answer.content)
    assert drawn[-1, 0].tobytes().hex() == table[:6]
    assert drawn[0, -1].tobytes().hex() == table[-6:]
    # The made-up values rise along each row, and from row to row.
    rank = {bytes(colormaps()[colours][3 * i : 3 * i + 3]): i for i in range(256)}
    steps = [rank[drawn[-5 - 10 * row, 5 + 10 * column].tobytes()] for row in range(4) for column in range(6)]
    assert steps == sorted(steps)
    assert len(set(steps)) == 24


def test_a_picture_says_how_long_it_is_good_for(http: httpx2.Client, worker: StandInWorker) -> None:
    """A browser keeps it, asks again with its tag and is told that nothing has changed; each look has its own tag."""
    url = f"{finished(http, worker)}/cam.png"
    answer = http.get(url)
    assert answer.headers["cache-control"].startswith("private, max-age=")
    tags = {answer.headers["etag"]}
    again = http.get(url, headers={"If-None-Match": f'"other", {answer.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    for look in ({"cmap": "grey"}, {"width": "99"}):
        other = http.get(url, params=look, headers={"If-None-Match": answer.headers["etag"]})
        assert other.status_code == 200
        tags.add(other.headers["etag"])
    assert len(tags) == 3


def test_who_has_the_picture_is_told_so_without_drawing(
    http: httpx2.Client, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By any spelling of its tag, and while as many are drawn as may be."""
    url = f"{finished(http, worker)}/cam.png"
    tag = http.get(url).headers["etag"]
    done, drawing = threading.Event(), threading.Semaphore(0)

    def draw_slowly(*_: object) -> bytes:
        drawing.release()
        done.wait(20)
        return b""

    monkeypatch.setattr("api.routes.images.render_png", draw_slowly)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(http.get, url)
            assert drawing.acquire(timeout=10)
        try:
            for known in (tag, tag.removeprefix("W/"), f'"a" , {tag}'):
                answer = http.get(url, headers={"If-None-Match": known}, timeout=5)
                assert (answer.status_code, answer.headers["etag"]) == (304, tag)
            answer = http.get(url, headers=[("If-None-Match", '"a"'), ("If-None-Match", tag)], timeout=5)
            assert answer.status_code == 304
        finally:
            done.set()


@pytest.mark.parametrize(("age", "left"), [(0, range(3_595, 3_601)), (3_000, range(595, 601)), (4_000, range(1))])
def test_a_picture_is_kept_as_long_as_its_result(
    http: httpx2.Client, worker: StandInWorker, age: int, left: range
) -> None:
    """And not for as long again from whenever it is fetched."""
    url = finished(http, worker)
    worker._client.hset(f"otoscope:job:{url.rpartition('/')[2]}", "finished_at", str(time.time() - age))
    told = re.fullmatch(r"private, max-age=(\d+), immutable", http.get(f"{url}/cam.png").headers["cache-control"])
    assert told
    assert int(told[1]) in left


@pytest.mark.parametrize("look", [{"cmap": "jet"}, {"width": "15"}, {"width": "4097"}, {"width": "wide"}])
def test_impossible_looks_are_refused(http: httpx2.Client, worker: StandInWorker, look: dict[str, str]) -> None:
    """An unknown colour map, or a width out of bounds, is named in the problem."""
    answer = http.get(f"{finished(http, worker)}/cam.png", params=look)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert next(iter(look)) in answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("spectrogram", ["include=spectrogram", "It has cam, maps."]),
        ("full_spectrogram", ["include=full_spectrogram"]),
        ("maps/layer9", ["'layer9'", *LAYERS]),
    ],
)
def test_what_the_result_lacks_is_a_404(http: httpx2.Client, worker: StandInWorker, name: str, said: list[str]) -> None:
    """It says how to ask for a part, or what layers there are; and is not kept by a browser."""
    answer = http.get(f"{finished(http, worker, 'maps,cam')}/{name}.png")
    assert (answer.status_code, answer.json()["code"]) == (404, "part_not_found")
    assert all(word in answer.json()["detail"] for word in said)
    assert "etag" not in answer.headers


def test_a_job_without_maps_says_how_to_get_them(http: httpx2.Client, worker: StandInWorker) -> None:
    """Rather than that there is no such layer."""
    answer = http.get(f"{finished(http, worker, '')}/maps/stem.png")
    assert answer.json()["code"] == "part_not_found"
    assert "include=maps" in answer.json()["detail"]
    assert "the predictions alone" in answer.json()["detail"]


def test_no_picture_before_the_end(http: httpx2.Client, worker: StandInWorker) -> None:
    """As for the result: 409 while it is not there, 404 where there is no such job."""
    url = finished(http, worker)
    tag = http.get(f"{url}/cam.png").headers["etag"]
    worker._client.hset(f"otoscope:job:{url.rpartition('/')[2]}", "status", "running")
    for known in ({}, {"If-None-Match": tag}):
        assert http.get(f"{url}/cam.png", headers=known).json()["code"] == "result_not_ready"
    assert http.get(f"/v1/jobs/{'0' * 32}/cam.png").json()["code"] == "job_not_found"


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [(128, 250, (1_000, 512)), (128, 60_000, (1_000, 125)), (64, 4, (1_000, 1_000)), (1, 1, (1_000, 1_000))],
)
def test_cells_are_square_within_reason(rows: int, columns: int, expected: tuple[int, int]) -> None:
    """Ten minutes are not a line, and a map of few columns is no tower."""
    assert image_size(rows, columns, 1_000) == expected


def test_pixels_are_means_of_many_cells_and_cells_are_plain() -> None:
    """Nothing between two colours is invented on the way up; no cell is skipped on the way down."""
    coarse = np.array([[0, 1]], np.float16)
    assert set(np.unique(pixels(render_png(coarse, "grey", 64)))) == {0, 255}
    fine = np.tile(np.array([0, 1], np.float16), (8, 512))
    assert np.ptp(pixels(render_png(fine, "grey", 64))) == 0


@pytest.mark.parametrize("values", [[3.0, 3.0], [np.nan, np.inf], [-np.inf, np.nan]])
def test_values_without_a_range_are_drawn_all_the_same(values: list[float]) -> None:
    """Silence and overflow give a plain picture, not an error."""
    assert np.ptp(pixels(render_png(np.array([values], np.float16), "grey", 16))) == 0


def test_overflow_is_drawn_as_the_greatest_value() -> None:
    """One infinite cell does not take the colours from all the others."""
    drawn = pixels(render_png(np.array([[0, 1, 2, np.inf]], np.float16), "grey", 16))[0, ::4, 0]
    assert list(drawn) == sorted(drawn)
    assert (drawn[0], drawn[-1]) == (0, 255)
    assert 0 < drawn[1] < 255


def test_grey_is_even_in_lightness() -> None:
    """Equal steps of value are equal steps of CIE lightness, black to white."""
    level = np.frombuffer(colormaps()["grey"], np.uint8).reshape(256, 3)[:, 0] / 255
    luminance = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    lightness = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    np.testing.assert_allclose(lightness, np.linspace(0, 100, 256), atol=0.4)


def test_the_openapi_page_lists_the_pictures(http: httpx2.Client) -> None:
    """With their type and both parameters."""
    paths = http.get("/openapi.json").json()["paths"]
    described = paths["/v1/jobs/{job_id}/maps/{layer}.png"]["get"]
    assert set(described["responses"]["200"]["content"]) == {"image/png"}
    assert {each["name"] for each in described["parameters"]} == {"job_id", "layer", "cmap", "width"}
