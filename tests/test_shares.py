"""Estimated shares: right on average, with intervals that hold the truth for voices and corpora that nobody has measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.confusion import CONFUSION, PosteriorConfusion, VoicePosteriors, read_confusion, write_confusion
from model.errors import BundleError
from model.priors import BALANCED, EVERYDAY, Prior, balanced, corrected, marked
from model.types import Emotion, Prediction
from monitor.day.counted import CountedConfusion
from monitor.day.shares import Confusion, KnownPosteriors, Shares, known_confusion, shares_of
from monitor.store.records import TimelineEntry
from tests.entries import judged
from tests.posteriors import FOUR, A, H, N, S, left_out
from train.simulated_days import Table, by_corpus, confusion_of, cross_checked, simulated

EVEN = balanced(FOUR)
TABLE = Table.of(left_out(), 1.0, EVEN)
MEASURED = TABLE.corpora(["corpus 1", "corpus 2", "corpus 3"])
CONFUSION_OF = confusion_of(MEASURED, (0.5, 0.0))
KNOWN: dict[str, Confusion] = {"new-1": KnownPosteriors(CONFUSION_OF, None)}


def pieces(
    rows: np.ndarray, prior: Prior | None = EVERYDAY, seconds: float = 3.0, corrected_to: Emotion | None = None, bundle: str = "new-1"
) -> list[tuple[TimelineEntry, float]]:
    """Segments with these even posteriors (n, 4), as a bundle under a prior stores them: sure above 0.7."""
    found = []
    for i, row in enumerate(rows.tolist()):
        posterior = dict(zip(FOUR, row, strict=True))
        if prior is not None:
            posterior = corrected(posterior, prior.over(FOUR), EVEN)
        prediction = Prediction(posterior, max(posterior.values()) < 0.7, marked(bundle, prior))
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
    checked = cross_checked(TABLE, 48, (0.5, 0.5))
    assert by_corpus(checked, lambda one: one.held) >= 0.93
    assert by_corpus(checked, lambda one: one.width) < 0.7, "an interval of everything would hold, and say nothing"


def test_estimates_do_not_lean_to_what_is_expected_as_counting_what_is_shown_does() -> None:
    faint = Table.of(left_out(lean=0.3, signal=1.0), 1.0, EVEN)
    checked = [one for one in cross_checked(faint, 48, (0.25, 0.0)) if one.day.kind != "everyday"]
    estimated, shown = (float(np.mean([getattr(one, how)[0] - one.day.shares[0] for one in checked])) for how in ("estimated", "shown"))
    assert shown > 0.1, "neutral"
    assert abs(estimated) < shown / 2


def test_estimated_shares_sum_to_one_and_lie_in_their_intervals() -> None:
    shares = shares_of(pieces(DAY), KNOWN)
    assert sum(shares.estimated.values()) == pytest.approx(1)
    assert set(shares.intervals) == set(shares.estimated) == set(FOUR)
    for letter, (low, high) in shares.intervals.items():
        assert 0 <= low <= shares.estimated[letter] <= high <= 1


def test_what_posteriors_were_corrected_to_is_no_evidence() -> None:
    """The same sound, corrected and not; to count would show it."""
    told, plain = pieces(DAY), pieces(DAY, None)
    assert shares_of(told, KNOWN).estimated == pytest.approx(shares_of(plain, KNOWN).estimated)
    shown, heard = (np.mean([entry.prediction is not None and entry.prediction.emotion is N for entry, _ in day]) for day in (told, plain))
    assert shown - heard > 0.05


def test_a_prior_is_what_days_are_expected_to_be() -> None:
    """Under an even prior a day of the same sound is less neutral, and no more so than the sound leaves open."""
    everyday, even = (shares_of(pieces(DAY, prior), KNOWN) for prior in (EVERYDAY, BALANCED))
    assert everyday.intervals[N][0] < even.estimated[N] < everyday.estimated[N]


def test_posteriors_that_were_not_corrected_are_under_the_prior_of_the_training() -> None:
    heard = {N: 0.4, H: 0.3, S: 0.2, A: 0.1}
    even = DAY[:80]
    rows = even * [heard[letter] for letter in FOUR]
    rows /= rows.sum(axis=1, keepdims=True)
    told = shares_of(pieces(rows, None), {"new-1": KnownPosteriors(CONFUSION_OF, heard)})
    assert told.estimated == pytest.approx(shares_of(pieces(even, None), KNOWN).estimated)


def test_what_it_was_unsure_of_counts_as_far_as_it_tells() -> None:
    unsure = DAY[DAY.max(axis=1) < 0.5]
    entries = [piece for piece in pieces(unsure) if piece[0].named is None]
    assert len(entries) > 10
    assert shares_of(entries, KNOWN).estimated


def test_only_sad_speech_is_heard_as_mostly_sad() -> None:
    shares = shares_of(pieces(day_of([0, 0, 200, 0])), KNOWN)
    assert max(shares.estimated, key=lambda letter: shares.estimated[letter]) is S
    assert shares.intervals[S][1] > 0.9


def test_more_speech_narrows_it_but_never_beyond_what_voices_differ() -> None:
    def width(rows: np.ndarray, seconds: float = 3.0) -> float:
        low, high = shares_of(pieces(rows, seconds=seconds), KNOWN).intervals[N]
        return high - low

    few, many, more = width(DAY[::40]), width(DAY), width(np.tile(DAY, (10, 1)))
    assert few > many > more > 0.1
    assert width(DAY, 3.0) == pytest.approx(width(DAY, 6.0))


def test_a_few_long_segments_tell_less_than_many_short_ones() -> None:
    even = shares_of(pieces(DAY), KNOWN).intervals[N]
    # The same posteriors, nearly all of the time in two of them.
    rows = pieces(DAY)
    uneven = shares_of([(entry, 300.0 if i in (3, 190) else 0.1) for i, (entry, _) in enumerate(rows)], KNOWN).intervals[N]
    assert uneven[1] - uneven[0] > even[1] - even[0]


def test_the_same_day_gives_the_same_shares() -> None:
    assert shares_of(pieces(DAY), KNOWN) == shares_of(pieces(DAY), {"new-1": KnownPosteriors(CONFUSION_OF, None)})


def test_one_segment_is_enough_for_a_wide_interval() -> None:
    low, high = shares_of(pieces(DAY[:1]), KNOWN).intervals[N]
    assert high - low > 0.5


def test_what_the_person_named_is_taken_as_it_is() -> None:
    named = pieces(DAY[:60], corrected_to=A)
    shares = shares_of([*named, *pieces(DAY[60:80])], KNOWN)
    assert shares.estimated[A] >= 60 / 80 - 1e-9
    assert shares.intervals[A][0] >= 60 / 80 - 1e-9
    assert shares_of(named, KNOWN) == Shares()
    # A letter that the bundle has not is one that the person may have.
    fear = shares_of([*pieces(DAY[:20], corrected_to=Emotion.FEAR), *pieces(DAY[20:80])], KNOWN)
    assert fear.estimated[Emotion.FEAR] == pytest.approx(0.25)


def test_without_knowledge_of_a_model_shares_are_counted_and_have_no_interval() -> None:
    assert shares_of(pieces(DAY), {}) == Shares()
    assert shares_of([], KNOWN) == Shares()
    both = shares_of([*pieces(DAY), *pieces(DAY, bundle="other-1")], KNOWN)
    assert sum(both.estimated.values()) == pytest.approx(1)
    assert both.intervals == {}
    other_letters = [(judged(0, 3, {N: 0.5, Emotion.FEAR: 0.5}, bundle="new-1"), 3.0)]
    assert shares_of(other_letters, KNOWN).intervals == {}


def test_a_day_of_an_older_and_a_newer_model_is_estimated_as_far_as_it_can_be() -> None:
    from model.confusion import VoiceConfusion

    older: Confusion = CountedConfusion([VoiceConfusion(sure={one: {one: 500} for one in FOUR}, unsure={})] * 10)
    sad = [(judged(10 * i, 3.0, S, bundle="old-1"), 3.0) for i in range(len(DAY))]
    alone, both = shares_of(pieces(DAY), KNOWN), shares_of([*sad, *pieces(DAY)], {**KNOWN, "old-1": older})
    assert both.estimated == pytest.approx({letter: alone.estimated[letter] / 2 + (0.5 if letter is S else 0) for letter in FOUR})
    assert both.intervals[S][0] == pytest.approx(0.5 + alone.intervals[S][0] / 2, abs=0.02)


def test_a_letter_that_nobody_acted_has_no_share() -> None:
    """A bundle can answer it, so its posteriors have it; what it means in voices, nobody knows."""
    voices = tuple(
        VoicePosteriors(
            corpus=voice.corpus,
            clips={letter: n for letter, n in voice.clips.items() if letter is not A},
            posterior={letter: row for letter, row in voice.posterior.items() if letter is not A},
        )
        for voice in CONFUSION_OF.voices
    )
    known: dict[str, Confusion] = {"new-1": KnownPosteriors(CONFUSION_OF.model_copy(update={"voices": voices}), None)}
    shares = shares_of(pieces(DAY), known)
    assert A not in shares.estimated
    assert sum(shares.estimated.values()) == pytest.approx(1)


def test_a_confusion_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_confusion(CONFUSION_OF, tmp_path)
    found = read_confusion(tmp_path)
    assert found == CONFUSION_OF
    assert isinstance(known_confusion(found, None), KnownPosteriors)
    assert read_confusion(tmp_path / "no folder") == []
    assert known_confusion([], None) is None


def test_counts_of_a_bundle_from_before_still_read(tmp_path: Path) -> None:
    (tmp_path / CONFUSION).write_text('[{"sure": {"N": {"N": 7, "S": 1}}, "unsure": {"N": 2}}]\n', encoding="utf-8")
    found = read_confusion(tmp_path)
    assert not isinstance(found, PosteriorConfusion)
    assert found[0].sure == {N: {N: 7, S: 1}}
    assert isinstance(known_confusion(found, None), CountedConfusion)


@pytest.mark.parametrize("damage", [{"letters": ["N"]}, {"blur": 2}, {"voices": []}, {"letters": ["N", "H", "S"]}, {"format": 3}])
def test_a_damaged_confusion_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    told = json.loads(CONFUSION_OF.model_dump_json()) | damage
    (tmp_path / CONFUSION).write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(BundleError, match="damaged"):
        read_confusion(tmp_path)


def test_simulated_days_have_the_composition_that_they_say() -> None:
    clips = TABLE.corpora(["corpus 1"]).clips
    for day in simulated(clips, 12):
        assert np.bincount(clips.acted[day.clips], minlength=4) / len(day.clips) == pytest.approx(day.shares)
        assert len(set(clips.speaker[day.clips])) == 1
