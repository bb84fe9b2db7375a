"""TensorFlow's checkpoints (tensor bundles) read by NumPy: names to arrays, without TensorFlow.

A bundle is two files. The index is a sorted string table as LevelDB writes it, uncompressed: blocks of entries (key, value), whose
keys leave out what they share with the key before; a block of the blocks' places; a footer with the place of that one. The values
are messages of protocol buffers, ``BundleEntryProto``: type, shape, and where in the data file the array lies, which is raw,
row-major and little-endian. Sources: ``tensorflow/core/protobuf/tensor_bundle.proto``, LevelDB's ``doc/table_format.md``.

Read are the float32 arrays of a bundle with one data file. The checksums of the blocks (CRC32C) are not verified: compare
the files with a digest.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAGIC = bytes.fromhex("57fb808b247547db")  # of LevelDB's tables
FOOTER_BYTES = 48
UNCOMPRESSED = 0  # the type of a block, in the byte behind it
FLOAT32 = 1  # TensorFlow's number of the type
# What only going on with the training would need: Adam's moments, and the powers of its decay.
OPTIMISER = ("Adam", "beta1_power", "beta2_power")


def read_bundle(index: Path, data: Path) -> dict[str, np.ndarray]:
    """Read the float32 arrays of a checkpoint by their names, without those of the optimiser.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the index is no table or damaged, or the data file lacks bytes of an array; the file is named.
    """
    try:
        entries = {key.decode(): parse_message(value) for key, value in read_table(index.read_bytes()) if key}
        wanted = {name: entry for name, entry in entries.items() if not any(word in name for word in OPTIMISER)}
        places = {name: _place(name, entry) for name, entry in wanted.items()}
    except (ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{index} is no index of a TensorFlow checkpoint, or damaged: {error}") from error
    content = data.read_bytes()
    for name, (shape, offset) in places.items():
        if offset + 4 * math.prod(shape) > len(content):
            raise ValueError(f"{data} is damaged: its {len(content)} bytes end before those of {name}")
    return {
        name: np.frombuffer(content, "<f4", math.prod(shape), offset).reshape(shape).astype(np.float32)
        for name, (shape, offset) in places.items()
    }


def _place(name: str, entry: dict[int, list]) -> tuple[tuple[int, ...], int]:
    """Return shape and offset of an array from its ``BundleEntryProto``; fields with the value 0 are left out there."""
    dtype, shard, offset, size = (entry.get(field, [0])[0] for field in (1, 3, 4, 5))
    sizes = [parse_message(dim) for dim in parse_message(entry.get(2, [b""])[0]).get(2, [])]
    shape = tuple(dim.get(1, [0])[0] for dim in sizes)
    if (dtype, shard, size) != (FLOAT32, 0, 4 * math.prod(shape)):
        raise ValueError(f"{name} is of type {dtype}, shape {shape} and {size} bytes in data file {shard}")
    return shape, offset


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits per byte, lowest first: the number, and the position behind it.

    >>> read_varint(bytes([0b1010_1100, 0b10]), 0)
    (300, 2)
    """
    value, shift = 0, 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def read_table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of an uncompressed sorted string table, (key, value), in order.

    Raises: ValueError, IndexError, struct.error: If it is none, or damaged.
    """
    footer = table[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or not footer.endswith(MAGIC):
        raise ValueError("its end is not that of a table")
    _, position = read_varint(footer, 0)
    _, position = read_varint(footer, position)  # offset and size of the block of properties, of which there are none
    for _, handle in _entries(table, footer[position:]):
        yield from _entries(table, handle)


def _entries(table: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of the block whose offset and size a handle gives."""
    offset, position = read_varint(handle, 0)
    size, _ = read_varint(handle, position)
    if table[offset + size] != UNCOMPRESSED:
        raise ValueError(f"the block at {offset} is compressed")
    block = table[offset : offset + size]
    # Behind the entries are the places where keys are written in full, four bytes each, and how many these are.
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        length, position = read_varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def parse_message(message: bytes) -> dict[int, list]:
    """Parse a message of protocol buffers: the values of each field by its number, an integer or bytes each.

    >>> parse_message(bytes([0b0000_1000, 3, 0b0001_0010, 2, 65, 66]))
    {1: [3], 2: [b'AB']}
    """
    fields: dict[int, list] = {}
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        wire_type = tag & 7
        if wire_type == 0:
            value, position = read_varint(message, position)
        elif wire_type in (2, 5):
            length, position = read_varint(message, position) if wire_type == 2 else (4, position)
            value = message[position : position + length]
            position += length
        else:
            raise ValueError(f"a field is of wire type {wire_type}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields
