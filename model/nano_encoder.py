"""The network of nano's encoder: acoustic features every 20 ms, and the frozen branches stacked for fast inference.

B batch, N samples, F feature frames (HOP_SAMPLES apart), T encoder frames, N branches, W a branch's width, H half of it, D = N * W.
`extract_features` turns audio into log-mel bands and pitch; `normalise_features` makes one utterance comparable with any other; training
augments between the two. Both work on a whole utterance. The released weights depend on every digit of these features.

`StackedBranches` computes what the branches of a frozen NanoEncoder compute, in a third to half of the time for one utterance: weights are
stacked, batch norms are folded into their convolutions, and both directions of all GRUs share one loop over time. A test holds it equal to
the branches, within rounding.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.audio import SAMPLE_RATE

HOP_SAMPLES = SAMPLE_RATE // 50
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


def extract_features(audio: Tensor) -> Tensor:
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
    """Cut float32 (N,) in [-1, 1) where `extract_features` cuts it, within half a HOP, so that frames of other encoders lie beside nano's.

    The result is at least 0.4 s long: zeros are appended to what is shorter.
    """
    audio = _long_enough(audio)
    first, last = _loud_part(_mel_power(audio).sum(dim=1))
    return _long_enough(audio[max(0, first * HOP_SAMPLES - HOP_SAMPLES // 2) : last * HOP_SAMPLES])


def normalise_features(raw: Tensor) -> Tensor:
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
        hop_length=HOP_SAMPLES,
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


class StackedBranches:
    """Branches of one NanoEncoder, in eval mode; their weights are copied and must not change any more."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        self._branches = len(branches)
        self._bands = [_folded(stages) for stages in zip(*(_stages(branch, "bands") for branch in branches), strict=True)]
        self._prosody = [_folded(stages) for stages in zip(*(_stages(branch, "prosody") for branch in branches), strict=True)]
        self._strides = [conv.stride for conv, *_ in _stages(branches[0], "bands")]
        self._join = _stacked(branches, "join.weight").transpose(1, 2)
        self._join_bias = _stacked(branches, "join.bias")[:, None]
        self._join_norm = [_stacked(branches, f"join_norm.{name}")[:, None] for name in ("weight", "bias")]
        self._context_norm = [_stacked(branches, f"context_norm.{name}")[:, None, None] for name in ("weight", "bias")]
        self._enter, self._again = (_both_ways(branches, f"weight_{which}_l0").transpose(1, 2).contiguous() for which in ("ih", "hh"))
        self._enter_bias, self._again_bias = (_both_ways(branches, f"bias_{which}_l0")[:, None] for which in ("ih", "hh"))

    def __call__(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As NanoEncoder.states: features (B, F, N_FEATURES), of which `lengths` (B,) are real, to states (B, T, D) and mask (B, T)."""
        bands, frames = self._heard_in_bands(features, lengths)
        line = self._heard_in_prosody(features, lengths)
        batch, time = len(features), bands.shape[3]
        parts = [part.reshape(batch, self._branches, -1, time) for part in (bands, line)]
        joined = torch.cat(parts, dim=2).permute(1, 0, 3, 2).reshape(self._branches, batch * time, -1)
        states = _normalised(torch.baddbmm(self._join_bias, joined, self._join), self._join_norm)
        states = states.view(self._branches, batch, time, -1)  # (N, B, T, W)
        mask = torch.arange(time) < frames[:, None]
        context = _normalised(states + self._context(states, frames, mask), self._context_norm) * mask[:, :, None]
        return context.permute(1, 2, 0, 3).reshape(batch, time, -1), mask

    def _heard_in_bands(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N * C, bands, T), and how many of T are real."""
        heard = features[:, :, : 2 * N_MELS].reshape(*features.shape[:2], 2, N_MELS).permute(0, 2, 3, 1).contiguous()
        for i, ((weight, bias), stride) in enumerate(zip(self._bands, self._strides, strict=True)):
            heard = functional.conv2d(heard, weight, bias, stride, 1, 1, self._groups(i)).relu_()
            frames = torch.div(frames + stride[1] - 1, stride[1], rounding_mode="floor")
            heard = _without_padding(heard, frames)
        return heard, frames

    def _heard_in_prosody(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, N * C, T)."""
        heard = features[:, :, 2 * N_MELS :].transpose(1, 2)
        for i, (weight, bias) in enumerate(self._prosody):
            heard = functional.conv1d(heard, weight, bias, 2, 2, 1, self._groups(i)).relu_()
            frames = torch.div(frames + 1, 2, rounding_mode="floor")
            heard = _without_padding(heard, frames)
        return heard

    def _groups(self, stage: int) -> int:
        """All branches hear the same features, and each what it made of them itself."""
        return 1 if stage == 0 else self._branches

    def _context(self, states: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """States (N, B, T, W) to what the GRUs make of them; backwards, an utterance begins at its own last frame."""
        branches, batch, time, width = states.shape
        forwards = torch.arange(time)
        backwards = torch.where(mask, (frames[:, None] - 1 - forwards).clamp(min=0), forwards)[None, :, :, None]  # (1, B, T, 1)
        mirrored = states.gather(2, backwards.expand_as(states))
        both = torch.cat([states, mirrored]).transpose(1, 2).reshape(2 * branches, time * batch, width)
        entering = torch.baddbmm(self._enter_bias, both, self._enter).view(2 * branches, time, batch, -1)
        context = torch.stack(self._over_time(entering), dim=2).view(2, branches, batch, time, -1)
        mirrored_back = context[1].gather(2, backwards.expand_as(context[1]))
        return torch.cat([context[0], mirrored_back], dim=3)

    def _over_time(self, entering: Tensor) -> list[Tensor]:
        """T states (2 N, B, H) of all GRUs, from what enters their gates (2 N, T, B, 3 H): reset, update, new, as torch orders them."""
        half = self._again.shape[1]
        state = entering.new_zeros(len(entering), entering.shape[2], half)
        states = []
        for now in entering.unbind(1):
            before = torch.baddbmm(self._again_bias, state, self._again)
            gates = (now[:, :, : 2 * half] + before[:, :, : 2 * half]).sigmoid_()
            new = torch.addcmul(now[:, :, 2 * half :], gates[:, :, :half], before[:, :, 2 * half :]).tanh_()
            state = torch.lerp(new, state, gates[:, :, half:])
            states.append(state)
        return states


def _stages(branch: nn.Module, name: str) -> list[Any]:
    """Each is a convolution, its batch norm and what follows."""
    return list(branch.get_submodule(name).children())


def _folded(stages: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Convolution weights and biases with the batch norm that follows in them, for all branches."""
    weights, biases = [], []
    for conv, norm, _ in stages:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights.append(conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1)))
        biases.append(norm.bias - norm.running_mean * scale)
    return torch.cat(weights), torch.cat(biases)


def _stacked(branches: Sequence[nn.Module], name: str) -> Tensor:
    return torch.stack([branch.get_parameter(name) for branch in branches])


def _both_ways(branches: Sequence[nn.Module], name: str) -> Tensor:
    """Of the GRUs of all branches, forwards and then backwards."""
    return torch.cat([_stacked(branches, f"context.{name}{direction}") for direction in ("", "_reverse")])


def _normalised(states: Tensor, norm: Sequence[Tensor]) -> Tensor:
    weight, bias = norm
    return torch.addcmul(bias, functional.layer_norm(states, states.shape[-1:]), weight)


def _without_padding(heard: Tensor, frames: Tensor) -> Tensor:
    """Zeros, in place, where time (the last axis) is not real."""
    time = heard.shape[-1]
    if int(frames.min()) < time:
        heard *= (torch.arange(time) < frames[:, None]).view(len(heard), *[1] * (heard.dim() - 2), time)
    return heard
