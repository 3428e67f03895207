"""Decodes a collection once, into a memory map that a trainer reads at any place.

What is kept are waveforms and not log-mels: those are a matrix product away, and augmentation happens on waveforms.

    cache/<key>/waves.npy        int16 (pieces, samples), full scale 32,768, zeros behind what is shorter
    cache/<key>/pieces.csv       one row a piece: file, start_seconds, seconds, label, source
    cache/<key>/prepared.json    how it was made, and what was left out

The key is a digest of the parameters, of items.csv, and of size and time of every file: what is stale is never found.
The folder has its name only when it is whole.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from otoscope.errors import AudioError
from shared.audio.decode import decode
from training.data.custom.manifest import (
    CACHE_DIR,
    IMPORT_LIMITS,
    ManifestEntry,
    lock_dataset,
    manifest_digest,
    read_manifest,
)
from training.data.custom.npy_file import finish, write_header, write_padded
from training.data.custom.parallel import map_ordered
from training.data.custom.segments import SILENCE_DBFS, Int16Samples, Segment, rms_dbfs, segment_slices, to_int16
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError

_WAVEFORMS, _SEGMENTS, _INFO = "waves.npy", "pieces.csv", "prepared.json"
_COLUMNS = tuple(field.name for field in fields(Segment))
_FORMAT = 1  # changes when the same parameters come to mean something else


class CacheParameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: int  # Hz
    window_seconds: float | None  # None: one piece a file, whole
    overlap: float
    silence_db: float


class CacheInfo(BaseModel):
    """prepared.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: CacheParameters
    files: int  # with at least one piece
    segments: int
    silent: int  # pieces left out since nothing is to be heard in them
    skipped: list[str]  # files without a piece, and why


@dataclass(frozen=True)
class _DecodedFile:
    """What became of one file."""

    entry: ManifestEntry
    segments: list[tuple[Segment, Int16Samples]]
    silent: int = 0
    error: str = ""


def prepare_segments(
    root: Path, *, rate: int, window_seconds: float | None, overlap: float = 0.0, silence_db: float = SILENCE_DBFS
) -> Path:
    """The cache folder for these parameters, made unless it is there. Raises DatasetError.

    `overlap` is the share of a window that its neighbour has, too. A piece in which no 0.1 s is as loud as `silence_db`
    dBFS (RMS) is left out. A file that cannot be decoded is left out, too, unless nothing would be left of its class.
    """
    if window_seconds is not None and round(window_seconds * rate) < 1:
        raise DatasetError(f"a window of {window_seconds:g} s has no samples at {rate:,} Hz")
    if not 0 <= overlap < 1:
        raise DatasetError(f"windows cannot overlap by {overlap:g}: 0 to less than 1")
    parameters = CacheParameters(rate=rate, window_seconds=window_seconds, overlap=overlap, silence_db=silence_db)
    folder = root / CACHE_DIR / _cache_key(root, read_manifest(root), parameters)
    if folder.is_dir():
        return folder
    with lock_dataset(root):
        entries = read_manifest(root)
        folder = root / CACHE_DIR / _cache_key(root, entries, parameters)
        if not folder.is_dir():
            try:
                _build(root, entries, parameters, folder)
            except OSError as error:
                raise DatasetError(f"{folder} cannot be written: {error}") from error
    return folder


def load_segments(cache: Path) -> tuple[NDArray[np.int16], list[Segment]]:
    """The memory map and what each of its rows is. Raises DatasetError."""
    rows = read_table(cache / _SEGMENTS, _COLUMNS)
    segments = [
        Segment(row["file"], float(row["start_seconds"]), float(row["seconds"]), row["label"], row["source"])
        for _, row in rows
    ]
    try:
        waveforms = np.load(cache / _WAVEFORMS, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{cache / _WAVEFORMS} cannot be read: {error}; remove {cache} to have it made again"
        ) from error
    if len(waveforms) != len(segments):
        raise DatasetError(
            f"{cache}: {len(waveforms)} waveforms, {len(segments)} rows; remove it to have it made again"
        )
    return waveforms, segments


