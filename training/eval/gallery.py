"""The wrong answers of an evaluation as one HTML page: spectrogram and player of the window that decided each."""

import io
import wave
from base64 import b64encode
from html import escape
from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imsave
from numpy.typing import NDArray
from torch import Tensor

from otoscope.errors import AudioError
from training.data.custom.segments import cut_spans
from training.eval.evaluate import Evaluation

WRONG = "wrong.html"
MAX_WRONG = 24  # recordings on the page, those with the highest confidence; each takes about 0.3 MB at 16 kHz

_STYLE = (
    "body{font-family:sans-serif;margin:2rem}figure{display:inline-block;width:22rem;margin:0 1rem 2rem 0;"
    "vertical-align:top}img{width:100%;height:9rem;image-rendering:pixelated}audio{width:100%}"
    "figcaption{overflow-wrap:anywhere}"
)


def write_gallery(path: Path, evaluation: Evaluation, title: str) -> int:
    """Write the page; returns how many answers were wrong. Sounds and pictures are part of it. Raises OSError."""
    confidences = evaluation.probabilities
    named = confidences.argmax(axis=1)
    wrong = np.flatnonzero(named != evaluation.truth)
    shown = wrong[np.argsort(-confidences.max(axis=1)[wrong], kind="stable")][:MAX_WRONG]
    answered = evaluation.answered[0]
    figures = [
        _figure(evaluation, int(row), int(named[row]), float(confidences[row].max()), answered[row].start)
        for row in shown
    ]
    only = f", the {len(shown)} with the highest confidence" if len(shown) < len(wrong) else ""
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}: wrong answers</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{len(wrong)} of {len(named)} recordings have a wrong answer{only}. Shown is the"
        " window that decided, low frequencies at the bottom.</p>",
        *figures,
        "</body></html>",
    ]
    path.write_text("\n".join(page) + "\n", encoding="utf-8")
    return len(wrong)


def _figure(evaluation: Evaluation, row: int, answer: int, confidence: float, start: float) -> str:
    recording, model = evaluation.recordings[0][row], evaluation.models[0]
    classes, front = evaluation.config.classes, model.frontend
    sound, rate = recording.sound, front.config.sample_rate
    name = escape(str(sound.path.name if sound.path else ""))
    first = round(start * rate)
    try:
        ((_, part),) = cut_spans(sound.blocks(), [slice(first, first + front.config.window_samples)])
    except (AudioError, OSError) as error:
        return f"<p>{name}: {escape(str(error))}</p>"
    samples = np.zeros(front.config.window_samples, np.float32)
    samples[: len(part)] = part
    with torch.no_grad():
        mels = front.decibels(torch.from_numpy(samples)[None].to(front.window.device))[0, 0].cpu()
    picture, player = (b64encode(data).decode() for data in (_png(mels), _wav(samples, rate)))
    truth = escape(", ".join(classes[label] for label in sound.labels))
    return (
        f'<figure><img alt="spectrogram" src="data:image/png;base64,{picture}">'
        f'<audio controls preload="none" src="data:audio/wav;base64,{player}"></audio>'
        f"<figcaption><b>{truth}</b> answered as <b>{escape(classes[answer])}</b>, confidence {confidence:.2f}<br>"
        f"{name} from {start:.1f} s</figcaption></figure>"
    )


def _png(mels: Tensor) -> bytes:
    """(mels, frames) in dB -> a PNG; 80 dB below its maximum is black."""
    file = io.BytesIO()
    top = float(mels.max())
    imsave(file, mels.numpy(), cmap="magma", origin="lower", vmin=top - 80, vmax=top, format="png")
    return file.getvalue()


def _wav(samples: NDArray[np.float32], rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())
    return file.getvalue()
