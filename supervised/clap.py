"""The two parts of a CLAP checkpoint that hear, as transformers has them, without what would slow them down."""

from __future__ import annotations

import numpy as np
from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor
from transformers.audio_utils import power_to_db, window_function


class ClapAudioHalf(ClapAudioModelWithProjection):
    """Audio tower and projection, read from a checkpoint of both halves."""

    # Or transformers reports the other half, weight by weight.
    _keys_to_ignore_on_load_unexpected = ("^text_", "^logit_scale")


class FastClapExtractor(ClapFeatureExtractor):
    """The same spectrograms, bit for bit, from one FFT over all frames instead of one per frame."""

    def _np_extract_fbank_features(self, waveform: np.ndarray, mel_filters: np.ndarray) -> np.ndarray:
        """Return the log-mel spectrogram, float32 (frames, mels), of samples (n,)."""
        length = self.fft_window_size
        padded = np.pad(waveform, length // 2, mode="reflect").astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(padded, length)[:: self.hop_length]  # (frames, length)
        spectrum = np.fft.rfft(frames * window_function(length, "hann")).astype(np.complex64)  # (frames, bins)
        power = np.abs(spectrum, dtype=np.float64) ** 2.0
        mel = np.maximum(1e-10, np.dot(mel_filters.T, power.T))  # (mels, frames)
        return np.asarray(power_to_db(mel), np.float32).T
