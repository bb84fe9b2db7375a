"""Features of music by the trained networks of musicnn (the only file that knows the package, which is never imported).

J. Pons, X. Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging", ISMIR 2019 (late-breaking demo).
The networks are run in torch (musicnn_network.py); their weights are read where the installed package keeps them, never copied.
Package and weights are under the ISC licence; the tags and recordings that they were trained on have terms of their own:
docs/licences.md.

* Input: mono, 16 kHz; power mel spectrogram of 96 bands (Slaney scale and norm; frames of 512 samples, 256 apart, centred, with
  zeros beyond the ends), ``log10(1 + 10000 m)``. The level is left as it is.
* A window is 187 frames, 3 s. Window i starts at second i, at the nearest frame of 62.5 per second (of two the even one).
* Features: of each window the 200 values of the last but one layer. The last one makes the logits of 50 tags out of them.
"""

import base64
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from datamodules.audio.content import MissingPackage, UnusableAudio
from datamodules.audio.musicnn_network import N_MELS, MusicnnNetwork
from datamodules.audio.spectrogram import power_mel, resample, resampled_length
from datamodules.audio.tensor_bundle import read_bundle
from disentangled_ml.chunks import FEATURE_SIZE
from disentangled_ml.structures import AudioSettings

# By what they were trained on: tags of Last.fm on the Million Song Dataset, those of MagnaTagATune.
MODELS = {"msd": "MSD_musicnn", "mtt": "MTT_musicnn"}
SAMPLE_RATE = 16_000
WINDOW_FRAMES = 187
MIN_FRAMES = 186  # of the last window, where the recording ends so early
MIN_SECONDS = (MIN_FRAMES - 1) * 256 / SAMPLE_RATE  # 2.96
AUDIO = AudioSettings(SAMPLE_RATE, n_fft=512, hop_length=256, n_mels=N_MELS)
# The networks listen up to 8 kHz, so what the resampling leaves there counts. With torchaudio's defaults features are 11 % from
# those behind librosa's resampling (soxr's), with these 2 %, in the same time.
FILTER_WIDTH, ROLLOFF = 32, 0.955
_LOADING = Lock()


def _split(tags: str) -> tuple[str, ...]:
    return tuple(" ".join(tags.split()).split(", "))


# In the order of the logits
TAGS = {
    "msd": _split(
        """rock, pop, alternative, indie, electronic, female vocalists, dance, 00s, alternative rock, jazz, beautiful, metal,
        chillout, male vocalists, classic rock, soul, indie rock, Mellow, electronica, 80s, folk, 90s, chill, instrumental, punk,
        oldies, blues, hard rock, ambient, acoustic, experimental, female vocalist, guitar, Hip-Hop, 70s, party, country,
        easy listening, sexy, catchy, funk, electro, heavy metal, Progressive rock, 60s, rnb, indie pop, sad, House, happy"""
    ),
    "mtt": _split(
        """guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat, violin, vocal, synth,
        female, indian, opera, male, singing, vocals, no vocals, harpsichord, loud, quiet, flute, woman, male vocal, no vocal,
        pop, soft, sitar, solo, man, classic, choir, voice, new age, dance, male voice, female vocal, beats, harp, cello,
        no voice, weird, country, metal, female voice, choral"""
    ),
}


def _alone(tags: str) -> dict[str, tuple[str, ...]]:
    return {tag: (tag,) for tag in _split(tags)}


# Of each condition and network, the best network first: what a tag is called, and the tags of the network that mean it. Those of the
# Million Song Dataset are sorted as by J. Lee et al., ICASSP 2020, and in conf/data/msd.yaml; those of MagnaTagATune as in
# conf/data/magnatagatune.yaml, where voices of no kind ("vocals") are left out: they would part one singer from another.
CONDITION_TAGS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "genre": {
        "msd": _alone(
            """rock, pop, alternative, indie, electronic, dance, alternative rock, jazz, metal, classic rock, soul, indie rock,
            electronica, folk, punk, blues, hard rock, ambient, experimental, Hip-Hop, country, funk, electro, heavy metal,
            Progressive rock, rnb, indie pop, House"""
        )
    },
    "mood": {
        "msd": _alone(
            "beautiful, chillout, Mellow, chill, party, easy listening, sexy, catchy, sad, happy, acoustic, oldies"
        )
    },
    "instrument": {
        "mtt": {
            **_alone("guitar, strings, drums, piano, violin, synth, harpsichord, flute, sitar, harp, cello"),
            "choir": ("choir", "choral"),
            "female vocals": ("female vocal", "female voice", "female", "woman"),
            "male vocals": ("male vocal", "male voice", "male", "man"),
            "no vocals": ("no vocals", "no vocal", "no voice"),
        },
        "msd": {
            **_alone("guitar, instrumental"),
            "female vocals": ("female vocalists", "female vocalist"),
            "male vocals": ("male vocalists",),
        },
    },
}
# Of each condition what its network lacks a tag for and another one has; only labels are made of these, no distances.
FURTHER_TAGS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "genre": {"mtt": {"classical": ("classical", "classic")}},
}


