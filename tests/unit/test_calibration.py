"""Priors, temperature and threshold: Bayes' rule in one place, and calibration on voices that were left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.studies.shares import shares_study
from model.bundle import Bundle
from model.emotions import (
    BALANCED,
    EVERYDAY,
    LETTER_COUNTS,
    Emotion,
    Prior,
    balanced,
    correct_posterior,
    version_with_prior,
    version_without_prior,
)
from model.errors import ConfigError, TrainingError
from model.language_model import SpeechLLM
from model.predictor import Predictor
from monitor.config import EngineConfig, load_config
from tests.support import tiny
from tests.support.days import FOUR, H, N, S, left_out
from train import simulated_days
from train.calibration import Calibration, LeftOutPredictions, training_prior
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart
from train.evaluation.figures import KNOWN
from train.simulated_days import SPREADS, UNKNOWN, PosteriorTable, fit_spread_and_blur, posterior_confusion

THREE = (N, H, S)
SEVEN = [letter for letter in Emotion if letter not in (Emotion.CONTEMPT, Emotion.OTHER)]
OWN = {letter: 1.0 + place for place, letter in enumerate(Emotion)}

probabilities = st.lists(st.floats(1e-3, 1), min_size=3, max_size=3).map(
    lambda values: {letter: value / sum(values) for letter, value in zip(THREE, values, strict=True)}
)


def test_a_posterior_is_corrected_by_bayes_rule() -> None:
    """Worked by hand: 0.5 / 0.3 / 0.2 under an even prior, where neutral is eight times as likely as either other one."""
    posterior = correct_posterior({N: 0.5, H: 0.3, S: 0.2}, {N: 0.8, H: 0.1, S: 0.1}, balanced(THREE))
    assert posterior == pytest.approx({N: 0.4 / 0.45, H: 0.03 / 0.45, S: 0.02 / 0.45})


@given(probabilities, probabilities, probabilities)
def test_a_correction_is_undone_by_the_way_back(
    posterior: dict[Emotion, float], prior: dict[Emotion, float], was: dict[Emotion, float]
) -> None:
    there = correct_posterior(posterior, prior, was)
    assert sum(there.values()) == pytest.approx(1)
    assert correct_posterior(there, was, prior) == pytest.approx(posterior, rel=1e-6)


def test_everyday_speech_is_half_public_counts_and_half_even() -> None:
    assert sum(LETTER_COUNTS.values()) == 14_822 - 2_877, "the turns of test set 2, but those without agreement"
    everyday = EVERYDAY.over(SEVEN)
    assert sum(everyday.values()) == pytest.approx(1)
    seven = sum(LETTER_COUNTS[letter] for letter in SEVEN)
    assert everyday[N] == pytest.approx(0.5 * LETTER_COUNTS[N] / seven + 0.5 / 7)
    assert EVERYDAY.counted(SEVEN)[N] == pytest.approx(LETTER_COUNTS[N] / seven)
    assert BALANCED.over(SEVEN) == BALANCED.counted(SEVEN) == balanced(SEVEN)


def test_ones_own_prior_is_kept_in_a_version_and_found_again() -> None:
    prior = Prior.of(OWN)
    version, found = version_without_prior(version_with_prior("compact-1", prior))
    assert (version, found) == ("compact-1", prior)
    assert prior.over(THREE) == pytest.approx({letter: OWN[letter] / sum(OWN[one] for one in THREE) for letter in THREE}, abs=0.01)
    assert version_without_prior(version_with_prior("a+b", EVERYDAY)) == ("a+b", EVERYDAY)


@pytest.mark.parametrize("version", ["compact-1", "compact-1+2", "nano+", "+x"])
def test_a_version_without_a_prior_is_taken_as_it_is(version: str) -> None:
    assert version_without_prior(version) == (version, None)


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
    assert everyday.posterior == pytest.approx(correct_posterior(plain.posterior, expected, heard))
    assert (plain.emotion, plain.unsure) == (S, True)
    assert (everyday.emotion, everyday.unsure) == (N, False)
    assert bundle.under(EVERYDAY).uncalibrated().prediction(logs).posterior == bundle.uncalibrated().prediction(logs).posterior


def test_a_bundle_that_does_not_say_what_it_heard_is_left_as_it_is(bundle: Bundle) -> None:
    older = replace(bundle, manifest=bundle.manifest.model_copy(update={"training_prior": None}))
    assert older.under(EVERYDAY) is older


def test_an_answer_outside_the_grammar_says_no_more_than_the_prior(bundle: Bundle, llm: SpeechLLM) -> None:
    unknown = Predictor(bundle.under(EVERYDAY), llm).unknown()
    even = correct_posterior(unknown.posterior, balanced(list(Emotion)), EVERYDAY.over(list(Emotion)))
    heard = bundle.manifest.training_prior
    assert heard is not None
    assert correct_posterior(even, heard, balanced(list(Emotion))) == pytest.approx(balanced(list(Emotion)))
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
        ('{ N = "a lot" }', "must give numbers to letters of emotions"),
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


EVEN = balanced(FOUR)


def said(corpus: str, letter: Emotion, count: int) -> list[Utterance]:
    return [Utterance(Path("x.wav"), corpus, "one", None, letter, None, None, None, "CC0") for _ in range(count)]


def test_the_training_prior_is_what_a_training_hears() -> None:
    parts = [CorpusPart("a", 3, [*said("a", N, 90), *said("a", S, 10)]), CorpusPart("b", 1, said("b", N, 100))]
    assert training_prior(parts, [N, S], balanced=True) == pytest.approx({N: 3 / 8 + 1 / 4, S: 3 / 8})
    assert training_prior(parts, [N, S], balanced=False) == pytest.approx({N: 0.95, S: 0.05})
    assert training_prior(parts[1:], [N, S], balanced=True) == {N: 1.0, S: 0.001}


def test_posteriors_come_under_the_prior_that_is_asked_for() -> None:
    table = left_out(corpora=1, voices=1, clips=2)
    heard, wanted = {letter: 0.4 if letter is N else 0.2 for letter in FOUR}, EVERYDAY.over(FOUR)
    plain = np.exp(table.log_probs / 2)
    plain /= plain.sum(axis=1, keepdims=True)
    expected = correct_posterior(dict(zip(FOUR, plain[0].tolist(), strict=True)), wanted, heard)
    assert table.posteriors(2.0, heard, wanted)[0] == pytest.approx(list(expected.values()))


def test_every_corpus_counts_the_same_and_letters_as_often_as_the_prior_says() -> None:
    table = left_out(corpora=2, clips=4)
    table = table.where((table.corpus == "corpus 0") | (table.acted < 2))
    weights = table.weights(EVERYDAY.over(FOUR))
    for corpus in table.corpora:
        assert weights[table.corpus == corpus].sum() == pytest.approx(1)
    here, counts = table.corpus == "corpus 0", EVERYDAY.over(FOUR)
    assert weights[here & (table.acted == 0)].sum() == pytest.approx(counts[FOUR[0]])


def test_a_temperature_is_found_whatever_the_prior_of_the_training() -> None:
    honest = left_out(corpora=3, voices=10, clips=25, lean=0.0)
    for heard in (EVEN, {letter: 0.7 if letter is N else 0.1 for letter in FOUR}):
        logs = 2 * honest.log_probs + np.log([heard[letter] * len(FOUR) for letter in FOUR])
        sharp = LeftOutPredictions(FOUR, logs, honest.acted, honest.corpus, honest.speaker)
        assert Calibration.fit(sharp, heard, 0.8).temperature == pytest.approx(2.0 * _honest_temperature(honest), rel=0.1)


def _honest_temperature(table: LeftOutPredictions) -> float:
    return Calibration.fit(table, EVEN, 0.8).temperature


def test_what_is_sure_is_as_often_right_as_asked_on_every_corpus() -> None:
    table = left_out(corpora=4, voices=8, clips=20, lean=0.2, signal=1.5)
    hard = (table.corpus == "corpus 3") & (np.arange(len(table.acted)) % 8 == 0)
    mixed = replace(table, acted=np.where(hard, (table.acted + 1) % len(FOUR), table.acted))
    alike, calibration = Calibration.fit(table, EVEN, 0.8), Calibration.fit(mixed, EVEN, 0.8)
    assert calibration.unsure_below > alike.unsure_below
    for prior in (EVERYDAY.over(FOUR), BALANCED.over(FOUR)):
        posteriors, weights = mixed.posteriors(calibration.temperature, EVEN, prior), mixed.weights(prior)
        sure = posteriors.max(axis=1) >= calibration.unsure_below
        right = posteriors.argmax(axis=1) == mixed.acted
        for name in mixed.corpora:
            here = sure & (mixed.corpus == name)
            assert 0.02 < here.sum() / (mixed.corpus == name).sum() < 0.95
            assert np.average(right[here], weights=weights[here]) >= 0.8 - 1e-9


def test_a_corpus_of_which_hardly_anything_is_sure_says_nothing_about_the_threshold() -> None:
    table = left_out(corpora=3, voices=8, clips=20, lean=0.2, signal=1.5)
    of_one = table.corpus == "corpus 0"
    dull = replace(table, log_probs=np.where(of_one[:, None], 0.05 * table.log_probs[:, ::-1], table.log_probs))
    others = table.where(~of_one)
    assert Calibration.fit(dull, EVEN, 0.8).unsure_below < 1
    assert (dull.posteriors(1.0, EVEN, EVEN)[of_one].max(axis=1) < Calibration.fit(others, EVEN, 0.8).unsure_below).all()


def test_the_further_corpora_lie_apart_the_more_an_unknown_voice_may_lean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_days, "BLURS", (0.0,))
    monkeypatch.setattr(simulated_days, "SPREADS", (0.1, 1.0))
    alike, apart = (PosteriorTable.of(left_out(lean=lean, seed=3), 1.0, EVEN) for lean in (0.05, 1.5))
    assert fit_spread_and_blur(alike, 24)[0] < fit_spread_and_blur(apart, 24)[0]
    alone = apart.corpora(["corpus 0"])
    assert fit_spread_and_blur(alone) == UNKNOWN
    twice = replace(alone.clips, corpus=np.where(np.arange(len(alone.clips.acted)) % 2, "corpus 0", "corpus 0" + KNOWN))
    assert fit_spread_and_blur(PosteriorTable(twice, alone.posteriors)) == UNKNOWN, (
        "the same people, heard as strangers and as known voices"
    )
    assert UNKNOWN[0] in SPREADS


def test_a_confusion_holds_mean_posteriors_voice_by_voice() -> None:
    table = PosteriorTable.of(left_out(corpora=2, voices=3, clips=4), 1.0, EVEN)
    confusion = posterior_confusion(table, (0.25, 0.5))
    assert (len(confusion.voices), confusion.letters, confusion.spread, confusion.blur) == (6, FOUR, 0.25, 0.5)
    first = confusion.voices[0]
    its = (table.clips.speaker == "voice 0") & (table.clips.acted == 0)
    assert (first.corpus, first.clips[N]) == ("corpus 0", 4)
    assert first.posterior[N] == pytest.approx(table.posteriors[its].mean(axis=0), abs=1e-4)


def test_a_table_is_read_as_it_was_saved(tmp_path: Path) -> None:
    table = left_out(corpora=2, voices=2, clips=2)
    table.save(tmp_path / "table.npz")
    found = LeftOutPredictions.load(tmp_path / "table.npz")
    assert (found.letters, found.corpora) == (FOUR, ["corpus 0", "corpus 1"])
    assert found.log_probs == pytest.approx(table.log_probs, abs=1e-5)
    assert (found.acted == table.acted).all()
    assert (found.speaker == table.speaker).all()


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    with pytest.raises(TrainingError, match="no table"):
        LeftOutPredictions.load(path)
    np.savez(
        path, letters="NS", log_probs=np.zeros((3, 2)), acted=np.array([0, 1, 2]), corpus=np.array(["a"] * 3), speaker=np.array(["a"] * 3)
    )
    with pytest.raises(TrainingError, match="do not fit"):
        LeftOutPredictions.load(path)


def test_the_study_of_shares_tells_every_corpus_and_every_kind_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_days, "BLURS", (0.0,))
    monkeypatch.setattr(simulated_days, "SPREADS", (0.5,))
    lines = shares_study(left_out(corpora=3, voices=3, clips=6), days=4)
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| 0.50")] == ["0.50"]
    for title in ("all", "corpus 0 (spread 0.5, blur 0.0)", "everyday", "low", "even", "single", "40 segments"):
        (row,) = [line for line in lines if line.startswith(f"| {title} ")]
        assert 0 <= float(row.split("|")[2]) <= 1
