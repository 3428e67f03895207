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
from training.data.custom.manifest import CACHE, LIMITS, Item, alone, read_items, table_digest
from training.data.custom.npy_file import finish, write_header, write_padded
from training.data.custom.parallel import in_order
from training.data.custom.segments import SILENT_DB, Piece, Samples, cut, loudness, to_int16
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError

_WAVES, _PIECES, _PREPARED = "waves.npy", "pieces.csv", "prepared.json"
_COLUMNS = tuple(field.name for field in fields(Piece))
_FORM = 1  # changes when the same parameters come to mean something else


class Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: int  # Hz
    window_seconds: float | None  # None: one piece a file, whole
    overlap: float
    silence_db: float


class Prepared(BaseModel):
    """prepared.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: Parameters
    files: int  # with at least one piece
    pieces: int
    silent: int  # pieces left out since nothing is to be heard in them
    skipped: list[str]  # files without a piece, and why


@dataclass(frozen=True)
class _Cut:
    """What became of one file."""

    item: Item
    pieces: list[tuple[Piece, Samples]]
    silent: int = 0
    error: str = ""


def prepare(
    root: Path, *, rate: int, window_seconds: float | None, overlap: float = 0.0, silence_db: float = SILENT_DB
) -> Path:
    """The cache folder for these parameters, made unless it is there. Raises DatasetError.

    `overlap` is the share of a window that its neighbour has, too. A piece in which no 0.1 s is as loud as `silence_db`
    dBFS (RMS) is left out. A file that cannot be decoded is left out, too, unless nothing would be left of its class.
    """
    if window_seconds is not None and round(window_seconds * rate) < 1:
        raise DatasetError(f"a window of {window_seconds:g} s has no samples at {rate:,} Hz")
    if not 0 <= overlap < 1:
        raise DatasetError(f"windows cannot overlap by {overlap:g}: 0 to less than 1")
    parameters = Parameters(rate=rate, window_seconds=window_seconds, overlap=overlap, silence_db=silence_db)
    folder = root / CACHE / _key(root, read_items(root), parameters)
    if folder.is_dir():
        return folder
    with alone(root):
        items = read_items(root)
        folder = root / CACHE / _key(root, items, parameters)
        if not folder.is_dir():
            try:
                _fill(root, items, parameters, folder)
            except OSError as error:
                raise DatasetError(f"{folder} cannot be written: {error}") from error
    return folder


def load_pieces(cache: Path) -> tuple[NDArray[np.int16], list[Piece]]:
    """The memory map and what each of its rows is. Raises DatasetError."""
    rows = read_table(cache / _PIECES, _COLUMNS)
    pieces = [
        Piece(row["file"], float(row["start_seconds"]), float(row["seconds"]), row["label"], row["source"])
        for _, row in rows
    ]
    try:
        waves = np.load(cache / _WAVES, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{cache / _WAVES} cannot be read: {error}; remove {cache} to have it made again") from error
    if len(waves) != len(pieces):
        raise DatasetError(f"{cache}: {len(waves)} waveforms, {len(pieces)} rows; remove it to have it made again")
    return waves, pieces


def read_prepared(cache: Path) -> Prepared:
    """How the cache was made. Raises DatasetError."""
    try:
        return Prepared.model_validate_json((cache / _PREPARED).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{cache / _PREPARED} cannot be read: {error}") from error


def _key(root: Path, items: list[Item], parameters: Parameters) -> str:
    digest = hashlib.sha256(f"{_FORM} {parameters.model_dump_json()} {table_digest(root)}\n".encode())
    for item in items:
        try:
            state = (root / item.file).stat()
        except OSError as error:
            raise DatasetError(f"{root / item.file} cannot be read: {error}") from error
        digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _fill(root: Path, items: list[Item], parameters: Parameters, folder: Path) -> None:
    for left in folder.parent.glob("*.partial"):  # by those who did not come to their end; nobody else is here now
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(folder.name + ".partial")
    try:
        partial.mkdir(parents=True)
        prepared = _write(root, items, parameters, partial)
        (partial / _PREPARED).write_text(prepared.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(root: Path, items: list[Item], parameters: Parameters, folder: Path) -> Prepared:
    pieces: list[Piece] = []
    files = silent = 0
    skipped: list[str] = []
    first: dict[str, str] = {}  # of those, by label
    whole = parameters.window_seconds is None
    width = 0 if parameters.window_seconds is None else round(parameters.window_seconds * parameters.rate)
    # How long the longest is turns out last; until then, whole files are written one after the other, without zeros.
    with (folder / ("ragged" if whole else _WAVES)).open("w+b") as file:
        if not whole:
            write_header(file, 0, width)
        for done in tqdm(_decoded(root, items, parameters), total=len(items), desc="decode", unit="file", leave=False):
            silent += done.silent
            if done.pieces:
                files += 1
            else:
                skipped.append(f"{root / done.item.file}: {done.error or 'silent'}")
                first.setdefault(done.item.label, skipped[-1])
            for piece, samples in done.pieces:
                pieces.append(piece)
                file.write(samples.tobytes())
                if not whole:
                    file.seek(2 * (width - len(samples)), os.SEEK_CUR)  # what is never written reads as zeros
        if lost := sorted({item.label for item in items} - {piece.label for piece in pieces}):
            raise DatasetError(f"no sound of {', '.join(map(repr, lost))} can be used; first: {first[lost[0]]}")
        if whole:
            file.seek(0)
            write_padded(file, folder / _WAVES, [round(piece.seconds * parameters.rate) for piece in pieces])
        else:
            finish(file, len(pieces), width)
    (folder / "ragged").unlink(missing_ok=True)
    write_table(folder / _PIECES, _COLUMNS, map(astuple, pieces))
    return Prepared(parameters=parameters, files=files, pieces=len(pieces), silent=silent, skipped=skipped)


def _decoded(root: Path, items: list[Item], parameters: Parameters) -> Iterator[_Cut]:
    rate = parameters.rate

    def work(item: Item) -> _Cut:
        try:
            wave = decode((root / item.file).read_bytes(), rate, LIMITS).waveform
        except (AudioError, OSError) as error:
            return _Cut(item, [], error=str(error))
        samples = to_int16(wave)
        window = len(wave) if parameters.window_seconds is None else round(parameters.window_seconds * rate)
        pieces: list[tuple[Piece, Samples]] = []
        silent = 0
        for part in cut(len(wave), window, parameters.overlap):
            if loudness(wave[part], rate).max() < parameters.silence_db:
                silent += 1
                continue
            length = part.stop - part.start
            piece = Piece(item.file, part.start / rate, length / rate, item.label, item.source)
            pieces.append((piece, samples[part]))
        return _Cut(item, pieces, silent)

    return in_order(work, items)
