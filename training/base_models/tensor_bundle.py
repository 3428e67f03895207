"""Reads the variables of a TensorFlow SavedModel, or of a checkpoint of TensorFlow 2, without TensorFlow.

The format is TensorFlow's "tensor bundle": a file of values, and an index that is a table of LevelDB
(https://github.com/google/leveldb/blob/main/doc/table_format.md) from the name of a variable to a message of
protobuf (tensorflow/core/protobuf/tensor_bundle.proto). Every checksum is verified. The work and the memory that a
damaged or malicious file can cause are proportional to its size, which is limited.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.base_models.crc32c import masked_crc32c
from training.errors import BaseModelError, cause

Message: TypeAlias = dict[int, list[int | bytes]]
"""Number of a field -> its values."""

DATA_SUFFIX = ".data-00000-of-00001"

_INDEX_SUFFIX = ".index"
_MAX_INDEX_BYTES = 1 << 18  # that of YAMNet has 7,730
_MAX_NAME_BYTES = 1 << 10  # a few bytes of the index can repeat all of the previous name
_MAX_DATA_BYTES = 1 << 30
_MAX_DIMENSIONS = 8

_FOOTER_BYTES = 48
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_TRAILER_BYTES = 5  # of a block: its compression and its checksum

_FLOAT32 = 1
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def data_file(path: Path) -> Path:
    """The file of values of a SavedModel that is given as its folder or as its index; any other path as it is."""
    if path.is_dir():
        path = path / "variables" / f"variables{_INDEX_SUFFIX}"
    return path.with_suffix(DATA_SUFFIX) if path.suffix == _INDEX_SUFFIX else path


def read_tensor_bundle(data: Path) -> dict[str, NDArray[np.float32]]:
    """Name -> value of the variables of float32; `data` is the file of values, beside which its index is.

    Variables without elements are left out. Raises BaseModelError.
    """
    index = data.with_suffix(_INDEX_SUFFIX)
    try:
        for file, limit in ((index, _MAX_INDEX_BYTES), (data, _MAX_DATA_BYTES)):
            if (size := file.stat().st_size) > limit:
                raise BaseModelError(f"{file} has {size:,} bytes; the limit is {limit:,}")
        return _variables(index.read_bytes(), data.read_bytes())
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{data} cannot be read as variables of TensorFlow: {cause(error)}") from error


def _variables(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    """Raises ValueError."""
    entries = dict(_entries(index))
    header = _message(entries.pop(b"", b""))
    if _number(header, 1) != 1 or _number(header, 2) != 0:
        raise ValueError("it is not one file of little-endian values")
    variables: dict[str, NDArray[np.float32]] = {}
    total = 0
    for key, entry in entries.items():
        name, message = key.decode(), _message(entry)
        shape = [_number(dimension, 1) for shape in _nested(message, 2) for dimension in _nested(shape, 2)]
        if _number(message, 1) != _FLOAT32 or 0 in shape or not name.endswith(_VALUE):
            continue
        name = name.removesuffix(_VALUE)
        offset, size = _number(message, 4), _number(message, 5)
        total += size
        if len(shape) > _MAX_DIMENSIONS or size != 4 * math.prod(shape):
            raise ValueError(f"{name} has {size:,} bytes and {len(shape)} dimensions: {str(shape)[:100]}")
        if _number(message, 3) != 0 or offset + size > len(data) or total > len(data):
            raise ValueError(f"the file ends before the end of {name}")
        value = data[offset : offset + size]
        if masked_crc32c(value) != _number(message, 6):
            raise ValueError(f"{name} does not have the checksum of the index")
        variables[name] = np.frombuffer(value, "<f4").astype(np.float32).reshape(shape)
    return variables


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table of LevelDB, in ascending order of the keys. Raises ValueError."""
    footer = table[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise ValueError("the index is not a table of LevelDB, or not complete")
    _, at = _handle(footer, 0)  # of the block of filters
    top, _ = _handle(footer, at)
    last: bytes | None = None
    end = 0
    for _, value in _block(table, *top):
        (start, size), _ = _handle(value, 0)
        if start < end:  # so that no block is read twice
            raise ValueError("the blocks of the index overlap")
        end = start + size + _TRAILER_BYTES
        for key, entry in _block(table, start, size):
            if last is not None and key <= last:
                raise ValueError("the names in the index are not in ascending order")
            yield key, entry
            last = key


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block, of which each key is stored without what it shares with the one before.

    Raises ValueError.
    """
    content = _part(table, start, size + _TRAILER_BYTES)
    block, compression, checksum = content[:size], content[size], content[size + 1 :]
    if masked_crc32c(content[: size + 1]) != int.from_bytes(checksum, "little"):
        raise ValueError("a block of the index does not have its checksum")
    if compression:
        raise ValueError(f"the index is compressed (type {compression}), which is not supported")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block of the index is damaged")
    entries, key, at = block[:end], b"", 0
    while at < end:
        shared, at = _varint(entries, at)
        added, at = _varint(entries, at)
        length, at = _varint(entries, at)
        if shared > len(key) or shared + added > _MAX_NAME_BYTES:
            raise ValueError("a name in the index is damaged or too long")
        key = key[:shared] + _part(entries, at, added)
        at += added
        yield key, _part(entries, at, length)
        at += length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The offset and the size of a block, and the position behind them. Raises ValueError."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _message(data: bytes) -> Message:
    """The fields of a message of protobuf. Raises ValueError."""
    fields: Message = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
            case 1 | 5 as kind:
                width = 8 if kind == 1 else 4
                value = int.from_bytes(_part(data, at, width), "little")
                at += width
            case 2:
                length, at = _varint(data, at)
                value = _part(data, at, length)
                at += length
            case kind:
                raise ValueError(f"a message in the index has a field of the type {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _nested(message: Message, field: int) -> list[Message]:
    """The messages in a field of a message. Raises ValueError."""
    return [_message(value) for value in message.get(field, []) if isinstance(value, bytes)]


def _number(message: Message, field: int) -> int:
    """A field of a message, 0 if it is absent. Raises ValueError."""
    value = message.get(field, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {field} of a message in the index is not a number")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven in each byte, and the position behind it. Raises ValueError."""
    value = 0
    for shift in range(0, 64, 7):
        byte = _part(data, at, 1)[0]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in the index has more than ten bytes")


def _part(data: bytes, at: int, size: int) -> bytes:
    """Raises ValueError."""
    if at + size > len(data):
        raise ValueError("the index points behind its end")
    return data[at : at + size]
