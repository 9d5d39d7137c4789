"""Priors: posteriors are corrected by Bayes' rule, in one place, and every stored prediction says to what."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.bundle import Bundle
from model.errors import ConfigError
from model.predictor import Predictor
from model.priors import BALANCED, COUNTS, EVERYDAY, Prior, balanced, corrected, marked, unmarked
from model.speech_llm import SpeechLLM
from model.types import Emotion
from monitor.config import EngineConfig, load_config
from tests import tiny

N, H, S = Emotion.NEUTRAL, Emotion.HAPPY, Emotion.SAD
THREE = (N, H, S)
SEVEN = [letter for letter in Emotion if letter not in (Emotion.CONTEMPT, Emotion.OTHER)]
OWN = {letter: 1.0 + place for place, letter in enumerate(Emotion)}

probabilities = st.lists(st.floats(1e-3, 1), min_size=3, max_size=3).map(
    lambda values: {letter: value / sum(values) for letter, value in zip(THREE, values, strict=True)}
)


def test_a_posterior_is_corrected_by_bayes_rule() -> None:
    """Worked by hand: 0.5 / 0.3 / 0.2 under an even prior, where neutral is eight times as likely as either other one."""
    posterior = corrected({N: 0.5, H: 0.3, S: 0.2}, {N: 0.8, H: 0.1, S: 0.1}, balanced(THREE))
    assert posterior == pytest.approx({N: 0.4 / 0.45, H: 0.03 / 0.45, S: 0.02 / 0.45})


@given(probabilities, probabilities, probabilities)
def test_a_correction_is_undone_by_the_way_back(
    posterior: dict[Emotion, float], prior: dict[Emotion, float], was: dict[Emotion, float]
) -> None:
    there = corrected(posterior, prior, was)
    assert sum(there.values()) == pytest.approx(1)
    assert corrected(there, was, prior) == pytest.approx(posterior, rel=1e-6)


def test_everyday_speech_is_half_public_counts_and_half_even() -> None:
    assert sum(COUNTS.values()) == 14_822 - 2_877, "the turns of test set 2, but those without agreement"
    everyday = EVERYDAY.over(SEVEN)
    assert sum(everyday.values()) == pytest.approx(1)
    seven = sum(COUNTS[letter] for letter in SEVEN)
    assert everyday[N] == pytest.approx(0.5 * COUNTS[N] / seven + 0.5 / 7)
    assert EVERYDAY.counted(SEVEN)[N] == pytest.approx(COUNTS[N] / seven)
    assert BALANCED.over(SEVEN) == BALANCED.counted(SEVEN) == balanced(SEVEN)


def test_ones_own_prior_is_kept_in_a_version_and_found_again() -> None:
    prior = Prior.of(OWN)
    version, found = unmarked(marked("compact-1", prior))
    assert (version, found) == ("compact-1", prior)
    assert prior.over(THREE) == pytest.approx({letter: OWN[letter] / sum(OWN[one] for one in THREE) for letter in THREE}, abs=0.01)
    assert unmarked(marked("a+b", EVERYDAY)) == ("a+b", EVERYDAY)


@pytest.mark.parametrize("version", ["compact-1", "compact-1+2", "nano+", "+x"])
def test_a_version_without_a_prior_is_taken_as_it_is(version: str) -> None:
    assert unmarked(version) == (version, None)


def test_a_table_that_lacks_a_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="missing: F"):
        Prior.of({**OWN, Emotion.FEAR: 0})


@pytest.fixture(scope="module")
def llm() -> SpeechLLM:
    return SpeechLLM(tiny.llama(), tiny.tokenizer())


@pytest.fixture(scope="module")
def bundle(llm: SpeechLLM) -> Bundle:
    """One whose training heard neutral twice as often as anything else."""
    made = tiny.bundle(llm)
    heard = {letter: 0.2 if letter is N else 0.1 for letter in Emotion}
    return replace(made, manifest=made.manifest.model_copy(update={"training_prior": heard, "unsure_below": 0.2, "temperature": 2.0}))


def test_predictions_are_corrected_after_the_temperature_and_the_threshold_is_for_what_is_shown(bundle: Bundle) -> None:
    logs = [{S: 1.0, N: 0.8}.get(letter, 0.0) for letter in bundle.manifest.letters]
    plain, everyday = bundle.prediction(logs), bundle.under(EVERYDAY).prediction(logs)
    assert plain.bundle_version == "tiny-00000000"
    assert everyday.bundle_version == "tiny-00000000+everyday"
    heard, expected = bundle.manifest.training_prior, EVERYDAY.over(bundle.manifest.letters)
    assert heard is not None
    assert everyday.posterior == pytest.approx(corrected(plain.posterior, expected, heard))
    assert (plain.emotion, plain.unsure) == (S, True)
    assert (everyday.emotion, everyday.unsure) == (N, False)
    assert bundle.under(EVERYDAY).uncalibrated().prediction(logs).posterior == bundle.uncalibrated().prediction(logs).posterior


def test_a_bundle_that_does_not_say_what_it_heard_is_left_as_it_is(bundle: Bundle) -> None:
    older = replace(bundle, manifest=bundle.manifest.model_copy(update={"training_prior": None}))
    assert older.under(EVERYDAY) is older


def test_an_answer_outside_the_grammar_says_no_more_than_the_prior(bundle: Bundle, llm: SpeechLLM) -> None:
    unknown = Predictor(bundle.under(EVERYDAY), llm).unknown()
    even = corrected(unknown.posterior, balanced(list(Emotion)), EVERYDAY.over(list(Emotion)))
    heard = bundle.manifest.training_prior
    assert heard is not None
    assert corrected(even, heard, balanced(list(Emotion))) == pytest.approx(balanced(list(Emotion)))
    assert unknown.unsure


def test_the_setting_is_a_name_or_a_table(tmp_path: Path) -> None:
    assert EngineConfig().expected() == EVERYDAY
    assert EngineConfig(prior="balanced").expected() == BALANCED
    path = tmp_path / "config.toml"
    path.write_text("[engine]\nprior = { A = 4, S = 5, H = 23, U = 3, F = 1, D = 1, C = 3, N = 57, O = 3 }\n", encoding="utf-8")
    assert load_config(path).engine.expected().over(THREE)[N] == pytest.approx(57 / 85, abs=0.01)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('"usual"', 'must be "everyday", "balanced" or a table of the letters A, S, H'),
        ("{ N = 1 }", "must give every letter a weight above 0; missing: A, S, H"),
        ("{ X = 1 }", "must give numbers to letters of emotions"),
        ('{ N = "much" }', "must give numbers to letters of emotions"),
        ("7", 'must be "everyday", "balanced" or a table of letters, not 7'),
    ],
)
def test_a_wrong_setting_says_what_may_be_there(tmp_path: Path, setting: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[engine]\nprior = {setting}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(refused.value).startswith(f"{path}: [engine] prior: ")
    assert words in str(refused.value)
