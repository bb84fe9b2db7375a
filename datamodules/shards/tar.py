"""WebDataset shards: the only file that imports webdataset.

A sample is one track: ``KEY.mel.npy`` (float16, n_mels x frames, ``log10(1 + 10 S)``, not standardised), ``KEY.json`` (its
``TrackInfo``) and, where they are wanted, ``KEY.flac``, the waveform, and ``KEY.musicnn.npy`` (float16, windows x features).
KEY is the track id with the characters escaped that tar members or WebDataset give a meaning (a period would begin the
extension). Nothing is ever unpickled.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from webdataset import TarWriter
from webdataset.tariterators import group_by_keys

from datamodules.shards.estimates import labelled
from datamodules.shards.index import FEATURES_MEMBER, Shard, ShardIndex, ShardsError, labels_name
from datamodules.shards.storage import Root, locate, opened
from disentangled_ml.files import as_json, atomic_write, error_context
from disentangled_ml.structures import TrackInfo

MOST_BYTES = 1 << 30  # of a file; an hour of log-mel is 40 MB
# Of a C-ordered float16 matrix as np.save writes it; numpy's own parser fails on damaged ones in half a dozen ways.
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\), \} *\n",
    re.DOTALL,
)
# Of a regular file whose name is ASCII and short, as every tar writer but old ones begins it: fields end in zeros.
PLAIN_HEADER = re.compile(
    rb"(?P<name>[\x01-\x7f]+)\0*(?<=\A.{100})"
    rb".{24}(?P<size>[0-7]{11})\0.{12}(?P<checksum>[0-7]{6}\0 )"
    rb"0.{100}ustar\x0000.{80}\0{167}\Z",
    re.DOTALL,
)
# The checksum counts its own field as blanks.
CHECKSUM_BLANKS = 8 * ord(" ")
# Far beyond the 40 that log10 of a float32 number may have. The bits of float16 are in the order of the values, up to infinity and
# NaN; negative ones come behind.
LOUDEST_BITS = np.float16(2048).view(np.uint16)
ESCAPED = {code: f"%{code:02X}" for code in (*range(32), *map(ord, "%./\\"))}


class ShardSlice(NamedTuple):
    """Samples ``start`` to ``stop`` of one shard."""

    shard: Shard
    start: int
    stop: int


class WrittenShard(NamedTuple):
    """Size of a tar in bytes, and the digest of its content: names and bytes of its members."""

    bytes: int
    digest: str


def sample_key(track_id: str) -> str:
    """Escape a track id for use as the base name of tar members.

    >>> sample_key("Track 2.0/live")
    'Track 2%2E0%2Flive'
    """
    escaped = track_id.translate(ESCAPED)
    return "%5F" + escaped[1:] if escaped.startswith("_") else escaped


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> WrittenShard:
    """Write samples (``info``, ``mel`` and perhaps ``musicnn`` and ``flac``) as a tar, atomically."""
    content = hashlib.blake2b(digest_size=16)
    with atomic_write(path, "wb") as file:
        with TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as writer:
            for sample in samples:
                info: TrackInfo = sample["info"]
                members = {"mel.npy": encode_matrix(sample["mel"]), "json": as_json(info.as_plain()).encode()}
                if "musicnn" in sample:
                    members[FEATURES_MEMBER] = encode_matrix(sample["musicnn"])
                if "flac" in sample:
                    members["flac"] = sample["flac"]
                key = sample_key(info.track_id)
                for name, data in members.items():
                    content.update(f"{key}.{name} {len(data)}\n".encode() + data)
                writer.write({"__key__": key, **members})
        return WrittenShard(file.tell(), content.hexdigest())


def encode_matrix(matrix: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return buffer.getvalue()


def share_slices(shards: list[Shard], consumer: int, n_consumers: int) -> list[ShardSlice]:
    """Cut the samples of the shards, taken in the given order, into equal contiguous shares, and return one of them.

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


