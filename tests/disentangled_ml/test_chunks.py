import numpy as np
import pytest
import torch

from disentangled_ml.chunks import feature_rows, join_source, pack, split_source, unpack, windows_of


@pytest.mark.parametrize(("n_features", "frames"), [(200, 129), (400, 129), (258, 129), (1, 16), (200, 258)])
def test_what_is_packed_is_unpacked(n_features, frames):
    generator = np.random.default_rng(n_features)
    mels = generator.random((3, 1, 8, frames)).astype(np.float16)
    features = generator.standard_normal((3, n_features)).astype(np.float16)
    packed = np.stack([pack(mel, row) for mel, row in zip(mels, features, strict=True)])
    assert packed.shape == (3, 1, 8 + feature_rows(n_features, frames), frames)
    assert packed.dtype == np.float16
    found_mels, found_features = unpack(torch.from_numpy(packed), n_features)
    np.testing.assert_array_equal(found_mels, mels)
    np.testing.assert_array_equal(found_features, features)


@pytest.mark.parametrize("shape", [(3, 1, 2, 129), (3, 1, 130)])
def test_chunks_without_room_for_features_are_refused(shape):
    with pytest.raises(ValueError, match=r"hold no spectrogram with 200 features below it"):
        unpack(torch.zeros(shape), 200)


@pytest.mark.parametrize("source", ["mel", "waveform", "mel+msd", "mel+msd+mtt"])
def test_a_source_is_what_it_is_joined_of(source):
    assert join_source(*split_source(source)) == source


@pytest.mark.parametrize(
    ("start", "seconds", "windows", "expected"),
    [
        (0.0, 3.0, 28, (0, 1)),
        (2.6, 3.0, 28, (3, 4)),
        (26.95, 3.0, 28, (27, 28)),
        (29.0, 3.0, 28, (27, 28)),  # behind the last window: the last one
        (0.0, 1.5, 1, (0, 1)),  # a chunk shorter than a window
        (4.0, 12.0, 28, (4, 14)),
        (20.0, 12.0, 28, (20, 28)),
    ],
)
def test_the_windows_of_a_chunk_are_those_in_it(start, seconds, windows, expected):
    assert windows_of(start, seconds, windows) == slice(*expected)
