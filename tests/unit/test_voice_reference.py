"""A voice's reference: sums that add up, what is subtracted, and why it is frozen."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from bench.studies.mood import MoodPlan, replay, to_lines
from model.audio import Float32
from model.bundle import Bundle, load_llm, open_bundle
from model.bundle_format import NORMALISER_FILE, find_bundle, read_bundle_manifest
from model.errors import BundleError, TrainingError
from model.predictor import Predictor, SpeechInput
from model.voice_reference import ReferenceSettings, VoiceSums, voice_shift
from tests.support.bundle_variants import normalising, sign
from tests.support.bundles import NANO
from tests.support.tiny import N, OfLevels, S, person
from train.corpora.manifest import Utterance

_NUMBERS = st.floats(-100, 100, width=32)


def _sums() -> st.SearchStrategy[VoiceSums]:
    return st.builds(VoiceSums, st.floats(0, 1e6), st.floats(0, 1e7), arrays.arrays(np.float32, 5, elements=_NUMBERS))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(normalising(tmp_path_factory.mktemp("bundles") / "normalising"))


@pytest.fixture(scope="module")
def packaged() -> Bundle:
    return open_bundle(find_bundle("compact"))


def _sounds() -> list[SpeechInput]:
    rng = np.random.default_rng(1)
    return [SpeechInput((0.1 * rng.normal(size=length)).astype(np.float32)) for length in (30_000, 12_000, 21_000)]


@given(_sums())
def test_what_is_stored_comes_back_bit_for_bit(sums: VoiceSums) -> None:
    back = VoiceSums.from_bytes(sums.to_bytes())
    assert (back.segments, back.speech_s) == (sums.segments, sums.speech_s)
    assert back.sums.tobytes() == sums.sums.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(16),
        bytes(19),
        VoiceSums(-1.0, 1.0, np.ones(3, np.float32)).to_bytes(),
        VoiceSums(1.0, float("nan"), np.ones(3, np.float32)).to_bytes(),
        VoiceSums(1.0, 1.0, np.full(3, np.inf, np.float32)).to_bytes(),
    ],
)
def test_what_are_no_sums_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="sums of a voice"):
        VoiceSums.from_bytes(data)


def test_sums_of_different_lengths_do_not_mix() -> None:
    three, four = (VoiceSums(1.0, 1.0, np.ones(size, np.float32)) for size in (3, 4))
    with pytest.raises(ValueError, match="3 and of 4"):
        three + four
    with pytest.raises(ValueError, match="takes sums of 3"):
        voice_shift(four, ReferenceSettings(1.0, np.zeros(1, np.float32), np.zeros((2, 1), np.float32), np.ones(1, np.float32)))


SETTINGS = ReferenceSettings(
    prior_segments=2.0,
    population_mean=np.array([1.0, -1.0], np.float32),
    emotion_offsets=np.array([[4.0, 0.0], [-4.0, 0.0]], np.float32),
    ratio=np.array([1.0, 10.0], np.float32),
)


def _voice(segments: int, state: tuple[float, float], posterior: tuple[float, float]) -> VoiceSums:
    return VoiceSums(segments, 3.0 * segments, segments * np.array([*state, *posterior], np.float32))


def test_the_shift_is_the_distance_to_the_population_shrunk_by_how_little_is_known() -> None:
    assert voice_shift(None, SETTINGS).tolist() == [0.0, 0.0]
    assert voice_shift(_voice(0, (0, 0), (0, 0)), SETTINGS).tolist() == [0.0, 0.0]
    assert voice_shift(_voice(1, (3, 1), (0.5, 0.5)), SETTINGS) == pytest.approx(np.array([2 / 3, 2 / 21]))
    assert voice_shift(_voice(3000, (3, 1), (0.5, 0.5)), SETTINGS) == pytest.approx(np.array([2.0, 2.0]), rel=0.01)


def test_a_mood_does_not_become_part_of_the_voice() -> None:
    """A voice at (3, 1) of which only the first emotion is heard lies 4 higher in the first channel, and its reference is the same."""
    only_first = voice_shift(_voice(3000, (7, 1), (1.0, 0.0)), SETTINGS)
    assert only_first == pytest.approx(voice_shift(_voice(3000, (3, 1), (0.5, 0.5)), SETTINGS))


def test_a_segment_adds_its_state_and_its_posterior_half_trusted_to_be_neutral() -> None:
    added = SETTINGS.sums_of(np.array([5.0, 6.0], np.float32), [1.0, 0.0], 2.5, neutral=1)
    assert (added.segments, added.speech_s) == (1.0, 2.5)
    assert added.sums == pytest.approx(np.array([5.0, 6.0, 0.8 + 0.2 * 0.5, 0.2 * 0.5]))


def test_bundles_of_one_encoder_and_normaliser_share_their_sums_and_others_do_not(bundle: Bundle, tmp_path: Path) -> None:
    night = read_bundle_manifest(normalising(tmp_path / "night", adapter=7))
    other = read_bundle_manifest(normalising(tmp_path / "other", seed=1))
    assert night.version != bundle.manifest.version
    assert bundle.voice_space == night.voice_space is not None
    assert other.voice_space not in (None, bundle.voice_space)
    assert read_bundle_manifest(NANO).voice_space is None


def test_a_bundle_without_normalisation_answers_as_before_and_adds_nothing() -> None:
    former, sounds = open_bundle(NANO), _sounds()
    states, mask = former.encoder([torch.from_numpy(sound.audio) for sound in sounds])
    with torch.inference_mode():
        assert torch.equal(former.embed_states(states, mask), former.mapper(states, mask))
    assert [answer.sums for answer in Predictor(former, load_llm(former)).predict(sounds)] == [None] * 3


def test_a_stranger_is_heard_as_without_a_reference_bit_for_bit(bundle: Bundle, packaged: Bundle) -> None:
    answers = [Predictor(one, load_llm(one)).predict(_sounds()) for one in (bundle, packaged)]
    posteriors = [[dict(answer.prediction.posterior) for answer in found if answer.prediction] for found in answers]
    assert posteriors[0] == posteriors[1]


def test_the_reference_is_subtracted_from_every_state_and_the_sums_are_of_states_before_that(bundle: Bundle) -> None:
    sounds = _sounds()
    shift = np.random.default_rng(2).normal(size=bundle.encoder.width).astype(np.float32)
    predictor = Predictor(bundle, load_llm(bundle))
    plain, shifted = predictor.predict(sounds), predictor.predict(sounds, shift)
    for sound, before, after in zip(sounds, plain, shifted, strict=True):
        states, mask = bundle.encoder([torch.from_numpy(sound.audio)])
        alone = states[mask].mean(dim=0).numpy()
        for answer in (before, after):
            assert answer.sums is not None
            assert (answer.sums.segments, answer.sums.speech_s) == (1.0, len(sound.audio) / 16_000)
            assert answer.sums.sums[: len(alone)] == pytest.approx(alone, abs=1e-5), "padding has no part in it"
            assert answer.sums.sums[len(alone) :].sum() == pytest.approx(1.0, abs=1e-5)
        with torch.inference_mode():
            wanted = bundle.mapper(states - torch.from_numpy(shift), mask)
        assert torch.allclose(bundle.speech_embeds([torch.from_numpy(sound.audio)], shift), wanted, atol=1e-6)
    assert any(before.prediction != after.prediction for before, after in zip(plain, shifted, strict=True))


def _broken(folder: Path, mean: Float32 | None) -> Path:
    normalising(folder)
    (folder / NORMALISER_FILE).unlink()
    if mean is not None:
        width = len(load_file(folder / "mapper.safetensors")["enter.weight"][0])
        of_others = {"emotion_offsets": torch.zeros(len(read_bundle_manifest(folder).letters), width), "ratio": torch.ones(width)}
        save_file({"population_mean": torch.from_numpy(mean), **of_others}, folder / NORMALISER_FILE)
    return sign(folder)


def test_a_bundle_whose_normaliser_is_missing_or_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=NORMALISER_FILE):
        open_bundle(_broken(tmp_path / "missing", None))
    with pytest.raises(BundleError, match="population_mean"):
        open_bundle(_broken(tmp_path / "short", np.zeros(3, np.float32)))
    with pytest.raises(BundleError, match="no number"):
        open_bundle(_broken(tmp_path / "infinite", np.full(bundle.encoder.width, np.inf, np.float32)))


PLAN = MoodPlan(calm_weeks=2, sad_weeks=7, segments=12)


def people(folder: Path) -> list[Utterance]:
    """Three people whose voices lie apart, and one who is only ever neutral."""
    counts = {N: 16, S: 16}
    voices = {"f1": 0.15, "m1": -0.15, "f2": 0.1}
    clips = [u for name, voice in voices.items() for u in person(folder, "c", name, voice, counts)]
    return [*clips, *person(folder, "c", "calm", 0.0, {N: 20})]


def test_a_frozen_reference_keeps_the_mood_and_one_that_follows_loses_it(tmp_path: Path) -> None:
    predictor = OfLevels()
    lives = replay(predictor, people(tmp_path), PLAN)
    assert (len(lives), predictor.cleared) == (3, 3)
    for life in lives:
        assert len(life.sad) == 9
        assert max(life.sad[:2]) < 0.2
        assert min(life.sad[2:]) > 0.5
        frozen, following = ([tally.of_sure for tally in life.tallies[name]] for name in ("frozen", "following"))
        assert frozen == pytest.approx(life.sad, abs=0.1)
        assert following[-1] < 0.1 < 0.5 < following[2], "week by week sad becomes the new neutral"
        assert all(tally.segments == 7 * 12 for tallies in life.tallies.values() for tally in tallies)


def test_the_same_seed_gives_the_same_weeks_and_the_tables_say_what_was_counted(tmp_path: Path) -> None:
    lives = replay(OfLevels(), people(tmp_path), PLAN)
    assert lives == replay(OfLevels(), people(tmp_path), PLAN)
    assert lives != replay(OfLevels(), people(tmp_path), PLAN, seed=1)
    text = "\n".join(to_lines(lives, PLAN))
    assert text.startswith("## c, 3 people, 12 segments a day")
    assert len(re.findall(r"^\| \d, (calm|sad) \|", text, re.MULTILINE)) == 9
    really, none, frozen, following = (float(x) for x in re.findall(r"^\| \w+ \| ([+-]\d\.\d{3}) \|", text, re.MULTILINE))
    assert abs(frozen - really) < 0.1
    assert following < frozen - 0.1
    assert none < frozen


def test_nobody_with_both_moods_is_refused(tmp_path: Path) -> None:
    clips = person(tmp_path, "c", "f1", 0.0, {N: 20, S: 3})
    with pytest.raises(TrainingError, match="nobody in this manifest has 4 neutral and 4 sad clips"):
        replay(OfLevels(), clips, PLAN)
