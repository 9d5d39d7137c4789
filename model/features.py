"""nano's acoustic features: log-mel bands and pitch, one row every 20 ms. The shipped weights depend on every digit here.

N samples, T feature frames (HOP apart). `analyse` is what a microphone delivers turned into numbers; `normalise` makes one utterance
comparable with any other. Training augments between the two. Both look at a whole utterance: segments are what is judged.
"""

import math
from functools import cache

import torch
from torch import Tensor

from model.audio import SAMPLE_RATE

HOP = SAMPLE_RATE // 50
N_MELS = 80
F0_ROW, VOICING_ROW = N_MELS, N_MELS + 1
N_RAW = N_MELS + 2
N_PROSODY = 4
N_FEATURES = 2 * N_MELS + N_PROSODY

_WINDOW = SAMPLE_RATE // 40
_FFT = 512
_MEL_RANGE_HZ = (20.0, 7800.0)
_POWER_FLOOR = 1e-7
_PITCH_WINDOW = SAMPLE_RATE // 25
_PITCH_FFT = 1024  # at least the window and the longest lag, so that nothing comes round
_PITCH_RANGE_HZ = (62.0, 620.0)
_VOICED = 0.5
_TRIM_DB = 40.0
_TRIM_MARGIN_FRAMES = 5
# Where a voice stands out of steady noise, what lies between voice and noise is cut off too: 6 dB over the quietest 15 % of frames.
_QUIET_SHARE, _OVER_QUIET_DB, _UNDER_LOUDEST_DB = 0.15, 6.0, 15.0
# What lies this far under the loud parts of an utterance is not looked at: it is the room, not the voice.
_RANGE_DB, _LOUD_SHARE = 35.0, 0.98
_NEPERS_PER_DB = math.log(10) / 10
_SLOPE_SCALE = 3.0
_MIN_SAMPLES = SAMPLE_RATE * 2 // 5


def analyse(audio: Tensor) -> Tensor:
    """float32 (N,) in [-1, 1) to raw features (T, N_RAW): 80 log-mel powers, log2 of F0 in Hz, voicing in 0..1.

    Silence at both edges is cut off (40 dB under the loudest frame, or close to the noise, 100 ms margin); under 0.4 s, zeros are appended.
    """
    audio = _long_enough(audio)
    mel = _mel_power(audio)
    first, last = _loud_part(mel.sum(dim=1))
    f0, voicing = _pitch(audio, len(mel))
    raw = torch.cat([torch.log(mel + _POWER_FLOOR), f0[:, None], voicing[:, None]], dim=1)
    return raw[first:last]