class PlainHeader(tarfile.TarInfo):
    """Header of a file, read with few calls where it holds no more than name and size in the plain form.

    tarfile parses fifteen fields of each header, which took half of the time of reading a shard. Any other header, and one whose
    checksum is wrong, is left to it.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        header = PLAIN_HEADER.match(buf)
        if header is None or sum(buf) - sum(header["checksum"]) + CHECKSUM_BLANKS != int(header["checksum"][:6], 8):
            return super().frombuf(buf, encoding, errors)
        member = cls(header["name"].decode())
        member.size, member.type = int(header["size"], 8), tarfile.REGTYPE
        return member


def tar_files(stream: IO[bytes], url: str, endings: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar whose names have one of some endings, in the form that webdataset groups by keys.

    webdataset's own iterator reads the tar in blocks of 10 KB, which it joins: that takes three times as long.
    """
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=PlainHeader) as tar:
        for member in tar:
            if not 0 <= member.size <= MOST_BYTES:
                raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
            if member.isreg() and member.name.endswith(endings):
                stream.seek(member.offset_data)
                data = stream.read(member.size)
                if len(data) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                yield {"fname": member.name, "data": data, "__url__": url}


def refuse(error: ShardsError, lost: int) -> None:
    raise error


def read_samples(
    root: Root,
    slices: list[ShardSlice],
    members: tuple[str, ...],
    on_damage: Callable[[ShardsError, int], None] = refuse,
) -> Iterator[dict[str, Any]]:
    """Stream the named members of samples, undecoded, as ``{member: bytes}``, their ``__key__``, and the ``__url__`` of their shard.

    Args:
        root: Folder or address.
        slices: What to read, in this order.
        members: Of each sample.
        on_damage: Called with the error and the number of samples that it loses; unless it raises, reading continues behind them.

    Raises: ShardsError: naming the shard, if it is missing, damaged, or lacks a sample or a member.
    """
    for shard, start, stop in slices:
        url, found, reason = locate(root, shard.file), 0, ""
        try:
            # Not by webdataset: to it some legal file names are addresses.
            with opened(root, shard.file) as stream:
                for sample in islice(group_by_keys(tar_files(stream, url, members)), start, stop):
                    found += 1
                    lacking = [member for member in members if member not in sample]
                    if lacking:
                        where = f"shard {url}, sample {start + found - 1}"
                        on_damage(ShardsError(f"{where}: no member {lacking[0]!r}: prepare it anew"), 1)
                    else:
                        yield {member: sample[member] for member in ("__key__", "__url__", *members)}
        except ShardsError:
            raise
        except (OSError, ValueError, EOFError, tarfile.TarError) as error:
            cause = error if isinstance(error, OSError) else (*error.args, error)[0]  # webdataset adds further ones
            reason = f"cannot be read ({cause})"
        if found < stop - start:
            reason = reason or f"ends after {start + found} samples, {stop} expected"
            on_damage(ShardsError(f"shard {url} {reason}: prepare it anew"), stop - start - found)


