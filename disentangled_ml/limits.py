"""Limits that the keys of commands and the content of files share. It imports nothing: commands check their keys with it at once."""

# Least and most of each of ``AudioSettings``; the most is what a machine can do, far beyond what makes sense.
AUDIO_LIMITS = {
    "sample_rate": (1_000, 768_000),
    "n_fft": (16, 2**20),
    "hop_length": (1, 2**20),
    "n_mels": (16, 8_192),
}
