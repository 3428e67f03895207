"""Finds re-encoded copies among the sounds of a custom data set: the same sound as WAV and as MP3, say.

Identical files are found at import. Copies are compared by the acoustic fingerprints of their first ten seconds
(`training.data.copies`), which are kept in `cache/fingerprints.npz`.
"""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from otoscope.errors import AudioError
from shared.audio.decode import SoundStream
from training.data.copies import FINE, WORD_SECONDS, Words, copied_pairs, fingerprints
from training.data.custom.manifest import CACHE_DIR, IMPORT_LIMITS, ManifestEntry
from training.data.custom.parallel import map_ordered
from training.progress import progress_bar

FINGERPRINTS = "fingerprints.npz"
_RATE = 16_000  # Hz
_SECONDS = 10.0
_WORDS = round(_SECONDS / WORD_SECONDS * FINE)

_NONE: Words = np.zeros(_WORDS, np.uint64)  # of a file that cannot be read

Copies = list[tuple[ManifestEntry, ManifestEntry]]


def find_copies(root: Path, entries: Sequence[ManifestEntry]) -> Copies:
    """The pairs of sounds that are copies of each other, in the order of the entries. A sound that cannot be decoded
    is a copy of none; so is one that is too short or too steady to be recognised."""
    known = _read(root)
    missing = {entry.sha256: entry for entry in entries if entry.sha256 not in known and (root / entry.file).is_file()}
    if missing:
        words = map_ordered(lambda entry: _fingerprint(root / entry.file), missing.values())
        known |= zip(missing, progress_bar(words, total=len(missing), desc="fingerprint", unit="file"), strict=True)
        _write(root, {entry.sha256: known[entry.sha256] for entry in entries if entry.sha256 in known})
    fine = np.stack([known.get(entry.sha256, _NONE) for entry in entries])
    return [(entries[first], entries[second]) for first, second in copied_pairs(fine)]


def describe_copy(first: ManifestEntry, second: ManifestEntry) -> str:
    """`b.mp3 is a re-encoded copy of a.wav`."""
    labels = "" if first.label == second.label else f", under another label: {second.label}, {first.label}"
    return f"{second.file} is a re-encoded copy of {first.file}{labels}"


def _fingerprint(path: Path) -> Words:
    """(words,), zeros for a file that cannot be decoded."""
    try:
        wave = next(iter(SoundStream(path.read_bytes(), _RATE, IMPORT_LIMITS)))[: round(_RATE * _SECONDS)]
    except (AudioError, OSError, StopIteration):
        return _NONE
    words = fingerprints(torch.from_numpy(wave)[None], _RATE, fine=True)[0][:_WORDS]
    return np.pad(words, (0, _WORDS - len(words)))


def _read(root: Path) -> dict[str, Words]:
    try:
        with np.load(root / CACHE_DIR / FINGERPRINTS) as stored:
            sha256, words = stored["sha256"].tolist(), stored["words"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}  # a cache: made again
    return dict(zip(sha256, words, strict=True)) if words.shape[1:] == (_WORDS,) else {}


def _write(root: Path, words: dict[str, Words]) -> None:
    """A cache that cannot be written costs time only."""
    path = root / CACHE_DIR / FINGERPRINTS
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, sha256=np.array(list(words)), words=np.stack(list(words.values())))
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
