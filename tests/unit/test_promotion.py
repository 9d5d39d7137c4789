"""The promotion test of a night and its letter biases, by simulation."""

from dataclasses import dataclass

import numpy as np
import pytest

from train.evaluation.metrics import Floats, Ints
from train.nightly.promotion import ALPHA, net_gain, other_voices, p_by_chance, p_no_better
from train.nightly.vector_scaling import NOT_SHOWN, LabelArrays, VectorScaling, log_softmax

LETTER_COUNT = 7
NIGHTS = 100
DRAWS = {"draws": 249}


@dataclass
class Person:
    """Segments of a person whom the bundle in use understands in part: its logits are the truth's, blurred. confirms: see `said`."""

    true: Ints
    logits: Floats

    @classmethod
    def made(cls, segments: int, skill: float, confirms: float, rng: np.random.Generator) -> "Person":
        """Who corrects everything that is wrong, and confirms a share of what is right."""
        true = rng.integers(LETTER_COUNT, size=20 * segments)
        logits = rng.normal(size=(len(true), LETTER_COUNT)) * 1.5
        logits[np.arange(len(true)), true] += skill
        said = np.flatnonzero(rng.random(len(true)) < np.where(logits.argmax(axis=1) == true, confirms, 1.0))[:segments]
        assert len(said) == segments
        return cls(true[said], logits[said])

    @property
    def labels(self) -> LabelArrays:
        return labels_of(self.true, self.logits.argmax(axis=1))


def labels_of(said: Ints, shown: Ints) -> LabelArrays:
    return LabelArrays(said, shown, said != shown, np.ones(len(said)))


def parts_of(segments: int) -> Ints:
    return np.arange(segments) * 4 // segments


def promoted(before: Floats, after: Floats, labels: LabelArrays) -> tuple[bool, bool, bool]:
    """Whether labels say something, whether it is better, and both with a net gain."""
    chance = p_by_chance(after, labels, parts_of(len(labels)), **DRAWS) <= ALPHA
    better = p_no_better(before, after, labels, **DRAWS) <= ALPHA
    return chance, better, chance and better and net_gain(before, after, labels) > 0


def shares(segments: int, change: str, confirms: float, seed: int, nights: int = NIGHTS) -> Floats:
    rng = np.random.default_rng(seed)
    passed = []
    for _ in range(nights):
        person = Person.made(segments, 2.0, confirms, rng)
        after = person.logits + rng.normal(size=person.logits.shape) * 0.7
        if change == "learned":
            after[np.arange(segments), person.true] += 1.5
        elif change == "sharper":
            after = 1.7 * person.logits
        elif change == "blurred":
            after = 0.5 * after
        elif change == "towards one":
            after[:, 3] += 2.0
        passed.append(promoted(log_softmax(person.logits), log_softmax(after), person.labels))
    return np.asarray(np.mean(passed, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["otherwise", "sharper", "blurred", "towards one"])
@pytest.mark.parametrize("confirms", [0.0, 0.3, 1.0])
def test_a_bundle_that_learned_nothing_almost_never_passes(change: str, confirms: float) -> None:
    """Also where only errors are corrected, so that every change gains and none can lose."""
    says_something, better, all_three = shares(50, change, confirms, seed=1)
    assert says_something > 0.5, "the labels are true, so that the other conditions are what holds"
    assert better <= ALPHA + 0.05
    assert all_three <= ALPHA + 0.05


def test_a_bundle_that_learned_passes() -> None:
    for confirms in (0.0, 0.3, 1.0):
        assert shares(60, "learned", confirms, seed=2)[2] > 0.9
    assert shares(15, "learned", 1.0, seed=2)[2] < shares(60, "learned", 1.0, seed=2)[2]


def test_where_only_errors_are_seen_more_labels_are_won_by_answering_otherwise_and_that_counts_for_nothing() -> None:
    rng = np.random.default_rng(3)
    gained, passed = 0, 0
    for _ in range(NIGHTS):
        person = Person.made(60, 2.0, 0.0, rng)
        after = person.logits + rng.normal(size=person.logits.shape)
        gained += int((after.argmax(axis=1) == person.true).sum())
        passed += p_no_better(log_softmax(person.logits), log_softmax(after), person.labels, **DRAWS) <= ALPHA
    assert gained / NIGHTS > 5
    assert passed <= (ALPHA + 0.05) * NIGHTS


@pytest.mark.slow
@pytest.mark.parametrize("words", ["any", "mostly one"])
def test_corrections_that_say_nothing_pass_as_often_as_stated_whatever_was_learned_from_them(words: str) -> None:
    """The new bundle answers as the labels are mixed, which fits them better, and confirmations are honest."""
    rng, found = np.random.default_rng(4), []
    mixture = np.full(LETTER_COUNT, 1 / LETTER_COUNT) if words == "any" else np.array([0.7, *[0.05] * 6])
    for _ in range(4 * NIGHTS):
        person = Person.made(40, 2.0, 0.5, rng)
        shown = person.logits.argmax(axis=1)
        said = person.true.copy()
        for place in np.flatnonzero(said != shown):
            possible = mixture * (np.arange(LETTER_COUNT) != shown[place])
            said[place] = rng.choice(LETTER_COUNT, p=possible / possible.sum())
        after = log_softmax(person.logits + 3 * mixture)
        found.append(p_by_chance(after, labels_of(said, shown), parts_of(40), **DRAWS))
    # Three standard errors of a share and of a mean over 400 nights.
    assert float(np.mean(np.array(found) <= 0.05)) < 0.05 + 0.033
    assert abs(float(np.mean(found)) - 0.5) < 0.045


def test_corrections_are_never_dealt_to_what_was_shown_nor_into_another_part() -> None:
    """Two parts with a segment each of two corrections that cannot be exchanged: the true deal is the only one."""
    shown, said = np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0])
    after = log_softmax(np.eye(LETTER_COUNT)[said])
    assert p_by_chance(after, labels_of(said, shown), np.array([0, 0, 1, 1])) == 1.0
    assert p_by_chance(after[:1], labels_of(said[:1], shown[:1]), np.zeros(1, int)) == 1.0
    free = np.array([6, 6, 6, 6])
    found = p_by_chance(after, labels_of(said, free), np.zeros(4, int), draws=4999)
    assert found == pytest.approx(1 / 6, abs=0.02), "of six ways to deal two pairs one is as good"
    assert p_by_chance(after, labels_of(said, free), np.array([0, 0, 1, 1]), draws=4999) == pytest.approx(1 / 4, abs=0.02)