def decode_info(data: bytes) -> TrackInfo:
    """Decode the ``json`` member.

    Raises: ShardsError: if it is not that of a track.
    """
    try:
        info = TrackInfo(**json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise ShardsError(f"member json does not hold the labels of a track ({error})") from error
    legal = (str, str | None, int, dict, float | None, dict | None)
    are_legal = all(isinstance(value, kind) for value, kind in zip(info, legal, strict=True))
    if not (are_legal and are_probabilities(info.estimates)):
        raise ShardsError(f"member json does not hold the labels of a track ({info})")
    return info


def are_probabilities(estimates: dict[str, Any] | None) -> bool:
    """Return whether estimates are numbers by condition and tag.

    >>> are_probabilities(None), are_probabilities({"mood": {"sad": 0.1}}), are_probabilities({"mood": ["sad"]})
    (True, True, False)
    """
    by_tag = (estimates or {}).values()
    return all(isinstance(found, dict) and all(type(p) in (int, float) for p in found.values()) for found in by_tag)


def decode_mel(data: bytes) -> np.ndarray:
    """Decode the ``mel.npy`` member as a view into its bytes, without copying.

    Raises: ShardsError: if it is not a two-dimensional float16 array, or has a value that no sound has.
    Shape: returns (n_mels, frames) float16.
    """
    mel = decode_matrix(data, "mel.npy")
    # A hundredth of the time of np.isfinite, of which float16 has no fast one.
    if mel.size and mel.view(np.uint16).max() > LOUDEST_BITS:
        band, frame = np.argwhere(mel.view(np.uint16) > LOUDEST_BITS)[0].tolist()
        raise ShardsError(f"its spectrogram has the value {mel[band, frame]} in band {band} of frame {frame}")
    return mel


def decode_features(data: bytes, width: int) -> np.ndarray:
    """Decode the ``musicnn.npy`` member as a view into its bytes.

    Raises: ShardsError: if it is not a float16 matrix of at least one row of that width, all finite.
    Shape: returns (windows, width) float16.
    """
    features = decode_matrix(data, FEATURES_MEMBER)
    if features.shape[1] != width or not len(features):
        raise ShardsError(f"its features have shape {features.shape}, expected (windows, {width})")
    if not np.isfinite(features).all():
        raise ShardsError("its features are not finite")
    return features


def decode_matrix(data: bytes, member: str) -> np.ndarray:
    """Decode a float16 matrix as a view into its bytes, without copying. Raises ShardsError, naming the member, if it is none."""
    header = NPY_HEADER.match(data)
    if header is None:
        raise ShardsError(f"member {member} is not a float16 matrix, it begins with {data[:100]!r}")
    rows, columns = int(header[1]), int(header[2])
    if len(data) - header.end() != rows * columns * 2:
        raise ShardsError(f"member {member} is not a whole float16 matrix: {len(data)} bytes for {rows} x {columns}")
    return np.frombuffer(data, np.float16, offset=header.end()).reshape(rows, columns)


def decode_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Decode all members of a sample that were read, to what ``write_shard`` takes. Raises ShardsError if one is damaged."""
    decoded = {"info": decode_info(sample["json"]), "mel": decode_mel(sample["mel.npy"])}
    if FEATURES_MEMBER in sample:
        decoded["musicnn"] = decode_matrix(sample[FEATURES_MEMBER], FEATURES_MEMBER)
    return {**decoded, **({"flac": sample["flac"]} if "flac" in sample else {})}


def sample_context(sample: dict[str, Any]) -> AbstractContextManager[None]:
    """Name the sample and its shard in the errors of its decoding."""
    where = f"shard {sample['__url__']}, sample {sample['__key__']!r}"
    return error_context(ShardsError, lambda error: f"{where}: {error}: prepare it anew")


def read_infos(
    index: ShardIndex, split: str, on_damage: Callable[[ShardsError, int], None] = refuse
) -> list[TrackInfo]:
    """Read the labels of all tracks of a split, estimated ones too, without their audio.

    They are taken from the file of labels where there is one of as many tracks, else from the shards.

    Args:
        index: Of the shards.
        split: Of them.
        on_damage: As of ``read_samples``.

    Raises: ShardsError: naming the file, if labels are damaged.
    """
    kept, thresholds = read_kept_infos(index, split), index.thresholds()
    if len(kept) == index.count(split):
        return [labelled(info, thresholds) for info in kept]
    slices = share_slices(index.splits[split], consumer=0, n_consumers=1)
    infos = []
    for sample in read_samples(index.root, slices, ("json",), on_damage):
        try:
            with sample_context(sample):
                infos.append(labelled(decode_info(sample["json"]), thresholds))
        except ShardsError as error:
            on_damage(error, 1)
    return infos


def check_split(info: TrackInfo, split: str, known: Container[str]) -> None:
    """Check that a track is one of those that are known of its split, if any are. Raises ShardsError."""
    if known and info.track_id not in known:
        raise ShardsError(
            f"it is not of the {split} tracks that {labels_name(split)} names, but perhaps of another split"
        )


def known_tracks(index: ShardIndex, split: str) -> frozenset[str]:
    """Return the ids of the tracks of a split by its file of labels; none where there is no such file of all tracks."""
    kept = read_kept_infos(index, split)
    return frozenset(info.track_id for info in kept) if len(kept) == index.count(split) else frozenset()


def read_kept_infos(index: ShardIndex, split: str) -> list[TrackInfo]:
    """Read the file of labels of a split, as they are stored; none where there is no such file."""
    name, infos = labels_name(split), []
    try:
        with opened(index.root, name) as file:
            for number, line in enumerate(file, start=1):
                try:
                    infos.append(decode_info(line))
                except ShardsError as error:
                    where = f"{locate(index.root, name)}, line {number}"
                    raise ShardsError(f"{where}: {error}: prepare it anew") from error
    except OSError:
        return []
    return infos
