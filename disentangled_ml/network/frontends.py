"""Frontends: what turns the audio of a batch into the spectrogram that a backbone reads.

Every frontend is built as ``FRONTENDS[name](audio_settings)`` and returns ``spect`` (B, 1, n_mels, frames) in float32: the log-mel
``log10(1 + 10 S)`` of the magnitude mel spectrogram S, standardised by (x - 0.2) / 0.25 (J. Lee et al., ICASSP 2020). Its ``source``
says what it reads: ``"mel"``, the log-mel as it is stored in the shards, or ``"waveform"``. ``mel`` and ``nnaudio`` agree on the same
audio; ``waveform`` begins near them.

To add one: a subclass of ``Frontend``, and its line in ``FRONTENDS``.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from disentangled_ml.network.filter_bank import FilterBank, FilterResponse, spectrogram_filters
from disentangled_ml.structures import AudioSettings

MEAN, DEVIATION = 0.2, 0.25  # of a log-mel, about


def compress(mel: Tensor) -> Tensor:
    """Compress a magnitude mel spectrogram S to ``log10(1 + 10 S)``; negative S counts as 0.

    >>> compress(torch.tensor([0.0, 0.9, 9.9]))
    tensor([0., 1., 2.])
    """
    # Trained mel filters may become negative, and so their output; the logarithm must not see less than 1.
    return torch.log10(1 + 10 * mel.clamp(min=0))


def standardise(log_mel: Tensor) -> Tensor:
    return (log_mel - MEAN) / DEVIATION


class Frontend(nn.Module):
    """Base of all frontends; ``audio_settings`` are those of the stored log-mel or of the spectrogram to compute."""

    source: ClassVar[Literal["mel", "waveform"]]

    def __init__(self, audio_settings: AudioSettings):
        super().__init__()
        self.audio_settings = audio_settings

    def filters(self) -> FilterResponse | None:
        """Describe the filters as they are now, on the CPU; None where there are none."""
        return None


class MelFrontend(Frontend):
    """Standardise stored log-mel chunks.

    Shape:
        log_mel: (B, 1, n_mels, frames), any floating type; output: the same in float32.
    """

    source = "mel"

    def forward(self, log_mel: Tensor) -> Tensor:
        n_mels = self.audio_settings.n_mels
        if log_mel.ndim != 4 or log_mel.shape[1:3] != (1, n_mels):
            raise ValueError(
                f"the mel frontend expects log-mel chunks (B, 1, {n_mels}, frames), got the shape {tuple(log_mel.shape)}"
            )
        return standardise(log_mel.float())


class NnAudioFrontend(Frontend):
    """Compute the spectrogram from the waveform, on the waveform's device, with filters that can be trained.

    With fixed filters it equals librosa's and torchaudio's (Slaney scale and norm, centred frames, reflected edges). It computes in
    float32 under autocast too: in bfloat16 the Fourier sums lose up to a fifth. Fixed filters are not saved in checkpoints. Trained
    Fourier kernels need a small learning rate.

    Shape:
        waveform: (B, samples), samples > n_fft / 2; output: (B, 1, n_mels, samples // hop_length + 1), float32.
    """

    source = "waveform"

    def __init__(self, audio_settings: AudioSettings, trainable_stft: bool = False, trainable_mel: bool = False):
        super().__init__(audio_settings)
        from nnAudio.features import MelSpectrogram  # here, for it imports scipy

        self.mel_spectrogram = MelSpectrogram(
            sr=audio_settings.sample_rate,
            n_fft=audio_settings.n_fft,
            hop_length=audio_settings.hop_length,
            n_mels=audio_settings.n_mels,
            pad_mode="reflect",
            power=1.0,
            htk=False,
            norm=1,
            trainable_STFT=trainable_stft,
            trainable_mel=trainable_mel,
            verbose=False,
        )
        # The fixed kernels follow from the settings; saving them would add 4 MB to every checkpoint.
        for module in self.mel_spectrogram.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        edge = self.audio_settings.n_fft // 2
        if waveform.ndim != 2 or waveform.shape[1] <= edge:
            raise ValueError(
                f"the nnaudio frontend expects waveforms (B, samples) of more than {edge} samples (n_fft / 2), "
                f"got the shape {tuple(waveform.shape)}"
            )
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.mel_spectrogram(waveform.float())
            return standardise(compress(mel)).unsqueeze(1)

    @torch.no_grad()
    def filters(self) -> FilterResponse:
        stft = self.mel_spectrogram.stft
        parts = (stft.wcos[:, 0], stft.wsin[:, 0], self.mel_spectrogram.mel_basis)
        return spectrogram_filters(*(part.float().cpu() for part in parts), self.audio_settings.sample_rate)


class WaveformFrontend(Frontend):
    """Filter the waveform by a learned bank of band-passes that begin as mel bands; in float32 under autocast too.

    Shape:
        waveform: (B, samples), samples > n_fft / 2 + hop_length; output: (B, 1, n_mels, samples // hop_length + 1), float32.
    """

    source = "waveform"

    def __init__(self, audio_settings: AudioSettings):
        super().__init__(audio_settings)
        self.bank = FilterBank(audio_settings)

    def forward(self, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            return standardise(compress(self.bank(waveform.float()))).unsqueeze(1)

    @torch.no_grad()
    def filters(self) -> FilterResponse:
        return FilterResponse(*(values.cpu() for values in self.bank.filters()))


FRONTENDS: dict[str, type[Frontend]] = {"mel": MelFrontend, "nnaudio": NnAudioFrontend, "waveform": WaveformFrontend}