def tag_model(condition: str, models: Sequence[str]) -> str | None:
    """Return which of some networks knows a condition's tags best; None where none does.

    >>> tag_model("instrument", ("msd", "mtt")), tag_model("genre", ("mtt",)), tag_model("theme", ("msd",))
    ('mtt', None, None)
    """
    return next((model for model in CONDITION_TAGS.get(condition, ()) if model in models), None)


def further_tags(conditions: Sequence[str], models: Sequence[str]) -> list[str]:
    """Return the tags of conditions that only another of some networks knows than the one that ``tag_model`` names.

    >>> further_tags(("genre", "mood"), ("msd", "mtt")), further_tags(("genre",), ("msd",))
    (['classical'], [])
    """
    known = [FURTHER_TAGS.get(name, {}).get(model, {}) for name in conditions for model in models]
    return [tag for tags in known for tag in tags]


def tag_rows(condition: str, model: str) -> list[int]:
    """Return the places of a condition's tags in ``TAGS`` of a network.

    >>> tag_rows("instrument", "msd")
    [32, 23, 5, 31, 13]
    """
    return [TAGS[model].index(tag) for tags in CONDITION_TAGS[condition][model].values() for tag in tags]


def require(models: Sequence[str] = tuple(MODELS)) -> None:
    """Do nothing where the networks can be loaded, as ``window_features`` will.

    Raises:
        MissingPackage: If the package is not installed; it says what to do.
        ValueError: If a file is not what the package's list of files says, or there is no such model.
    """
    for model in models:
        checkpoint(model)


def checkpoint(model: str) -> tuple[Path, Path]:
    """Return the index and the data file of a network's checkpoint in the installed package, each as it was published.

    Raises: As ``require``.
    """
    if model not in MODELS:
        raise ValueError(f"{model!r} is no model of musicnn, choose one of {', '.join(MODELS)}")
    spec = importlib.util.find_spec("musicnn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(
            "musicnn's networks are needed: pip install --no-deps musicnn==0.1.0 (none of its dependencies is used), "
            "or do without their features"
        )
    folder = Path(spec.submodule_search_locations[0])
    digests = published_digests(folder.parent)
    for name in (".index", ".data-00000-of-00001"):
        file = folder / MODELS[model] / name
        found = _digest(file)
        if found != digests.get(file.relative_to(folder.parent).as_posix()):
            raise ValueError(
                f"{file} is not as musicnn published it ({'missing' if found is None else 'another sha256'}): "
                "pip install --no-deps --force-reinstall musicnn==0.1.0"
            )
    return folder / MODELS[model] / ".index", folder / MODELS[model] / ".data-00000-of-00001"


def published_digests(site: Path) -> dict[str, str]:
    """Return the sha256 of musicnn's files by their paths below ``site``, as its list of installed files (RECORD) gives them."""
    found = importlib.metadata.distributions(name="musicnn", path=[str(site)])
    return {
        file.as_posix(): file.hash.value
        for distribution in found
        for file in distribution.files or ()
        if file.hash and file.hash.mode == "sha256"
    }


def _digest(file: Path) -> str | None:
    """Return the sha256 of a file as RECORD writes it; None if there is no file."""
    if not file.is_file():
        return None
    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")


def network(model: str) -> MusicnnNetwork:
    """Return a network, which is loaded once per process, even if several threads ask for it.

    Raises: As ``require``.
    """
    with _LOADING:
        return _load(model)


@cache
def _load(model: str) -> MusicnnNetwork:
    return MusicnnNetwork(read_bundle(*checkpoint(model))).eval()


def log_mel_16k(waveform: np.ndarray) -> np.ndarray:
    """Compute what the networks read.

    Shape: waveform (n,), mono at 16 kHz, full scale 1; returns (1 + n // 256, 96) float32.

    >>> log_mel_16k(np.zeros(16000, np.float32)).shape
    (63, 96)
    """
    mel = np.ascontiguousarray(power_mel(waveform, AUDIO).T)
    mel *= 10_000
    mel += 1
    return np.log10(mel, out=mel)


def window_starts(n_frames: int) -> list[int]:
    """Return the first frames of the windows that begin at whole seconds; the last window may have ``MIN_FRAMES``.

    >>> window_starts(186), window_starts(436), window_starts(185)
    ([0], [0, 62, 125, 188, 250], [])
    """
    n_seconds = int(AUDIO.seconds(n_frames))
    starts = (AUDIO.frames(second) for second in range(n_seconds + 1))
    return [start for start in starts if start + MIN_FRAMES <= n_frames]


