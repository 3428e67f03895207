"""Images of a finished job's arrays, checked pixel by pixel."""

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
from tests.api.conftest import LAYERS, FakeWorker, wav

PARTS = "spectrogram,full_spectrogram,ltsa,maps,cam"


def finished(http: httpx2.Client, worker: FakeWorker, include: str = PARTS) -> str:
    """The path of a finished job with those parts."""
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
    [
        *(("spectrogram", 400), ("full_spectrogram", 133), ("ltsa", 200), ("cam", 300)),
        *((f"maps/{layer}", 400) for layer in LAYERS),
    ],
)
def test_every_matrix_has_an_image(http: httpx2.Client, worker: FakeWorker, name: str, height: int) -> None:
    """A PNG of the requested width with square cells."""
    answer = http.get(f"{finished(http, worker)}/{name}.png", params={"width": 600})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert pixels(answer.content).shape == (height, 600, 3)


@pytest.mark.parametrize("colours", ["magma", "viridis", "cividis", "grey"])
def test_the_first_value_is_at_the_lower_left(http: httpx2.Client, worker: FakeWorker, colours: str) -> None:
    """Time runs right, low frequency is at the bottom; minimum and maximum have the ends of the colormap."""
    answer = http.get(f"{finished(http, worker)}/spectrogram.png", params={"cmap": colours, "width": 60})
    table = json.loads((STATIC / "colormaps.json").read_text())[colours]
    image = pixels(answer.content)
    assert image[-1, 0].tobytes().hex() == table[:6]
    assert image[0, -1].tobytes().hex() == table[-6:]
    # The fake values increase along each row, and from row to row.
    rank = {bytes(colormaps()[colours][3 * i : 3 * i + 3]): i for i in range(256)}
    steps = [rank[image[-5 - 10 * row, 5 + 10 * column].tobytes()] for row in range(4) for column in range(6)]
    assert steps == sorted(steps)
    assert len(set(steps)) == 24


