"""Variables of TensorFlow are read without TensorFlow, and damaged or malicious files are refused."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import tensor_bundle as written
from tests.support.tensor_bundle import HEADER, block, entry, table, varint, write_saved_model
from training.base_models.crc32c import crc32c
from training.base_models.tensor_bundle import data_file, read_tensor_bundle
from training.errors import BaseModelError

KEY = b"kernel/.ATTRIBUTES/VARIABLE_VALUE"
VALUES = np.arange(6, dtype=np.float32)
CHECKSUM = written.crc32c(VALUES.tobytes())
GOOD = entry([2, 3], 0, 24, CHECKSUM)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_is_that_of_rfc_3720(data: bytes, checksum: int) -> None:
    """The examples of its appendix B.4."""
    assert crc32c(data) == written.crc32c(data) == checksum


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, (1 << 20) + 5])
def test_the_checksum_of_any_length(size: int) -> None:
    """Also of more than one chunk."""
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == written.crc32c(data)


def files(folder: Path, index: bytes, data: bytes = VALUES.tobytes()) -> Path:
    """A pair of files; the path of the values."""
    (folder / "variables.index").write_bytes(index)
    path = folder / "variables.data-00000-of-00001"
    path.write_bytes(data)
    return path


def one(value: bytes, key: bytes = KEY, header: bytes = HEADER) -> bytes:
    """An index of one variable."""
    return table([block([(b"", header), (key, value)])])


def test_variables_of_float32_are_read(tmp_path: Path) -> None:
    """From several blocks, in which names share beginnings; others are left out."""
    generator = np.random.default_rng(0)
    variables: dict[str, NDArray[np.float32]] = {
        f"model/layer-{number}/{name}": generator.standard_normal(shape, np.float32)
        for number in range(40)
        for name, shape in (("kernel", (3, number + 1)), ("bias", (number + 1,)), ("scale", ()))
    }
    others = {"save_counter": np.array(3, np.int64), "empty": np.zeros((0, 4), np.float32)}
    folder = write_saved_model(tmp_path / "saved", {**variables, **others})
    read = read_tensor_bundle(data_file(folder))
    assert read.keys() == variables.keys()
    for name, value in variables.items():
        np.testing.assert_array_equal(read[name], value, strict=True)
    assert all(value.flags.writeable for value in read.values())


def test_a_saved_model_is_given_as_its_folder_or_its_index(tmp_path: Path) -> None:
    """Any other path is a file itself."""
    data = tmp_path / "variables/variables.data-00000-of-00001"
    (tmp_path / "variables").mkdir()
    assert data_file(tmp_path) == data_file(tmp_path / "variables/variables.index") == data_file(data) == data
    assert data_file(tmp_path / "yamnet.h5") == tmp_path / "yamnet.h5"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "not a table of LevelDB"),
        (one(GOOD)[:-1], "not a table of LevelDB"),
        (one(GOOD)[10:], "does not have its checksum"),
        (table([block([(b"", HEADER), (KEY, GOOD)])], compression=1), r"compressed \(type 1\)"),
        (table([b""]), "a block of the index is damaged"),
        (table([struct.pack("<I", 2**32 - 1)]), "a block of the index is damaged"),
        (table([block([(KEY, GOOD)])]), "not one file of little-endian values"),
        (one(GOOD, header=b"\x08\x02"), "not one file of little-endian values"),
        (one(GOOD, header=b"\x08\x01\x10\x01"), "not one file of little-endian values"),
        (one(GOOD, header=b"\x0a\x01\x01"), "is not a number"),
        (one(GOOD, header=b"\x0b"), "a field of the type 3"),
        (one(GOOD, header=b"\x08" + b"\xff" * 10), "more than ten bytes"),
        (one(GOOD, header=b"\x0a\xff\xff\xff\xff\x7f"), "points behind its end"),
        (one(entry([2, 3], 0, 20, CHECKSUM)), "kernel has 20 bytes"),
        (one(entry([2, -3], 0, 24, CHECKSUM)), "kernel has 24 bytes"),
        (one(entry([1 << 62, 1 << 62], 0, 24, CHECKSUM)), "kernel has 24 bytes"),
        (one(entry([1 << 40], 0, 4 << 40, CHECKSUM)), "the file ends before the end of kernel"),
        (one(entry([2, 3, *[1] * 60], 0, 24, CHECKSUM)), "62 dimensions"),
        (one(entry([2, 3], 4, 24, CHECKSUM)), "the file ends before the end of kernel"),
        (one(entry([2, 3], -24, 24, CHECKSUM)), "the file ends before the end of kernel"),
        (one(entry([2, 3], 0, 24, CHECKSUM, shard=1)), "the file ends before the end of kernel"),
        (one(entry([2, 3], 0, 24, CHECKSUM ^ 1)), "kernel does not have the checksum"),
        (one(GOOD, key=b"\xff" + KEY), "can't decode byte"),
        (table([block([(b"", HEADER), (KEY, GOOD)]), block([(b"a" + KEY, GOOD)])]), "not in ascending order"),
        (table([block([(b"", HEADER), (b"a" + KEY, GOOD), (b"b" + KEY, GOOD)])]), "ends before the end of b"),
        (table([block([(b"", HEADER), (b"a" * 600, b""), (b"a" * 1_200, b"")])]), "too long"),
        (table([varint(5) + varint(1) + varint(0) + b"a" + struct.pack("<II", 0, 1)]), "a name in the index is"),
        (bytes(1 << 18) + one(GOOD), "262,144"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(index: bytes, message: str, tmp_path: Path) -> None:
    """Also those whose checksums are right."""
    with pytest.raises(BaseModelError, match=message):
        read_tensor_bundle(files(tmp_path, index))


def test_a_block_is_not_read_twice(tmp_path: Path) -> None:
    """An index of a few bytes for each of many readings of one large block would take hours."""
    content = block([(b"", HEADER), (KEY, GOOD)])
    sealed = written.sealed(content, 0)
    handle = varint(0) + varint(len(content))
    top = written.sealed(block([(b"1", handle), (b"2", handle)]), 0)
    footer = handle + varint(len(sealed)) + varint(len(top) - 5)
    index = sealed + top + footer.ljust(40, b"\0") + struct.pack("<Q", written.MAGIC)
    with pytest.raises(BaseModelError, match="blocks of the index overlap"):
        read_tensor_bundle(files(tmp_path, index))


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    """The values are not read before their size is known."""
    data = files(tmp_path, one(GOOD))
    with data.open("r+b") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(BaseModelError, match=r"1,073,741,825 bytes; the limit is 1,073,741,824"):
        read_tensor_bundle(data)
    data.with_suffix(".index").unlink()
    with pytest.raises(BaseModelError, match="cannot be read as variables of TensorFlow"):
        read_tensor_bundle(data)


def mutated(content: bytes, choose: random.Random) -> bytes:
    """A few bytes of it changed, removed or added."""
    changed = bytearray(content)
    for _ in range(choose.randint(1, 3)):
        at = choose.randrange(len(changed))
        changed[at : at + choose.randint(0, 2)] = choose.randbytes(choose.randint(0, 2)) or b"\xff"
    return bytes(changed)


CONTENT = block([(b"", HEADER), (b"a" + KEY, entry([2], 0, 8, 0)), (KEY, GOOD), (KEY + b"2", GOOD)])


@pytest.mark.parametrize(
    "damage",
    [
        lambda choose: mutated(table([CONTENT]), choose),
        lambda choose: table([mutated(CONTENT, choose)]),
        lambda choose: one(mutated(GOOD, choose)),
        lambda choose: one(GOOD, header=mutated(HEADER, choose)),
    ],
    ids=["file", "block", "entry", "header"],
)
def test_arbitrary_damage_is_refused_or_does_not_matter(
    damage: Callable[[random.Random], bytes], tmp_path: Path
) -> None:
    """No other exception, with and without the right checksums of the blocks; a value is right or not there."""
    choose = random.Random(0)
    for _ in range(150):
        try:
            read = read_tensor_bundle(files(tmp_path, damage(choose)))
        except BaseModelError:
            continue
        for value in read.values():
            np.testing.assert_array_equal(value.ravel(), VALUES)
