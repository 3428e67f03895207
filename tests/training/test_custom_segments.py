"""The segment cache: its content, when it is rebuilt, and that a partial cache is never used."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from shared.audio.decode import decode
from tests.support.recordings import write_class_folders, write_recording
from tests.support.sounds import encode, noise, tone
from training.data.base import LeftOut
from training.data.custom import prepare as module
from training.data.custom.dataset import load_custom_dataset
from training.data.custom.folders import import_folder
from training.data.custom.prepare import load_segments, prepare_segments, read_cache_info
from training.data.custom.report import write_dataset_report
from training.data.custom.segments import FULL_SCALE, rms_dbfs, segment_slices, to_int16
from training.data.custom.split import write_split
from training.errors import DatasetError
from training.proposal import survey
from worker.model.frontend import FrontendConfig

RATE = 8_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Dogs of 0.3 s, 1 s and 2.5 s, and rain of 1.2 s, with distinct tones."""
    for name, seconds in (("dog/a", 0.3), ("dog/b", 1.0), ("dog/c", 2.5), ("rain/d", 1.2)):
        write_recording(tmp_path / "mine" / f"{name}.wav", seconds)
    import_folder(tmp_path / "mine", tmp_path / "sounds")
    return tmp_path / "sounds"


@pytest.mark.parametrize(
    ("samples", "overlap", "found"),
    [
        (10, 0.0, [(0, 10)]),
        (3, 0.0, [(0, 3)]),
        (14, 0.0, [(0, 10)]),
        (15, 0.0, [(0, 10), (10, 15)]),
        (20, 0.0, [(0, 10), (10, 20)]),
        (29, 0.0, [(0, 10), (10, 20), (20, 29)]),
        (20, 0.5, [(0, 10), (5, 15), (10, 20)]),
        (24, 0.5, [(0, 10), (5, 15), (10, 20)]),
        (12, 0.9, [(0, 10), (1, 11), (2, 12)]),
        (9, 0.5, [(0, 9)]),
    ],
)
def test_segment_slices(samples: int, overlap: float, found: list[tuple[int, int]]) -> None:
    """Windows of 10 samples: the first one always, and the rest of a sound from half a window on."""
    assert [(part.start, part.stop) for part in segment_slices(samples, 10, overlap)] == found


def test_level_and_quantisation() -> None:
    """dBFS as documented; int16 values round-trip; sounds above full scale are attenuated rather than clipped."""
    wave = tone(1.0, RATE, level=1.0)[:, 0]
    assert rms_dbfs(wave, RATE) == pytest.approx(np.full(10, -3.01), abs=0.01)
    assert rms_dbfs(np.zeros(900, np.float32), RATE) == pytest.approx([-100, -100])
    assert np.abs(to_int16(wave * 0.9) / FULL_SCALE - wave * 0.9).max() < 2 / FULL_SCALE
    assert np.abs(to_int16(wave * 3.0) / FULL_SCALE - wave).max() < 2 / FULL_SCALE
    assert to_int16(np.float32([-1, 1])).tolist() == [-32_768, 32_767]


def test_windows(root: Path) -> None:
    """Each row holds the samples of its file at that position, zero-padded."""
    cache = prepare_segments(root, rate=RATE, window_seconds=1.0)
    waveforms, segments = load_segments(cache)
    assert isinstance(waveforms, np.memmap)
    assert (waveforms.shape, waveforms.dtype) == ((6, RATE), np.int16)
    assert [(Path(segment.file).stem, segment.start_seconds, segment.seconds) for segment in segments] == [
        ("a", 0, 0.3), ("b", 0, 1), ("c", 0, 1), ("c", 1, 1), ("c", 2, 0.5), ("d", 0, 1),
    ]  # fmt: skip
    assert [segment.label for segment in segments] == ["dog"] * 5 + ["rain"]
    assert all(segment.source == segment.file for segment in segments)
    for wave, segment in zip(waveforms, segments, strict=True):
        whole = decode(Path(segment.file).read_bytes(), RATE).waveform
        start, length = round(segment.start_seconds * RATE), round(segment.seconds * RATE)
        assert np.abs(wave[:length] / FULL_SCALE - whole[start : start + length]).max() < 1e-4
        assert not wave[length:].any()
    info = read_cache_info(cache)
    assert (info.files, info.segments, info.silent, info.skipped) == (4, 6, 0, [])
    assert info.left_out == (LeftOut(label="rain", short_ends=1),)
    assert {path.name for path in cache.iterdir()} == {"waveforms.npy", "segments.csv", "cache.json"}


def test_whole_files(root: Path) -> None:
    """One row per file, as long as the longest; the table holds the true length."""
    waveforms, segments = load_segments(cache := prepare_segments(root, rate=RATE, window_seconds=None))
    assert waveforms.shape == (4, 20_000)
    assert [segment.seconds for segment in segments] == [0.3, 1.0, 2.5, 1.2]
    for wave, segment in zip(waveforms, segments, strict=True):
        whole = decode(Path(segment.file).read_bytes(), RATE).waveform
        assert np.abs(wave[: len(whole)] / FULL_SCALE - whole).max() < 1e-4
        assert not wave[len(whole) :].any()
    assert {path.name for path in cache.iterdir()} == {"waveforms.npy", "segments.csv", "cache.json"}


def test_overlap_and_rate(root: Path) -> None:
    waveforms, segments = load_segments(prepare_segments(root, rate=16_000, window_seconds=1.0, overlap=0.5))
    assert waveforms.shape[1] == 16_000
    assert [segment.start_seconds for segment in segments if segment.file.endswith("c.wav")] == [0, 0.5, 1, 1.5]


def test_silence(tmp_path: Path) -> None:
    """Segments below -60 dBFS throughout are left out; 0.1 s of sound suffices to keep one; the threshold is
    configurable."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=1)
    quiet = np.concatenate([tone(1, RATE), noise(1, RATE, level=1e-5), noise(0.9, RATE, level=1e-5), tone(0.1, RATE)])
    (src / "dog" / "gap.wav").write_bytes(encode(quiet, RATE))
    (src / "dog" / "nothing.wav").write_bytes(encode(quiet[8_000:12_000], RATE))
    import_folder(src, tmp_path / "sounds")
    cache = prepare_segments(tmp_path / "sounds", rate=RATE, window_seconds=1.0)
    starts = [segment.start_seconds for segment in load_segments(cache)[1] if segment.file.endswith("gap.wav")]
    assert starts == [0, 2]
    info = read_cache_info(cache)
    assert info.silent == 2
    assert [str(one) for one in info.left_out] == ["dog (1 file, 2 silent windows)"]
    assert [line.rsplit("/", 1)[1] for line in info.skipped] == ["nothing.wav: silent"]
    everything = prepare_segments(tmp_path / "sounds", rate=RATE, window_seconds=1.0, silence_db=-200)
    assert read_cache_info(everything).segments == info.segments + 2


def test_quiet_field_recording_is_kept(tmp_path: Path) -> None:
    """A call of -70 dBFS in a recording whose noise is far below is no silence; steady noise of that level is."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=1)
    quiet = noise(3, RATE, level=1e-5)
    quiet[RATE : RATE + RATE // 2] += tone(0.5, RATE, level=4.5e-4)
    (src / "dog" / "far.wav").write_bytes(encode(quiet, RATE, "WAV", "FLOAT"))
    (src / "rain" / "hiss.wav").write_bytes(encode(noise(3, RATE, level=4.5e-4), RATE, "WAV", "FLOAT"))
    import_folder(src, tmp_path / "sounds")
    cache = prepare_segments(tmp_path / "sounds", rate=RATE, window_seconds=1.0)
    starts = [segment.start_seconds for segment in load_segments(cache)[1] if segment.file.endswith("far.wav")]
    assert starts == [1.0]
    assert [line.rsplit("/", 1)[1] for line in read_cache_info(cache).skipped] == ["hiss.wav: silent"]


def test_cache_is_reused_until_something_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other parameters, a modified file or another manifest give another cache; the same ones decode nothing."""
    cache = prepare_segments(root, rate=RATE, window_seconds=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "SoundStream", None)
        assert prepare_segments(root, rate=RATE, window_seconds=1.0) == cache
    others = {
        cache,
        prepare_segments(root, rate=RATE, window_seconds=2.0),
        prepare_segments(root, rate=RATE, window_seconds=None),
    }
    write_recording(root.parent / "mine" / "dog" / "b.wav", 1.0)
    others.add(changed := prepare_segments(root, rate=RATE, window_seconds=1.0))
    assert (load_segments(changed)[0][1] != load_segments(cache)[0][1]).any()
    write_recording(root.parent / "mine" / "dog" / "new.wav", 1.0)
    import_folder(root.parent / "mine", root)
    others.add(prepare_segments(root, rate=RATE, window_seconds=1.0))
    assert len(others) == 5


@pytest.mark.parametrize("window", [1.0, None])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, os.strerror(28))])
def test_interrupted_or_disk_full(
    error: BaseException, window: float | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No partial cache remains, and the next call builds it completely."""
    written: list[object] = []
    real = module.to_int16

    class Disk:
        """Samples that can be written twice and then raise the error."""

        def __init__(self, samples: np.ndarray) -> None:
            self.samples = samples

        def __getitem__(self, part: slice) -> "Disk":
            return Disk(self.samples[part])

        def __len__(self) -> int:
            return len(self.samples)

        def tobytes(self) -> bytes:
            written.append(self)
            if len(written) > 2:
                raise error
            return self.samples.tobytes()

    with monkeypatch.context() as patch:
        patch.setattr(module, "to_int16", lambda wave, peak: Disk(real(wave, peak)))
        expected = DatasetError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected, match="No space left" if isinstance(error, OSError) else None):
            prepare_segments(root, rate=RATE, window_seconds=window)
    assert list((root / "cache").iterdir()) == []
    assert len(load_segments(prepare_segments(root, rate=RATE, window_seconds=window))[1]) == (6 if window else 4)


