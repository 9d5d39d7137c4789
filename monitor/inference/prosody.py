"""Prosody of a segment: its level, and the median pitch of its voice. Measured in the worker, the only place that has the audio.

A tenth of the cost of Praat (model/paralinguistics.py), because it is done for every segment of every day: the autocorrelation of windows
side by side (Boersma 1993), without a search for the best path through them. A median forgives single wrong windows.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from model.audio import SAMPLE_RATE, Int16, pcm16_to_float
from monitor.storage.records import Prosody

_Floats = NDArray[np.float32]

MIN_LOUDNESS_DB = -100.0
"""Digital silence; the quietest that 16 bits can tell from it is -90."""

_WINDOW = SAMPLE_RATE // 25
_FFT = 900  # at least a window and the longest lag, so that nothing comes round
_LAGS = range(SAMPLE_RATE // 600, SAMPLE_RATE // 65)
# A window is voiced where it repeats itself to this part, and is not much quieter than the loudest: rooms hum.
_MIN_PERIODICITY, _MAX_BELOW_LOUDEST_DB = 0.5, 30.0
# 200 ms of voice; less may be a click.
_MIN_VOICED_WINDOWS = 5
# A small cost on each octave down keeps two periods from winning over one because they fit the samples better.
_OCTAVE_COST = 0.05


def measure_prosody(pcm: Int16) -> Prosody:
    """Level and pitch of mono int16 (N,) at SAMPLE_RATE, of any length. Pitch is 65 to 600 Hz, None where too little is voiced."""
    sound = pcm16_to_float(pcm)
    if len(sound):
        sound = sound - sound.mean()
    power = float(np.mean(np.square(sound), dtype=np.float64)) if len(sound) else 0.0
    loudness_db = max(MIN_LOUDNESS_DB, 10 * math.log10(power)) if power else MIN_LOUDNESS_DB
    pitches = _pitches(sound)
    return Prosody(loudness_db, float(np.median(pitches)) if len(pitches) >= _MIN_VOICED_WINDOWS else None)


def _pitches(sound: _Floats) -> _Floats:
    """The pitch of each voiced window in Hz."""
    windows = sound[: len(sound) // _WINDOW * _WINDOW].reshape(-1, _WINDOW)
    energy = np.square(windows).sum(axis=1)
    windows = windows[energy > max(1e-7, float(energy.max(initial=0.0)) * 10 ** (-_MAX_BELOW_LOUDEST_DB / 10))]
    correlation = _correlation(windows)
    left, peak, right = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    # At a lag where it still rises or falls there is no period, only the end of the range.
    scores = np.where((peak > _MIN_PERIODICITY) & (peak >= left) & (peak >= right), peak - _octave_costs(), -1.0)
    best = scores.argmax(axis=1)
    rows = np.arange(len(best))
    before, at, after = left[rows, best], peak[rows, best], right[rows, best]
    # A parabola finds the peak between samples.
    shift = 0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-6)
    pitches: _Floats = (SAMPLE_RATE / (best + _LAGS.start + shift))[scores[rows, best] > -1.0]
    return pitches


def _correlation(windows: _Floats) -> _Floats:
    """Windows (W, _WINDOW) to how much they repeat themselves, at most 1, at each of _LAGS and one on either side (W, lags + 2)."""
    spectra = np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32), _FFT)
    correlation = np.fft.irfft(np.square(spectra.real) + np.square(spectra.imag))
    normal: _Floats = (correlation[:, _LAGS.start - 1 : _LAGS.stop + 1] / (correlation[:, :1] + 1e-9) / _window_autocorrelation()).astype(
        np.float32
    )
    return normal


@cache
def _window_autocorrelation() -> _Floats:
    """The window's own autocorrelation, which falls with the lag and would make long periods look unvoiced."""
    spectrum = np.fft.rfft(np.hanning(_WINDOW), _FFT)
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))
    shape: _Floats = (correlation[_LAGS.start - 1 : _LAGS.stop + 1] / correlation[0]).astype(np.float32)
    return shape


@cache
def _octave_costs() -> _Floats:
    return (_OCTAVE_COST * np.log2(np.arange(_LAGS.start, _LAGS.stop) / _LAGS.start)).astype(np.float32)
