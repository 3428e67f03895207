"""Re-encoded copies of a sound: found by an acoustic fingerprint, and kept on one side of a split."""

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from numpy.typing import NDArray

from shared.audio.decode import decode
from tests.support.sounds import encode, noise, tone
from training.data.copies import FINE, best_copies, copied_pairs, fingerprints
from training.data.custom.folders import import_folder
from training.data.custom.split import read_split, write_split
from training.data.fingerprint import TRAINING_FINGERPRINTS, save_training_sounds, seen_windows
from training.errors import EvaluationError

RATE = 16_000
ENCODINGS = {"FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}


def scene(seed: int, seconds: float = 3.0, rate: int = RATE) -> NDArray[np.float32]:
    """Bursts of noise and tones at random times: (samples, 1)."""
    random = np.random.default_rng(seed)
    wave = noise(seconds, rate, level=0.002, seed=seed)
    for _ in range(12):
        start, length = round(random.uniform(0, seconds - 0.4) * rate), round(random.uniform(0.05, 0.4) * rate)
        burst = tone(1, rate, hz=random.uniform(200, 5_000)) * np.hanning(rate).astype(np.float32)[:, None]
        wave[start : start + length] += (burst + noise(1, rate, level=0.1, seed=random.integers(1_000)))[:length]
    return np.clip(wave, -1, 1)


def heard(data: bytes, seconds: float = 3.0) -> torch.Tensor:
    """(samples,), cut or padded to a length."""
    wave = torch.from_numpy(decode(data, RATE).waveform)[: round(seconds * RATE)]
    return torch.nn.functional.pad(wave, (0, round(seconds * RATE) - len(wave)))


def test_copies_are_found_and_others_are_not() -> None:
    """Lossy codecs, another sample rate and a gain change a fingerprint little; other sounds of the kind share
    nothing."""
    originals = torch.stack([heard(encode(scene(seed), RATE)) for seed in range(20)])
    stored = np.ascontiguousarray(fingerprints(originals, RATE)[:10])
    copies = [heard(encode(scene(seed), RATE, container, subtype)) for seed, (container, subtype) in
              enumerate(ENCODINGS.items())]  # fmt: skip
    copies += [heard(encode(0.2 * scene(3), RATE)), heard(encode(soxr.resample(scene(4), RATE, RATE // 2), RATE // 2))]
    late = torch.nn.functional.pad(originals[5], (2_257, 0))[: len(originals[5])]  # an encoder's delay
    fine = fingerprints(torch.stack([*copies, late, *originals[10:]]), RATE, fine=True)
    assert best_copies(fine, stored).tolist() == [0, 1, 2, 3, 4, 5] + [-1] * 10
    assert copied_pairs(fingerprints(torch.stack([originals[0], originals[1], copies[0]]), RATE, fine=True)) == [(0, 2)]
    assert fine.shape[1] == pytest.approx(FINE * stored.shape[1], abs=FINE)


def test_steady_silent_and_short_sounds_match_nothing() -> None:
    """Tones differ by their pitch alone, of which a fingerprint has nothing: no two of them are called copies."""
    tones = [torch.from_numpy(tone(3, RATE, hz=hz)[:, 0]) for hz in (300, 305, 310, 2_500, 2_520)]
    quiet = [torch.zeros(3 * RATE), torch.from_numpy(noise(3, RATE, level=1e-5)[:, 0])]
    short = [torch.nn.functional.pad(one[: RATE // 4], (0, 11 * RATE // 4)) for one in tones]
    assert copied_pairs(fingerprints(torch.stack([*tones, *quiet, *quiet, *short]), RATE, fine=True)) == []


def test_model_recognises_re_encoded_training_sounds(tmp_path: Path) -> None:
    """The digests of samples do not survive a lossy codec; the fingerprints do."""
    waves = torch.stack([heard(encode(scene(seed), RATE)) for seed in range(4)])
    save_training_sounds(tmp_path, waves, RATE)
    lossy = torch.stack([heard(encode(scene(seed), RATE, "OGG", "VORBIS")) for seed in (0, 3, 7)])
    assert seen_windows(tmp_path, lossy, RATE).tolist() == [True, True, False]
    assert seen_windows(tmp_path, waves, RATE).all()
    (tmp_path / TRAINING_FINGERPRINTS).write_bytes(b"none")
    with pytest.raises(EvaluationError, match=rf"{TRAINING_FINGERPRINTS} cannot be read"):
        seen_windows(tmp_path, lossy, RATE)


def test_split_keeps_copies_together(tmp_path: Path) -> None:
    """A WAV file and its MP3 copy of another name are two sources to the importer, and one to the split."""
    for seed in range(12):
        for label in ("dog", "rain"):
            path = tmp_path / "mine" / label / f"{label}{seed}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(scene(100 * len(label) + seed, 2.0), RATE))
            if seed < 6:
                copy = encode(scene(100 * len(label) + seed, 2.0), RATE, "MP3", "MPEG_LAYER_III")
                path.with_name(f"copy-of-{seed}-{label}.mp3").write_bytes(copy)
    root = tmp_path / "sounds"
    import_folder(tmp_path / "mine", root)
    info = write_split(root, val=0.25, test=0.25, seed=1)
    assert len(info.copies) == 12
    assert all("is a re-encoded copy of" in message for message in info.copies)
    subsets = {Path(source).stem: subset for source, subset in read_split(root).items()}
    for label in ("dog", "rain"):
        for seed in range(6):
            assert subsets[f"copy-of-{seed}-{label}"] == subsets[f"{label}{seed}"]
