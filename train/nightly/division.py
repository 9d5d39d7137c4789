"""Divides what a person said by time into rounds: each learns from what came before and is asked about what came next.

So every label but the first ones is once held out, from weights that learned only from earlier ones (prequential, Dawid 1984), and the gate
asks about days that are still to come. The last round's weights, which learned from the most, are those that may be used.
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
class Round:
    """trained: with check-ins, which are from before what is held out. stopping, held_out: labels only, oldest first."""

    trained: list[Evidence]
    stopping: list[Evidence]
    held_out: list[Evidence]


@dataclass(frozen=True, slots=True)
class Division:
    """left_out: pieces that no round uses, by reason."""

    rounds: list[Round]
    left_out: dict[str, int]

    @property
    def last(self) -> Round:
        """The round whose weights may be used."""
        return self.rounds[-1]

    @property
    def held_out(self) -> list[Evidence]:
        """Of all rounds, oldest first."""
        return [one for turn in self.rounds for one in turn.held_out]

    @property
    def everything(self) -> list[Evidence]:
        """All that is used in some way."""
        return [*self.last.trained, *self.last.stopping, *self.last.held_out]

    @property
    def learned(self) -> Learned:
        """In counts."""
        kinds = Counter(one.kind for one in self.everything)
        return Learned(
            corrections=kinds[Kind.CORRECTION],
            confirmations=kinds[Kind.CONFIRMATION],
            checkins=kinds[Kind.CHECKIN],
            trained=len(self.last.trained),
            stopping=len(self.last.stopping),
            held_out=len(self.held_out),
            left_out=self.left_out,
        )

    def lacking(self, settings: NightSettings) -> str:
        """Why nothing can be learned from this; empty where it can."""
        labels = [one for one in self.everything if one.kind is not Kind.CHECKIN]
        if len(labels) < settings.least_labels:
            return f"{len(labels)} corrections and confirmations are too few; {settings.least_labels} are needed at least"
        if len({one.emotion for one in labels if one.kind is Kind.CORRECTION}) < 2:
            return "all corrections name the same emotion, and from one emotion nothing can be learned but to say it always"
        corrections = sum(one.kind is Kind.CORRECTION for one in self.held_out)
        if corrections < settings.least_corrections:
            return f"only {corrections} of the later labels are corrections; under {settings.least_corrections} do not tell luck from skill"
        return ""


def divide(pieces: Iterable[Evidence], letters: Sequence[Emotion], settings: NightSettings) -> Division:
    """Labels in order of time, in one part more than there are rounds; check-ins go with the time they are from."""
    usable, left_out = list[Evidence](), Counter[str]()
    for one in pieces:
        if one.emotion in letters:
            usable.append(one)
        else:
            left_out[f"the bundle cannot answer {one.emotion.word}"] += 1
    usable.sort(key=lambda one: (one.at, one.segment))
    labels = [one for one in usable if one.kind is not Kind.CHECKIN]
    edges = [round(len(labels) * part / (settings.rounds + 1)) for part in range(1, settings.rounds + 2)]
    rounds = [_round(usable, labels, start, end, settings.stopping) for start, end in pairwise(edges)]
    late = len(usable) - len(labels) - sum(one.kind is Kind.CHECKIN for one in rounds[-1].trained)
    return Division(rounds, {**left_out, **({"check-ins of the latest days": late} if late else {})})


def _round(usable: Sequence[Evidence], labels: Sequence[Evidence], start: int, end: int, stopping: float) -> Round:
    earlier, held_out = labels[:start], list(labels[start:end])
    kept = len(earlier) - ceil(stopping * len(earlier))
    checkins = [one for one in usable if one.kind is Kind.CHECKIN and held_out and one.at < held_out[0].at]
    return Round([*earlier[:kept], *checkins], list(earlier[kept:]), held_out)
