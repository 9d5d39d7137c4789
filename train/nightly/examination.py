"""Puts the gate's figures together: what the person's held-out labels and the public set say, and the verdict in a sentence.

n segments, L letters.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from model.decision import ClassChange, OwnTest, PublicTest, Verdict
from model.evidence import Kind
from model.types import Emotion
from train.nightly.division import Round
from train.nightly.gate import ALPHA, CLASS_MARGIN, MARGIN, Floats, Ints, p_by_chance, p_no_better, steadiness
from train.public_set import PublicClip


def own_test(rounds: Sequence[Round], before: Floats, after: Floats, letters: Sequence[Emotion]) -> OwnTest:
    """before, after (n, L): posteriors of the bundle in use and of each round's weights, for what the rounds held out, in their order."""
    held_out = [one for turn in rounds for one in turn.held_out]
    turns = np.repeat(np.arange(len(rounds)), [len(turn.held_out) for turn in rounds])
    said = np.array([letters.index(one.emotion) for one in held_out])
    right_before, right_after = before.argmax(axis=1) == said, after.argmax(axis=1) == said
    gained, lost = int((right_after & ~right_before).sum()), int((right_before & ~right_after).sum())
    corrected = np.array([one.kind is Kind.CORRECTION for one in held_out])
    # What was shown may be an emotion that this bundle cannot answer; nothing can be dealt to it then.
    shown = np.array([letters.index(one.shown) if one.shown in letters else -1 for one in held_out])
    chance = p_by_chance(before[corrected], after[corrected], said[corrected], shown[corrected], turns[corrected])
    return OwnTest(
        segments=len(held_out),
        right_before=int(right_before.sum()),
        right_after=int(right_after.sum()),
        gained=gained,
        lost=lost,
        p_no_better=round(p_no_better(gained, lost), 4),
        p_by_chance=round(chance, 4),
        alpha=ALPHA,
    )


def public_test(clips: Sequence[PublicClip], before: Floats, after: Floats, letters: Sequence[Emotion]) -> PublicTest:
    """before, after (n, L): posteriors of the released bundle and of the new one."""
    acted = acted_in(clips, letters)
    steady = steadiness(before, after, acted, [clip.speaker for clip in clips])
    counts = Counter(acted.tolist())
    classes = {
        letter: ClassChange(clips=counts[k], before=round(float(steady.before[k]), 4), after=round(float(steady.after[k]), 4))
        for k, letter in enumerate(letters)
        if counts[k]
    }
    return PublicTest(
        clips=len(clips),
        speakers=len({clip.speaker for clip in clips}),
        uar_before=round(float(np.nanmean(steady.before)), 4),
        uar_after=round(float(np.nanmean(steady.after)), 4),
        change_at_least=round(steady.at_least, 4),
        margin=MARGIN,
        classes=classes,
        class_margin=CLASS_MARGIN,
    )


def acted_in(clips: Sequence[PublicClip], letters: Sequence[Emotion]) -> Ints:
    """Which letter each clip's emotion is, (n,)."""
    return np.array([letters.index(clip.emotion) for clip in clips if clip.emotion is not None])


def verdict_of(own: OwnTest, public: PublicTest, steps: int) -> tuple[Verdict, str]:
    """Whether the new bundle may be used, and why, or why not."""
    if steps == 0:
        return Verdict.REFUSED, "learning from the earlier labels made the later ones no likelier"
    if lacking := _not_better(own) or _forgotten(public):
        return Verdict.REFUSED, lacking
    better = f"of {own.segments} held-out labels it answers {own.right_after} as you do, {own.right_before} before"
    return Verdict.PROMOTED, f"{better}, and other voices as well as it did"


def _not_better(own: OwnTest) -> str:
    if own.p_no_better > own.alpha:
        counts = f"of {own.segments} held-out labels it gains {own.gained} and loses {own.lost}"
        return f"it is not shown to be better: {counts} (p = {own.p_no_better:.3f}, needed {own.alpha})"
    if own.p_by_chance > own.alpha:
        luck = "labels that say nothing about the sound would do as well"
        return f"what it gains may be luck: {luck} (p = {own.p_by_chance:.3f}, needed {own.alpha})"
    return ""


def _forgotten(public: PublicTest) -> str:
    if public.change_at_least < -public.margin:
        fall = f"unweighted accuracy there may have fallen by {-public.change_at_least:.3f}"
        return f"it may have forgotten other voices: {fall} (allowed {public.margin})"
    for letter, change in public.classes.items():
        if change.before - change.after > public.class_margin:
            fall = f"found {change.after:.2f} instead of {change.before:.2f}"
            return f"it forgot {letter.word} in other voices: {fall} (allowed {public.class_margin})"
    return ""
