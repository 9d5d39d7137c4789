"""The promotion test: whether a night's bundle predicts its person better and still works for other voices, and the verdict.

Three conditions on the person's labels, each predicted by weights and biases that learned from other parts of them:

1. The labels carry information (`p_by_chance`). Predictions for corrected segments must agree with their corrections more than with the
   same corrections permuted among these segments: a permutation test over all permutations in which no segment is corrected to what had
   been shown for it, drawn as Besag and Clifford (1989) do, which makes it exact for each part. Labels without information pass in at most
   ALPHA of nights, whatever their mixture and whatever was learned from them.
2. The new bundle fits them better than the one in use (`p_no_better`). People correct what was wrong, so a bundle that merely predicts
   something else would gain by luck. So both bundles give the probability of the person's label given that there is one, each with the
   temperature, and the weight of the letter shown, that fit best. Sharper, flatter or merely different is then no better.
3. It gains more labels than it loses (`net_gain`). A prediction that was right and is lost shows among confirmations alone, and people
   confirm less often than they correct. The weight of the letter shown tells how much less; a confirmation counts more by that factor.

For other voices only a collapse is tested: the bundle serves one person, whose voice differs from theirs. n segments, L letters.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.bundle_format import PersonalTest, PromotionVerdict, RecallChange, RehearsalTest
from model.emotions import Emotion
from train.evaluation.metrics import Floats, Ints, average_recall, confusion_matrix, recall, resample_pairs
from train.nightly.vector_scaling import LabelArrays, VectorScaling
from train.rehearsal_set import RehearsalClip

ALPHA = 0.05
"""What both chances must not exceed."""

KEPT_SHARE = 0.5
"""Of what unweighted accuracy on other voices has above chance, so much must be kept, with 95 % certainty."""

_MOST_WEIGHT = 10.0
_USUAL_SPREAD = 1.0
_ANY_SCALE = 10.0
_NOTHING = 1e-9
_SWEEPS = 30
_DRAWS = 2000


def p_no_better(before: Floats, after: Floats, labels: LabelArrays, *, draws: int = 9999, seed: int = 0) -> float:
    """Chance that a bundle which is no better makes the person's words so much more probable: paired sign-flip test, one-sided.

    before, after (n, L): log-posteriors.
    """
    gain = _probability_said(after, labels) - _probability_said(before, labels)
    flipped = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(gain))) @ gain
    return float((1 + (flipped >= gain.sum() - 1e-9).sum()) / (1 + draws))


def net_gain(before: Floats, after: Floats, labels: LabelArrays) -> float:
    """Labels gained less labels lost, a confirmation counting as many times as it is rarer than a correction; arguments as above.

    How much rarer is fitted beside biases of the letters: where the bundle in use is wrong more often than it thinks, corrections are many
    for that reason alone, and confirmations would seem rare.
    """
    shown = VectorScaling.fit(before, labels, bias_spread=_USUAL_SPREAD).shown
    weights = np.where(labels.corrected, 1.0, np.clip(np.exp(-shown), 1.0, _MOST_WEIGHT))
    right_before, right_after = before.argmax(axis=1) == labels.said, after.argmax(axis=1) == labels.said
    return float((weights * (right_after.astype(float) - right_before)).sum())


def p_by_chance(after: Floats, labels: LabelArrays, parts: Ints, *, draws: int = 999, seed: int = 0) -> float:
    """Chance that corrections which say nothing about the sound go so well with what the new bundle hears.

    after (n, L): log-posteriors. parts (n,): ascending, in which part of time each segment lies; corrections are dealt anew within it,
    because other parts' answers learned from them.
    """
    corrected = labels.corrected
    after, said, shown, parts = after[corrected], labels.said[corrected], labels.shown[corrected], parts[corrected]
    if len(said) < 2:
        return 1.0
    rng = np.random.default_rng(seed)
    # From the true deal back to a common origin, and from there to as many others: all are then exchangeable with the true one.
    origin = _dealt(said[None, :], shown, parts, rng)
    deals = _dealt(np.repeat(origin, draws, axis=0), shown, parts, rng)
    places = np.arange(len(said))
    as_good = int((after[places, deals].sum(axis=1) >= after[places, said].sum() - 1e-9).sum())
    return (1 + as_good) / (1 + draws)


def _probability_said(log_posteriors: Floats, labels: LabelArrays) -> Floats:
    """How probable the person's word is (n,), given that they say one, with the temperature and weight of the shown that fit best."""
    centred = log_posteriors - log_posteriors.mean(axis=1, keepdims=True)
    logits = centred / max(float(np.sqrt(np.mean(centred**2))), _NOTHING)  # so that sharper ones are the same
    fitted = VectorScaling.fit(logits, labels, bias_spread=0, scale_spread=_ANY_SCALE)
    return np.asarray(np.exp(fitted.of_labels(logits, labels.shown)[np.arange(len(labels)), labels.said]))


