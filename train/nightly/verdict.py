"""Puts the promotion test's figures together: what the person's labels and other voices say, and the verdict in a sentence.

n segments, L letters.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from model.decision import ClassChange, OwnTest, PublicTest, Verdict
from model.types import Emotion
from train.nightly.labels import Labels
from train.nightly.promotion import ALPHA, net_gain, other_voices, p_by_chance, p_no_better
from train.public_set import PublicClip
from train.scoring.metrics import Floats, Ints


def own_test(before: Floats, after: Floats, labels: Labels, parts: Ints) -> OwnTest:
    """before, after (n, L): log-posteriors of the bundle in use and of what learned from the other parts. parts (n,): see p_by_chance."""
    right_before, right_after = before.argmax(axis=1) == labels.said, after.argmax(axis=1) == labels.said
    return OwnTest(
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


def public_test(clips: Sequence[PublicClip], before: Floats, after: Floats, letters: Sequence[Emotion]) -> PublicTest:
    """before, after (n, L): log-posteriors of the released bundle and of the new one."""
    acted = acted_in(clips, letters)
    found = other_voices(before, after, acted, [clip.speaker for clip in clips])
    counts = Counter(acted.tolist())
    classes = {
        letter: ClassChange(clips=counts[k], before=round(float(found.before[k]), 4), after=round(float(found.after[k]), 4))
        for k, letter in enumerate(letters)
        if counts[k]
    }
    return PublicTest(
        clips=len(clips),
        speakers=len({clip.speaker for clip in clips}),
        uar_before=round(float(np.nanmean(found.before)), 4),
        uar_after=round(float(np.nanmean(found.after)), 4),
        change_at_least=round(found.at_least, 4),
        margin=round(found.margin, 4),
        classes=classes,
    )


def acted_in(clips: Sequence[PublicClip], letters: Sequence[Emotion]) -> Ints:
    """Which letter each clip's emotion is, (n,)."""
    return np.array([letters.index(clip.emotion) for clip in clips if clip.emotion is not None])


def verdict_of(own: OwnTest, public: PublicTest) -> tuple[Verdict, str]:
    """Whether the new bundle may be used, and why, or why not."""
    if reason := _luck(own) or _no_better(own) or _collapsed(public):
        return Verdict.REFUSED, reason
    better = f"of your {own.segments} labels it answers {own.right_after} as you do; the model in use answers {own.right_before}"
    return Verdict.PROMOTED, f"{better}, and it still works for other voices"


def _luck(own: OwnTest) -> str:
    if own.p_by_chance <= own.alpha:
        return ""
    chance = f"the chance of that is {own.p_by_chance:.3f}, at most {own.alpha:g} is allowed"
    return f"it may be luck: labels that say nothing about the sound could fit as well ({chance})"


def _no_better(own: OwnTest) -> str:
    counts = f"of {own.segments} labels it gains {own.gained} and loses {own.lost}"
    if own.net_gain is None or own.net_gain <= 0:
        weighed = "" if own.gained <= own.lost else "; confirmations are rare, so what they lose weighs more"
        return f"it is no better for you: {counts}{weighed}"
    if own.p_no_better > own.alpha:
        return f"it is not shown to be better for you: {counts} (p = {own.p_no_better:.3f}, at most {own.alpha:g} is allowed)"
    return ""


def _collapsed(public: PublicTest) -> str:
    if public.change_at_least >= -public.margin:
        return ""
    fall = f"unweighted accuracy there may have fallen by {-public.change_at_least:.2f}"
    return f"it may not work for other voices any more: {fall}, at most {public.margin:.2f} is allowed"