def n_windows(n_samples: int, sample_rate: int) -> int:
    """Return the number of windows of a recording at its own sample rate.

    >>> n_windows(30 * 44100, 44100), n_windows(int(2.9 * 44100), 44100)
    (28, 0)
    """
    return len(window_starts(1 + resampled_length(n_samples, sample_rate, SAMPLE_RATE) // AUDIO.hop_length))


def window_features(waveform: np.ndarray, sample_rate: int, models: Sequence[str] = ("msd",)) -> np.ndarray:
    """Compute the features of every window that begins at a whole second; row i is that of second i.

    Shape: waveform (n,), mono, full scale 1; returns (windows, 200 * len(models)) float32, model by model.

    Raises:
        MissingPackage: If the package is not installed.
        UnusableAudio: If the recording is shorter than ``MIN_SECONDS``.
        ValueError: As ``require``.
    """
    log_mel = _log_mel(waveform, sample_rate)
    return _features(log_mel, window_starts(len(log_mel)), models)


def features_at(
    waveform: np.ndarray, sample_rate: int, models: Sequence[str], starts: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Compute the features of the windows that begin at given times; at whole seconds they are those of ``window_features``.

    Shape: waveform (n,), mono, full scale 1; starts (N,) seconds; returns (N, 200 * len(models)) float32, model by model.

    Raises:
        MissingPackage: If the package is not installed.
        ValueError: If a window is not within the recording, or as ``window_features``.
    """
    log_mel = _log_mel(waveform, sample_rate)
    frames = [AUDIO.frames(float(start)) for start in starts]
    outside = [
        start for start, frame in zip(starts, frames, strict=True) if not 0 <= frame <= len(log_mel) - MIN_FRAMES
    ]
    if outside:
        last = AUDIO.seconds(len(log_mel) - MIN_FRAMES)
        raise ValueError(f"a window of 3 s at second {outside[0]} of a recording in which 0 to {last:.2f} are legal")
    return _features(log_mel, frames, models)


def _log_mel(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return what the networks read of a recording of at least ``MIN_SECONDS`` at any sample rate, (frames, 96)."""
    samples = resample(waveform, sample_rate, SAMPLE_RATE, FILTER_WIDTH, ROLLOFF) if len(waveform) else waveform
    log_mel = log_mel_16k(samples)
    if len(log_mel) < MIN_FRAMES:
        raise UnusableAudio(f"{len(samples) / SAMPLE_RATE:.3f} s are too short for musicnn (at least {MIN_SECONDS} s)")
    return log_mel


@torch.inference_mode()
def _features(log_mel: np.ndarray, starts: Sequence[int], models: Sequence[str]) -> np.ndarray:
    """Compute the features of windows of (frames, 96) that begin at given frames, those at the end with a frame less."""
    recording = torch.from_numpy(log_mel)
    lengths = np.array([min(WINDOW_FRAMES, len(log_mel) - start) for start in starts])
    features = np.empty((len(starts), FEATURE_SIZE * len(models)), np.float32)
    for number, model in enumerate(models):
        columns = slice(FEATURE_SIZE * number, FEATURE_SIZE * (number + 1))
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            windows = network(model).windows(recording, [starts[row] for row in rows], int(length))
            features[rows, columns] = windows.numpy()
    return features


def tag_probabilities(
    features: np.ndarray, models: Sequence[str], conditions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Estimate the probability of each tag of some conditions: the mean over the windows, to three digits.

    Of tags that mean the same the highest counts.

    Shape: features (windows, 200 * len(models)), model by model.
    Raises: As ``require``.
    """
    parts = zip(models, np.split(features, len(models), axis=1), strict=True)
    means = {model: (1 / (1 + np.exp(-tag_logits(part, model)))).mean(0) for model, part in parts}
    found = {}
    for condition in conditions:
        model = tag_model(condition, models)
        named = {model: CONDITION_TAGS[condition][model], **FURTHER_TAGS.get(condition, {})}
        found[condition] = {
            tag: float(f"{max(means[known][TAGS[known].index(one)] for one in same):.3g}")
            for known, tags in named.items()
            if known in means
            for tag, same in tags.items()
        }
    return found


@torch.inference_mode()
def tag_logits(features: np.ndarray, model: str) -> np.ndarray:
    """Compute the logits of a model's ``TAGS`` from its features; their sigmoid is the probability.

    Shape: features (N, 200); returns (N, 50) float32.
    Raises: As ``require``.
    """
    return network(model).logits(torch.from_numpy(np.require(features, np.float32, "CW"))).numpy()
