"""Divides what a person said by time: the earlier teaches, the latest judges, so that the gate asks about days that are still to come."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.decision import Learned
from model.evidence import Evidence, Kind
from model.types import Emotion
from train.nightly.settings import NightSettings

LEAST_LABELS = 20
LEAST_CORRECTIONS_HELD_OUT = 5
"""Under it no test could tell a better bundle from luck."""


@dataclass(frozen=True, slots=True)
class Division:
    """trained: with check-ins, which are from before what is held out. stopping, held_out: labels only, oldest first."""

    trained: list[Evidence]
    stopping: list[Evidence]
    held_out: list[Evidence]
    left_out: dict[str, int]

    @property
    def everything(self) -> list[Evidence]:
        """All that is used in some way."""
        return [*self.trained, *self.stopping, *self.held_out]

    @property
    def learned(self) -> Learned:
        """In counts."""
        kinds = Counter(one.kind for one in self.everything)
        return Learned(
            corrections=kinds[Kind.CORRECTION],
            confirmations=kinds[Kind.CONFIRMATION],
            checkins=kinds[Kind.CHECKIN],
            trained=len(self.trained),
            stopping=len(self.stopping),
            held_out=len(self.held_out),
            left_out=self.left_out,
        )

    @property
    def lacking(self) -> str:
        """Why nothing can be learned from this; empty where it can."""
        labels = [one for one in self.everything if one.kind is not Kind.CHECKIN]
        if len(labels) < LEAST_LABELS:
            return f"{len(labels)} corrections and confirmations are too few; {LEAST_LABELS} are needed at least"
        if len({one.emotion for one in labels if one.kind is Kind.CORRECTION}) < 2:
            return "all corrections name the same emotion, and from one emotion nothing can be learned but to say it always"
        if len({one.emotion for one in self.trained}) < 2:
            return "the earlier labels name only one emotion, and from one emotion nothing can be learned but to say it always"
        held = sum(one.kind is Kind.CORRECTION for one in self.held_out)
        if held < LEAST_CORRECTIONS_HELD_OUT:
            return f"only {held} of the latest labels are corrections; under {LEAST_CORRECTIONS_HELD_OUT} do not tell luck from skill"
        return ""


def divide(pieces: Iterable[Evidence], letters: Sequence[Emotion], settings: NightSettings) -> Division:
    """Labels by time; check-ins that are later than the first held-out label are not used, as they would tell of its day."""
    usable, left_out = list[Evidence](), Counter[str]()
    for one in pieces:
        if one.emotion in letters:
            usable.append(one)
        else:
            left_out[f"the bundle cannot answer {one.emotion.word}"] += 1
    labels = sorted((one for one in usable if one.kind is not Kind.CHECKIN), key=lambda one: (one.at, one.segment))
    held_out = labels[len(labels) - math.ceil(settings.held_out * len(labels)) :]
    earlier = labels[: len(labels) - len(held_out)]
    stopping = earlier[len(earlier) - math.ceil(settings.stopping * len(earlier)) :]
    trained = earlier[: len(earlier) - len(stopping)]
    before = held_out[0].at if held_out else None
    checkins = [one for one in usable if one.kind is Kind.CHECKIN and (before is None or one.at < before)]
    if late := len(usable) - len(labels) - len(checkins):
        left_out["check-ins of the latest days"] += late
    return Division([*trained, *checkins], stopping, held_out, dict(left_out))
