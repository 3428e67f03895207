"""The segment cache of a custom data set: all sounds decoded once and cut into segments, in a memory map.

Waveforms are cached rather than log-mels: augmentation works on waveforms, and a log-mel is cheap to compute.

    cache/<key>/waveforms.npy    int16 (segments, samples), full scale 32,768, zero-padded at the end
    cache/<key>/segments.csv     one row per segment: file, start_seconds, seconds, label, source
    cache/<key>/cache.json       parameters, counts and skipped files

The key is a digest of the parameters, of items.csv, and of the size and modification time of every file: a stale cache
is never used. A cache folder gets its final name only when it is complete.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from otoscope.errors import AudioError
from shared.audio.decode import SoundStream, Waveform
from shared.audio.level import FrameLevels
from shared.audio.probe import probe
from training.data.base import LeftOut
from training.data.custom.labels import split_label
from training.data.custom.manifest import (
    CACHE_DIR,
    IMPORT_LIMITS,
    MORE_OR_NONE,
    ManifestEntry,
    lock_dataset,
    manifest_digest,
    present_entries,
    read_manifest,
)
from training.data.custom.npy_file import finish, write_header, write_padded
from training.data.custom.parallel import map_ordered
from training.data.custom.segments import (
    SILENCE_DBFS,
    Int16Samples,
    Segment,
    cut_spans,
    segment_slices,
    to_int16,
)
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError, cause
from training.progress import progress_bar
from worker.model.answers import AnswerConfig
from worker.pipeline.activity import activity_of

_WAVEFORMS, _SEGMENTS, _INFO = "waveforms.npy", "segments.csv", "cache.json"
_COLUMNS = tuple(field.name for field in fields(Segment))
_KEPT_SECONDS = 120.0  # a longer sound is decoded twice instead of being kept in memory
_LARGE_BYTES = 8 * 2**20  # of files above this two are decoded at a time, since each is read into memory
_HEADERS = 50  # files whose length is read before the others are decoded
_STATED_BYTES = 1e9  # from which on the size of a cache is printed before it is made
_FORMAT = 5  # to be increased whenever the content for the same parameters changes


class CacheParameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: int  # Hz
    window_seconds: float | None  # None: one segment per file, uncut
    overlap: float
    silence_db: float


class CacheInfo(BaseModel):
    """Content of cache.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: CacheParameters
    files: int  # with at least one segment
    segments: int
    silent: int  # segments left out because they are silent
    left_out: tuple[LeftOut, ...]  # by class, where anything was
    skipped: list[str]  # files without a segment, with the reason
    silent_files: list[str]  # of these, as in the manifest: those that are silent throughout


@dataclass(frozen=True)
class _DecodedFile:
    """The segments of one file, or the error."""

    entry: ManifestEntry
    spans: list[slice]  # of the segments, in samples
    segments: Iterable[tuple[Segment, Int16Samples]] = ()  # of a long file they are decoded while they are iterated
    silent: int = 0
    short_end: bool = False  # less than half a window at the end is in no segment
    error: str = ""


def prepare_segments(
    root: Path, *, rate: int, window_seconds: float | None, overlap: float = 0.0, silence_db: float = SILENCE_DBFS
) -> Path:
    """Return the cache folder for these parameters; build it if necessary. Raises DatasetError.

    `window_seconds` is the length of a segment; None keeps every file whole. `overlap` is the fraction of a window
    shared with the next one. A segment is left out if no 0.1 s of it is louder than `silence_db` (dBFS, RMS), or well
    above the noise floor of its file, as in the service: a quiet field recording is kept. Files that cannot be
    decoded are left out, unless a class would lose all of its sounds. A class of which all sounds are silent has no
    segments.
    """
    if window_seconds is not None and round(window_seconds * rate) < 1:
        raise DatasetError(f"a window of {window_seconds:g} s has no samples at {rate:,} Hz")
    if not 0 <= overlap < 1:
        raise DatasetError(f"windows cannot overlap by {overlap:g}; accepted: 0 to less than 1")
    parameters = CacheParameters(rate=rate, window_seconds=window_seconds, overlap=overlap, silence_db=silence_db)
    folder = root / CACHE_DIR / _cache_key(root, _entries(root), parameters)
    if folder.is_dir():
        return folder
    with lock_dataset(root):
        entries = _entries(root)
        folder = root / CACHE_DIR / _cache_key(root, entries, parameters)
        if not folder.is_dir():
            try:
                _build(root, entries, parameters, folder)
            except OSError as error:
                raise DatasetError(f"{folder} cannot be written: {cause(error)}") from error
    return folder


