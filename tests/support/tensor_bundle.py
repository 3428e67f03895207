"""Writes variables as TensorFlow does: a file of values, and an index that is a table of LevelDB.

Its parts are public, so that a test can write an index that no TensorFlow would.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32, STRING, INT64 = 1, 7, 9
KINDS = {"float32": FLOAT32, "int64": INT64}
MAGIC = 0xDB4775248B80FB57
RESTART_INTERVAL = 16  # entries of a block whose keys share bytes with the one before

HEADER = bytes([0x08, 1, 0x1A, 2, 0x08, 1])  # one file of values, version 1


def crc32c_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC32C = [crc32c_of_byte(value) for value in range(256)]


def crc32c(data: bytes) -> int:
    """Byte by byte."""
    register = 0xFFFFFFFF
    for byte in data:
        register = CRC32C[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ 0xFFFFFFFF


def masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    """As protobuf writes it, negative values in ten bytes."""
    value %= 2**64
    written = []
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def entry(shape: Sequence[int], offset: int, size: int, checksum: int, *, kind: int = FLOAT32, shard: int = 0) -> bytes:
    """The message of one variable; fields that are zero are left out."""
    dimensions = [b"\x08" + varint(each) if each else b"" for each in shape]
    shapes = b"".join(b"\x12" + varint(len(each)) + each for each in dimensions)
    message = b"\x08" + varint(kind) + b"\x12" + varint(len(shapes)) + shapes
    for tag, value in ((0x18, shard), (0x20, offset), (0x28, size)):
        message += bytes([tag]) + varint(value) if value else b""
    return message + b"\x35" + struct.pack("<I", masked(checksum))


def block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Entries in the order of their keys, without compression and checksum."""
    written, restarts, previous = b"", [], b""
    for number, (key, value) in enumerate(entries):
        if number % RESTART_INTERVAL == 0:
            restarts.append(len(written))
            previous = b""
        shared = next((i for i, (a, b) in enumerate(zip(previous, key, strict=False)) if a != b), len(previous))
        written += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return written + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(blocks: Sequence[bytes], *, compression: int = 0) -> bytes:
    """Blocks, the empty one of the filters, the one that says where the blocks are, and the footer."""
    written, handles = b"", []
    for content in (*blocks, block([])):
        handles.append(varint(len(written)) + varint(len(content)))
        written += sealed(content, compression)
    top = block([(b"%03d" % number, handle) for number, handle in enumerate(handles[:-1])])
    footer = handles[-1] + varint(len(written)) + varint(len(top))
    return written + sealed(top, 0) + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def sealed(content: bytes, compression: int) -> bytes:
    """A block with its compression and its checksum."""
    content += bytes([compression])
    return content + struct.pack("<I", masked(crc32c(content)))


def write_saved_model(folder: Path, variables: Mapping[str, NDArray[Any]], *, block_entries: int = 50) -> Path:
    """A SavedModel with variables under the keys of `variables`, and the graph of objects, without a network."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    graph = b"\x0a\x00" * 20
    data = graph
    entries = [(b"", HEADER), (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry([], 0, len(graph), 0, kind=STRING))]
    for name, array in sorted(variables.items()):
        values = np.ascontiguousarray(array).tobytes()
        key = f"{name}/.ATTRIBUTES/VARIABLE_VALUE".encode()
        kind = KINDS[str(array.dtype)]
        entries.append((key, entry(array.shape, len(data), len(values), crc32c(values), kind=kind)))
        data += values
    entries.sort()
    blocks = [block(entries[start : start + block_entries]) for start in range(0, len(entries), block_entries)]
    (folder / "variables/variables.index").write_bytes(table(blocks))
    (folder / "variables/variables.data-00000-of-00001").write_bytes(data)
    return folder