def test_no_change_is_no_better() -> None:
    person = Person.made(30, 2.0, 0.5, np.random.default_rng(5))
    before = log_softmax(person.logits)
    assert p_no_better(before, before, person.labels) == 1.0
    assert net_gain(before, before, person.labels) == 0.0


def test_a_lost_confirmation_weighs_more_where_people_seldom_confirm() -> None:
    def net(confirms: float) -> float:
        rng = np.random.default_rng(6)
        person = Person.made(200, 2.0, confirms, rng)
        corrected = np.flatnonzero(person.labels.corrected)[:3]
        confirmed = np.flatnonzero(~person.labels.corrected)[:2]
        after = person.logits.copy()
        after[corrected, person.true[corrected]] += 100
        after[confirmed, (person.true[confirmed] + 1) % LETTER_COUNT] += 100
        return net_gain(log_softmax(person.logits), log_softmax(after), person.labels)

    assert net(0.1) < 0 < net(1.0) <= 1.0


def public(loss: float, rng: np.random.Generator, clips: int = 280) -> tuple[Floats, Floats, Ints, list[str]]:
    acted = np.arange(clips) % LETTER_COUNT
    logits = rng.normal(size=(clips, LETTER_COUNT))
    logits[np.arange(clips), acted] += 3
    after = logits + rng.normal(size=logits.shape) * 0.02
    after[np.arange(clips), acted] -= loss
    return log_softmax(logits), log_softmax(after), acted, [f"voice {i // 35}" for i in range(clips)]


@pytest.mark.parametrize(("loss", "passes"), [(0.0, True), (0.7, True), (2.5, False), (5.0, False)])
def test_other_voices_may_lose_something_and_must_not_collapse(loss: float, passes: bool) -> None:
    """At 0.7 about a tenth is lost, which a gate of 0.03 would have refused."""
    before, after, acted, speakers = public(loss, np.random.default_rng(7))
    found = other_voices(before, after, acted, speakers)
    fall = float(np.nanmean(found.before) - np.nanmean(found.after))
    assert found.margin == pytest.approx((np.nanmean(found.before) - 1 / LETTER_COUNT) / 2)
    assert (found.at_least >= -found.margin) is passes
    assert loss != 0.7 or 0.05 < fall < 0.2


