"""What people keep music in, what they join, cut and damage, and what is no music: decoded whole, or told."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio.content import joined_parts
from datamodules.audio.decoding import Recording, UnusableAudio, decode, read_recording
from datamodules.audio.ffmpeg import resample_segment
from tests.datamodules.audio.sounds import RATE, encode, frequency_of, mp3_frames, tone, write

PADDING = 0.15  # seconds by which codecs lengthen a recording
LOST_END = 0.05  # seconds that the encoder of WMA drops at the end


def read(folder: Path, data: bytes, **how) -> Recording:
    path = folder / "recording.mp3"  # whatever it is: its name decides nothing
    path.write_bytes(data)
    return read_recording(path, **how)


def seconds(recording: Recording) -> float:
    return len(recording.waveform) / recording.sample_rate


FORMATS = {
    "m4a": ("aac", "ipod", RATE),
    "mp4": ("aac", "mp4", RATE),
    "aac": ("aac", "adts", RATE),
    "alac": ("alac", "ipod", RATE),
    "wma": ("wmav2", "asf", RATE),
    "webm": ("libopus", "webm", 48_000),
    "matroska": ("flac", "matroska", RATE),
    "mp3 in matroska": ("libmp3lame", "matroska", RATE),
    "opus": ("libopus", "opus", 48_000),
    "ogg flac": ("flac", "ogg", RATE),
    "aiff": ("pcm_s16be", "aiff", RATE),
    "aifc": ("pcm_s16le", "aiff", RATE),
    "aiff 24 bits": ("pcm_s24be", "aiff", RATE),
    "wav of adpcm": ("adpcm_ima_wav", "wav", RATE),
    "wav of mp3": ("libmp3lame", "wav", RATE),
    "wav of doubles": ("pcm_f64le", "wav", RATE),
    "wav of bytes": ("pcm_u8", "wav", RATE),
    "w64": ("pcm_s16le", "w64", RATE),
    "au": ("pcm_s16be", "au", RATE),
    "caf": ("pcm_s16le", "caf", RATE),
    "wavpack": ("wavpack", "wv", RATE),
    "mp2": ("mp2", "mp2", RATE),
}


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize(("codec", "container", "rate"), FORMATS.values(), ids=FORMATS)
def test_every_format_is_decoded_to_its_length_level_and_frequency(tmp_path, codec, container, rate, layout):
    waveform, sample_rate, warnings = read(tmp_path, encode(tone(3.0, rate=rate), codec, container, rate, layout))
    assert sample_rate == rate
    assert 3.0 - (LOST_END if codec == "wmav2" else 0) <= len(waveform) / rate <= 3.0 + PADDING
    assert frequency_of(waveform, rate) == pytest.approx(440, abs=1)
    assert np.abs(waveform[rate : 2 * rate]).max() == pytest.approx(0.3, abs=0.03)
    assert warnings == ()


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_kind_of_sample_is_on_the_same_scale(tmp_path, codec):
    waveform = read(tmp_path, encode(tone(0.5), codec, "matroska")).waveform
    np.testing.assert_allclose(waveform, tone(0.5), atol=2**-7 if codec == "pcm_u8" else 2**-14)


def test_channels_that_differ_are_averaged(tmp_path):
    left, right = tone(1.0), tone(1.0, 700.0)
    waveform = read(tmp_path, write(np.stack([left, right], axis=1), "FLAC")).waveform
    np.testing.assert_allclose(waveform, (left + right) / 2, atol=2**-14)


LOUD_THEN_SOFT = np.concatenate([np.random.default_rng(0).uniform(-0.9, 0.9, 2 * RATE), 0.05 * tone(6.0)])


@pytest.mark.parametrize("samples", [LOUD_THEN_SOFT, LOUD_THEN_SOFT[::-1]], ids=["loud first", "soft first"])
def test_variable_rate_without_its_table_is_whole(tmp_path, samples):
    table, *frames = mp3_frames(write(samples, "MP3", bitrate_mode="VARIABLE", compression_level=0.5))
    assert b"Xing" in table
    assert len({frame[2] for frame in frames}) > 2
    recording = read(tmp_path, b"".join(frames))
    assert seconds(recording) == pytest.approx(len(frames) * 1152 / RATE, abs=0.06)
    assert recording.warnings == ()


def test_constant_rates_joined_are_whole(tmp_path):
    high = mp3_frames(write(tone(2.0), "MP3", bitrate_mode="CONSTANT", compression_level=0.0))[1:]
    low = mp3_frames(write(tone(6.0, 660.0), "MP3", bitrate_mode="CONSTANT", compression_level=0.99))[1:]
    assert len(high[5]) > 4 * len(low[5])
    recording = read(tmp_path, b"".join(high + low))
    assert seconds(recording) == pytest.approx((len(high) + len(low)) * 1152 / RATE, abs=0.06)
    assert frequency_of(recording.waveform[-RATE:], RATE) == pytest.approx(660, abs=2)


@pytest.mark.parametrize(("share", "is_told"), [(0.5, True), (1.0, False), (2.0, True)], ids=str)
def test_a_wrong_length_in_the_first_frame_of_an_mp3(tmp_path, share, is_told):
    data = bytearray(write(tone(6.0), "MP3"))
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    frames = round(int.from_bytes(data[place : place + 4], "big") * share)
    data[place : place + 4] = frames.to_bytes(4, "big")
    recording = read(tmp_path, bytes(data))
    assert seconds(recording) == pytest.approx(6.0, abs=0.1)
    promise = f"other length: {seconds(recording):.2f} s are decoded, the header promises {frames * 1152 / RATE:.2f} s"
    assert recording.warnings == ((promise,) if is_told else ())


def joined(first: str, second: str) -> list[bytes]:
    return [JOINABLE[first](440.0), JOINABLE[second](880.0)]


def stereo(frequency: float) -> bytes:
    return write(np.stack([tone(2.0, frequency)] * 2, axis=1), "MP3")


JOINABLE = {
    "mp3": lambda frequency: write(tone(2.0, frequency), "MP3"),
    "mp3 stereo": stereo,
    "mp3 22050": lambda frequency: write(tone(2.0, frequency, 22_050), "MP3", 22_050),
    "ogg": lambda frequency: write(tone(2.0, frequency), "OGG", subtype="VORBIS"),
    "ogg 22050": lambda frequency: write(tone(2.0, frequency, 22_050), "OGG", 22_050, subtype="VORBIS"),
    "opus": lambda frequency: encode(tone(2.0, frequency, 48_000), "libopus", "opus", 48_000),
    "flac": lambda frequency: write(tone(2.0, frequency), "FLAC"),
    "flac 22050": lambda frequency: write(tone(2.0, frequency, 22_050), "FLAC", 22_050),
    "aac": lambda frequency: encode(tone(2.0, frequency), "aac", "adts"),
    "wav": lambda frequency: write(tone(2.0, frequency), "WAV"),
    "wav 22050": lambda frequency: write(tone(2.0, frequency, 22_050), "WAV", 22_050),
    "aiff": lambda frequency: write(tone(2.0, frequency), "AIFF"),
    "m4a": lambda frequency: encode(tone(2.0, frequency), "aac", "ipod"),
    "wma": lambda frequency: encode(tone(2.0, frequency), "wmav2", "asf"),
    "matroska": lambda frequency: encode(tone(2.0, frequency), "flac", "matroska"),
    "webm": lambda frequency: encode(tone(2.0, frequency, 48_000), "libopus", "webm", 48_000),
    "rf64": lambda frequency: write(tone(2.0, frequency), "RF64"),
    "w64": lambda frequency: write(tone(2.0, frequency), "W64"),
    "caf": lambda frequency: write(tone(2.0, frequency), "CAF", subtype="PCM_16"),
    "wavpack": lambda frequency: encode(tone(2.0, frequency), "wavpack", "wv"),
    "au": lambda frequency: write(tone(2.0, frequency), "AU"),
    "caf alac": lambda frequency: write(tone(2.0, frequency), "CAF", subtype="ALAC_16"),
}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *((name, name) for name in JOINABLE),
        *[("mp3", "mp3 22050"), ("mp3 22050", "mp3"), ("mp3", "mp3 stereo"), ("ogg", "ogg 22050")],
        *[("ogg 22050", "ogg"), ("ogg", "opus"), ("flac", "flac 22050"), ("wav", "wav 22050")],
    ],
)
def test_recordings_joined_in_a_file_are_all_decoded(tmp_path, first, second):
    recording = read(tmp_path, b"".join(joined(first, second)))
    assert seconds(recording) == pytest.approx(4.0, abs=2 * PADDING)
    half = len(recording.waveform) // 2
    for part, frequency in ((recording.waveform[:half], 440), (recording.waveform[half:], 880)):
        assert frequency_of(part, recording.sample_rate) == pytest.approx(frequency, abs=5)
        assert np.abs(part[half // 4 : half // 2]).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", ["wav", "rf64", "w64", "aiff", "au", "caf", "caf alac", "wma", "matroska"])
@pytest.mark.parametrize("between", [0, 5, 100_003])
def test_what_is_joined_behind_a_recording_that_was_cut_off_or_zeros_is_found(tmp_path, name, between):
    first, second = joined(name, name)
    first = first + bytes(between) if between else first[: len(first) // 5]
    recording = read(tmp_path, first + second)
    assert seconds(recording) == pytest.approx(4.0 if between else 2.4, abs=2 * PADDING)
    assert frequency_of(recording.waveform[-RATE:], RATE) == pytest.approx(880, abs=5)
    if not between:
        assert recording.warnings[-1].startswith("other length: ")


def test_a_section_across_a_change_of_the_rate(tmp_path):
    whole = b"".join(joined("wav", "wav 22050"))
    stretch = read(tmp_path, whole, start=1.5, end=2.5)
    assert (stretch.sample_rate, len(stretch.waveform)) == (RATE, RATE)
    assert frequency_of(stretch.waveform[: RATE // 2], RATE) == pytest.approx(440, abs=4)
    assert frequency_of(stretch.waveform[RATE // 2 :], RATE) == pytest.approx(880, abs=4)
    behind = read(tmp_path, whole, start=2.5, end=3.5)
    assert (behind.sample_rate, len(behind.waveform)) == (22_050, 22_050)


def test_resampling_keeps_length_and_sound():
    resampled = resample_segment(tone(3.0, 440.0, 22_050), 22_050, RATE)
    assert len(resampled) == pytest.approx(3 * RATE, abs=1)
    np.testing.assert_allclose(resampled[1000:-1000], tone(3.0)[1000 : len(resampled) - 1000], atol=1e-3)


def test_a_joined_part_that_is_none_is_counted_as_lost(tmp_path):
    first, second = joined("ogg", "ogg")
    broken = second[:58] + bytes(len(second) - 58)  # its first page alone
    with pytest.raises(UnusableAudio, match=r"damaged: .* s are lost, damaged packets: \d; more than max_lost=0\.05"):
        read(tmp_path, first + broken)
    recording = read(tmp_path, first + broken, max_lost=0.9)
    assert seconds(recording) == pytest.approx(2.0, abs=PADDING)
    assert recording.warnings[0].startswith("damaged: ")


def test_a_first_part_of_which_nothing_is_left_is_counted_as_lost(tmp_path):
    data = JOINABLE["wavpack"](440.0)
    rest = data[: len(data) // 5]  # less than a block
    with pytest.raises(UnusableAudio, match=r"damaged: 0\.40 of 2\.40 s are lost, damaged packets: 1; more than"):
        read(tmp_path, rest + data)
    recording = read(tmp_path, rest + data, max_lost=0.2)
    assert seconds(recording) == 2.0
    assert recording.warnings[0].startswith("damaged: 0.40 of 2.40 s")


def test_a_page_within_the_sound_is_no_beginning(tmp_path):
    data = write(tone(1.0), "OGG", subtype="VORBIS") + b"OggS\0\2" + bytes(range(1, 200))
    (tmp_path / "a").write_bytes(data)
    with open(tmp_path / "a", "rb") as file:
        assert len(joined_parts(file)) == 1


NOISE = np.random.default_rng(1).uniform(-0.5, 0.5, 5 * RATE)


def test_a_flac_with_a_tag_behind_it_is_whole(tmp_path):
    recording = read(tmp_path, write(NOISE, "FLAC") + b"TAG" + b" " * 125)
    assert (len(recording.waveform), recording.warnings) == (len(NOISE), ())


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF], ids=["zero", "unknown"])
def test_a_wav_from_a_pipe_is_whole(tmp_path, size):
    data = bytearray(write(NOISE, "WAV", subtype="PCM_16"))
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = size.to_bytes(4, "little")
    recording = read(tmp_path, bytes(data))
    assert (len(recording.waveform), recording.warnings) == (len(NOISE), ())


def test_a_wav_that_was_cut_off_is_told_with_both_lengths(tmp_path):
    recording = read(tmp_path, write(NOISE, "WAV", subtype="PCM_16")[: 44 + 2 * 2 * RATE])
    assert recording.warnings == ("other length: 2.00 s are decoded, the header promises 5.00 s",)


def test_sound_behind_the_end_of_a_wav_is_told(tmp_path):
    data = bytearray(write(NOISE, "WAV", subtype="PCM_16"))
    place = data.index(b"data") + 4
    data[4:8], data[place : place + 4] = (88_236).to_bytes(4, "little"), (88_200).to_bytes(4, "little")
    assert read(tmp_path, bytes(data)).warnings == (
        "other length: 1.00 s are decoded, 4.00 s lie behind the end that the header promises",
    )


def with_hole(data: bytes, share: float) -> bytes:
    middle, size = len(data) // 2, int(len(data) * share)
    return data[:middle] + bytes(size) + data[middle + size :]


DAMAGED = {
    "mp3": lambda: write(NOISE, "MP3"),
    "ogg": lambda: write(np.tile(NOISE, 4), "OGG", subtype="VORBIS"),
    "flac": lambda: write(np.tile(NOISE, 2), "FLAC"),
    "wav": lambda: write(NOISE, "WAV", subtype="PCM_16"),
    "wma": lambda: encode(NOISE, "wmav2", "asf"),
    "webm": lambda: encode(tone(5.0, rate=48_000), "libopus", "webm", 48_000),
}


@pytest.mark.parametrize("name", ["mp3", "ogg", "flac"])
def test_a_small_hole_is_counted_and_told(tmp_path, name):
    data = DAMAGED[name]()
    undamaged = read(tmp_path, data)
    whole = seconds(undamaged)
    recording = read(tmp_path, with_hole(data, 0.01))
    warning, *bursts = recording.warnings
    assert all(text.startswith("beyond full scale: bursts") for text in bursts)
    assert warning.startswith("damaged: ")
    lost = float(warning.split()[1])
    assert whole - seconds(recording) == pytest.approx(lost, abs=0.1)
    assert 0 < lost < 0.05 * whole
    assert np.abs(recording.waveform).max() <= 1.0
    assert np.std(recording.waveform) == pytest.approx(np.std(undamaged.waveform), rel=0.05)


@pytest.mark.parametrize("name", [name for name in DAMAGED if name != "wav"])
def test_a_large_hole_is_rejected_with_the_figures(tmp_path, name):
    with pytest.raises(UnusableAudio, match=r"damaged: \d.* s are lost, .* more than max_lost=0\.05 allows"):
        read(tmp_path, with_hole(DAMAGED[name](), 0.25))


def test_what_was_decoded_before_the_container_breaks_is_kept(tmp_path):
    """Of what is behind another WavPack file whose beginning does not say so, nothing can be found."""
    data = encode(tone(2.0), "wavpack", "wv")
    behind = bytearray(data)
    behind[25] &= ~8
    recording = read(tmp_path, data + bytes(behind))
    assert seconds(recording) >= 2.0
    assert [text.split(":")[0] for text in recording.warnings] == ["damaged"]


CUT_OFF = {name: DAMAGED[name] for name in ("mp3", "flac", "wav", "wma", "webm")} | {
    "rf64": lambda: write(NOISE, "RF64"),
    "w64": lambda: write(NOISE, "W64"),
    "w64 of ffmpeg": lambda: encode(NOISE, "pcm_s16le", "w64"),
    "caf": lambda: write(NOISE, "CAF", subtype="PCM_16"),
    "caf of ffmpeg": lambda: encode(NOISE, "pcm_s16le", "caf"),
    "alac in caf": lambda: write(NOISE, "CAF", subtype="ALAC_16"),
    "aiff": lambda: write(NOISE, "AIFF"),
    "au": lambda: write(NOISE, "AU"),
    "wav of adpcm": lambda: encode(NOISE, "adpcm_ima_wav", "wav"),
}


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_recording_that_was_cut_off_is_kept_and_told(tmp_path, name):
    data = CUT_OFF[name]()
    whole = seconds(read(tmp_path, data))
    recording = read(tmp_path, data[: len(data) // 2])
    assert seconds(recording) == pytest.approx(whole / 2, rel=0.15)
    (told,) = [text for text in recording.warnings if text.startswith("other length: ")]
    assert float(told.split()[-2]) == pytest.approx(whole, rel=0.05)


def test_an_mp4_without_its_index_says_so_and_the_way_out(tmp_path):
    data = encode(tone(3.0), "aac", "ipod")
    assert data.index(b"moov") > len(data) / 2
    with pytest.raises(UnusableAudio, match=r"^cut off: this MP4 lacks the index at its end .*; get the whole file$"):
        read(tmp_path, data[: len(data) // 2])
    index = data.index(b"moov") + 4
    with pytest.raises(UnusableAudio, match=r"^not a (decodable )?recording"):
        read(tmp_path, data[:index] + bytes(len(data) - index))


PADDED = {
    name: CUT_OFF[name] for name in ("wav", "wma", "rf64", "w64", "caf", "alac in caf", "aiff", "au", "wav of adpcm")
} | {"flac": DAMAGED["flac"], "m4a": lambda: encode(NOISE, "aac", "ipod")}


@pytest.mark.parametrize("name", PADDED)
def test_zeros_behind_a_recording_are_nothing(tmp_path, name):
    data = PADDED[name]()
    whole = read(tmp_path, data)
    padded = read(tmp_path, data + bytes(20_000_003))
    np.testing.assert_array_equal(padded.waveform, whole.waveform)
    assert padded.warnings == whole.warnings


@pytest.mark.parametrize("name", ["rf64", "w64", "caf", "aiff"])
def test_what_lies_behind_the_end_of_a_recording_is_told(tmp_path, name):
    recording = read(tmp_path, CUT_OFF[name]() + np.random.default_rng(2).bytes(4 * RATE))
    assert seconds(recording) == pytest.approx(5.0, abs=0.1)
    assert recording.warnings[0].endswith("s lie behind the end that the header promises")


def test_a_caf_of_unknown_size_is_whole(tmp_path):
    data = bytearray(write(NOISE, "CAF", subtype="PCM_16"))
    place = data.index(b"data") + 4
    data[place : place + 8] = b"\xff" * 8
    recording = read(tmp_path, bytes(data))
    assert (seconds(recording), recording.warnings) == (pytest.approx(5.0, abs=0.01), ())


@pytest.mark.parametrize("seed", range(40))
def test_headers_of_blocks_that_are_damaged_are_no_error(tmp_path, seed):
    """Sizes beyond all files, sizes of nothing, chains without an end."""
    draw = np.random.default_rng(seed)
    data = bytearray(list(JOINABLE.values())[seed % len(JOINABLE)](440.0))
    for place in draw.integers(4, 120, 12):
        data[place] = draw.choice([0, 1, 255, draw.integers(256)])
    with suppress(UnusableAudio):
        read(tmp_path, bytes(data) + draw.bytes(50))


def test_a_changed_bit_of_a_flac_costs_a_frame(tmp_path):
    data = bytearray(write(np.tile(NOISE, 2), "FLAC"))
    data[len(data) // 2] ^= 255
    recording = read(tmp_path, bytes(data))
    assert 0 < 2 * len(NOISE) - len(recording.waveform) <= 4608
    assert [text.split(":")[0] for text in recording.warnings] == ["damaged"]


def test_the_beginning_alone_promises_nothing(tmp_path):
    recording = read(tmp_path, write(tone(6.0), "MP3"), max_seconds=1.0)
    assert (len(recording.waveform), recording.warnings) == (RATE, ())


def in_container(codec: str, container: str) -> bytes:
    return encode(tone(2.0), codec, container)


NO_RECORDINGS = {
    "page": (b"\n<!DOCTYPE html><title>404</title>" * 200, "not a recording: its content is text/HTML"),
    "page without doctype": (b"<html>404</html>" * 300, "not a recording: its content is text/HTML"),
    "text": (b"no music " * 500, "not a recording: its content is text"),
    "umlauts": ("Größenwahn ".encode() * 500, "not a recording: its content is text"),
    "playlist": (b"#EXTM3U\nhttp://host/a.mp3\n", "not a recording: its content is text"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "not a recording: its content is an image"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20, "not a recording: its content is an image"),
    "webp": (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(99), "not a recording: its content is an image"),
    "pdf": (b"%PDF-1.7\n" + bytes(range(256)), "not a recording: its content is a PDF document"),
    "zip": (b"PK\x03\x04" + bytes(99), "not a recording: its content is an archive"),
    "midi": (b"MThd\0\0\0\6" + bytes(99), "not a recording: its content is MIDI, notes without sound"),
    "latin-1": ("Gr\xf6\xdfenwahn ".encode("latin-1") * 900, "not a decodable recording"),
    "amr": (b"#!AMR\n" + bytes([0x3C, *range(31)]) * 99, "not a decodable recording: its format is unknown, or none"),
    "zeros": (bytes(5000), "not a decodable recording"),
    "a format of films": (in_container("aac", "mpegts"), "not a decodable recording: its format is unknown, or none"),
    "a rare codec": (in_container("tta", "matroska"), "not a decodable recording: its codec is tta, none of those"),
}


@pytest.mark.parametrize(("data", "reason"), NO_RECORDINGS.values(), ids=NO_RECORDINGS)
def test_what_is_no_recording_is_named(tmp_path, data, reason):
    with pytest.raises(UnusableAudio, match=f"^{reason}") as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("factor", "scale"), [(4.0 / 0.3, None), (20.0 / 0.3, 20.0), (20_000, 2**15), (2e6, 2**23), (2e9, 2**31)]
)
def test_floats_on_another_scale_are_scaled_down(tmp_path, factor, scale):
    loud = (tone(1.0) * factor).astype(np.float32)
    waveform, _, warnings = read(tmp_path, write(loud, "WAV", subtype="FLOAT"))
    np.testing.assert_allclose(waveform, loud / (scale or 1), rtol=1e-4, atol=1e-6)
    assert [text.split(":")[0] for text in warnings] == (["beyond full scale"] if scale else [])


@pytest.mark.parametrize("codec", ["pcm_s16le", "vorbis"])
def test_more_channels_than_are_read_safely_are_refused(tmp_path, codec):
    """A damaged AAC may say that it has 62; PyAV crashes on more than eight that lie apart."""
    channels = np.repeat(tone(1.0)[:, None], 12, axis=1)
    if codec == "vorbis":
        with pytest.raises(UnusableAudio, match="12 channels, at most 8 can be read"):
            read(tmp_path, write(channels, "OGG", subtype="VORBIS"))
    else:
        np.testing.assert_allclose(read(tmp_path, write(channels, "W64")).waveform, tone(1.0), atol=2**-14)


def test_a_burst_is_clipped(tmp_path):
    loud = tone(1.0)
    loud[1000:1010] = 300.0
    waveform, _, (warning,) = read(tmp_path, write(loud, "WAV", subtype="FLOAT"))
    assert warning == "beyond full scale: bursts of up to 300 are clipped, 0.00023 of all"
    assert (waveform.max(), len(waveform)) == (1.0, RATE)


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_an_offset_is_removed(tmp_path, container):
    waveform, _, warnings = read(tmp_path, write(tone(1.0) + 0.5, container))
    np.testing.assert_allclose(waveform, tone(1.0), atol=2**-14)
    assert warnings == ()


def test_an_offset_alone_is_silence(tmp_path):
    with pytest.raises(UnusableAudio, match="silent"):
        read(tmp_path, write(np.full(RATE, 0.5), "WAV", subtype="FLOAT"))


def test_what_is_warned_of_is_logged_with_the_file(tmp_path, caplog):
    path = tmp_path / "loud.wav"
    soundfile.write(path, tone(1.0) * 20_000, RATE, subtype="FLOAT")
    decode(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: beyond full scale: the peak of 6000 is divided by 32768"
    ]
