"""WebDataset shards: the only file that imports webdataset.

A sample is one track: ``KEY.mel.npy`` (float16, n_mels x frames, ``log10(1 + 10 S)``, not standardised), ``KEY.json`` (its
``TrackInfo``) and, where the waveform is wanted, ``KEY.flac``. KEY is the track id with the characters escaped that tar
members or WebDataset give a meaning (a period would begin the extension). Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from webdataset import TarWriter
from webdataset.tariterators import group_by_keys, tar_file_expander

from datamodules.index import Shard, ShardIndex, ShardsError
from disentangled_ml.structures import TrackInfo

MEMBERS = {"mel": "mel.npy", "waveform": "flac"}  # source of a frontend -> member of a sample
# Of a C-ordered float16 matrix as np.save writes it; numpy's own parser fails on damaged ones in half a dozen ways.
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\), \} *\n",
    re.DOTALL,
)
ESCAPED = {code: f"%{code:02X}" for code in (*range(32), *map(ord, "%./\\"))}


class ShardSlice(NamedTuple):
    """Name the samples ``start`` to ``stop`` of one shard."""

    shard: Shard
    start: int
    stop: int


def sample_key(track_id: str) -> str:
    """Escape a track id for use as the base name of tar members.

    >>> sample_key("Track 2.0/live")
    'Track 2%2E0%2Flive'
    """
    escaped = track_id.translate(ESCAPED)
    return "%5F" + escaped[1:] if escaped.startswith("_") else escaped


def write_shard(path: Path, samples: Iterator[dict[str, Any]]) -> None:
    """Write samples (``info``, ``mel`` and perhaps ``flac``) as a tar, under another name until it is whole."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file, TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as writer:
        for sample in samples:
            info: TrackInfo = sample["info"]
            buffer = io.BytesIO()
            np.save(buffer, sample["mel"], allow_pickle=False)
            members = {"mel.npy": buffer.getvalue(), "json": json.dumps(info._asdict(), ensure_ascii=False).encode()}
            if "flac" in sample:
                members["flac"] = sample["flac"]
            writer.write({"__key__": sample_key(info.track_id), **members})
    temporary.replace(path)


def share_slices(shards: list[Shard], consumer: int, n_consumers: int) -> list[ShardSlice]:
    """Cut the samples of the shards, taken in the given order, into equal contiguous shares and give one of them.

    Every sample is in exactly one share, and shares differ by at most one sample, for any number of shards and consumers.

    >>> [s[1:] for s in share_slices([Shard("a", 3), Shard("b", 4)], consumer=1, n_consumers=2)]
    [(0, 4)]
    """
    total = sum(shard.samples for shard in shards)
    first, last = total * consumer // n_consumers, total * (consumer + 1) // n_consumers
    slices, offset = [], 0
    for shard in shards:
        start, stop = max(first - offset, 0), min(last - offset, shard.samples)
        if start < stop:
            slices.append(ShardSlice(shard, start, stop))
        offset += shard.samples
    return slices


def read_samples(root: Path, slices: list[ShardSlice], members: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Stream the named members of samples, undecoded, as ``{member: bytes}``, and their ``__key__``.

    Raises:
        ShardsError: naming the shard, if it is missing, damaged, or lacks a sample or a member.
    """
    for shard, start, stop in slices:
        url = str(Path(root) / shard.file)
        found = 0
        try:
            with open(url, "rb") as stream:  # not by webdataset: to it some legal file names are addresses
                files = tar_file_expander(
                    [{"url": url, "stream": stream}], select_files=lambda name: name.endswith(members)
                )
                for sample in islice(group_by_keys(files), start, stop):
                    found += 1
                    yield {member: sample[member] for member in ("__key__", *members)}
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            reason = error if isinstance(error, OSError) else (*error.args, error)[0]  # webdataset appends to the args
            raise ShardsError(f"shard {url} cannot be read ({reason}): prepare it anew") from error
        except KeyError as error:
            raise ShardsError(f"shard {url}, sample {start + found - 1}: no member {error}: prepare it anew") from error
        if found < stop - start:
            raise ShardsError(f"shard {url} ends after {start + found} samples, {stop} expected: prepare it anew")


def decode_info(data: bytes) -> TrackInfo:
    """Decode the ``json`` member.

    Raises:
        ShardsError: if it is not that of a track.
    """
    try:
        info = TrackInfo(**json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise ShardsError(f"member json does not hold the labels of a track ({error})") from error
    legal = (str, str | None, int, dict)
    if not all(isinstance(value, kind) for value, kind in zip(info, legal, strict=True)):
        raise ShardsError(f"member json does not hold the labels of a track ({info})")
    return info


def decode_mel(data: bytes) -> np.ndarray:
    """Decode the ``mel.npy`` member as a view into its bytes, without copying.

    Raises:
        ShardsError: if it is not a two-dimensional float16 array.

    Shape:
        returns: (n_mels, frames) float16.
    """
    header = NPY_HEADER.match(data)
    if header is None:
        raise ShardsError(f"member mel.npy is not a float16 matrix, it begins with {data[:100]!r}")
    n_mels, frames = int(header[1]), int(header[2])
    if len(data) - header.end() != n_mels * frames * 2:
        raise ShardsError(f"member mel.npy is not a whole float16 matrix: {len(data)} bytes for {n_mels} x {frames}")
    return np.frombuffer(data, np.float16, offset=header.end()).reshape(n_mels, frames)


@contextmanager
def naming(root: Path, sample: dict[str, Any]) -> Iterator[None]:
    """Name the sample in the errors of its decoding."""
    try:
        yield
    except ShardsError as error:
        raise ShardsError(f"{root}, sample {sample['__key__']!r}: {error}: prepare it anew") from error


def read_infos(index: ShardIndex, split: str) -> list[TrackInfo]:
    """Read the labels of all tracks of a split, without their audio."""
    slices = share_slices(index.splits[split], consumer=0, n_consumers=1)
    infos = []
    for sample in read_samples(index.root, slices, ("json",)):
        with naming(index.root, sample):
            infos.append(decode_info(sample["json"]))
    return infos