def load_segments(cache: Path) -> tuple[np.memmap[tuple[int, int], np.dtype[np.int16]], list[Segment]]:
    """The waveforms (segments, samples) as a memory map, and the description of each row. Raises DatasetError."""
    rows = read_table(cache / _SEGMENTS, _COLUMNS)
    segments = [
        Segment(row["file"], float(row["start_seconds"]), float(row["seconds"]), row["label"], row["source"])
        for _, row in rows
    ]
    try:
        waveforms = np.load(cache / _WAVEFORMS, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{cache / _WAVEFORMS} cannot be read: {cause(error)}; remove {cache} to build it again"
        ) from error
    if len(waveforms) != len(segments):
        raise DatasetError(
            f"{cache}: {len(waveforms)} waveforms, but {len(segments)} rows; remove it to build it again"
        )
    return waveforms, segments


def read_cache_info(cache: Path) -> CacheInfo:
    """Read cache.json. Raises DatasetError."""
    try:
        return CacheInfo.model_validate_json((cache / _INFO).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{cache / _INFO} cannot be read: {cause(error)}") from error


def _entries(root: Path) -> list[ManifestEntry]:
    """The sounds of a data set; a file that is missing is left out and listed, as one that cannot be decoded.

    Raises DatasetError.
    """
    entries = read_manifest(root, missing_ok=True)
    if not present_entries(root, entries):
        read_manifest(root)  # raises: there are none
    return entries


def _cache_key(root: Path, entries: list[ManifestEntry], parameters: CacheParameters) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {parameters.model_dump_json()} {manifest_digest(root)}\n".encode())
    for entry in entries:
        try:
            stat = (root / entry.file).stat()
        except FileNotFoundError:
            digest.update(b"missing\n")
            continue
        except OSError as error:
            raise DatasetError(f"{root / entry.file} cannot be read: {cause(error)}") from error
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _build(root: Path, entries: list[ManifestEntry], parameters: CacheParameters, folder: Path) -> None:
    for leftover in folder.parent.glob("*.partial"):  # from interrupted processes; the lock excludes running ones
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(folder.name + ".partial")
    try:
        partial.mkdir(parents=True)
        _state_size(root, entries, parameters)
        info = _write_segments(root, entries, parameters, partial)
        (partial / _INFO).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _state_size(root: Path, entries: list[ManifestEntry], parameters: CacheParameters) -> None:
    """Print how large the cache will be, if it is large, from the headers of a few files."""
    seconds: list[float] = []
    for entry in entries[:: max(len(entries) // _HEADERS, 1)]:
        with suppress(AudioError, OSError):
            header = probe((root / entry.file).read_bytes(), IMPORT_LIMITS)
            seconds.append(max(header.seconds or 0.0, parameters.window_seconds or 0.0))
    total = sum(seconds) / max(len(seconds), 1) * len(entries)
    size = 2 * total * parameters.rate / (1 - parameters.overlap)
    if size > _STATED_BYTES:
        free = shutil.disk_usage(root).free
        tqdm.write(
            f"{total / 3_600:.1f} hours of sound: about {size / 1e9:.1f} GB in {root / CACHE_DIR}, where"
            f" {free / 1e9:.1f} GB are free; memory does not depend on it"
        )


def _write_segments(root: Path, entries: list[ManifestEntry], parameters: CacheParameters, folder: Path) -> CacheInfo:
    segments: list[Segment] = []
    files = silent = 0
    left_out = {entry.label: LeftOut(label=entry.label) for entry in entries}
    skipped: list[str] = []
    silent_files: list[ManifestEntry] = []
    first: dict[str, str] = {}  # first message by label
    whole_files = parameters.window_seconds is None
    width = 0 if parameters.window_seconds is None else round(parameters.window_seconds * parameters.rate)
    # The length of the longest file is known only at the end; until then, whole files are written back to back, without
    # padding.
    with (folder / ("ragged" if whole_files else _WAVEFORMS)).open("w+b") as file:
        if not whole_files:
            write_header(file, 0, width)
        for decoded in progress_bar(
            _decode_all(root, entries, parameters), total=len(entries), desc="decode", unit="file"
        ):
            silent += decoded.silent
            label = decoded.entry.label
            left_out[label] = LeftOut(
                label=label,
                files=left_out[label].files + (not decoded.spans),
                silent_windows=left_out[label].silent_windows + decoded.silent,
                short_ends=left_out[label].short_ends + decoded.short_end,
            )
            if decoded.spans:
                files += 1
            else:
                skipped.append(f"{root / decoded.entry.file}: {decoded.error or 'silent'}")
                if not decoded.error:
                    silent_files.append(decoded.entry)
                for name in decoded.entry.labels:
                    first.setdefault(name, skipped[-1])
            for segment, samples in decoded.segments:
                segments.append(segment)
                file.write(samples.tobytes())
                if not whole_files:
                    file.seek(2 * (width - len(samples)), os.SEEK_CUR)  # a gap in the file reads as zeros
        classes = {label for entry in entries for label in entry.labels}
        usable = {label for segment in segments for label in split_label(segment.label)}
        if segments:
            usable |= {label for entry in silent_files for label in entry.labels}
        if lost := sorted(classes - usable):
            raise DatasetError(
                f"no usable sound of class {', '.join(map(repr, lost))}; first: {first[lost[0]]}; {MORE_OR_NONE}"
            )
        if whole_files:
            file.seek(0)
            write_padded(file, folder / _WAVEFORMS, [round(segment.seconds * parameters.rate) for segment in segments])
        else:
            finish(file, len(segments), width)
    (folder / "ragged").unlink(missing_ok=True)
    write_table(folder / _SEGMENTS, _COLUMNS, map(astuple, segments))
    return CacheInfo(
        parameters=parameters,
        files=files,
        segments=len(segments),
        silent=silent,
        left_out=tuple(one for _, one in sorted(left_out.items()) if one != LeftOut(label=one.label)),
        skipped=skipped,
        silent_files=[entry.file for entry in silent_files],
    )


def _decode_all(root: Path, entries: list[ManifestEntry], parameters: CacheParameters) -> Iterator[_DecodedFile]:
    large = threading.Semaphore(2)

    def decode_entry(entry: ManifestEntry) -> _DecodedFile:
        path = root / entry.file
        try:
            with large if path.stat().st_size > _LARGE_BYTES else nullcontext():
                return _decode_file(path, entry, parameters)
        except (AudioError, OSError) as error:
            return _DecodedFile(entry, [], error=cause(error))

    return map_ordered(decode_entry, entries)


def _decode_file(path: Path, entry: ManifestEntry, parameters: CacheParameters) -> _DecodedFile:
    """Decode a file and decide its segments. Of a sound of more than two minutes no samples are kept: its segments are
    cut while it is decoded a second time. Raises an AudioError or OSError."""
    rate = parameters.rate
    kept: list[Waveform] = []
    levels = FrameLevels(rate)
    samples, peak = 0, 0.0
    for block in SoundStream(path.read_bytes(), rate, IMPORT_LIMITS):
        levels.add(block)
        samples += len(block)
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        kept.append(block)
        if samples > _KEPT_SECONDS * rate and parameters.window_seconds is not None:
            kept.clear()
    window = samples if parameters.window_seconds is None else round(parameters.window_seconds * rate)
    activity = activity_of(levels.levels(), AnswerConfig(active_dbfs=parameters.silence_db))
    found = list(segment_slices(samples, window, parameters.overlap))
    heard = activity.windows([(span.start / rate, span.stop / rate) for span in found])
    spans = [span for span, active in zip(found, heard, strict=True) if active]

    in_memory = sum(map(len, kept)) == samples

    def cut() -> Iterator[tuple[Segment, Int16Samples]]:
        blocks = kept if in_memory else SoundStream(path.read_bytes(), rate, IMPORT_LIMITS)
        for span, part in cut_spans(blocks, spans):
            length = span.stop - span.start
            segment = Segment(entry.file, span.start / rate, length / rate, entry.label, entry.source)
            yield segment, to_int16(part, peak)

    short_end = samples - found[-1].stop > window // 50
    return _DecodedFile(entry, spans, list(cut()) if in_memory else cut(), len(found) - len(spans), short_end)
