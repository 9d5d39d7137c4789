"""Divides what a person said by time into parts; each part in turn is held out from learning, and shows what was learned from the others.

Every label is held out once, and every fold learns from nearly all the others (cross-validation), so that few labels suffice to show a
gain. Parts are stretches of time, so that what is held out was not said in the same minute as what was learned from.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from model.decision import Learned
from model.evidence import Evidence, Kind
from model.types import Emotion
from train.nightly.settings import NightSettings


@dataclass(frozen=True, slots=True)
class Fold:
    """trained: with check-ins, but those from among what is held out. stopping, held_out: labels only, oldest first."""

    trained: list[Evidence]
    stopping: list[Evidence]
    held_out: list[Evidence]


@dataclass(frozen=True, slots=True)
class Division:
    """everything: what is learned from in the end. left_out: pieces that cannot be used, by reason."""

    everything: list[Evidence]
    folds: list[Fold]
    left_out: dict[str, int]

    @property
    def held_out(self) -> list[Evidence]:
        """All labels, oldest first."""
        return [one for fold in self.folds for one in fold.held_out]

    @property
    def learned(self) -> Learned:
        """In counts."""
        kinds = Counter(one.kind for one in self.everything)
        return Learned(
            corrections=kinds[Kind.CORRECTION],
            confirmations=kinds[Kind.CONFIRMATION],
            checkins=kinds[Kind.CHECKIN],
            trained=len(self.everything),
            held_out=len(self.held_out),
            left_out=self.left_out,
        )

    def lacking(self, settings: NightSettings) -> str:
        """Why nothing can be learned from this; empty where it can."""
        labels = self.held_out
        if len(labels) < settings.least_labels:
            return f"{len(labels)} corrections and confirmations are too few; at least {settings.least_labels} are needed"
        corrections = [one for one in labels if one.kind is Kind.CORRECTION]
        if len(corrections) < settings.least_corrections:
            return f"only {len(corrections)} labels are corrections; fewer than {settings.least_corrections} cannot tell luck from skill"
        if len({one.emotion for one in corrections}) < 2:
            return "all corrections name the same emotion; nothing can be learned from one emotion but to say it always"
        return ""


def divide(pieces: Iterable[Evidence], letters: Sequence[Emotion], settings: NightSettings) -> Division:
    """Labels in order of time, in as many parts of equal size as there are folds."""
    usable, left_out = list[Evidence](), Counter[str]()
    for one in pieces:
        if one.emotion in letters:
            usable.append(one)
        else:
            left_out[f"the bundle cannot answer {one.emotion.word}"] += 1
    usable.sort(key=lambda one: (one.at, one.segment))
    labels = [one for one in usable if one.kind is not Kind.CHECKIN]
    checkins = [one for one in usable if one.kind is Kind.CHECKIN]
    edges = [round(len(labels) * part / settings.folds) for part in range(settings.folds + 1)]
    folds = [_fold(labels, checkins, start, end, settings.stopping) for start, end in pairwise(edges)]
    return Division(usable, folds, dict(left_out))


def _fold(labels: Sequence[Evidence], checkins: Sequence[Evidence], start: int, end: int, stopping: float) -> Fold:
    held_out, others = list(labels[start:end]), [*labels[:start], *labels[end:]]
    kept = len(others) - ceil(stopping * len(others))
    apart = [one for one in checkins if not held_out or not held_out[0].at <= one.at <= held_out[-1].at]
    return Fold([*others[:kept], *apart], others[kept:], held_out)
