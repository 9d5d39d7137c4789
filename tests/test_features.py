"""nano's features: pitch is right, gain does not matter, and every digit stays what the weights were trained on."""

import math

import pytest
import torch
from torch import Tensor

from model.audio import SAMPLE_RATE
from model.features import F0_ROW, HOP, N_FEATURES, N_MELS, N_RAW, VOICING_ROW, analyse, normalise


def voice(hz: float, seconds: float = 1.0, level: float = 0.1) -> Tensor:
    """A vowel-like tone of five harmonics."""
    t = torch.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE
    return level * torch.stack([torch.sin(2 * math.pi * hz * k * t) / k for k in range(1, 6)]).sum(dim=0)


@pytest.mark.parametrize("hz", [75.0, 120.0, 220.0, 410.0, 590.0])
def test_pitch_of_a_voice_is_found_within_one_percent(hz: float) -> None:
    raw = analyse(voice(hz))[5:-5]
    assert 2 ** raw[:, F0_ROW].median() == pytest.approx(hz, rel=0.01)
    assert raw[:, VOICING_ROW].median() > 0.95


def test_noise_is_not_voiced() -> None:
    noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert analyse(noise)[:, VOICING_ROW].median() < 0.5


def test_gain_does_not_change_the_features() -> None:
    sound = voice(150.0) + 0.01 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(1))
    loud, quiet = normalise(analyse(sound)), normalise(analyse(sound * 0.1))
    assert (loud - quiet)[:, : 2 * N_MELS].abs().mean() < 0.01


def test_what_lies_under_the_voice_by_more_than_its_range_is_not_looked_at() -> None:
    hiss = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(2))
    clean, noisy = (normalise(analyse(voice(150.0) + level * hiss)) for level in (1e-5, 1e-4))
    assert (clean - noisy)[:, : 2 * N_MELS].abs().mean() < 0.1


def test_steady_noise_around_a_voice_is_cut_off_like_silence() -> None:
    noise = 0.01 * torch.randn(5 * SAMPLE_RATE, generator=torch.Generator().manual_seed(3))
    noise[2 * SAMPLE_RATE : 3 * SAMPLE_RATE] += voice(150.0)
    assert len(analyse(noise)) == pytest.approx(SAMPLE_RATE / HOP, abs=12)


def test_silence_at_the_edges_is_cut_off() -> None:
    silence = torch.zeros(2 * SAMPLE_RATE)
    alone, framed = analyse(voice(150.0)), analyse(torch.cat([silence, voice(150.0), silence]))
    assert abs(len(framed) - len(alone)) <= 12
    assert len(alone) == pytest.approx(SAMPLE_RATE / HOP, abs=2)


@pytest.mark.parametrize("samples", [0, 1, 100, 3200, 7000])
def test_very_short_and_silent_sound_has_finite_features(samples: int) -> None:
    for sound in (torch.zeros(samples), voice(150.0)[:samples]):
        raw = analyse(sound)
        features = normalise(raw)
        assert raw.shape[1] == N_RAW
        assert features.shape == (len(raw), N_FEATURES)
        assert torch.isfinite(features).all()


def test_features_are_pinned() -> None:
    """Golden values: nano's weights depend on them. Whoever changes a feature retrains nano and writes these anew."""
    sound = voice(140.0, 0.6) + voice(311.0, 0.6, 0.03) + 0.002 * torch.sin(torch.arange(int(SAMPLE_RATE * 0.6)) ** 1.5)
    features = normalise(analyse(sound))
    found = [features[:, column].abs().mean().item() for column in (0, 20, 40, 60, 79, 80, 120, 159, 160, 161, 162, 163)]
    assert len(features) == GOLDEN_FRAMES
    assert found == pytest.approx(GOLDEN, rel=1e-3, abs=1e-4)


GOLDEN_FRAMES = 31
GOLDEN = [0.35355, 0.39856, 0.14979, 0.06996, 0.1814, 0.51783, 0.60962, 0.59971, 0.42282, 0.2448, 0.57052, 0.8924]
