"""Agreement between what the person reports and what the model estimates: check-ins, labels and answered prompts.

Statistics: rank correlation, hit rate and Cohen's kappa, each with a 95 % interval that allows for days: five answers on one bad day
are not five independent observations. Each interval uses the effective number of pairs that the spread over days leaves (Kish's design
effect; the variance is linearised by the influence function and summed by day). In simulations with 5 to 30 days of 1 to 4 pairs, and
half of the variance between days, 95 % intervals held the true rank correlation in 93 to 98 % of cases; without the correction in 87 %.

A check-in is about a moment and the estimate about the voice around it, so they need not agree even if both are right. With too little of
either, nothing is reported but that. The model's own answers are compared, without the person's corrections. Pure arithmetic on records.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from math import atanh, sqrt, tanh
from statistics import NormalDist, fmean, pstdev
from zoneinfo import ZoneInfo

from model.emotions import Emotion, most_probable_emotion
from monitor.analysis.affect import expected_affect
from monitor.storage.records import MAX_SEGMENT_S, PROMPT_ANSWER_WINDOW, CheckIn, PredictedSegment, Prompt, SegmentRecord

_Z = NormalDist().inv_cdf(0.975)
_NEARLY_ONE = 0.999


@dataclass(frozen=True, slots=True)
class Statistic:
    """A figure with its 95 % interval, and of how many pairs it was made."""

    value: float
    low: float
    high: float
    pairs: int


def rank_correlation(first: Sequence[float], second: Sequence[float], days: Sequence[Hashable]) -> Statistic | None:
    """Spearman's rank correlation, -1 to 1, with mean ranks for ties; None where one of the series never changes.

    days: of each pair. The interval is Bonett & Wright's (2000), Psychometrika 65, 23-28.
    """
    x, y = _standardized(_ranks(first)), _standardized(_ranks(second))
    if x is None or y is None:
        return None
    value = max(-1.0, min(1.0, fmean(a * b for a, b in zip(x, y, strict=True))))
    independent = _effective_pairs([a * b - value * (a * a + b * b) / 2 for a, b in zip(x, y, strict=True)], days)
    if independent <= 3:
        return Statistic(value, -1.0, 1.0, len(x))
    half = _Z * sqrt((1 + value * value / 2) / (independent - 3))
    middle = atanh(max(-_NEARLY_ONE, min(_NEARLY_ONE, value)))
    return Statistic(value, min(value, tanh(middle - half)), max(value, tanh(middle + half)), len(x))


def hit_rate(hits: Sequence[bool], days: Sequence[Hashable]) -> Statistic | None:
    """How many of all are hits, 0 to 1, with Wilson's interval (1927); None where there are none at all."""
    if not hits:
        return None
    value = fmean(hits)
    independent = _effective_pairs([hit - value for hit in hits], days)
    spread = _Z * _Z / independent
    middle = (value + spread / 2) / (1 + spread)
    half = _Z * sqrt((value * (1 - value) + spread / 4) / independent) / (1 + spread)
    return Statistic(value, max(0.0, middle - half), min(1.0, middle + half), len(hits))


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable], days: Sequence[Hashable]) -> Statistic | None:
    """Cohen's kappa (1960): agreement beyond what chance would give, 1 for always, 0 for chance, below 0 for less.

    Its interval is that of the share of hits, with chance taken as known. None where there are no pairs, or all are of one name.
    """
    hits = hit_rate([a == b for a, b in zip(first, second, strict=True)], days)
    if hits is None:
        return None
    chance = expected_hits(first, second) / len(first)
    if chance == 1:
        return None
    value, low, high = ((bound - chance) / (1 - chance) for bound in (hits.value, hits.low, hits.high))
    return Statistic(value, low, high, hits.pairs)