def test_an_image_can_be_cached(http: httpx2.Client, worker: FakeWorker) -> None:
    """`Cache-Control` and an entity tag, 304 on revalidation; every choice of options has a tag of its own."""
    url = f"{finished(http, worker)}/cam.png"
    answer = http.get(url)
    assert answer.headers["cache-control"].startswith("private, max-age=")
    tags = {answer.headers["etag"]}
    again = http.get(url, headers={"If-None-Match": f'"other", {answer.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    for options in ({"cmap": "grey"}, {"width": "99"}):
        other = http.get(url, params=options, headers={"If-None-Match": answer.headers["etag"]})
        assert other.status_code == 200
        tags.add(other.headers["etag"])
    assert len(tags) == 3


def test_304_does_not_render_the_image(
    http: httpx2.Client, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every form of `If-None-Match`, and while the maximum number of images is rendered."""
    url = f"{finished(http, worker)}/cam.png"
    tag = http.get(url).headers["etag"]
    done, rendering = threading.Event(), threading.Semaphore(0)

    def render_slowly(*_: object) -> bytes:
        rendering.release()
        done.wait(20)
        return b""

    monkeypatch.setattr("api.routes.images.render_png", render_slowly)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(http.get, url)
            assert rendering.acquire(timeout=10)
        try:
            for known in (tag, tag.removeprefix("W/"), f'"a" , {tag}'):
                answer = http.get(url, headers={"If-None-Match": known}, timeout=5)
                assert (answer.status_code, answer.headers["etag"]) == (304, tag)
            answer = http.get(url, headers=[("If-None-Match", '"a"'), ("If-None-Match", tag)], timeout=5)
            assert answer.status_code == 304
        finally:
            done.set()


@pytest.mark.parametrize(("age", "left"), [(0, range(3_595, 3_601)), (3_000, range(595, 601)), (4_000, range(1))])
def test_an_image_is_cached_as_long_as_its_result(
    http: httpx2.Client, worker: FakeWorker, age: int, left: range
) -> None:
    """`max-age` ends with the TTL of the result, whenever the image is fetched."""
    url = finished(http, worker)
    worker._client.hset(f"otoscope:job:{url.rpartition('/')[2]}", "finished_at", str(time.time() - age))
    max_age = re.fullmatch(r"private, max-age=(\d+), immutable", http.get(f"{url}/cam.png").headers["cache-control"])
    assert max_age
    assert int(max_age[1]) in left


@pytest.mark.parametrize("options", [{"cmap": "jet"}, {"width": "15"}, {"width": "4097"}, {"width": "wide"}])
def test_invalid_image_options_are_refused(http: httpx2.Client, worker: FakeWorker, options: dict[str, str]) -> None:
    """The problem names the option: an unknown colormap, or a width out of bounds."""
    answer = http.get(f"{finished(http, worker)}/cam.png", params=options)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert next(iter(options)) in answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("spectrogram", ["include=spectrogram", "It has cam, maps."]),
        ("full_spectrogram", ["include=full_spectrogram"]),
        ("maps/layer9", ["'layer9'", *LAYERS]),
    ],
)
def test_a_part_that_was_not_requested_is_a_404(
    http: httpx2.Client, worker: FakeWorker, name: str, words: list[str]
) -> None:
    """The detail says how to request the part, or lists the layers; the response is not cached."""
    answer = http.get(f"{finished(http, worker, 'maps,cam')}/{name}.png")
    assert (answer.status_code, answer.json()["code"]) == (404, "part_not_found")
    assert all(word in answer.json()["detail"] for word in words)
    assert "etag" not in answer.headers


def test_a_job_without_maps_has_no_layers(http: httpx2.Client, worker: FakeWorker) -> None:
    """The detail says how to request maps, not that the layer is unknown."""
    answer = http.get(f"{finished(http, worker, '')}/maps/stem.png")
    assert answer.json()["code"] == "part_not_found"
    assert "include=maps" in answer.json()["detail"]
    assert "the predictions alone" in answer.json()["detail"]


def test_no_image_before_the_job_has_finished(http: httpx2.Client, worker: FakeWorker) -> None:
    """As for the result: 409 before it exists, 404 for an unknown job."""
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
def test_cells_are_square_within_bounds(rows: int, columns: int, expected: tuple[int, int]) -> None:
    """The height is at most the width and at least an eighth of it."""
    assert image_size(rows, columns, 1_000) == expected


def test_cells_are_averaged_but_not_interpolated() -> None:
    """No intermediate colours where the image is enlarged; no cell is skipped where it is reduced."""
    coarse = np.array([[0, 1]], np.float16)
    assert set(np.unique(pixels(render_png(coarse, "grey", 64)))) == {0, 255}
    fine = np.tile(np.array([0, 1], np.float16), (8, 512))
    assert np.ptp(pixels(render_png(fine, "grey", 64))) == 0


@pytest.mark.parametrize("values", [[3.0, 3.0], [np.nan, np.inf], [-np.inf, np.nan]])
def test_values_without_a_range_are_rendered(values: list[float]) -> None:
    """Silence and overflow give an image of one colour, not an error."""
    assert np.ptp(pixels(render_png(np.array([values], np.float16), "grey", 16))) == 0


def test_infinity_is_rendered_as_the_maximum() -> None:
    """One infinite cell does not compress the colours of the others."""
    image = pixels(render_png(np.array([[0, 1, 2, np.inf]], np.float16), "grey", 16))[0, ::4, 0]
    assert list(image) == sorted(image)
    assert (image[0], image[-1]) == (0, 255)
    assert 0 < image[1] < 255


def test_grey_is_linear_in_lightness() -> None:
    """Equal steps of value are equal steps of CIE lightness, black to white."""
    level = np.frombuffer(colormaps()["grey"], np.uint8).reshape(256, 3)[:, 0] / 255
    luminance = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    lightness = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    np.testing.assert_allclose(lightness, np.linspace(0, 100, 256), atol=0.4)


def test_openapi_lists_the_images(http: httpx2.Client) -> None:
    """With media type and parameters."""
    paths = http.get("/openapi.json").json()["paths"]
    described = paths["/v1/jobs/{job_id}/maps/{layer}.png"]["get"]
    assert set(described["responses"]["200"]["content"]) == {"image/png"}
    assert {each["name"] for each in described["parameters"]} == {"job_id", "layer", "cmap", "width"}
