"""Pitch, level and the features in prompts, against synthetic voices whose values are known."""

import math
import subprocess
import sys
from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from model.audio import SAMPLE_RATE, Float32, Int16
from model.errors import TrainingError
from model.nano_encoder import F0_ROW, HOP_SAMPLES, N_FEATURES, N_MELS, N_RAW, VOICING_ROW, extract_features, normalise_features
from model.paralinguistics import DESCRIPTION_INTRODUCTIONS, VOICE_FEATURES, FeatureLevel, Terciles, VoiceMeasurement, describe_voice
from model.paralinguistics import measure_voice as measure
from monitor.inference.prosody import MIN_LOUDNESS_DB
from monitor.inference.prosody import measure_prosody as measure_voice


def harmonic_voice(hz: float, seconds: float = 1.0, level: float = 0.1) -> Tensor:
    """A vowel-like tone of five harmonics."""
    t = torch.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE
    return level * torch.stack([torch.sin(2 * math.pi * hz * k * t) / k for k in range(1, 6)]).sum(dim=0)


@pytest.mark.parametrize("hz", [75.0, 120.0, 220.0, 410.0, 590.0])
def test_pitch_of_a_voice_is_found_within_one_percent(hz: float) -> None:
    raw = extract_features(harmonic_voice(hz))[5:-5]
    assert 2 ** raw[:, F0_ROW].median() == pytest.approx(hz, rel=0.01)
    assert raw[:, VOICING_ROW].median() > 0.95


def test_noise_is_not_voiced() -> None:
    noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert extract_features(noise)[:, VOICING_ROW].median() < 0.5


def test_gain_does_not_change_the_features() -> None:
    sound = harmonic_voice(150.0) + 0.01 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(1))
    loud, quiet = normalise_features(extract_features(sound)), normalise_features(extract_features(sound * 0.1))
    assert (loud - quiet)[:, : 2 * N_MELS].abs().mean() < 0.01


def test_what_lies_under_the_voice_by_more_than_its_range_is_not_looked_at() -> None:
    hiss = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(2))
    clean, noisy = (normalise_features(extract_features(harmonic_voice(150.0) + level * hiss)) for level in (1e-5, 1e-4))
    assert (clean - noisy)[:, : 2 * N_MELS].abs().mean() < 0.1


def test_steady_noise_around_a_voice_is_cut_off_like_silence() -> None:
    noise = 0.01 * torch.randn(5 * SAMPLE_RATE, generator=torch.Generator().manual_seed(3))
    noise[2 * SAMPLE_RATE : 3 * SAMPLE_RATE] += harmonic_voice(150.0)
    assert len(extract_features(noise)) == pytest.approx(SAMPLE_RATE / HOP_SAMPLES, abs=12)


def test_silence_at_the_edges_is_cut_off() -> None:
    silence = torch.zeros(2 * SAMPLE_RATE)
    alone, framed = extract_features(harmonic_voice(150.0)), extract_features(torch.cat([silence, harmonic_voice(150.0), silence]))
    assert abs(len(framed) - len(alone)) <= 12
    assert len(alone) == pytest.approx(SAMPLE_RATE / HOP_SAMPLES, abs=2)


@pytest.mark.parametrize("samples", [0, 1, 100, 3200, 7000])
def test_very_short_and_silent_sound_has_finite_features(samples: int) -> None:
    for sound in (torch.zeros(samples), harmonic_voice(150.0)[:samples]):
        raw = extract_features(sound)
        features = normalise_features(raw)
        assert raw.shape[1] == N_RAW
        assert features.shape == (len(raw), N_FEATURES)
        assert torch.isfinite(features).all()


def test_features_are_pinned() -> None:
    """Golden values: nano's weights depend on them. Whoever changes a feature retrains nano and writes these anew."""
    sound = harmonic_voice(140.0, 0.6) + harmonic_voice(311.0, 0.6, 0.03) + 0.002 * torch.sin(torch.arange(int(SAMPLE_RATE * 0.6)) ** 1.5)
    features = normalise_features(extract_features(sound))
    found = [features[:, column].abs().mean().item() for column in (0, 20, 40, 60, 79, 80, 120, 159, 160, 161, 162, 163)]
    assert len(features) == GOLDEN_FRAMES
    assert found == pytest.approx(GOLDEN, rel=1e-3, abs=1e-4)


GOLDEN_FRAMES = 31
GOLDEN = [0.35355, 0.39856, 0.14979, 0.06996, 0.1814, 0.51783, 0.60962, 0.59971, 0.42282, 0.2448, 0.57052, 0.8924]


