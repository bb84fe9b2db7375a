"""Tags of every format, as people write them, broken ones too."""

import os

import mutagen
import pytest
from mutagen.apev2 import APEv2
from mutagen.asf import ASFUnicodeAttribute
from mutagen.id3 import ID3, TALB, TBPM, TCON, TDRC, TIT2, TMOO, TPE1, TPE2, TSRC, TXXX, UFID
from mutagen.mp4 import MP4FreeForm

from datamodules.corpora.folder.manifest_writer import TAG_COLUMNS
from datamodules.corpora.folder.tags import CELLS, read_tags
from tests.datamodules.corpora.folder.music import encoded, make

RECORDING, ALBUM = "f27ec8db-af05-4f36-916e-3d57f91ecf5e", "0da580f2-6768-498f-af9d-2becaddf15e0"
EXPECTED = {
    "artist": "Zoë",
    "title": "A, B",
    "album": "Live",
    "album_artist": "Various",
    "date": "1999-05",
    "isrc": "DEA123456789",
    "musicbrainz_recording": RECORDING,
    "musicbrainz_album": ALBUM,
    "tempo": "128",
    "genre": "Rock;Pop;Hip-Hop",
    "mood": "calm;happy",
}
GENRES = ["Rock/Pop", "Hip-Hop; rock"]
ID3_FRAMES = (
    *(TPE1(3, ["Zoë"]), TIT2(3, ["A, B"]), TALB(3, ["Live"]), TPE2(3, ["Various"]), TDRC(3, ["1999-05"])),
    *(TSRC(3, ["DE-A12-34-56789"]), UFID("http://musicbrainz.org", RECORDING.encode())),
    *(TXXX(3, "MusicBrainz Album Id", [ALBUM]), TBPM(3, ["128"]), TCON(3, GENRES), TMOO(3, ["calm / happy"])),
)
NAMED = {  # of Vorbis comments and APEv2
    "artist": "Zoë",
    "title": "A, B",
    "album": "Live",
    "date": "1999-05",
    "isrc": "DEA123456789",
    "musicbrainz_trackid": RECORDING,
    "musicbrainz_albumid": ALBUM,
    "bpm": "128",
    "genre": GENRES,
    "mood": "calm / happy",
}
ITUNES = "----:com.apple.iTunes:"
MP4_ATOMS = {
    "\xa9ART": "Zoë",
    "\xa9nam": "A, B",
    "\xa9alb": "Live",
    "aART": "Various",
    "\xa9day": "1999-05",
    "tmpo": [128],
    "\xa9gen": GENRES,
    f"{ITUNES}ISRC": MP4FreeForm(b"DEA123456789"),
    f"{ITUNES}MusicBrainz Track Id": MP4FreeForm(RECORDING.encode()),
    f"{ITUNES}MusicBrainz Album Id": MP4FreeForm(ALBUM.encode()),
    f"{ITUNES}MOOD": MP4FreeForm(b"calm / happy"),
}
ASF_ATTRIBUTES = {
    "Author": "Zoë",
    "Title": "A, B",
    "WM/AlbumTitle": "Live",
    "WM/AlbumArtist": "Various",
    "WM/Year": "1999-05",
    "WM/ISRC": "DEA123456789",
    "MusicBrainz/Track Id": RECORDING,
    "MusicBrainz/Album Id": ALBUM,
    "WM/BeatsPerMinute": "128",
    "WM/Genre": [ASFUnicodeAttribute(genre) for genre in GENRES],
    "WM/Mood": "calm / happy",
}


def write_tags(path, kind):
    if kind == "apev2 on mp3":
        tags = APEv2()
        tags.update({**NAMED, "Album Artist": "Various"})
        tags.save(path)
        return
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    if kind == "id3":
        for frame in ID3_FRAMES:
            file.tags.add(frame)
    else:
        file.tags.update(
            {
                "vorbis": {**NAMED, "albumartist": "Various"},
                "apev2": {**NAMED, "Album Artist": "Various"},
                "mp4": MP4_ATOMS,
                "asf": ASF_ATTRIBUTES,
            }[kind]
        )
    file.save()


