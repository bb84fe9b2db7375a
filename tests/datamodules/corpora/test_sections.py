"""Labels per section: from a manifest's rows to samples of stretches of recordings, and what relates them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio.decoding import UnusableAudio, decode, encode_flac, encode_mp3
from datamodules.audio.spectrogram import log_mel
from datamodules.corpora.manifest import read_manifest
from datamodules.corpora.records import collect, draw_split
from datamodules.shards import workers
from datamodules.shards.conditions import build_conditions
from datamodules.shards.plan import plan_shards, rows_digest
from datamodules.shards.preparation import PreparationSettings, prepare_shards
from datamodules.shards.tar import decode_mel, read_infos, read_samples, share_slices
from datamodules.triplet_lists.lists import ListSettings, make_triplets
from disentangled_ml.structures import SPLITS, TRACK, WHOLE, AudioSettings, Rejected, TrackRecord

SHARES = [0.5, 0.2, 0.3]
AUDIO = AudioSettings(n_mels=16)
RATE = 22050
SETTINGS = PreparationSettings(AUDIO, min_frames=16, tempo="manifest")
STEP = 2.0**-15  # of 16 bits


def read(tmp_path: Path, text: str) -> tuple[list[TrackRecord], list[Rejected]]:
    (tmp_path / "m.csv").write_text(text)
    return collect(read_manifest(tmp_path / "m.csv", SHARES))


def ramp(seconds: float) -> np.ndarray:
    """Make a waveform each of whose stretches is another."""
    n = round(seconds * RATE)
    return np.random.default_rng(0).uniform(-0.5, 0.5, n) * np.linspace(0.2, 1.0, n)


HEADER = "track_id,path,start,end,genre\n"


def test_rows_become_sections_of_one_recording(tmp_path):
    text = (
        f"{HEADER}a,a.wav,0,12.5,rock\na,a.wav,12.5,30.0,jazz\na,a.wav,30,,pop\na,a.wav,,,rock;jazz\nb,b.wav,,4,pop\n"
    )
    records, rejected = read(tmp_path, text)
    assert rejected == []
    assert [record.track_id for record in records] == ["a@0-12.5", "a@12.5-30", "a@30-end", "a", "b@0-4"]
    assert [record.section for record in records] == [
        (0.0, 12.5),
        (12.5, 30.0),
        (30.0, None),
        (0.0, None),
        (0.0, 4.0),
    ]
    assert [record.labels["genre"] for record in records] == [["rock"], ["jazz"], ["pop"], ["jazz", "rock"], ["pop"]]
    assert [record.artist for record in records] == ["recording a"] * 4 + ["recording b"]
    assert {record.split for record in records[:4]} == {draw_split("a", SHARES)}


def test_a_given_artist_stays_and_decides_the_split(tmp_path):
    text = "track_id,path,artist,start,end\na,a.wav,Ann,0,9\na,a.wav,Ann,9,18\nb,b.wav,Ann,0,9\n"
    records, _ = read(tmp_path, text)
    assert {(record.artist, record.split) for record in records} == {("Ann", draw_split("Ann", SHARES))}


def test_start_and_end_are_no_conditions(tmp_path):
    (tmp_path / "m.csv").write_text("track_id,path,start,end,genre\na,a.wav,intro,verse,rock\n")
    catalogue = read_manifest(tmp_path / "m.csv", SHARES)
    assert catalogue.conditions == ["genre"]


def test_one_of_the_columns_alone_is_what_it_was(tmp_path):
    (record,), _ = read(tmp_path, "track_id,path,start\na,a.wav,early\n")
    assert record == TrackRecord("a", str(tmp_path / "a.wav"), None, draw_split("a", SHARES), {"start": ["early"]})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,a.wav,9,9,x", "the section starts at 9 s and ends at 9 s: start must be less than end"),
        ("a,a.wav,9,8.5,x", "the section starts at 9 s and ends at 8.5 s: start must be less than end"),
        ("a,a.wav,,0,x", "the section starts at 0 s and ends at 0 s: start must be less than end"),
        ("a,a.wav,1,1.0005,x", "the section starts at 1 s and ends at 1.0005 s: start must be less than end"),
        ("a,a.wav,-1,8,x", "start '-1' is not a number of seconds from 0 on"),
        ("a,a.wav,0,inf,x", "end 'inf' is not a number of seconds from 0 on"),
        ("a,a.wav,0:10,1:20,x", "start '0:10' is not a number of seconds from 0 on"),
    ],
)
def test_illegal_sections_are_rejected_with_their_reason(tmp_path, row, reason):
    records, rejected = read(tmp_path, f"{HEADER}first,1.wav,0,5,x\n{row}\nlast,2.wav,5,9,x\n")
    assert [record.track_id for record in records] == ["first@0-5", "last@5-9"]
    assert rejected == [Rejected("a", "a.wav", f"{reason} (m.csv, line 3)")]


def test_a_repeated_section_is_rejected_an_overlapping_one_is_not(tmp_path):
    records, rejected = read(tmp_path, f"{HEADER}a,a.wav,0,9,x\na,a.wav,0.0,9.00,y\na,a.wav,4,12,y\n")
    assert [record.track_id for record in records] == ["a@0-9", "a@4-12"]
    assert [(track.track_id, track.reason) for track in rejected] == [
        ("a@0-9", "duplicate track_id, the first one is kept")
    ]


def test_sections_of_one_recording_share_a_split(tmp_path):
    text = (
        "track_id,path,split,start,end\na,a.wav,train,0,9\na,a.wav,test,9,18\na,a.wav,train,18,20\nb,b.wav,test,0,9\n"
    )
    records, rejected = read(tmp_path, text)
    assert [record.track_id for record in records] == ["a@0-9", "a@18-20", "b@0-9"]
    reason = "split 'test', but a row above has this recording in 'train': give it one split (m.csv, line 3)"
    assert rejected == [Rejected("a", "a.wav", reason)]


def test_shards_know_sections(tmp_path):
    """A section that ends elsewhere is another track."""
    digests, prints = set(), set()
    for end in (9, 10):
        records, _ = read(tmp_path, f"{HEADER}a,a.wav,0,{end},rock\n")
        digests |= {rows_digest(records), rows_digest([records[0]._replace(section=WHOLE)])}
        prints.add(plan_shards(read_manifest(tmp_path / "m.csv", SHARES), "settings", 4).fingerprint)
    assert (len(digests), len(prints)) == (4, 2)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 1.0), (0.7, 4.1), (3.2, None), (2.972, 2.973), (0.0, None), (4.0, 5.05)]
)
def test_a_section_is_a_stretch_of_the_whole(tmp_path, extension, start, end):
    path = tmp_path / f"a.{extension}"
    data = {"flac": encode_flac, "mp3": encode_mp3}.get(extension)
    if data:
        path.write_bytes(data(ramp(5.0), RATE))
    else:
        soundfile.write(path, np.stack([ramp(5.0)] * 2, axis=1), RATE)
    whole, _ = decode(path)
    stretch, rate = decode(path, start, end)
    expected = whole[round(start * RATE) : None if end is None else round(end * RATE)]
    assert rate == RATE
    assert np.array_equal(stretch, expected)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (4.0, 5.2, "the section from 4 to 5.2 s goes beyond the end of the recording at 5.00 s"),
        (5.0, None, "the section from 5 s on goes beyond the end of the recording at 5.00 s"),
        (9.0, 12.0, "the section from 9 to 12 s goes beyond the end of the recording at 5.00 s"),
        (9.0, None, "the section from 9 s on goes beyond the end of the recording at 5.00 s"),
    ],
)
def test_a_section_beyond_the_end(tmp_path, start, end, message):
    soundfile.write(tmp_path / "a.wav", ramp(5.0), RATE)
    with pytest.raises(UnusableAudio, match=message):
        decode(tmp_path / "a.wav", start, end)


def test_silence_is_that_of_the_section(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.concatenate([np.zeros(2 * RATE), ramp(2.0)]), RATE)
    with pytest.raises(UnusableAudio, match="silent"):
        decode(tmp_path / "a.wav", 0.0, 1.9)
    assert len(decode(tmp_path / "a.wav", 1.9, None)[0]) == 4 * RATE - round(1.9 * RATE)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepare a manifest of sections in threads: gives the index."""
    monkeypatch.setattr(workers, "new_pool", lambda n, *_: ThreadPoolExecutor(n))
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", ramp(4.0), RATE)
    lines = [f"{name},{name}.wav,{start},{end},{genre}" for name in "abcd" for start, end, genre in TWO_SECTIONS]
    lines += ["a,a.wav,0,0.2,rock", "b,b.wav,3,5,rock", "c,gone.wav,0,1,rock"]
    (tmp_path / "m.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return prepare_shards(read_manifest(tmp_path / "m.csv", [0.0, 0.0, 1.0]), tmp_path / "out", SETTINGS, workers=1)


TWO_SECTIONS = [(0, 1.5, "rock"), (1.5, 4, "jazz")]


def reasons(lines: Iterable[str]) -> dict[str, str]:
    return {line.split(",")[0]: line.split(",", 2)[2].strip('"') for line in lines}


def test_samples_hold_their_section_alone(prepared, tmp_path):
    assert [prepared.count(split) for split in SPLITS] == [0, 0, 8]
    infos = {info.track_id: info for info in read_infos(prepared, "test")}
    assert sorted(infos) == sorted(f"{name}@{span}" for name in "abcd" for span in ("0-1.5", "1.5-4"))
    mels = {}
    for sample in read_samples(prepared.root, share_slices(prepared.splits["test"], 0, 1), ("json", "mel.npy")):
        mels[len(mels)] = decode_mel(sample["mel.npy"])
    waveform = decode(tmp_path / "a.wav", 1.5, 4.0)[0]
    expected = log_mel(waveform, AUDIO)
    assert any(mel.shape == expected.shape and np.array_equal(mel, expected) for mel in mels.values())
    assert infos["a@1.5-4"].labels == {"genre": ["jazz"]}
    assert infos["a@1.5-4"].frames == expected.shape[1]


def test_bad_sections_are_listed(prepared, tmp_path):
    found = reasons((tmp_path / "out" / "rejected.csv").read_text().splitlines()[1:])
    assert found == {
        "a@0-0.2": "shorter than a chunk: 0.20 s, 0.35 s needed",
        "b@3-5": "the section from 3 to 5 s goes beyond the end of the recording at 4.00 s",
        "c@0-1": "missing file",
    }


def test_relations_are_between_sections(prepared):
    """Anchor and positive are never of one recording; anchor and negative are, among others."""
    infos = read_infos(prepared, "test")
    conditions = build_conditions(prepared, ["genre"])
    triplets = make_triplets(infos, conditions, ListSettings(300, seed=0, chunk_frames=16))
    labels = {info.track_id: info.labels["genre"] for info in infos}
    own = [triplet for triplet in triplets if triplet.condition == "genre"]
    assert len(own) == 300
    for _, anchor, positive, negative in own:
        assert labels[anchor.track_id] == labels[positive.track_id] != labels[negative.track_id]
        assert anchor.track_id[0] != positive.track_id[0]
    assert any(anchor.track_id[0] == negative.track_id[0] for _, anchor, _, negative in own)
    within = [triplet for triplet in triplets if triplet.condition == TRACK]
    assert all(anchor.track_id == positive.track_id for _, anchor, positive, _ in within)
    assert within
