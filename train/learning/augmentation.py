"""Acoustic augmentation of a waveform: rooms, telephone lines, noise and other sounds.

Training uses it to add variety; evaluation uses the same changes to measure what they cost.
"""

from collections.abc import Sequence

import numpy as np
import soxr

from model.audio import SAMPLE_RATE, Float32, s_to_samples

TELEPHONE_HZ = (300.0, 3400.0)
_TELEPHONE_RATE = 8000
_MU = 255.0
# Direct sound, then nothing for 3 ms: the shortest way by a wall is about a metre longer.
_FIRST_ECHO_S = 0.003
_DECAY_60_DB = 3 * float(np.log(10))
_POWER_FLOOR = 1e-12


class RoomAugmentation:
    """Draws a room for a training clip: something else to hear, walls, or a telephone line."""

    def __init__(self, noises: Sequence[Sequence[Float32]]) -> None:
        """noises: recordings of sounds that are not speech, by kind; every kind is heard as often, however many recordings it has.

        Those that hold nothing are left out. None at all means coloured noise only.
        """
        audible = [[noise for noise in kind if float(np.square(noise).mean()) > _POWER_FLOOR] for kind in noises]
        self._kinds = [kind for kind in audible if kind]

    def anywhere(self, audio: Float32, rng: np.random.Generator) -> Float32:
        """The clip in a room nobody has been in before; often without the silence around it, as the monitor cuts its segments."""
        if rng.random() < 0.6:
            audio = _closely_cut(audio, rng)
        kind = rng.random()
        if kind < 0.5:
            if rng.random() < 0.35:
                audio = reverberate(audio, float(rng.uniform(0.15, 0.6)), rng)
            return add_noise(audio, self._noise(len(audio), rng), float(rng.uniform(3, 20)))
        if kind < 0.7:
            return reverberate(audio, float(rng.uniform(0.15, 0.6)), rng)
        return telephone_line(audio, (float(rng.uniform(150, 350)), float(rng.uniform(3000, 3800))))

    def _noise(self, size: int, rng: np.random.Generator) -> Float32:
        if not self._kinds or rng.random() < 0.15:
            return coloured_noise(size, float(rng.uniform(0, 1)), rng)
        kind = self._kinds[int(rng.integers(len(self._kinds)))]
        return random_excerpt(kind[int(rng.integers(len(kind)))], size, rng)


def add_noise(audio: Float32, noise: Float32, snr_db: float) -> Float32:
    """Noise (N,) laid under a clip, its power `snr_db` below the clip's, both as means over all of it."""
    clip_power, noise_power = float(np.square(audio).mean()), float(np.square(noise).mean()) + _POWER_FLOOR
    scale = np.sqrt(clip_power / noise_power * 10 ** (-snr_db / 10))
    return np.asarray(audio + scale * noise, dtype=np.float32)


def reverberate(audio: Float32, t60_s: float, rng: np.random.Generator) -> Float32:
    """A clip in a room whose echoes fade by 60 dB in `t60_s` seconds: direct sound and a tail of decaying noise -9 to 3 dB beside it.

    The usual statistical model of late reverberation (Polack, 1988). The tail sounds on for half its time; the peak stays as it was.
    """
    size = s_to_samples(t60_s)
    seconds = np.arange(size) / SAMPLE_RATE
    echoes = rng.normal(size=size) * np.exp(-_DECAY_60_DB * seconds / t60_s)
    echoes[: s_to_samples(_FIRST_ECHO_S)] = 0
    echoes *= np.sqrt(10 ** (float(rng.uniform(-9, 3)) / 10) / np.square(echoes).sum())
    echoes[0] = 1
    length = len(audio) + size
    heard = np.fft.irfft(np.fft.rfft(audio, length) * np.fft.rfft(echoes, length), length)[: len(audio) + size // 2]
    peak = float(np.abs(heard).max()) + _POWER_FLOOR
    return (heard * (float(np.abs(audio).max()) / peak)).astype(np.float32)


def telephone_line(audio: Float32, band_hz: tuple[float, float] = TELEPHONE_HZ) -> Float32:
    """A clip over a telephone line: a band of frequencies, 8 kHz, and the 8 bits of G.711's mu-law."""
    spectrum = np.fft.rfft(audio)
    hz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    low, high = band_hz
    # As a Butterworth filter of order 6 attenuates, without its delay.
    gain = 1 / np.sqrt((1 + (low / np.maximum(hz, 1e-3)) ** 12) * (1 + (hz / high) ** 12))
    narrow = np.fft.irfft(spectrum * gain, len(audio)).astype(np.float32)
    sent = soxr.resample(narrow, SAMPLE_RATE, _TELEPHONE_RATE)
    peak = float(np.abs(sent).max()) + _POWER_FLOOR
    pressed = np.sign(sent) * np.log1p(_MU * np.abs(sent) / peak) / np.log1p(_MU)
    steps = np.round(pressed * 127) / 127
    heard = np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(_MU)) / _MU * peak
    return np.asarray(soxr.resample(heard.astype(np.float32), _TELEPHONE_RATE, SAMPLE_RATE), dtype=np.float32)


def coloured_noise(size: int, slope: float, rng: np.random.Generator) -> Float32:
    """Stationary noise (size,) whose amplitude falls with frequency to the power of `slope`: 0 white, 0.5 pink, 1 brown."""
    hz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(np.fft.rfft(rng.normal(size=size)) * hz**-slope, size).astype(np.float32)


def random_excerpt(recording: Float32, size: int, rng: np.random.Generator) -> Float32:
    """A random stretch (size,) of a recording, which starts again at its end where it is shorter."""
    start = int(rng.integers(max(1, len(recording) - size + 1)))
    return np.resize(recording[start:], size) if len(recording) - start >= size else np.resize(recording, size)


def _closely_cut(audio: Float32, rng: np.random.Generator) -> Float32:
    """Without the silence around the voice (30 dB under its loudest 25 ms), but for 50 to 400 ms on each side."""
    window = s_to_samples(0.025)
    energy = np.convolve(np.square(audio), np.ones(window) / window, "same")
    loud = np.flatnonzero(energy > energy.max() * 1e-3)
    if len(loud) == 0:
        return audio
    before, after = (s_to_samples(float(margin)) for margin in rng.uniform(0.05, 0.4, size=2))
    return audio[max(0, int(loud[0]) - before) : int(loud[-1]) + after]