def test_a_bundle_that_says_one_emotion_to_all_others_has_collapsed() -> None:
    before, _, acted, speakers = public(0.0, np.random.default_rng(8))
    always = np.tile(log_softmax(np.eye(LETTER_COUNT)[[6]] * 5), (len(before), 1))
    found = other_voices(before, always, acted, speakers)
    assert found.at_least < -found.margin


FIVE = 5
BIAS = np.array([1.5, -1.0, -0.5, 0.0, 0.0])


def person(count: int, confirms: float, seed: int) -> tuple[Floats, LabelArrays]:
    """Whose speech is as a bundle's log-probabilities with BIAS say; who corrects all errors and confirms a share of the rest."""
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.normal(size=(8 * count, FIVE)) * 1.5)
    true = (log_probs + BIAS + rng.gumbel(size=log_probs.shape)).argmax(axis=1)
    shown = log_probs.argmax(axis=1)
    said = np.flatnonzero(rng.random(len(true)) < np.where(shown == true, confirms, 1.0))[:count]
    return log_probs[said], weighted_labels(true[said], shown[said])


def weighted_labels(said: Ints, shown: Ints) -> LabelArrays:
    return LabelArrays(said, shown, said != shown, np.ones(len(said)))


def accuracy(found: VectorScaling, seed: int) -> float:
    """On speech that is not chosen by what was said of it."""
    log_probs, labels = person(4000, 1.0, seed)
    return float((found.of_speech(log_probs).argmax(axis=1) == labels.said).mean())


@pytest.mark.parametrize("confirms", [1.0, 0.2, 0.05])
def test_biases_are_found_however_seldom_people_confirm(confirms: float) -> None:
    log_probs, labels = person(2000, confirms, seed=1)
    found = VectorScaling.fit(log_probs, labels, bias_spread=2.0)
    assert found.bias == pytest.approx(BIAS - BIAS.mean(), abs=0.25)
    assert found.scale == pytest.approx(1.0, abs=0.15)
    assert found.shown == pytest.approx(np.log(confirms), abs=0.3)


def test_taken_for_a_sample_such_labels_would_teach_not_to_say_what_was_said() -> None:
    log_probs, labels = person(2000, 0.05, seed=2)
    nowhere = LabelArrays(labels.said, np.full(len(labels), NOT_SHOWN), labels.corrected, labels.weights)
    as_sample, found = (VectorScaling.fit(log_probs, some, bias_spread=2.0) for some in (nowhere, labels))
    nothing = VectorScaling(1.0, np.zeros(FIVE), 0.0, np.zeros(FIVE))
    assert accuracy(found, 3) > accuracy(nothing, 3) + 0.05
    assert accuracy(as_sample, 3) < accuracy(found, 3) - 0.02


def test_thirty_labels_help_and_few_labels_stay_near_none() -> None:
    nothing, gains = VectorScaling(1.0, np.zeros(FIVE), 0.0, np.zeros(FIVE)), []
    for seed in range(20):
        log_probs, labels = person(30, 0.3, seed)
        gains.append(accuracy(VectorScaling.fit(log_probs, labels, 1.0), 100) - accuracy(nothing, 100))
    assert float(np.mean(gains)) > 0.04
    log_probs, labels = person(3, 0.3, seed=4)
    assert float(np.abs(VectorScaling.fit(log_probs, labels, 0.3).bias).max()) < 0.3
    none = VectorScaling.fit(log_probs, labels, 0.0)
    assert not none.bias.any()


def test_a_label_of_half_weight_counts_as_half_a_label() -> None:
    log_probs, labels = person(40, 0.5, seed=5)
    twice = np.repeat(np.arange(40), 2)
    halved = LabelArrays(labels.said[twice], labels.shown[twice], labels.corrected[twice], np.full(80, 0.5))
    one, other = VectorScaling.fit(log_probs, labels, 1.0), VectorScaling.fit(log_probs[twice], halved, 1.0)
    assert one.bias == pytest.approx(other.bias)
    assert (one.scale, one.shown) == pytest.approx((other.scale, other.shown))


def test_offsets_are_what_labels_have_beyond_scaled_log_probabilities() -> None:
    log_probs, labels = person(50, 0.3, seed=6)
    found = VectorScaling.fit(log_probs, labels, 1.0)
    expected = log_softmax(found.scale * (log_probs + found.offsets(labels.shown)))
    assert found.of_labels(log_probs, labels.shown) == pytest.approx(expected)
    assert np.exp(found.of_speech(log_probs)).sum(axis=1) == pytest.approx(np.ones(50))