def read_cache_info(cache: Path) -> CacheInfo:
    """How the cache was made. Raises DatasetError."""
    try:
        return CacheInfo.model_validate_json((cache / _INFO).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{cache / _INFO} cannot be read: {error}") from error


def _cache_key(root: Path, entries: list[ManifestEntry], parameters: CacheParameters) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {parameters.model_dump_json()} {manifest_digest(root)}\n".encode())
    for entry in entries:
        try:
            stat = (root / entry.file).stat()
        except OSError as error:
            raise DatasetError(f"{root / entry.file} cannot be read: {error}") from error
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _build(root: Path, entries: list[ManifestEntry], parameters: CacheParameters, folder: Path) -> None:
    for leftover in folder.parent.glob("*.partial"):  # by those who did not come to their end; nobody else is here now
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder.with_name(folder.name + ".partial")
    try:
        partial.mkdir(parents=True)
        info = _write_segments(root, entries, parameters, partial)
        (partial / _INFO).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_segments(root: Path, entries: list[ManifestEntry], parameters: CacheParameters, folder: Path) -> CacheInfo:
    segments: list[Segment] = []
    files = silent = 0
    skipped: list[str] = []
    first: dict[str, str] = {}  # of those, by label
    whole_files = parameters.window_seconds is None
    width = 0 if parameters.window_seconds is None else round(parameters.window_seconds * parameters.rate)
    # How long the longest is turns out last; until then, whole files are written one after the other, without zeros.
    with (folder / ("ragged" if whole_files else _WAVEFORMS)).open("w+b") as file:
        if not whole_files:
            write_header(file, 0, width)
        for decoded in tqdm(
            _decode_all(root, entries, parameters), total=len(entries), desc="decode", unit="file", leave=False
        ):
            silent += decoded.silent
            if decoded.segments:
                files += 1
            else:
                skipped.append(f"{root / decoded.entry.file}: {decoded.error or 'silent'}")
                first.setdefault(decoded.entry.label, skipped[-1])
            for segment, samples in decoded.segments:
                segments.append(segment)
                file.write(samples.tobytes())
                if not whole_files:
                    file.seek(2 * (width - len(samples)), os.SEEK_CUR)  # what is never written reads as zeros
        if lost := sorted({entry.label for entry in entries} - {segment.label for segment in segments}):
            raise DatasetError(f"no sound of {', '.join(map(repr, lost))} can be used; first: {first[lost[0]]}")
        if whole_files:
            file.seek(0)
            write_padded(file, folder / _WAVEFORMS, [round(segment.seconds * parameters.rate) for segment in segments])
        else:
            finish(file, len(segments), width)
    (folder / "ragged").unlink(missing_ok=True)
    write_table(folder / _SEGMENTS, _COLUMNS, map(astuple, segments))
    return CacheInfo(parameters=parameters, files=files, segments=len(segments), silent=silent, skipped=skipped)


def _decode_all(root: Path, entries: list[ManifestEntry], parameters: CacheParameters) -> Iterator[_DecodedFile]:
    rate = parameters.rate

    def decode_entry(entry: ManifestEntry) -> _DecodedFile:
        try:
            wave = decode((root / entry.file).read_bytes(), rate, IMPORT_LIMITS).waveform
        except (AudioError, OSError) as error:
            return _DecodedFile(entry, [], error=str(error))
        samples = to_int16(wave)
        window = len(wave) if parameters.window_seconds is None else round(parameters.window_seconds * rate)
        segments: list[tuple[Segment, Int16Samples]] = []
        silent = 0
        for span in segment_slices(len(wave), window, parameters.overlap):
            if rms_dbfs(wave[span], rate).max() < parameters.silence_db:
                silent += 1
                continue
            length = span.stop - span.start
            segment = Segment(entry.file, span.start / rate, length / rate, entry.label, entry.source)
            segments.append((segment, samples[span]))
        return _DecodedFile(entry, segments, silent)

    return map_ordered(decode_entry, entries)