def test_killed(root: Path) -> None:
    """The partial cache of a killed process is not used, and is removed."""
    cache = prepare_segments(root, rate=RATE, window_seconds=1.0)
    leftover = cache.with_name(cache.name + ".partial")
    cache.rename(leftover)
    (leftover / "waveforms.npy").write_bytes(b"half")
    assert prepare_segments(root, rate=RATE, window_seconds=1.0) == cache
    assert len(load_segments(cache)[0]) == 6
    assert not leftover.exists()


def test_damaged_cache(root: Path) -> None:
    """Damage from outside: the message says how to repair it."""
    cache = prepare_segments(root, rate=RATE, window_seconds=1.0)
    waveforms = cache / "waveforms.npy"
    waveforms.write_bytes(waveforms.read_bytes()[:-10_000])
    with pytest.raises(DatasetError, match=r"waveforms\.npy cannot be read: .*remove .* to build it again"):
        load_segments(cache)
    np.save(waveforms, np.zeros((2, RATE), np.int16))
    with pytest.raises(DatasetError, match="2 waveforms, but 6 rows"):
        load_segments(cache)
    (cache / "cache.json").unlink()
    with pytest.raises(DatasetError, match=r"cache\.json cannot be read"):
        read_cache_info(cache)
    shutil.rmtree(cache)
    with pytest.raises(DatasetError, match=r"segments\.csv cannot be read"):
        load_segments(cache)


def test_undecodable_files(root: Path) -> None:
    """Reported and skipped, unless a class would lose all of its sounds."""
    mine = root.parent / "mine"
    (mine / "dog" / "b.wav").write_bytes(b"RIFF")
    info = read_cache_info(prepare_segments(root, rate=RATE, window_seconds=1.0))
    assert (info.files, len(info.skipped)) == (3, 1)
    assert "b.wav: " in info.skipped[0]
    (mine / "dog" / "b.wav").unlink()
    info = read_cache_info(prepare_segments(root, rate=RATE, window_seconds=1.0))
    assert (info.files, len(info.skipped)) == (3, 1)
    assert "b.wav: No such file" in info.skipped[0], "a missing file is skipped and listed, too"
    (mine / "rain" / "d.wav").write_bytes(b"RIFF")
    with pytest.raises(DatasetError, match=r"no usable sound of class 'rain'; first: .*d\.wav: .*not WAVE"):
        prepare_segments(root, rate=RATE, window_seconds=1.0)
    for path in mine.rglob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="no usable sound of class 'dog', 'rain'"):
        prepare_segments(root, rate=RATE, window_seconds=None)
    for path in mine.rglob("*.wav"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"all files of 'dog', 'rain' are missing, such as .*a\.wav"):
        prepare_segments(root, rate=RATE, window_seconds=1.0)