def _dealt(said: Ints, shown: Ints, parts: Ints, rng: np.random.Generator) -> Ints:
    """Deals (d, n) after many sweeps in which random pairs within parts swap corrections or not; what would become what was shown stays."""
    said, rows = said.copy(), np.arange(len(said))[:, None]
    starts = np.flatnonzero(np.diff(parts, prepend=parts[0] - 1))
    firsts = np.concatenate([np.arange(a, b - 1, 2) for a, b in zip(starts, [*starts[1:], len(parts)], strict=True)])
    ranks = np.searchsorted(starts, np.arange(len(parts)), side="right")
    for _ in range(_SWEEPS):
        order = np.argsort(rng.random(said.shape) + ranks, axis=1)  # shuffled within parts
        one, other = order[:, firsts], order[:, firsts + 1]
        first, second = said[rows, one], said[rows, other]
        allowed = (first != shown[other]) & (second != shown[one]) & (rng.random(first.shape) < 0.5)
        said[rows, one], said[rows, other] = np.where(allowed, second, first), np.where(allowed, first, second)
    return said


@dataclass(frozen=True, slots=True)
class OtherVoices:
    """How they are answered. before, after: recall of each letter, NaN for those that do not occur. at_least: one-sided 95 % lower bound of
    the change of their mean, which is the unweighted accuracy. margin: by so much it may have fallen."""

    before: Floats
    after: Floats
    at_least: float
    margin: float


def other_voices(before: Floats, after: Floats, acted: Ints, speakers: Sequence[str], seed: int = 0) -> OtherVoices:
    """before, after (n, L): log-posteriors; acted (n,). The bound is bootstrapped over speakers, then over their clips, in pairs."""
    letters = before.shape[1]
    said = before.argmax(axis=1), after.argmax(axis=1)
    recalls = [recall(confusion_matrix(acted, one, letters)) for one in said]
    drawn = resample_pairs(acted, *said, speakers, letters, draws=_DRAWS, seed=seed)
    changes = average_recall(drawn[1]) - average_recall(drawn[0])
    chance = 1 / len(np.unique(acted))
    margin = (1 - KEPT_SHARE) * max(float(np.nanmean(recalls[0])) - chance, 0.0)
    return OtherVoices(recalls[0], recalls[1], float(np.quantile(changes, 0.05)), margin)


def personal_test(before: Floats, after: Floats, labels: LabelArrays, parts: Ints) -> PersonalTest:
    """before, after (n, L): log-posteriors of the bundle in use and of what learned from the other parts. parts (n,): see p_by_chance."""
    right_before, right_after = before.argmax(axis=1) == labels.said, after.argmax(axis=1) == labels.said
    return PersonalTest(
        segments=len(labels),
        right_before=int(right_before.sum()),
        right_after=int(right_after.sum()),
        gained=int((right_after & ~right_before).sum()),
        lost=int((right_before & ~right_after).sum()),
        net_gain=round(net_gain(before, after, labels), 2),
        p_no_better=round(p_no_better(before, after, labels), 4),
        p_by_chance=round(p_by_chance(after, labels, parts), 4),
        alpha=ALPHA,
    )


def rehearsal_test(clips: Sequence[RehearsalClip], before: Floats, after: Floats, letters: Sequence[Emotion]) -> RehearsalTest:
    """before, after (n, L): log-posteriors of the released bundle and of the new one."""
    acted = acted_letters(clips, letters)
    found = other_voices(before, after, acted, [clip.speaker for clip in clips])
    counts = Counter(acted.tolist())
    classes = {
        letter: RecallChange(clips=counts[k], before=round(float(found.before[k]), 4), after=round(float(found.after[k]), 4))
        for k, letter in enumerate(letters)
        if counts[k]
    }
    return RehearsalTest(
        clips=len(clips),
        speakers=len({clip.speaker for clip in clips}),
        uar_before=round(float(np.nanmean(found.before)), 4),
        uar_after=round(float(np.nanmean(found.after)), 4),
        change_at_least=round(found.at_least, 4),
        margin=round(found.margin, 4),
        classes=classes,
    )


def acted_letters(clips: Sequence[RehearsalClip], letters: Sequence[Emotion]) -> Ints:
    """Which letter each clip's emotion is, (n,)."""
    return np.array([letters.index(clip.emotion) for clip in clips if clip.emotion is not None])


def decide_verdict(own: PersonalTest, public: RehearsalTest) -> tuple[PromotionVerdict, str]:
    """Whether the new bundle may be used, and why, or why not."""
    if reason := _luck(own) or _no_better(own) or _collapsed(public):
        return PromotionVerdict.REFUSED, reason
    better = f"of your {own.segments} labels it answers {own.right_after} as you do; the model in use answers {own.right_before}"
    return PromotionVerdict.PROMOTED, f"{better}, and it still works for other voices"


def _luck(own: PersonalTest) -> str:
    if own.p_by_chance <= own.alpha:
        return ""
    chance = f"the chance of that is {own.p_by_chance:.3f}, at most {own.alpha:g} is allowed"
    return f"it may be luck: labels that say nothing about the sound could fit as well ({chance})"


def _no_better(own: PersonalTest) -> str:
    counts = f"of {own.segments} labels it gains {own.gained} and loses {own.lost}"
    if own.net_gain is None or own.net_gain <= 0:
        weighed = "" if own.gained <= own.lost else "; confirmations are rare, so what they lose weighs more"
        return f"it is no better for you: {counts}{weighed}"
    if own.p_no_better > own.alpha:
        return f"it is not shown to be better for you: {counts} (p = {own.p_no_better:.3f}, at most {own.alpha:g} is allowed)"
    return ""


def _collapsed(public: RehearsalTest) -> str:
    if public.change_at_least >= -public.margin:
        return ""
    fall = f"unweighted accuracy there may have fallen by {-public.change_at_least:.2f}"
    return f"it may not work for other voices any more: {fall}, at most {public.margin:.2f} is allowed"
