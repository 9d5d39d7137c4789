"""Nights with the built-in bundle that knows voices: they hear the person as the monitor does, and what they make answers there so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.audio import Float32, Int16, pcm16_to_float
from model.bundle import Bundle, load_merged_llm, open_bundle
from model.bundle_format import PromotionDecision, PromotionVerdict, find_bundle
from model.emotions import BALANCED, EVERYDAY, Emotion, Prediction, Prior
from model.errors import TrainingError
from model.labelled_segment import HeardWith, LabelledSegment
from model.predictor import Predictor, SpeechInput
from model.voice_reference import VoiceSums, voice_shift
from tests.support.nights import clips, evidence
from train.nightly.night import NightlyRetraining
from train.nightly.training_set import NightlySettings

NUMBER = 24
QUICK = NightlySettings.load().model_copy(
    update={"folds": 2, "views": 1, "phase": NightlySettings.load().phase.model_copy(update={"steps": 2, "batch": 4})}
)


@pytest.fixture(scope="module")
def compact() -> Bundle:
    return open_bundle(find_bundle("compact"))


@pytest.fixture(scope="module")
def pcms() -> list[Int16]:
    return [pcm[:24_000] for pcm in clips(NUMBER)]


@pytest.fixture(scope="module")
def sums(compact: Bundle) -> VoiceSums:
    """Of somebody whose voice lies apart from the population's."""
    settings = compact.reference_settings
    assert settings is not None
    apart = 0.4 * np.random.default_rng(3).normal(size=len(settings.population_mean)).astype(np.float32)
    letters = len(compact.manifest.letters)
    held = np.full(letters, 50 / letters, np.float32)
    return VoiceSums(50.0, 200.0, np.concatenate([50 * (settings.population_mean + apart), held]))


def shift(bundle: Bundle, sums: VoiceSums) -> Float32:
    assert bundle.reference_settings is not None
    return voice_shift(sums, bundle.reference_settings)


def predictions(bundle: Bundle, pcms: Sequence[Int16], sums: VoiceSums | None) -> list[Prediction]:
    """As in a monitor."""
    known = None if sums is None else shift(bundle, sums)
    answers = Predictor(bundle, load_merged_llm(bundle)).predict([SpeechInput(pcm16_to_float(pcm)) for pcm in pcms], known)
    return [one.prediction for one in answers if one.prediction is not None]


def shown(bundle: Bundle, pcms: Sequence[Int16], prior: Prior, sums: VoiceSums | None) -> list[Emotion]:
    return [one.emotion for one in predictions(bundle.under(prior), pcms, sums)]


def after_a_night(tmp_path: Path, pieces: Sequence[LabelledSegment], heard_with: HeardWith, **settings: object) -> PromotionDecision:
    changed = QUICK.model_copy(update=settings)
    return NightlyRetraining(find_bundle("compact"), tmp_path / "work", settings=changed, heard_with=heard_with).learn(
        pieces, tmp_path / "new"
    )


@pytest.mark.slow
def test_labels_are_tested_as_the_monitor_shows_them(tmp_path: Path, compact: Bundle, pcms: list[Int16], sums: VoiceSums) -> None:
    """With the reference of the voice and the prior, or without; each changes what is shown."""
    seen = [shown(compact, pcms, prior, voice) for prior, voice in ((BALANCED, sums), (EVERYDAY, sums), (BALANCED, None))]
    assert all(seen[0] != other for other in seen[1:])
    # Two corrections, because a night without any has nothing to learn.
    others = [letter for letter in compact.manifest.letters if letter not in seen[0][:2]][:2]
    pieces = evidence(pcms, seen[0], lambda number, letter: others[number] if number < 2 else letter)
    right = []
    for number, (prior, voice) in enumerate(((BALANCED, sums), (EVERYDAY, sums), (BALANCED, None))):
        heard_with = HeardWith(None if voice is None else voice.to_bytes(), prior.name)
        decision = after_a_night(tmp_path / str(number), pieces, heard_with, least_corrections=0)
        assert decision.own is not None
        expected = sum(one.emotion is letter for one, letter in zip(pieces, seen[number], strict=True))
        assert decision.own.right_before == expected
        right.append(expected)
    assert right[0] == NUMBER - 2 > max(right[1:])


def test_what_a_night_promised_the_monitor_shows(tmp_path: Path, compact: Bundle, pcms: list[Int16], sums: VoiceSums) -> None:
    """A person who is neutral and afraid less often than the bundle takes them to be: that is found, and shown to them afterwards."""
    heard = predictions(compact.under(EVERYDAY), pcms, sums)
    seldom = {Emotion.NEUTRAL: -1.5, Emotion.FEAR: -1.0}
    words = [max(one.posterior, key=lambda letter: np.log(one.posterior[letter]) + seldom.get(letter, 0.0)) for one in heard]
    pieces = evidence(pcms, [one.emotion for one in heard], lambda number, _letter: words[number])
    decision = after_a_night(tmp_path, pieces, HeardWith(sums.to_bytes()), bias_spread=4.0)
    assert decision.verdict is PromotionVerdict.PROMOTED, decision.reason
    assert decision.own is not None
    assert decision.own.right_after > decision.own.right_before + NUMBER // 4
    fresh = open_bundle(tmp_path / "new")
    assert fresh.voice_space == compact.voice_space, "what is known of the voice holds for it too"
    assert fresh.manifest.letter_bias[Emotion.NEUTRAL] < -1
    again = sum(one.emotion is word for one, word in zip(predictions(fresh.under(EVERYDAY), pcms, sums), words, strict=True))
    assert again >= decision.own.right_after


def test_a_reference_that_is_none_or_of_another_bundle_is_refused_with_a_message(tmp_path: Path) -> None:
    for reference in (b"of a voice", VoiceSums(1.0, 2.0, np.zeros(8, np.float32)).to_bytes()):
        with pytest.raises(TrainingError, match="cannot use the reference of the voice"):
            NightlyRetraining(find_bundle("compact"), tmp_path, heard_with=HeardWith(reference))