def tone(hz: float, seconds: float = 1.0, peak: float = 0.25, harmonics: int = 1) -> Int16:
    """Harmonics fall off as in a voice."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    waves = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, harmonics + 1))
    return (32768 * peak * waves).round().astype(np.int16)


@pytest.mark.parametrize("hz", [70, 100, 147, 220, 311, 450])
@pytest.mark.parametrize("harmonics", [1, 3, 10])
def test_the_pitch_of_a_tone_is_its_pitch(hz: float, harmonics: int) -> None:
    assert measure_voice(tone(hz, harmonics=harmonics)).pitch_hz == pytest.approx(hz, rel=0.01)


@pytest.mark.parametrize("peak", [0.9, 0.1, 0.01, 0.001])
def test_the_level_of_a_tone_is_three_db_under_its_peak_and_its_pitch_stays(peak: float) -> None:
    voice = measure_voice(tone(200, peak=peak))
    assert voice.loudness_db == pytest.approx(20 * math.log10(peak) - 3.01, abs=0.1)
    assert voice.pitch_hz == pytest.approx(200, rel=0.02)


def test_a_constant_offset_of_a_microphone_is_no_loudness() -> None:
    assert measure_voice(tone(200) + np.int16(3000)).loudness_db == pytest.approx(measure_voice(tone(200)).loudness_db, abs=0.01)


def test_the_pitch_is_that_of_the_most_windows() -> None:
    assert measure_voice(np.concatenate([tone(120, 1.5), tone(300, 0.5)])).pitch_hz == pytest.approx(120, rel=0.01)


def test_silence_around_a_voice_changes_only_its_level() -> None:
    alone, padded = measure_voice(tone(180)), measure_voice(np.concatenate([np.zeros(SAMPLE_RATE, np.int16), tone(180)]))
    assert padded.pitch_hz == pytest.approx(alone.pitch_hz, rel=0.01)
    assert padded.loudness_db == pytest.approx(alone.loudness_db - 3.01, abs=0.1)


def test_a_voice_in_noise_keeps_its_pitch() -> None:
    noise = np.random.default_rng(1).normal(0, 800, SAMPLE_RATE).astype(np.int16)
    assert measure_voice(tone(160, harmonics=8) + noise).pitch_hz == pytest.approx(160, rel=0.02)


@pytest.mark.parametrize("seconds", [0, 0.0001, 0.1])
def test_what_is_too_short_has_no_pitch(seconds: float) -> None:
    assert measure_voice(tone(200, seconds)).pitch_hz is None


def test_noise_has_a_level_and_no_pitch() -> None:
    voice = measure_voice(np.random.default_rng(1).normal(0, 3276.8, 2 * SAMPLE_RATE).astype(np.int16))
    assert (voice.pitch_hz, voice.loudness_db) == (None, pytest.approx(-20, abs=0.1))


@pytest.mark.parametrize("samples", [0, 1, 32_000])
@pytest.mark.parametrize("value", [0, 5])
def test_silence_has_the_lowest_level(samples: int, value: int) -> None:
    voice = measure_voice(np.full(samples, value, np.int16))
    assert (voice.loudness_db, voice.pitch_hz) == (MIN_LOUDNESS_DB, None)


FORMANTS_HZ = ((500, 80), (1500, 100), (2500, 120))


def voice(
    seconds: float = 2.0,
    hz: float = 150.0,
    vibrato: float = 0.0,
    jitter: float = 0.0,
    shimmer: float = 0.0,
    rms: float = 0.1,
) -> Float32:
    """Glottal pulses through three formants. vibrato: semitones either way, twice a second.

    jitter, shimmer: mean difference between the lengths, or strengths, of neighbouring pulses, as a ratio; they are drawn from a
    normal distribution, of which two draws differ by 2 / sqrt(pi) standard deviations in the mean.
    """
    rng = np.random.default_rng(0)
    times, strengths, now = [], [], 0.0
    while (now := now + (1 + _deviation(jitter, rng)) / (hz * 2 ** (vibrato / 12 * np.sin(4 * np.pi * now)))) < seconds:
        times.append(now)
        strengths.append(1 + _deviation(shimmer, rng))
    size = int(seconds * SAMPLE_RATE)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    pulses = np.array(strengths) @ np.exp(-2j * np.pi * np.outer(times, frequencies))
    sound = np.fft.irfft(pulses * _tract(frequencies), size)
    sound -= sound.mean()
    return (sound * rms / sound.std()).astype(np.float32)


def _deviation(difference: float, rng: np.random.Generator) -> float:
    return difference * np.sqrt(np.pi) / 2 * rng.standard_normal()


def _tract(frequencies: np.ndarray) -> np.ndarray:
    response = 1 / (1 + frequencies / 300)
    for formant, bandwidth in FORMANTS_HZ:
        pole = np.pi * (-bandwidth + 2j * formant)
        response = response * abs(pole) ** 2 / ((2j * np.pi * frequencies - pole) * (2j * np.pi * frequencies - pole.conjugate()))
    return response


def noise(samples: int, rms: float = 0.05) -> Float32:
    return np.random.default_rng(0).normal(scale=rms, size=samples).astype(np.float32)


@pytest.mark.parametrize("hz", [90.0, 150.0, 220.0, 400.0])
def test_the_pitch_of_a_steady_voice_is_its_fundamental(hz: float) -> None:
    found = measure(voice(hz=hz))
    assert found.pitch == pytest.approx(hz, rel=0.002)
    assert found.pitch_range == pytest.approx(0.0, abs=0.05)
    assert found.jitter == pytest.approx(0.0, abs=0.001)
    assert found.shimmer == pytest.approx(0.0, abs=0.005)


@pytest.mark.parametrize("semitones", [1.0, 3.0, 5.0])
def test_pitch_range_follows_the_depth_of_a_vibrato(semitones: float) -> None:
    found = measure(voice(vibrato=semitones))
    # A sine is within its 5th and 95th percentile for cos(0.05 pi) of its swing.
    assert found.pitch_range == pytest.approx(2 * semitones * np.cos(0.05 * np.pi), rel=0.05)
    assert found.pitch == pytest.approx(150, rel=0.03)


@pytest.mark.parametrize("amount", [0.005, 0.01, 0.02])
def test_jitter_is_the_share_by_which_neighbouring_periods_differ(amount: float) -> None:
    assert measure(voice(jitter=amount)).jitter == pytest.approx(amount, rel=0.25)


@pytest.mark.parametrize("amount", [0.03, 0.06, 0.12])
def test_shimmer_is_the_share_by_which_neighbouring_amplitudes_differ(amount: float) -> None:
    found = measure(voice(shimmer=amount))
    assert found.shimmer == pytest.approx(amount, rel=0.25)
    assert found.jitter < 0.003, "the periods are all alike"


def test_gain_changes_loudness_by_its_decibels_and_nothing_else() -> None:
    clip = voice(vibrato=2.0, jitter=0.01, shimmer=0.05)
    loud, quiet = measure(clip), measure(clip * np.float32(0.1))
    assert loud.loudness == pytest.approx(-20.0, abs=0.01), "0.1 rms re full scale"
    assert quiet.loudness == pytest.approx(loud.loudness - 20.0, abs=0.01)
    assert astuple(quiet)[1:] == pytest.approx(astuple(loud)[1:], rel=1e-3)


def test_a_constant_offset_is_not_loudness() -> None:
    clip = voice()
    assert measure(clip + np.float32(0.3)).loudness == pytest.approx(measure(clip).loudness, abs=0.001)


def test_silence_has_no_features_and_noise_only_loudness() -> None:
    nothing = VoiceMeasurement(None, None, None, None, None)
    assert measure(np.zeros(SAMPLE_RATE, np.float32)) == nothing
    assert measure(np.full(SAMPLE_RATE, 0.3, np.float32)) == nothing
    assert measure(np.zeros(0, np.float32)) == nothing
    hiss = measure(noise(SAMPLE_RATE))
    assert hiss.loudness == pytest.approx(-26.0, abs=0.2)
    assert astuple(hiss)[1:] == (None, None, None, None)


def test_fifty_milliseconds_are_too_short_for_all_but_loudness_and_a_hundred_are_not() -> None:
    short, longer = measure(voice(0.05)), measure(voice(0.1))
    assert short.loudness is not None
    assert astuple(short)[1:] == (None, None, None, None)
    assert None not in astuple(longer)
    assert longer.pitch == pytest.approx(150, rel=0.01)


@pytest.mark.parametrize("samples", [1, 2, 639, 640, 641, 800, 1600, 30 * SAMPLE_RATE])
@pytest.mark.parametrize("kind", ["noise", "clipped voice", "click"])
def test_every_value_is_finite_or_absent_for_any_length_and_sound(samples: int, kind: str) -> None:
    steady = voice(1.0)
    clips = {
        "noise": noise(samples),
        "clipped voice": np.clip(np.resize(steady, samples) * 30, -1, 1),
        "click": np.eye(1, samples, samples // 2, dtype=np.float32)[0],
    }
    values = [value for value in astuple(measure(clips[kind])) if value is not None]
    assert np.isfinite(values).all()


MEASURED = st.lists(st.integers(-10_000, 10_000), min_size=3, max_size=60, unique=True).map(
    lambda values: [VoiceMeasurement(value / 7, value / 7, value / 7, value / 7, value / 7) for value in values]
)


@given(MEASURED)
def test_terciles_put_a_third_of_the_training_set_into_each_level(measured: list[VoiceMeasurement]) -> None:
    terciles = Terciles.fit(measured)
    for feature in VOICE_FEATURES:
        counts = Counter(terciles.levels(one)[feature] for one in measured)
        assert all(abs(counts[level] - len(measured) / 3) < 1 for level in FeatureLevel)


@given(MEASURED)
def test_a_higher_value_never_gets_a_lower_level(measured: list[VoiceMeasurement]) -> None:
    terciles = Terciles.fit(measured)
    ranks = [list(FeatureLevel).index(terciles.levels(one)["pitch"]) for one in sorted(measured, key=lambda one: one.pitch or 0)]
    assert ranks == sorted(ranks)


def test_a_value_that_never_changes_is_medium() -> None:
    same = [VoiceMeasurement(-20.0, 150.0, 4.0, 0.1, 0.1)] * 5
    assert set(Terciles.fit(same).levels(same[0]).values()) == {FeatureLevel.MEDIUM}


def test_features_that_were_not_measured_have_no_level_and_do_not_move_the_terciles() -> None:
    voiced = [VoiceMeasurement(float(i), 100.0 + i, float(i), i / 100, i / 100) for i in range(9)]
    hiss = VoiceMeasurement(4.0, None, None, None, None)
    terciles = Terciles.fit([*voiced, hiss])
    assert terciles.levels(hiss) == {"loudness": FeatureLevel.MEDIUM}
    assert terciles.pitch == Terciles.fit(voiced).pitch


def test_too_few_measured_values_are_refused_by_feature() -> None:
    voiced = [VoiceMeasurement(-20.0, 150.0, 4.0, 0.01, 0.1)] * 2
    hiss = [VoiceMeasurement(-20.0, None, None, None, None)] * 3
    with pytest.raises(TrainingError, match=r"pitch could be measured in 2 of 5 utterances"):
        Terciles.fit([*voiced, *hiss])


def test_terciles_come_back_from_json_and_wrong_ones_are_refused() -> None:
    terciles = Terciles.fit([measure(voice(0.3, hz=hz, rms=hz / 1000)) for hz in (100.0, 140.0, 180.0)])
    assert Terciles.model_validate_json(terciles.model_dump_json()) == terciles
    for wrong in ({"pitch": (200.0, 100.0)}, {"pitch": (float("nan"), 1.0)}, {"tempo": (1.0, 2.0)}):
        with pytest.raises(ValidationError):
            Terciles.model_validate({**terciles.model_dump(), **wrong})


LEVELS = st.dictionaries(st.sampled_from(VOICE_FEATURES), st.sampled_from(FeatureLevel), min_size=1)


@given(LEVELS, st.permutations(VOICE_FEATURES), st.sampled_from(range(5)))
def test_words_hold_each_feature_once_in_the_order_given(levels: dict[str, FeatureLevel], order: list[str], intro: int) -> None:
    first, *lines = describe_voice(levels, None, intro, order).split("\n")
    assert first == DESCRIPTION_INTRODUCTIONS[intro]
    assert lines == [f"- {feature}: {levels[feature].value}" for feature in order if feature in levels]


def test_words_say_the_gender_first_and_only_when_it_is_known() -> None:
    levels = {"pitch": FeatureLevel.HIGH, "loudness": FeatureLevel.LOW}
    assert (
        describe_voice(levels, "female", 0)
        == f"Gender of the speaker: female.\n{DESCRIPTION_INTRODUCTIONS[0]}\n- loudness: low\n- pitch: high"
    )
    assert describe_voice(levels, None, 0) == f"{DESCRIPTION_INTRODUCTIONS[0]}\n- loudness: low\n- pitch: high"
    assert describe_voice({}, "male", 3) == "Gender of the speaker: male."
    assert describe_voice({}, None, 0) == ""
    assert describe_voice(levels, None, 0, ["jitter"]) == "", "an introduction to nothing"


@pytest.mark.parametrize("order", [["tempo"], ["pitch", "pitch"]])
def test_an_order_of_unknown_or_repeated_features_is_refused(order: list[str]) -> None:
    with pytest.raises(ValueError, match="each at most once"):
        describe_voice({"pitch": FeatureLevel.LOW}, None, 0, order)


def test_there_are_five_different_introductions() -> None:
    assert len(set(DESCRIPTION_INTRODUCTIONS)) == 5


def test_importing_the_module_loads_neither_praat_nor_numpy() -> None:
    code = "import sys, model.paralinguistics; print({'parselmouth', 'numpy', 'soundfile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
