"""Calibration of voices that were left out: temperature, threshold, and what an unknown voice may be like."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.studies.shares import study
from model.errors import TrainingError
from model.priors import BALANCED, EVERYDAY, balanced, corrected
from model.types import Emotion
from tests.posteriors import FOUR, N, S, left_out
from train import simulated_days
from train.calibration import Calibration, training_prior
from train.corpora.manifest import Utterance
from train.corpora.splits import Part
from train.left_out import LeftOut
from train.scoring.evaluation import KNOWN
from train.simulated_days import SPREADS, UNKNOWN, Table, confusion_of, fitted

EVEN = balanced(FOUR)


def said(corpus: str, letter: Emotion, count: int) -> list[Utterance]:
    return [Utterance(Path("x.wav"), corpus, "one", None, letter, None, None, None, "CC0") for _ in range(count)]


def test_the_training_prior_is_what_a_training_hears() -> None:
    parts = [Part("a", 3, [*said("a", N, 90), *said("a", S, 10)]), Part("b", 1, said("b", N, 100))]
    assert training_prior(parts, [N, S], balanced=True) == pytest.approx({N: 3 / 8 + 1 / 4, S: 3 / 8})
    assert training_prior(parts, [N, S], balanced=False) == pytest.approx({N: 0.95, S: 0.05})
    assert training_prior(parts[1:], [N, S], balanced=True) == {N: 1.0, S: 0.001}


def test_posteriors_come_under_the_prior_that_is_asked_for() -> None:
    table = left_out(corpora=1, voices=1, clips=2)
    heard, wanted = {letter: 0.4 if letter is N else 0.2 for letter in FOUR}, EVERYDAY.over(FOUR)
    plain = np.exp(table.log_probs / 2)
    plain /= plain.sum(axis=1, keepdims=True)
    expected = corrected(dict(zip(FOUR, plain[0].tolist(), strict=True)), wanted, heard)
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
        sharp = LeftOut(FOUR, logs, honest.acted, honest.corpus, honest.speaker)
        assert Calibration.fit(sharp, heard, 0.8).temperature == pytest.approx(2.0 * _honest_temperature(honest), rel=0.1)


def _honest_temperature(table: LeftOut) -> float:
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
    alike, apart = (Table.of(left_out(lean=lean, seed=3), 1.0, EVEN) for lean in (0.05, 1.5))
    assert fitted(alike, 24)[0] < fitted(apart, 24)[0]
    alone = apart.corpora(["corpus 0"])
    assert fitted(alone) == UNKNOWN
    twice = replace(alone.clips, corpus=np.where(np.arange(len(alone.clips.acted)) % 2, "corpus 0", "corpus 0" + KNOWN))
    assert fitted(Table(twice, alone.posteriors)) == UNKNOWN, "the same people, heard as strangers and as known voices"
    assert UNKNOWN[0] in SPREADS


def test_a_confusion_holds_mean_posteriors_voice_by_voice() -> None:
    table = Table.of(left_out(corpora=2, voices=3, clips=4), 1.0, EVEN)
    confusion = confusion_of(table, (0.25, 0.5))
    assert (len(confusion.voices), confusion.letters, confusion.spread, confusion.blur) == (6, FOUR, 0.25, 0.5)
    first = confusion.voices[0]
    its = (table.clips.speaker == "voice 0") & (table.clips.acted == 0)
    assert (first.corpus, first.clips[N]) == ("corpus 0", 4)
    assert first.posterior[N] == pytest.approx(table.posteriors[its].mean(axis=0), abs=1e-4)


def test_a_table_is_read_as_it_was_saved(tmp_path: Path) -> None:
    table = left_out(corpora=2, voices=2, clips=2)
    table.save(tmp_path / "table.npz")
    found = LeftOut.load(tmp_path / "table.npz")
    assert (found.letters, found.corpora) == (FOUR, ["corpus 0", "corpus 1"])
    assert found.log_probs == pytest.approx(table.log_probs, abs=1e-5)
    assert (found.acted == table.acted).all()
    assert (found.speaker == table.speaker).all()


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    with pytest.raises(TrainingError, match="no table"):
        LeftOut.load(path)
    np.savez(
        path, letters="NS", log_probs=np.zeros((3, 2)), acted=np.array([0, 1, 2]), corpus=np.array(["a"] * 3), speaker=np.array(["a"] * 3)
    )
    with pytest.raises(TrainingError, match="do not fit"):
        LeftOut.load(path)


def test_the_study_of_shares_tells_every_corpus_and_every_kind_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_days, "BLURS", (0.0,))
    monkeypatch.setattr(simulated_days, "SPREADS", (0.5,))
    lines = study(left_out(corpora=3, voices=3, clips=6), days=4)
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| 0.50")] == ["0.50"]
    for title in ("all", "corpus 0 (spread 0.5, blur 0.0)", "everyday", "low", "even", "single", "40 segments"):
        (row,) = [line for line in lines if line.startswith(f"| {title} ")]
        assert 0 <= float(row.split("|")[2]) <= 1