@pytest.mark.parametrize(("window", "overlap", "message"), [(0.0, 0, "has no samples"), (1.0, 1.0, "overlap by 1")])
def test_invalid_parameters(window: float, overlap: float, message: str, root: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        prepare_segments(root, rate=RATE, window_seconds=window, overlap=overlap)


def test_long_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a recording of more than two minutes only blocks are in memory, and its segments are those of a short one:
    the same file is cut with the limit above and below its length."""
    wave = np.concatenate([tone(7.3, RATE, hz=400, level=2.0), np.zeros((3 * RATE, 1), np.float32), tone(6.0, RATE)])
    for label in ("dog", "rain"):
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "a.wav").write_bytes(encode(wave * (0.4 if label == "dog" else 0.3), RATE))
        write_recording(tmp_path / "mine" / label / "b.wav", 1.5)
    import_folder(tmp_path / "mine", tmp_path / "sounds")
    found = []
    for seconds in (600.0, 1.0):
        monkeypatch.setattr(module, "_KEPT_SECONDS", seconds)
        for overlap in (0.0, 0.5):
            cache = prepare_segments(tmp_path / "sounds", rate=RATE, window_seconds=1.0, overlap=overlap)
            waveforms, segments = load_segments(cache)
            found.append((np.array(waveforms), segments, read_cache_info(cache)))
            shutil.rmtree(cache)
    for short, long in zip(found[:2], found[2:], strict=True):
        assert np.array_equal(short[0], long[0])
        assert short[1:] == long[1:]
        assert len(short[1]) > 20
        assert short[2].silent > 2


def test_recordings_of_hours(tmp_path: Path) -> None:
    """More than an hour is accepted, from import to cache: an hour and ten minutes at 1 kHz."""
    hour = np.random.default_rng(0).uniform(-0.3, 0.3, (70 * 60 * 1_000, 1)).astype(np.float32)
    for number, label in enumerate(("dog", "rain")):
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "a.wav").write_bytes(encode(hour * (1 + number), 1_000))
    result = import_folder(tmp_path / "mine", tmp_path / "sounds")
    assert (result.added, result.skipped) == (2, [])
    cache = prepare_segments(tmp_path / "sounds", rate=1_000, window_seconds=5.0)
    assert read_cache_info(cache).segments == 2 * 70 * 12


def test_a_class_whose_files_are_all_missing(root: Path) -> None:
    """An error before anything is decoded, with the remedies: a network would have a class that it cannot learn."""
    for gone in (root.parent / "mine" / "dog").iterdir():
        gone.unlink()
    with pytest.raises(DatasetError, match=r"all files of 'dog' are missing, such as .*dog/.*remove their lines"):
        write_split(root, val=0, test=0.4, seed=1)
    with pytest.raises(DatasetError, match="all files of 'dog' are missing"):
        prepare_segments(root, rate=RATE, window_seconds=1.0)
    with pytest.raises(DatasetError, match="all files of 'dog' are missing"):
        survey(root)


def test_missing_file_is_skipped_and_listed(root: Path) -> None:
    """Split, report, cache and data set do without it and state it; when it returns it is there again."""
    gone = next((root.parent / "mine" / "dog").glob("c.wav"))
    data = gone.read_bytes()
    write_recording(root.parent / "mine" / "rain" / "e.wav", 1.2)
    import_folder(root.parent / "mine", root)
    gone.unlink()
    assert write_split(root, val=0, test=0.4, seed=1).missing == [str(gone)]
    write_dataset_report(root, root / "report")
    assert "c.wav" in (root / "report" / "report.md").read_text()
    front = FrontendConfig(sample_rate=RATE, n_fft=256, hop=128, n_mels=8, f_max=4_000, window_seconds=1.0)
    dataset = load_custom_dataset(root, front)
    assert [message.split(": ")[0] for message in dataset.skipped] == [str(gone)]
    assert all(clip.path != gone for clip in dataset.clips)
    gone.write_bytes(data)
    dataset = load_custom_dataset(root, front)
    assert dataset.skipped == ()
    assert any(clip.path == gone for clip in dataset.clips)
