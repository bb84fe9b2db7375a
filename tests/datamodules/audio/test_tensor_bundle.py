"""Checkpoints that the tests write themselves, as TensorFlow does: read whole, or told what is wrong with them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from datamodules.audio.tensor_bundle import FLOAT32, MAGIC, read_bundle, read_table

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv2d/bias": RNG.normal(size=3).astype(np.float32),
    "conv2d/kernel": RNG.normal(size=(7, 2, 1, 3)).astype(np.float32),
    "conv2d_1/kernel": RNG.normal(size=(300, 2)).astype(np.float32),  # a size and offsets of more than seven bits
    "scalar": np.float32(3).reshape(()),
}
NOT_WANTED = ("beta1_power", "beta2_power", "conv2d/bias/Adam", "conv2d/bias/Adam_1")


def varint(value: int) -> bytes:
    digits = [value & 127]
    while value := value >> 7:
        digits[-1] |= 128
        digits.append(value & 127)
    return bytes(digits)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def entry(shape: tuple[int, ...], offset: int, size: int, dtype: int = FLOAT32, shard: int = 0) -> bytes:
    """Make a BundleEntryProto, with a checksum that nobody looks at."""
    dims = b"".join(field(2, field(1, n)) for n in shape)
    checksum = bytes([6 << 3 | 5]) + bytes(4)
    return field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size) + checksum


def block(entries: dict[bytes, bytes], restart_interval: int = 2) -> bytes:
    """Make a block: every other key is written in full, the rest without what it shares with the one before."""
    body, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries.items()):
        shared = 0
        if number % restart_interval == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return body + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: dict[bytes, bytes], entries_per_block: int = 3, compression: int = 0) -> bytes:
    """Make a sorted string table, with checksums that nobody looks at."""
    content, handles, keys = b"", {}, sorted(entries)

    def add(body: bytes) -> bytes:
        nonlocal content
        handle = varint(len(content)) + varint(len(body))
        content += body + bytes([compression]) + bytes(4)
        return handle

    for first in range(0, len(keys), entries_per_block):
        part = {key: entries[key] for key in keys[first : first + entries_per_block]}
        handles[keys[min(first + entries_per_block, len(keys)) - 1]] = add(block(part))
    properties = add(block({}))
    footer = (properties + add(block(handles, 1))).ljust(40, b"\0")
    return content + footer + MAGIC


def write_bundle(folder: Path, changed: dict[str, bytes] | None = None, **how) -> tuple[Path, Path]:
    """Write a checkpoint of ``ARRAYS`` and what training left beside them."""
    entries, data = {b"": field(1, 1)}, b""
    for name, array in {**ARRAYS, **dict.fromkeys(NOT_WANTED, ARRAYS["scalar"])}.items():
        entries[name.encode()] = entry(array.shape, len(data), array.nbytes)
        data += array.tobytes()
    entries |= {name.encode(): value for name, value in (changed or {}).items()}
    index, shard = folder / ".index", folder / ".data-00000-of-00001"
    index.write_bytes(table(entries, **how))
    shard.write_bytes(data)
    return index, shard


@pytest.mark.parametrize("entries_per_block", [1, 3, 99])
def test_every_array_is_read_and_nothing_else(tmp_path, entries_per_block):
    found = read_bundle(*write_bundle(tmp_path, entries_per_block=entries_per_block))
    assert found.keys() == ARRAYS.keys()
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_a_table_of_one_block_by_hand():
    content = b"\0\1\1ax" + b"\1\1\2byz" + bytes(4) + b"\1\0\0\0"  # the keys a and ab, one place of a full key
    handles = b"\0\1\2b" + varint(0) + varint(len(content)) + bytes(4) + b"\1\0\0\0"
    footer = (b"\0\0" + varint(len(content) + 5) + varint(len(handles))).ljust(40, b"\0") + MAGIC
    whole = content + bytes(5) + handles + bytes(5) + footer
    assert list(read_table(whole)) == [(b"a", b"x"), (b"ab", b"yz")]


@pytest.mark.parametrize(
    ("changed", "how", "reason"),
    [
        ({"x": entry((2,), 0, 8, dtype=2)}, {}, r"x is of type 2, shape \(2,\) and 8 bytes in data file 0"),
        ({"x": entry((2,), 0, 9)}, {}, r"shape \(2,\) and 9 bytes"),
        ({"x": entry((2,), 0, 8, shard=1)}, {}, "in data file 1"),
        ({"x": b"\x0b"}, {}, "a field is of wire type 3"),
        ({"x": b"\x08"}, {}, "index out of range"),
        ({}, {"compression": 1}, "is compressed"),
    ],
    ids=["type", "size", "shard", "message", "cut message", "compressed"],
)
def test_an_index_that_cannot_be_used(tmp_path, changed, how, reason):
    files = write_bundle(tmp_path, changed, **how)
    with pytest.raises(ValueError, match=rf"\.index is no index of a TensorFlow checkpoint, or damaged: .*{reason}"):
        read_bundle(*files)


@pytest.mark.parametrize("size", [0, 47, 48, -1])
def test_an_index_that_was_cut_off(tmp_path, size):
    index, data = write_bundle(tmp_path)
    index.write_bytes(index.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"\.index is no index .*: its end is not that of a table"):
        read_bundle(index, data)


def test_every_damaged_byte_of_an_index_is_told_or_harmless(tmp_path):
    index, data = write_bundle(tmp_path)
    whole = index.read_bytes()
    told = []
    for position in range(len(whole)):
        index.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read_bundle(index, data)
        except ValueError as error:
            told.append(str(error))
    assert len(told) > len(whole) / 2
    assert all(str(tmp_path) in words for words in told)


def test_a_data_file_that_was_cut_off(tmp_path):
    index, data = write_bundle(tmp_path)
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"data-00000-of-00001 is damaged: its 2580 bytes end before those of scalar"):
        read_bundle(index, data)


@pytest.mark.parametrize("number", [0, 1])
def test_missing_files(tmp_path, number):
    files = write_bundle(tmp_path)
    files[number].unlink()
    with pytest.raises(FileNotFoundError, match=str(files[number])):
        read_bundle(*files)
