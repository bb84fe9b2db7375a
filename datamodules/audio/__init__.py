"""Recordings to waveforms, spectrograms and tempi."""