@pytest.mark.parametrize(
    ("name", "kind", "codec"),
    [
        ("a.mp3", "id3", None),
        ("a.wav", "id3", None),
        ("a.aiff", "id3", None),
        ("a.flac", "vorbis", None),
        ("a.ogg", "vorbis", None),
        ("a.opus", "vorbis", ("libopus", "opus", 48_000)),
        ("a.m4a", "mp4", ("aac", "ipod")),
        ("a.wma", "asf", ("wmav2", "asf")),
        ("a.wv", "apev2", ("wavpack", "wv")),
        ("b.mp3", "apev2 on mp3", None),
    ],
)
def test_every_format(tmp_path, name, kind, codec):
    path = tmp_path / name
    if codec is None:
        make(path, 0)
    else:
        path.write_bytes(encoded(*codec))
    assert read_tags(path).cells.keys() <= {"title"}  # some encoders name themselves
    write_tags(path, kind)
    content, times = path.read_bytes(), os.stat(path).st_mtime_ns
    tags = read_tags(path)
    assert tags.cells == EXPECTED
    assert not tags.has_bad_tempo
    assert not tags.is_broken
    assert (path.read_bytes(), os.stat(path).st_mtime_ns) == (content, times)


def test_aac_with_id3(tmp_path):
    path = tmp_path / "a.aac"
    path.write_bytes(encoded("aac", "adts"))
    tags = ID3()
    tags.add(TPE1(3, ["Zoë"]))
    tags.save(path)
    assert read_tags(path).cells == {"artist": "Zoë"}


@pytest.mark.parametrize("tempo", ["0", "fast", "5000", "-120"])
def test_a_tempo_that_is_none_is_left_out(tmp_path, tempo):
    tags = read_tags(make(tmp_path / "a.mp3", 0, artist="A", tempo=tempo))
    assert tags.cells == {"artist": "A"}
    assert tags.has_bad_tempo


@pytest.mark.parametrize(
    ("written", "cell"),
    [
        (["(17)"], "Rock"),
        (["17"], "Rock"),
        (["(17)(4)Eurodisco"], "Rock;Disco;Eurodisco"),
        (["Rock", "ROCK ", "Pop"], "Rock;Pop"),
        (["Other"], None),
        (["255"], None),
        (["Folk, World, & Country"], "Folk;World;Country"),
        (["  Drum  and Bass "], "Drum and Bass"),
    ],
)
@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_genres_as_people_write_them(tmp_path, name, written, cell):
    assert read_tags(make(tmp_path / name, 0, genre=written)).cells.get("genre") == cell


def test_a_very_long_tag_is_cut(tmp_path):
    tags = read_tags(make(tmp_path / "a.flac", 0, title="x" * 1_000_000, genre=[f"genre {i}" for i in range(1000)]))
    assert max(map(len, tags.cells.values())) <= 500


def test_broken_tags_are_none(tmp_path):
    path = make(tmp_path / "a.flac", 0, artist="A")
    path.write_bytes(path.read_bytes().replace(b"artist=A", b"\xff" * 8).replace(b"fLaC\0\0\0", b"fLaC\0\xff\xff"))
    tags = read_tags(path)
    assert tags.cells == {}
    assert tags.is_broken


def test_no_bytes_break_a_reader(tmp_path):
    make(tmp_path / "a.mp3", 0, artist="A", genre="Rock", tempo="120")
    content = (tmp_path / "a.mp3").read_bytes()
    for place in range(0, 120):
        path = tmp_path / "b.mp3"
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        read_tags(path)
        path.write_bytes(content[:place])
        read_tags(path)


def test_columns_are_those_that_are_read():
    assert {*CELLS, "tempo"} == {*TAG_COLUMNS} == {*EXPECTED}
