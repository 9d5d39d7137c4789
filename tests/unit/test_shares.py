"""Shares of emotions, estimated and counted: unbiased on average, and intervals that cover the truth for unseen voices."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from model.bundle_format import CONFUSION_FILE, PosteriorConfusion, SpeakerConfusion, SpeakerPosteriors, read_confusion, write_confusion
from model.emotions import BALANCED, EVERYDAY, Emotion, Prediction, Prior, balanced, correct_posterior, version_with_prior
from model.errors import BundleError
from monitor.analysis.shares import ConfusionModel, CountedModel, EmotionShares, PosteriorModel, confusion_model, estimate_shares
from monitor.storage.records import SegmentRecord
from tests.support.days import FOUR, A, H, N, S, judged, left_out
from train.simulated_days import PosteriorTable, cross_validate, mean_by_corpus, posterior_confusion, simulate_days

EVEN = balanced(FOUR)
TABLE = PosteriorTable.of(left_out(), 1.0, EVEN)
MEASURED = TABLE.corpora(["corpus 1", "corpus 2", "corpus 3"])
CONFUSION_OF = posterior_confusion(MEASURED, (0.5, 0.0))
KNOWN: dict[str, ConfusionModel] = {"new-1": PosteriorModel(CONFUSION_OF, None)}


def pieces(
    rows: np.ndarray, prior: Prior | None = EVERYDAY, seconds: float = 3.0, corrected_to: Emotion | None = None, bundle: str = "new-1"
) -> list[tuple[SegmentRecord, float]]:
    """Segments with these even posteriors (n, 4), as a bundle under a prior stores them: sure above 0.7."""
    found = []
    for i, row in enumerate(rows.tolist()):
        posterior = dict(zip(FOUR, row, strict=True))
        if prior is not None:
            posterior = correct_posterior(posterior, prior.over(FOUR), EVEN)
        prediction = Prediction(posterior, max(posterior.values()) < 0.7, version_with_prior(bundle, prior))
        found.append((judged(10 * i, seconds, prediction, corrected=corrected_to), seconds))
    return found


def day_of(truth: list[int], seed: int = 1) -> np.ndarray:
    """Posteriors of a day of one voice of the corpus that was left out; truth: so many segments of each letter."""
    random = np.random.default_rng(seed)
    clips = TABLE.corpora(["corpus 0"])
    its = clips.clips.speaker == clips.clips.speaker[0]
    drawn = [random.choice(np.flatnonzero(its & (clips.clips.acted == letter)), count) for letter, count in enumerate(truth)]
    return clips.posteriors[np.concatenate(drawn)]


DAY = day_of([150, 20, 20, 10])


def test_intervals_hold_for_people_and_corpora_that_were_left_out() -> None:
    """Each corpus is estimated by what the three others tell."""
    checked = cross_validate(TABLE, 48, (0.5, 0.5))
    assert mean_by_corpus(checked, lambda one: one.held) >= 0.93
    assert mean_by_corpus(checked, lambda one: one.width) < 0.7, "an interval of everything would hold, and say nothing"


def test_estimates_do_not_lean_to_what_is_expected_as_counting_what_is_shown_does() -> None:
    faint = PosteriorTable.of(left_out(lean=0.3, signal=1.0), 1.0, EVEN)
    checked = [one for one in cross_validate(faint, 48, (0.25, 0.0)) if one.day.kind != "everyday"]
    estimated, shown = (float(np.mean([getattr(one, how)[0] - one.day.shares[0] for one in checked])) for how in ("estimated", "shown"))
    assert shown > 0.1, "neutral"
    assert abs(estimated) < shown / 2


def test_estimated_shares_sum_to_one_and_lie_in_their_intervals() -> None:
    shares = estimate_shares(pieces(DAY), KNOWN)
    assert sum(shares.estimated.values()) == pytest.approx(1)
    assert set(shares.intervals) == set(shares.estimated) == set(FOUR)
    for letter, (low, high) in shares.intervals.items():
        assert 0 <= low <= shares.estimated[letter] <= high <= 1


def test_what_posteriors_were_corrected_to_is_no_evidence() -> None:
    """The same sound, corrected and not; to count would show it."""
    told, plain = pieces(DAY), pieces(DAY, None)
    assert estimate_shares(told, KNOWN).estimated == pytest.approx(estimate_shares(plain, KNOWN).estimated)
    shown, heard = (np.mean([entry.prediction is not None and entry.prediction.emotion is N for entry, _ in day]) for day in (told, plain))
    assert shown - heard > 0.05


def test_a_prior_is_what_days_are_expected_to_be() -> None:
    """Under an even prior a day of the same sound is less neutral, and no more so than the sound leaves open."""
    everyday, even = (estimate_shares(pieces(DAY, prior), KNOWN) for prior in (EVERYDAY, BALANCED))
    assert everyday.intervals[N][0] < even.estimated[N] < everyday.estimated[N]


def test_posteriors_that_were_not_corrected_are_under_the_prior_of_the_training() -> None:
    heard = {N: 0.4, H: 0.3, S: 0.2, A: 0.1}
    even = DAY[:80]
    rows = even * [heard[letter] for letter in FOUR]
    rows /= rows.sum(axis=1, keepdims=True)
    told = estimate_shares(pieces(rows, None), {"new-1": PosteriorModel(CONFUSION_OF, heard)})
    assert told.estimated == pytest.approx(estimate_shares(pieces(even, None), KNOWN).estimated)


def test_what_it_was_unsure_of_counts_as_far_as_it_tells() -> None:
    unsure = DAY[DAY.max(axis=1) < 0.5]
    entries = [piece for piece in pieces(unsure) if piece[0].named is None]
    assert len(entries) > 10
    assert estimate_shares(entries, KNOWN).estimated


def test_only_sad_speech_is_heard_as_mostly_sad() -> None:
    shares = estimate_shares(pieces(day_of([0, 0, 200, 0])), KNOWN)
    assert max(shares.estimated, key=lambda letter: shares.estimated[letter]) is S
    assert shares.intervals[S][1] > 0.9


def test_more_speech_narrows_it_but_never_beyond_what_voices_differ() -> None:
    def width(rows: np.ndarray, seconds: float = 3.0) -> float:
        low, high = estimate_shares(pieces(rows, seconds=seconds), KNOWN).intervals[N]
        return high - low

    few, many, more = width(DAY[::40]), width(DAY), width(np.tile(DAY, (10, 1)))
    assert few > many > more > 0.1
    assert width(DAY, 3.0) == pytest.approx(width(DAY, 6.0))


def test_a_few_long_segments_tell_less_than_many_short_ones() -> None:
    even = estimate_shares(pieces(DAY), KNOWN).intervals[N]
    # The same posteriors, nearly all of the time in two of them.
    rows = pieces(DAY)
    uneven = estimate_shares([(entry, 300.0 if i in (3, 190) else 0.1) for i, (entry, _) in enumerate(rows)], KNOWN).intervals[N]
    assert uneven[1] - uneven[0] > even[1] - even[0]


def test_the_same_day_gives_the_same_shares() -> None:
    assert estimate_shares(pieces(DAY), KNOWN) == estimate_shares(pieces(DAY), {"new-1": PosteriorModel(CONFUSION_OF, None)})


def test_one_segment_is_enough_for_a_wide_interval() -> None:
    low, high = estimate_shares(pieces(DAY[:1]), KNOWN).intervals[N]
    assert high - low > 0.5


def test_what_the_person_named_is_taken_as_it_is() -> None:
    named = pieces(DAY[:60], corrected_to=A)
    shares = estimate_shares([*named, *pieces(DAY[60:80])], KNOWN)
    assert shares.estimated[A] >= 60 / 80 - 1e-9
    assert shares.intervals[A][0] >= 60 / 80 - 1e-9
    assert estimate_shares(named, KNOWN) == EmotionShares()
    # A letter that the bundle has not is one that the person may have.
    fear = estimate_shares([*pieces(DAY[:20], corrected_to=Emotion.FEAR), *pieces(DAY[20:80])], KNOWN)
    assert fear.estimated[Emotion.FEAR] == pytest.approx(0.25)


def test_without_knowledge_of_a_model_shares_are_counted_and_have_no_interval() -> None:
    assert estimate_shares(pieces(DAY), {}) == EmotionShares()
    assert estimate_shares([], KNOWN) == EmotionShares()
    both = estimate_shares([*pieces(DAY), *pieces(DAY, bundle="other-1")], KNOWN)
    assert sum(both.estimated.values()) == pytest.approx(1)
    assert both.intervals == {}
    other_letters = [(judged(0, 3, {N: 0.5, Emotion.FEAR: 0.5}, bundle="new-1"), 3.0)]
    assert estimate_shares(other_letters, KNOWN).intervals == {}


def test_a_day_of_an_older_and_a_newer_model_is_estimated_as_far_as_it_can_be() -> None:

    older: ConfusionModel = CountedModel([SpeakerConfusion(sure={one: {one: 500} for one in FOUR}, unsure={})] * 10)
    sad = [(judged(10 * i, 3.0, S, bundle="old-1"), 3.0) for i in range(len(DAY))]
    alone, both = estimate_shares(pieces(DAY), KNOWN), estimate_shares([*sad, *pieces(DAY)], {**KNOWN, "old-1": older})
    assert both.estimated == pytest.approx({letter: alone.estimated[letter] / 2 + (0.5 if letter is S else 0) for letter in FOUR})
    assert both.intervals[S][0] == pytest.approx(0.5 + alone.intervals[S][0] / 2, abs=0.02)


def test_a_letter_that_nobody_acted_has_no_share() -> None:
    """A bundle can answer it, so its posteriors have it; what it means in voices, nobody knows."""
    voices = tuple(
        SpeakerPosteriors(
            corpus=voice.corpus,
            clips={letter: n for letter, n in voice.clips.items() if letter is not A},
            posterior={letter: row for letter, row in voice.posterior.items() if letter is not A},
        )
        for voice in CONFUSION_OF.voices
    )
    known: dict[str, ConfusionModel] = {"new-1": PosteriorModel(CONFUSION_OF.model_copy(update={"voices": voices}), None)}
    shares = estimate_shares(pieces(DAY), known)
    assert A not in shares.estimated
    assert sum(shares.estimated.values()) == pytest.approx(1)


def test_a_confusion_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_confusion(CONFUSION_OF, tmp_path)
    found = read_confusion(tmp_path)
    assert found == CONFUSION_OF
    assert isinstance(confusion_model(found, None), PosteriorModel)
    assert read_confusion(tmp_path / "no folder") == []
    assert confusion_model([], None) is None


def test_counts_of_a_bundle_from_before_still_read(tmp_path: Path) -> None:
    (tmp_path / CONFUSION_FILE).write_text('[{"sure": {"N": {"N": 7, "S": 1}}, "unsure": {"N": 2}}]\n', encoding="utf-8")
    found = read_confusion(tmp_path)
    assert not isinstance(found, PosteriorConfusion)
    assert found[0].sure == {N: {N: 7, S: 1}}
    assert isinstance(confusion_model(found, None), CountedModel)


@pytest.mark.parametrize("damage", [{"letters": ["N"]}, {"blur": 2}, {"voices": []}, {"letters": ["N", "H", "S"]}, {"format": 3}])
def test_a_damaged_confusion_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    told = json.loads(CONFUSION_OF.model_dump_json()) | damage
    (tmp_path / CONFUSION_FILE).write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(BundleError, match="damaged"):
        read_confusion(tmp_path)


def test_simulated_days_have_the_composition_that_they_say() -> None:
    clips = TABLE.corpora(["corpus 1"]).clips
    for day in simulate_days(clips, 12):
        assert np.bincount(clips.acted[day.clips], minlength=4) / len(day.clips) == pytest.approx(day.shares)
        assert len(set(clips.speaker[day.clips])) == 1


# Rows: what was meant; columns: what is answered, in the order of FOUR.
COMMON = np.array([[0.80, 0.08, 0.10, 0.02], [0.12, 0.70, 0.03, 0.15], [0.25, 0.03, 0.70, 0.02], [0.05, 0.20, 0.02, 0.73]])
ALIKE = 30.0


def person(random: np.random.Generator) -> np.ndarray:
    """How one voice is answered: like all, but not quite."""
    return np.array([random.dirichlet(ALIKE * row) for row in COMMON])


def measured(random: np.random.Generator, voices: int = 24, clips: int = 25) -> CountedModel:
    """What a bundle would carry of voices it never heard."""
    tables = [[random.multinomial(clips, row) for row in person(random)] for _ in range(voices)]
    return CountedModel(
        [
            SpeakerConfusion(
                sure={truth: {answer: int(n) for answer, n in zip(FOUR, row, strict=True)} for truth, row in zip(FOUR, table, strict=True)},
                unsure={},
            )
            for table in tables
        ]
    )


def day(
    answers: list[int], seconds: list[float] | None = None, corrected: dict[int, Emotion] | None = None
) -> list[tuple[SegmentRecord, float]]:
    seconds = seconds or [3.0] * len(answers)
    return [
        (judged(10 * i, 3, FOUR[answer], corrected=(corrected or {}).get(i)), length)
        for i, (answer, length) in enumerate(zip(answers, seconds, strict=True))
    ]


def answered(random: np.random.Generator, truth: list[float], segments: int) -> list[int]:
    """What the model says of a person it never heard whose shares are `truth`."""
    meant = random.multinomial(segments, truth)
    counts = sum(random.multinomial(number, row) for number, row in zip(meant, person(random), strict=True))
    return [answer for answer, number in enumerate(counts) for _ in range(number)]


def intervals_of(pieces: list[tuple[SegmentRecord, float]], confusions: dict[str, CountedModel]) -> Mapping[Emotion, tuple[float, float]]:
    """The intervals; these shares are counted."""
    shares = estimate_shares(pieces, confusions)
    assert shares.estimated == {}
    return shares.intervals


MEASURED_CONFUSION = measured(np.random.default_rng(5))


@pytest.mark.parametrize("truth", [[0.7, 0.1, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
def test_it_holds_the_truth_as_often_as_it_says(truth: list[float]) -> None:
    random = np.random.default_rng(1)
    held = []
    for _ in range(150):
        intervals = intervals_of(day(answered(random, truth, 300)), {"compact-1": MEASURED_CONFUSION})
        held += [intervals[emotion][0] <= share <= intervals[emotion][1] for emotion, share in zip(FOUR, truth, strict=True)]
    # 95 % is meant; 600 shares that hang together leave some room. An interval that is too wide would say nothing.
    assert 0.92 <= np.mean(held) <= 0.99


def test_what_is_only_confusion_is_seen_through() -> None:
    """Nothing but neutral speech is heard as sad in a tenth of the cases: the truth may be no sadness at all."""
    random = np.random.default_rng(2)
    answers = answered(random, [1.0, 0.0, 0.0, 0.0], 300)
    assert answers.count(2) > 15
    intervals = intervals_of(day(answers), {"compact-1": MEASURED_CONFUSION})
    assert intervals[S][0] == 0
    assert intervals[N][1] > 0.9


def test_the_same_day_gives_the_same_interval() -> None:
    pieces = day([0] * 50 + [2] * 20)
    assert intervals_of(pieces, {"compact-1": MEASURED_CONFUSION}) == intervals_of(pieces, {"compact-1": MEASURED_CONFUSION})
    assert intervals_of(pieces, {"compact-1": measured(np.random.default_rng(5))}) == intervals_of(
        pieces, {"compact-1": MEASURED_CONFUSION}
    )


def test_counted_shares_narrow_with_speech_but_not_below_the_spread_of_voices() -> None:
    def width(times: int) -> float:
        low, high = intervals_of(day(([0] * 7 + [2] * 3) * times), {"compact-1": MEASURED_CONFUSION})[S]
        return high - low

    assert width(1) > width(10) > width(200) > 0.05


def test_counted_shares_of_few_long_segments_are_wider() -> None:
    answers = [0] * 70 + [2] * 30
    even = intervals_of(day(answers), {"compact-1": MEASURED_CONFUSION})[S]
    # The same share of time, nearly all of it in two segments.
    uneven = intervals_of(day(answers, [0.1] * 69 + [70.0] + [0.1] * 29 + [30.0]), {"compact-1": MEASURED_CONFUSION})[S]
    assert uneven[1] - uneven[0] > 1.5 * (even[1] - even[0])


def test_counted_shares_take_the_persons_labels_as_they_are() -> None:
    answers = [0] * 20
    all_said = intervals_of(day([*answers, 0], corrected=dict.fromkeys(range(20), S)), {"compact-1": MEASURED_CONFUSION})
    low, high = all_said[S]
    assert low >= 20 / 21 - 1e-9
    assert high <= 1


def test_without_knowledge_of_a_model_there_is_no_interval() -> None:
    pieces = day([0, 2, 2])
    assert intervals_of(pieces, {}) == {}
    assert intervals_of([*pieces, (judged(90, 3, S, bundle="other-1"), 3.0)], {"compact-1": MEASURED_CONFUSION}) == {}
    assert intervals_of([], {"compact-1": MEASURED_CONFUSION}) == {}
    assert intervals_of([(judged(0, 3, {N: 0.5, S: 0.5}, unsure=True), 3.0)], {"compact-1": MEASURED_CONFUSION}) == {}
    # An answer that was never seen where the model was measured.
    assert intervals_of([*day([0, 1]), (judged(90, 3, Emotion.FEAR), 3.0)], {"compact-1": MEASURED_CONFUSION}) == {}


def test_two_models_of_one_day_each_have_their_own_confusion() -> None:
    perfect = CountedModel([SpeakerConfusion(sure={one: {one: 500} for one in FOUR}, unsure={})] * 10)
    pieces = [(judged(10 * i, 3, S, bundle="perfect-1"), 3.0) for i in range(300)]
    low, high = intervals_of(pieces, {"perfect-1": perfect})[S]
    assert (low, high) == (pytest.approx(1, abs=0.03), pytest.approx(1, abs=0.001))
    both = intervals_of(pieces + day([0] * 300), {"perfect-1": perfect, "compact-1": MEASURED_CONFUSION})
    assert both[S][0] == pytest.approx(0.5, abs=0.02)
