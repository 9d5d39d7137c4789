"""The gate lets better bundles through, and almost never others: shown by simulation, with a model of how people correct."""

import numpy as np
import pytest

from train.nightly.gate import ALPHA, CLASS_MARGIN, MARGIN, Floats, Ints, p_by_chance, p_no_better, steadiness

LETTERS = 7
NIGHTS = 100


def softmax(logits: Floats) -> Floats:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


class Person:
    """Segments of a person whom the bundle in use understands in part: its logits are the truth's, blurred."""

    def __init__(self, segments: int, skill: float, rng: np.random.Generator) -> None:
        self.true = rng.integers(LETTERS, size=segments)
        self.logits = rng.normal(size=(segments, LETTERS)) * 1.5
        self.logits[np.arange(segments), self.true] += skill
        self.before = softmax(self.logits)
        self.shown = self.before.argmax(axis=1)

    def chances(self, after: Floats, said: Ints) -> tuple[float, float]:
        """p of both tests, for what the person said."""
        corrected = said != self.shown
        right_before, right_after = self.shown == said, after.argmax(axis=1) == said
        gained, lost = int((right_after & ~right_before).sum()), int((right_before & ~right_after).sum())
        return p_no_better(gained, lost), p_by_chance(
            self.before[corrected], after[corrected], said[corrected], self.shown[corrected], np.zeros(corrected.sum(), int)
        )


def promoted(segments: int, change: str, seed: int, nights: int = NIGHTS, only_corrections: bool = False) -> tuple[float, float, float]:
    """Shares of nights in which the first test, the second and both are passed."""
    rng = np.random.default_rng(seed)
    passed = []
    for _ in range(nights):
        person = Person(segments, skill=2.0, rng=rng)
        if only_corrections:
            wrong = person.shown != person.true
            for name in ("true", "logits", "before", "shown"):
                setattr(person, name, getattr(person, name)[wrong])
        after = person.logits + rng.normal(size=person.logits.shape)
        if change == "learned":
            after[np.arange(len(after)), person.true] += 1.5
        elif change == "sharper":
            after = 1.7 * person.logits
        elif change == "blurred":
            after = 0.5 * after
        elif change == "towards one":
            after[:, 3] += 2.0
        p = person.chances(softmax(after), person.true)
        passed.append((p[0] <= ALPHA, p[1] <= ALPHA, max(p) <= ALPHA))
    first, second, both = np.mean(passed, axis=0)
    return float(first), float(second), float(both)


@pytest.mark.parametrize("change", ["otherwise", "sharper", "blurred", "towards one"])
@pytest.mark.parametrize("only_corrections", [False, True])
def test_a_bundle_that_learned_nothing_almost_never_passes(change: str, only_corrections: bool) -> None:
    """Also where only errors were corrected, so that every change gains and none can lose."""
    _, _, both = promoted(40, change, seed=1, only_corrections=only_corrections)
    assert both <= ALPHA + 0.03


def test_without_the_first_test_mere_change_would_pass_for_better() -> None:
    better, chance, both = promoted(80, "blurred", seed=2, only_corrections=True)
    assert better > 0.3
    assert chance <= ALPHA + 0.03
    assert both <= ALPHA + 0.03


def test_a_bundle_that_learned_passes() -> None:
    assert promoted(60, "learned", seed=3)[2] > 0.8
    assert promoted(20, "learned", seed=3)[2] < promoted(60, "learned", seed=3)[2]


def test_labels_that_say_nothing_pass_the_permutation_test_as_often_as_stated() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(2 * NIGHTS):
        person = Person(30, skill=2.0, rng=rng)
        after = softmax(person.logits + rng.normal(size=person.logits.shape) * 2)
        said = (person.shown + rng.integers(1, LETTERS, size=30)) % LETTERS
        found.append(p_by_chance(person.before, after, said, person.shown, np.arange(30) // 10))
    assert float(np.mean(np.array(found) <= 0.05)) < 0.1
    assert abs(float(np.mean(found)) - 0.5) < 0.06


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (0, 5, 1.0), (7, 1, 9 / 256), (4, 0, 1 / 16)])
def test_mcnemar_is_exact(gained: int, lost: int, p: float) -> None:
    assert p_no_better(gained, lost) == pytest.approx(p)


def public(loss: float, rng: np.random.Generator, clips: int = 280) -> tuple[Floats, Floats, Ints, list[str]]:
    acted = np.arange(clips) % LETTERS
    logits = rng.normal(size=(clips, LETTERS))
    logits[np.arange(clips), acted] += 3
    after = logits + rng.normal(size=logits.shape) * 0.02
    after[np.arange(clips), acted] -= loss
    return softmax(logits), softmax(after), acted, [f"voice {i // 35}" for i in range(clips)]


def test_what_stays_as_it_was_holds_and_what_is_forgotten_does_not() -> None:
    rng = np.random.default_rng(5)
    steady = steadiness(*public(0.0, rng))
    assert steady.at_least >= -MARGIN
    assert np.nanmax(steady.before - steady.after) <= CLASS_MARGIN
    forgotten = steadiness(*public(1.5, rng))
    assert forgotten.at_least < -MARGIN


def test_one_forgotten_emotion_is_seen() -> None:
    before, after, acted, speakers = public(0.0, np.random.default_rng(6))
    lost = np.flatnonzero(acted == 2)[:: int(1 / (3 * CLASS_MARGIN))]
    after[lost] = np.roll(after[lost], 1, axis=1)
    seen = steadiness(before, after, acted, speakers)
    assert np.argmax(seen.before - seen.after) == 2
    assert seen.before[2] - seen.after[2] > CLASS_MARGIN
