"""Whether what the person says of how they feel and what the model estimates go together: check-ins beside the speech around them.

A check-in is about a moment, and the estimate is about the voice around it, so they need not agree even if both are right; what is told is
whether they go together. With too little of both, nothing is told but that. The model is taken as it answered, without the person's
corrections. Pure arithmetic on records; knows no database and prints nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from model.types import Emotion, most_probable
from monitor.day.affect import expected_place
from monitor.day.likeness import Figure, expected_hits, kappa, rank_correlation, share
from monitor.store.records import LONGEST_SEGMENT_S, CheckIn, Estimate

NEAR = timedelta(minutes=30)
"""Speech up to this long before or after a check-in belongs to it."""

ENOUGH_SPEECH_S = 10.0
"""With less judged speech near it a check-in is not compared."""

ENOUGH_PAIRS, ENOUGH_DAYS = 10, 5
"""With fewer check-ins near speech, or on fewer days, nothing is told: an interval would reach from nearly -1 to nearly 1."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A check-in and the speech near it.

    on: its local date. said, estimated: valence, -1 to 1. named: what the person called it. heard: the emotion of most sure speech, None
    where nothing was sure. nameable: whether the model could have answered what was named.
    """

    on: date
    said: float
    estimated: float
    named: Emotion
    heard: Emotion | None
    nameable: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a person's check-ins with the model; every figure is None where there is too little to tell, or nothing ever varied.

    checkins: all there were. pairs, days: check-ins with enough speech near them, and on how many days. valence: rank correlation of the
    valence said and estimated, -1 to 1. compared: pairs with a name on both sides that the model can answer. hits: share of them where
    both are the same, 0 to 1. chance_hits: their number by chance. kappa: beyond chance, 1 for always.
    """

    checkins: int
    pairs: int
    days: int
    valence: Figure | None
    compared: int
    hits: Figure | None
    chance_hits: float
    kappa: Figure | None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same in plain words, for a report."""
        if self.pairs < ENOUGH_PAIRS or self.days < ENOUGH_DAYS:
            return (_too_little(self.pairs, self.days),)
        return (*_valence_words(self), *_name_words(self))


def windows(checkins: Iterable[CheckIn]) -> list[tuple[datetime, datetime]]:
    """The stretches of time, in order and apart, whose estimates `agreement` needs."""
    merged: list[tuple[datetime, datetime]] = []
    for at in sorted(checkin.at for checkin in checkins):
        if merged and at - NEAR <= merged[-1][1]:
            merged[-1] = (merged[-1][0], at + NEAR)
        else:
            merged.append((at - NEAR, at + NEAR))
    return merged


def agreement(checkins: Sequence[CheckIn], estimates: Iterable[Estimate], zone: ZoneInfo) -> Agreement:
    """Compare check-ins with the estimates in their `windows`; others are ignored. zone: of the dates by which pairs are alike."""
    judged = sorted({estimate.segment: estimate for estimate in estimates}.values(), key=lambda estimate: estimate.start_at)
    starts = [estimate.start_at for estimate in judged]
    pairs = []
    for checkin in checkins:
        first = bisect_left(starts, checkin.at - NEAR - timedelta(seconds=LONGEST_SEGMENT_S))
        pair = pair_of(checkin, judged[first : bisect_left(starts, checkin.at + NEAR)], checkin.at.astimezone(zone).date())
        if pair is not None:
            pairs.append(pair)
    return _compare(pairs, len(checkins))


def pair_of(checkin: CheckIn, near: Iterable[Estimate], on: date) -> Pair | None:
    """A check-in, of the local date `on`, and the judged speech near it, weighted by its time within the window.

    Contempt and other, which have no valence, are left out. None where there is too little.
    """
    seconds = valence = 0.0
    heard: defaultdict[Emotion, float] = defaultdict(float)
    answers: set[Emotion] = set()
    first, last = checkin.at - NEAR, checkin.at + NEAR
    for estimate in near:
        place = expected_place(estimate.posterior)
        overlap = (min(estimate.end_at, last) - max(estimate.start_at, first)).total_seconds()
        if place is None or overlap <= 0:
            continue
        seconds += overlap
        valence += place.valence * overlap
        answers |= estimate.posterior.keys()
        if not estimate.unsure:
            heard[most_probable(estimate.posterior)] += overlap
    if seconds < ENOUGH_SPEECH_S:
        return None
    most = max(heard, key=lambda emotion: heard[emotion], default=None)
    return Pair(on, checkin.valence, valence / seconds, checkin.emotion, most, checkin.emotion in answers)


def _compare(pairs: Sequence[Pair], checkins: int) -> Agreement:
    days = [pair.on for pair in pairs]
    valence = hits = beyond_chance = None
    if _enough(days):
        valence = rank_correlation([pair.said for pair in pairs], [pair.estimated for pair in pairs], days)
    both = [pair for pair in pairs if pair.heard is not None and pair.nameable]
    named, heard, on = [pair.named for pair in both], [pair.heard for pair in both], [pair.on for pair in both]
    if _enough(on):
        hits = share([one is other for one, other in zip(named, heard, strict=True)], on)
        beyond_chance = kappa(named, heard, on)
    chance = expected_hits(named, heard) if both else 0.0
    return Agreement(checkins, len(pairs), len(set(days)), valence, len(both), hits, chance, beyond_chance)


def _enough(days: Sequence[date]) -> bool:
    return len(days) >= ENOUGH_PAIRS and len(set(days)) >= ENOUGH_DAYS


def _too_little(pairs: int, days: int) -> str:
    have = "none" if not pairs else f"{pairs} on {_counted(days, 'day')}"
    return (
        "Too little to tell whether your word and the estimate agree: of check-ins with speech near them"
        f" {ENOUGH_PAIRS} on {ENOUGH_DAYS} days are needed, and there {'is' if pairs == 1 else 'are'} {have}."
    )


def _valence_words(found: Agreement) -> tuple[str, ...]:
    figure, basis = found.valence, f"{found.pairs} check-ins on {found.days} days"
    if figure is None:
        return (f"How pleasant you felt and how pleasant your voice sounded cannot be compared: one of them never changed ({basis}).",)
    if figure.low > 0:
        said = "When you felt better, your voice was estimated as more pleasant"
    elif figure.high < 0:
        said = "When you felt better, your voice was estimated as less pleasant, so do not rely on the estimate"
    else:
        said = "No agreement can be seen between how pleasant you felt and how pleasant your voice was estimated"
    return (f"{said}: rank correlation {figure.value:.2f}, 95 % interval {figure.low:.2f} to {figure.high:.2f}, from {basis}.",)


def _name_words(found: Agreement) -> tuple[str, ...]:
    if found.hits is None:
        return ()
    same, chance = round(found.hits.value * found.compared), round(found.chance_hits)
    said = f"Where you named a feeling that the model knows, most of your speech was estimated as the same in {same} of {found.compared}"
    words = f"{said} ({found.hits.low * 100:.0f} to {found.hits.high * 100:.0f} %); {chance} would be expected by chance"
    return (
        f"{words} (Cohen's kappa {found.kappa.value:.2f}, {found.kappa.low:.2f} to {found.kappa.high:.2f})."
        if found.kappa
        else f"{words}.",
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
