"""Features are held against synthetic voices whose pitch, vibrato, perturbation and level are known."""

import subprocess
import sys
from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.audio import SAMPLE_RATE, Float32
from model.errors import TrainingError
from model.paralinguistics import FEATURES, INTRODUCTIONS, Level, Measured, Terciles, measure, words

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
    nothing = Measured(None, None, None, None, None)
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
    lambda values: [Measured(value / 7, value / 7, value / 7, value / 7, value / 7) for value in values]
)


@given(MEASURED)
def test_terciles_put_a_third_of_the_training_set_into_each_level(measured: list[Measured]) -> None:
    terciles = Terciles.fit(measured)
    for feature in FEATURES:
        counts = Counter(terciles.levels(one)[feature] for one in measured)
        assert all(abs(counts[level] - len(measured) / 3) < 1 for level in Level)


@given(MEASURED)
def test_a_higher_value_never_gets_a_lower_level(measured: list[Measured]) -> None:
    terciles = Terciles.fit(measured)
    ranks = [list(Level).index(terciles.levels(one)["pitch"]) for one in sorted(measured, key=lambda one: one.pitch or 0)]
    assert ranks == sorted(ranks)


def test_a_value_that_never_changes_is_medium() -> None:
    same = [Measured(-20.0, 150.0, 4.0, 0.1, 0.1)] * 5
    assert set(Terciles.fit(same).levels(same[0]).values()) == {Level.MEDIUM}


def test_features_that_were_not_measured_have_no_level_and_do_not_move_the_terciles() -> None:
    voiced = [Measured(float(i), 100.0 + i, float(i), i / 100, i / 100) for i in range(9)]
    hiss = Measured(4.0, None, None, None, None)
    terciles = Terciles.fit([*voiced, hiss])
    assert terciles.levels(hiss) == {"loudness": Level.MEDIUM}
    assert terciles.pitch == Terciles.fit(voiced).pitch


def test_too_few_measured_values_are_refused_by_feature() -> None:
    voiced = [Measured(-20.0, 150.0, 4.0, 0.01, 0.1)] * 2
    hiss = [Measured(-20.0, None, None, None, None)] * 3
    with pytest.raises(TrainingError, match=r"pitch could be measured in 2 of 5 utterances"):
        Terciles.fit([*voiced, *hiss])


def test_terciles_come_back_from_json_and_wrong_ones_are_refused() -> None:
    terciles = Terciles.fit([measure(voice(0.3, hz=hz, rms=hz / 1000)) for hz in (100.0, 140.0, 180.0)])
    assert Terciles.model_validate_json(terciles.model_dump_json()) == terciles
    for wrong in ({"pitch": (200.0, 100.0)}, {"pitch": (float("nan"), 1.0)}, {"tempo": (1.0, 2.0)}):
        with pytest.raises(ValidationError):
            Terciles.model_validate({**terciles.model_dump(), **wrong})


LEVELS = st.dictionaries(st.sampled_from(FEATURES), st.sampled_from(Level), min_size=1)


@given(LEVELS, st.permutations(FEATURES), st.sampled_from(range(5)))
def test_words_hold_each_feature_once_in_the_order_given(levels: dict[str, Level], order: list[str], intro: int) -> None:
    first, *lines = words(levels, None, intro, order).split("\n")
    assert first == INTRODUCTIONS[intro]
    assert lines == [f"- {feature}: {levels[feature].value}" for feature in order if feature in levels]


def test_words_say_the_gender_first_and_only_when_it_is_known() -> None:
    levels = {"pitch": Level.HIGH, "loudness": Level.LOW}
    assert words(levels, "female", 0) == f"Gender of the speaker: female.\n{INTRODUCTIONS[0]}\n- loudness: low\n- pitch: high"
    assert words(levels, None, 0) == f"{INTRODUCTIONS[0]}\n- loudness: low\n- pitch: high"
    assert words({}, "male", 3) == "Gender of the speaker: male."
    assert words({}, None, 0) == ""
    assert words(levels, None, 0, ["jitter"]) == "", "an introduction to nothing"


@pytest.mark.parametrize("order", [["tempo"], ["pitch", "pitch"]])
def test_an_order_of_unknown_or_repeated_features_is_refused(order: list[str]) -> None:
    with pytest.raises(ValueError, match="each at most once"):
        words({"pitch": Level.LOW}, None, 0, order)


def test_there_are_five_different_introductions() -> None:
    assert len(set(INTRODUCTIONS)) == 5


def test_importing_the_module_loads_neither_praat_nor_numpy() -> None:
    code = "import sys, model.paralinguistics; print({'parselmouth', 'numpy', 'soundfile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
