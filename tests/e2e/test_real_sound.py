"""The shipped checkpoint with real sounds over HTTP: the accuracy that its README states."""

import base64
import csv
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shared.audio.decode import decode
from tests.conftest import REAL_SOUNDS, ROOT
from tests.e2e.conftest import Stack
from tests.support.sounds import encode

pytestmark = [pytest.mark.usefixtures("real_sounds"), pytest.mark.timeout(300)]

ESC50 = REAL_SOUNDS / "esc50-16k"


def fold_5() -> list[tuple[str, str]]:
    """(file name, class) of the 400 clips that the checkpoint was not trained on."""
    with (ESC50 / "meta" / "esc50.csv").open(newline="") as file:
        return [(row["filename"], row["category"]) for row in csv.DictReader(file) if row["fold"] == "5"]


def test_accuracy_on_fold_5_over_http(stack: Stack) -> None:
    """400 clips as Ogg, WAV and base64 in turn: the count in config.json, within one clip in a hundred.

    The count is exact on the machine that measured it; another processor rounds bf16 elsewhere.
    """
    config = json.loads((ROOT / "models" / "esc50" / "config.json").read_text())
    claimed = config["accuracy"][0]
    assert claimed["total"] == 400
    clips = fold_5()
    with stack.client() as http:

        def right(numbered: tuple[int, tuple[str, str]]) -> bool:
            number, (name, expected) = numbered
            ogg = (ESC50 / "audio" / name).read_bytes()
            options = {"model": "esc50", "top_k": 1}
            headers = {"Prefer": "wait=60"}
            if number % 3 == 0:
                answer = http.post("/v1/jobs", files={"file": (name, ogg)}, data=options, headers=headers)
            else:
                decoded = decode(ogg, 16_000)
                wav = encode(decoded.waveform[:, None], 16_000, "WAV", "FLOAT")
                if number % 3 == 1:
                    headers["Content-Type"] = "audio/wav"
                    answer = http.post("/v1/jobs", content=wav, params=options, headers=headers)
                else:
                    encoded = base64.b64encode(wav).decode()
                    answer = http.post("/v1/jobs", json={"audio_data": encoded, **options}, headers=headers)
            assert answer.status_code == 200, answer.text
            return bool(answer.json()["result"]["predictions"][0]["class"] == expected)

        with ThreadPoolExecutor(16) as pool:
            correct = sum(pool.map(right, enumerate(clips)))
    assert abs(correct - claimed["correct"]) <= 4, f"{correct} right, {claimed['correct']} claimed"


def test_the_part_of_a_real_sound_that_matters_is_the_sound(stack: Stack) -> None:
    """The loudest second of clips, alone in a window of silence: `esc50` needs the parts in which it is, and the parts
    without a sound do not matter."""
    clips = dict(reversed([(category, name) for name, category in fold_5()]))  # one of each class
    found: list[bool] = []
    with stack.client() as http:
        for name in list(clips.values())[::4]:
            waveform = decode((ESC50 / "audio" / name).read_bytes(), 16_000).waveform
            energy = np.convolve(np.square(waveform), np.ones(16_000), "valid")
            window = np.zeros((5 * 16_000, 1), np.float32)
            window[3 * 16_000 : 4 * 16_000, 0] = waveform[energy.argmax() :][:16_000]
            answer = http.post(
                "/v1/jobs", content=encode(window, 16_000, "WAV", "FLOAT"),
                params={"model": "esc50", "include": "occlusion", "top_k": 1},
                headers={"Prefer": "wait=60", "Content-Type": "audio/wav"},
            )  # fmt: skip
            result = answer.json()["result"]
            occlusion = np.array(result["occlusion"]["values"])
            assert occlusion.shape == (6, 10)
            assert np.abs(occlusion).max() <= 1
            confidence = result["predictions"][0]["confidence"]
            assert (occlusion <= confidence + 0.01).all()
            silent = [column for column in range(10) if column not in (5, 6, 7, 8)]
            assert np.abs(occlusion[:, silent]).max() < 0.05  # rounding of bfloat16
            if confidence > 0.5:
                found.append(int(occlusion.max(axis=0).argmax()) in (6, 7) and occlusion.max() > 0.05)
    assert len(found) >= 6
    assert sum(found) >= 0.8 * len(found), found