def expected_hits(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """How many pairs would be equal by chance, given how often each name occurs in both."""
    seconds = Counter(second)
    return sum(count * seconds[name] for name, count in Counter(first).items()) / len(first)


def _effective_pairs(influences: Sequence[float], days: Sequence[Hashable]) -> float:
    """As how many independent pairs these count; never more than there are."""
    by_day: defaultdict[Hashable, float] = defaultdict(float)
    for influence, day in zip(influences, days, strict=True):
        by_day[day] += influence
    alone, together = sum(one * one for one in influences), sum(one * one for one in by_day.values())
    return len(influences) * min(1.0, alone / together) if together else len(influences)


def _ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    ranks = [0.0] * len(values)
    following = 1
    for _, tied in groupby(order, key=lambda place: values[place]):
        places = list(tied)
        for place in places:
            ranks[place] = following + (len(places) - 1) / 2
        following += len(places)
    return ranks


def _standardized(values: Sequence[float]) -> list[float] | None:
    """With mean 0 and standard deviation 1; None where all are equal, or there are none."""
    spread = pstdev(values) if values else 0.0
    if not spread:
        return None
    middle = fmean(values)
    return [(value - middle) / spread for value in values]


CHECKIN_WINDOW = timedelta(minutes=30)
"""Speech up to this long before or after a check-in belongs to it."""

MIN_CHECKIN_SPEECH_S = 10.0
"""With less judged speech near it a check-in is not compared."""

MIN_PAIRS, MIN_DAYS = 10, 5
"""With fewer check-ins near speech, or on fewer days, nothing is told: an interval would reach from nearly -1 to nearly 1."""


@dataclass(frozen=True, slots=True)
class CheckInPair:
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
class CheckInAgreement:
    """Of a person's check-ins with the model; every figure is None where there is too little to tell, or nothing ever varied.

    checkins: all there were. pairs, days: check-ins with enough speech near them, and on how many days. valence: rank correlation of the
    valence said and estimated, -1 to 1. compared: pairs with a name on both sides that the model can answer. hits: share of them where
    both are the same, 0 to 1. chance_hits: their number by chance. kappa: beyond chance, 1 for always.
    """

    checkins: int
    pairs: int
    days: int
    valence: Statistic | None
    compared: int
    hits: Statistic | None
    chance_hits: float
    kappa: Statistic | None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same in plain words, for a report."""
        if self.pairs < MIN_PAIRS or self.days < MIN_DAYS:
            return (_too_little(self.pairs, self.days),)
        return (*_valence_words(self), *_name_words(self))


def checkin_windows(checkins: Iterable[CheckIn]) -> list[tuple[datetime, datetime]]:
    """The stretches of time, in order and apart, whose estimates `checkin_agreement` needs."""
    merged: list[tuple[datetime, datetime]] = []
    for at in sorted(checkin.at for checkin in checkins):
        if merged and at - CHECKIN_WINDOW <= merged[-1][1]:
            merged[-1] = (merged[-1][0], at + CHECKIN_WINDOW)
        else:
            merged.append((at - CHECKIN_WINDOW, at + CHECKIN_WINDOW))
    return merged


def checkin_agreement(checkins: Sequence[CheckIn], estimates: Iterable[PredictedSegment], zone: ZoneInfo) -> CheckInAgreement:
    """Compare check-ins with the estimates in their `checkin_windows`; others are ignored. zone: of the dates by which pairs are alike."""
    judged = sorted({estimate.segment: estimate for estimate in estimates}.values(), key=lambda estimate: estimate.start_at)
    starts = [estimate.start_at for estimate in judged]
    pairs = []
    for checkin in checkins:
        first = bisect_left(starts, checkin.at - CHECKIN_WINDOW - timedelta(seconds=MAX_SEGMENT_S))
        pair = pair_checkin(checkin, judged[first : bisect_left(starts, checkin.at + CHECKIN_WINDOW)], checkin.at.astimezone(zone).date())
        if pair is not None:
            pairs.append(pair)
    return _compare(pairs, len(checkins))


def pair_checkin(checkin: CheckIn, near: Iterable[PredictedSegment], on: date) -> CheckInPair | None:
    """A check-in, of the local date `on`, and the judged speech near it, weighted by its time within the window.

    Contempt and other, which have no valence, are left out. None where there is too little.
    """
    seconds = valence = 0.0
    heard: defaultdict[Emotion, float] = defaultdict(float)
    answers: set[Emotion] = set()
    first, last = checkin.at - CHECKIN_WINDOW, checkin.at + CHECKIN_WINDOW
    for estimate in near:
        place = expected_affect(estimate.posterior)
        overlap = (min(estimate.end_at, last) - max(estimate.start_at, first)).total_seconds()
        if place is None or overlap <= 0:
            continue
        seconds += overlap
        valence += place.valence * overlap
        answers |= estimate.posterior.keys()
        if not estimate.unsure:
            heard[most_probable_emotion(estimate.posterior)] += overlap
    if seconds < MIN_CHECKIN_SPEECH_S:
        return None
    most = max(heard, key=lambda emotion: heard[emotion], default=None)
    return CheckInPair(on, checkin.valence, valence / seconds, checkin.emotion, most, checkin.emotion in answers)


def _compare(pairs: Sequence[CheckInPair], checkins: int) -> CheckInAgreement:
    days = [pair.on for pair in pairs]
    valence = hits = beyond_chance = None
    if _enough(days):
        valence = rank_correlation([pair.said for pair in pairs], [pair.estimated for pair in pairs], days)
    both = [pair for pair in pairs if pair.heard is not None and pair.nameable]
    named, heard, on = [pair.named for pair in both], [pair.heard for pair in both], [pair.on for pair in both]
    if _enough(on):
        hits = hit_rate([one is other for one, other in zip(named, heard, strict=True)], on)
        beyond_chance = cohen_kappa(named, heard, on)
    chance = expected_hits(named, heard) if both else 0.0
    return CheckInAgreement(checkins, len(pairs), len(set(days)), valence, len(both), hits, chance, beyond_chance)


def _enough(days: Sequence[date]) -> bool:
    return len(days) >= MIN_PAIRS and len(set(days)) >= MIN_DAYS


def _too_little(pairs: int, days: int) -> str:
    have = "none" if not pairs else f"{pairs} on {_counted(days, 'day')}"
    return (
        "Not enough data to compare your check-ins with the estimates: check-ins with speech around them are needed,"
        f" at least {MIN_PAIRS} on {MIN_DAYS} days; so far there {'is' if pairs == 1 else 'are'} {have}."
    )


def _valence_words(found: CheckInAgreement) -> tuple[str, ...]:
    figure, basis = found.valence, f"{found.pairs} check-ins on {found.days} days"
    if figure is None:
        return (
            f"How pleasant you felt and how pleasant your voice sounded cannot be compared, because one of them never changed ({basis}).",
        )
    if figure.low > 0:
        said = "When you felt better, your voice was estimated to be more pleasant"
    elif figure.high < 0:
        said = "When you felt better, your voice was estimated to be less pleasant, so do not rely on the estimates"
    else:
        said = "There is no visible agreement between how pleasant you felt and how pleasant your voice was estimated to be"
    return (f"{said}: rank correlation {figure.value:.2f}, 95 % interval {figure.low:.2f} to {figure.high:.2f}, from {basis}.",)


def _name_words(found: CheckInAgreement) -> tuple[str, ...]:
    if found.hits is None:
        return ()
    same, chance = round(found.hits.value * found.compared), round(found.chance_hits)
    said = f"For check-ins with an emotion the model knows, most nearby speech got the same emotion in {same} of {found.compared}"
    words = f"{said} ({found.hits.low * 100:.0f} to {found.hits.high * 100:.0f} %); {chance} are expected by chance"
    return (
        f"{words} (Cohen's kappa {found.kappa.value:.2f}, {found.kappa.low:.2f} to {found.kappa.high:.2f})."
        if found.kappa
        else f"{words}.",
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """What the person said of judged pieces: the same as the model, or another emotion; unanswerable: of those, what it cannot answer.

    share: of the same among all, 0 to 1. People label what they notice, so it is not how often the model is right.
    """

    same: int
    other: int
    unanswerable: int
    share: Statistic | None

    @property
    def sentence(self) -> str:
        """The same in plain words, for a report; empty where nothing was labelled."""
        if not self.same + self.other:
            return ""
        return (
            f"You labelled {_counted(self.same + self.other, 'segment')}: the estimate agreed in {self.same} and differed in"
            f" {self.other}. You chose which segments to label, so this is not the accuracy of the estimates."
        )


@dataclass(frozen=True, slots=True)
class PromptCompliance:
    """How often the person was asked to check in, and how often they did within ANSWER_WITHIN."""

    asked: int
    answered: int

    @property
    def sentence(self) -> str:
        """The same in plain words, for a report; empty where nobody was asked."""
        return f"You answered {self.answered} of {_counted(self.asked, 'check-in prompt')}." if self.asked else ""


@dataclass(frozen=True, slots=True)
class SelfReport:
    """All of it."""

    agreement: CheckInAgreement
    labels: LabelAgreement
    compliance: PromptCompliance

    @property
    def sentences(self) -> tuple[str, ...]:
        """What there is to tell, in plain words. Nothing where the person never said anything."""
        told = self.agreement.sentences if self.agreement.checkins else ()
        return tuple(sentence for sentence in (*told, self.labels.sentence, self.compliance.sentence) if sentence)


def label_agreement(entries: Iterable[SegmentRecord], zone: ZoneInfo) -> LabelAgreement:
    """Compare what the person said of segments with what the model had answered; segments without both are ignored."""
    same: list[bool] = []
    days: list[date] = []
    unanswerable = 0
    for entry in entries:
        if entry.prediction is None or entry.correction is None:
            continue
        same.append(entry.correction.emotion is entry.prediction.emotion)
        days.append(entry.start_at.astimezone(zone).date())
        unanswerable += entry.correction.emotion not in entry.prediction.posterior
    return LabelAgreement(sum(same), len(same) - sum(same), unanswerable, hit_rate(same, days))


def prompt_compliance(prompts: Iterable[Prompt], now: datetime) -> PromptCompliance:
    """Count prompts and answers; one that may still be answered at `now` does not count yet."""
    settled = [prompt for prompt in prompts if prompt.checkin_id is not None or prompt.at + PROMPT_ANSWER_WINDOW < now]
    return PromptCompliance(len(settled), sum(prompt.checkin_id is not None for prompt in settled))