def trim_silence(audio: Tensor) -> Tensor:
    """Cut float32 (N,) in [-1, 1) where `analyse` cuts it, within half a HOP, so that frames of other encoders lie beside nano's.

    The result is at least 0.4 s long: zeros are appended to what is shorter.
    """
    audio = _long_enough(audio)
    first, last = _loud_part(_mel_power(audio).sum(dim=1))
    return _long_enough(audio[max(0, first * HOP - HOP // 2) : last * HOP])


def normalise(raw: Tensor) -> Tensor:
    """Raw features (T, N_RAW) to encoder input (T, N_FEATURES): log-mel bands in two ways, then four prosody channels.

    Bands get a floor 35 dB under the loud parts, which removes gain and quiet noise. First each band against itself over the utterance,
    (value - mean) / (std + 0.5), which removes the room's colour; then all against one mean, (value - mean) / 3, which keeps the slope of
    the spectrum, and with it how tense a voice is. Prosody: log2 F0 (octaves from 180 Hz), the same against the utterance's mean, its
    change per frame, voicing. Where unvoiced, F0 is the utterance's mean.
    """
    mel, f0, voicing = raw[:, :N_MELS], raw[:, F0_ROW], raw[:, VOICING_ROW]
    # The loudest values are few, so the least of them is found sooner than the k-th of all.
    loud = mel.flatten().topk(mel.numel() - max(1, int(_LOUD_SHARE * mel.numel())) + 1, sorted=False).values.min()
    mel = torch.logaddexp(mel, loud - _RANGE_DB * _NEPERS_PER_DB)
    slope = (mel - mel.mean()) / _SLOPE_SCALE
    mel = (mel - mel.mean(dim=0)) / (mel.std(dim=0, correction=0) + 0.5)
    voiced = voicing > _VOICED
    middle = math.log2(180.0)
    mean = f0[voiced].mean() if bool(voiced.any()) else torch.tensor(middle)
    filled = torch.where(voiced, f0, mean)
    change = torch.diff(filled, prepend=filled[:1])
    prosody = torch.stack([filled - middle, (filled - mean) * 2, change * 4, voicing], dim=1)
    return torch.cat([mel, slope, prosody], dim=1)


def _long_enough(audio: Tensor) -> Tensor:
    """At least _MIN_SAMPLES: zeros are appended to what is shorter."""
    return torch.nn.functional.pad(audio, (0, max(0, _MIN_SAMPLES - audio.numel())))


def _mel_power(audio: Tensor) -> Tensor:
    """Linear power in mel bands (T, N_MELS), T = N // HOP + 1."""
    return _power(_frames(audio, _WINDOW, _FFT)) @ _mel_filters()


def _frames(audio: Tensor, window: int, fft: int) -> Tensor:
    """Spectra (T, fft // 2 + 1) of centred Hann windows, one per HOP, T = N // HOP + 1."""
    return torch.stft(
        audio,
        fft,
        hop_length=HOP,
        win_length=window,
        window=_hann(window),
        center=True,
        pad_mode="constant",
        return_complex=True,
    ).T


@cache
def _hann(window: int) -> Tensor:
    return torch.hann_window(window)


def _power(spectra: Tensor) -> Tensor:
    """Squared magnitudes; their roots, which complex numbers are slow at, are not needed."""
    return torch.view_as_real(spectra).square().sum(dim=-1)


@cache
def _mel_filters() -> Tensor:
    """Triangular filters (fft bins, N_MELS), equally spaced in mel (HTK formula), unit height."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in _MEL_RANGE_HZ)
    edges = 700 * (10 ** (torch.linspace(low, high, N_MELS + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def _loud_part(energy: Tensor) -> tuple[int, int]:
    """First and one-past-last frame of an utterance without the silence around it; energy is linear power (T,)."""
    level = energy.clamp(min=1e-12).log() / _NEPERS_PER_DB
    first, last = _span(level, level.max() - _TRIM_DB)
    inner = level[first:last]
    over_quiet = torch.minimum(_quantile(inner, _QUIET_SHARE) + _OVER_QUIET_DB, inner.max() - _UNDER_LOUDEST_DB)
    start, end = _span(inner, torch.maximum(over_quiet, inner.max() - _TRIM_DB))
    return first + start, first + end


def _quantile(values: Tensor, share: float) -> Tensor:
    """As torch.quantile, between the neighbours, in a tenth of its time for so few values (T,)."""
    ordered, place = values.sort().values, share * (len(values) - 1)
    below = int(place)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(values) - 1)], place - below)


def _span(level: Tensor, threshold: Tensor) -> tuple[int, int]:
    """First and one-past-last frame above a level, with a margin; all of them where none is."""
    loud = torch.nonzero(level > threshold).flatten()
    if len(loud) == 0:
        return 0, len(level)
    return max(0, int(loud[0]) - _TRIM_MARGIN_FRAMES), min(len(level), int(loud[-1]) + 1 + _TRIM_MARGIN_FRAMES)


def _pitch(audio: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """log2 F0 (T,) and voicing (T,) from the normalised autocorrelation of 40 ms windows (Boersma 1993, without path search)."""
    shortest, longest = (int(SAMPLE_RATE / hz) for hz in reversed(_PITCH_RANGE_HZ))
    spectrum = _frames(audio - audio.mean(), _PITCH_WINDOW, _PITCH_FFT)[:frames]
    correlation = torch.fft.irfft(_power(spectrum))[:, : longest + 2]
    correlation = correlation / (correlation[:, :1] + 1e-6) / _pitch_shape()[: longest + 2]
    candidates = correlation[:, shortest : longest + 1]
    # A small cost on long periods keeps an octave error from winning over the true period by a rounding error.
    cost = 0.02 * torch.log2(torch.arange(shortest, longest + 1) / shortest)
    lag = (candidates - cost).argmax(dim=1) + shortest
    rows = torch.arange(len(lag))
    left, peak, right = correlation[rows, lag - 1], correlation[rows, lag], correlation[rows, lag + 1]
    shift = (0.5 * (left - right) / (left - 2 * peak + right).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    return torch.log2(SAMPLE_RATE / (lag + shift)), peak.clamp(0, 1)


@cache
def _pitch_shape() -> Tensor:
    """The window's own autocorrelation, which falls with lag; dividing by it stops long periods from looking unvoiced."""
    window = torch.fft.irfft(_power(torch.fft.rfft(_hann(_PITCH_WINDOW), n=_PITCH_FFT)))
    return window / window[0]  # type: ignore[no-any-return]
