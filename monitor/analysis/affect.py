"""Maps emotions to valence and arousal, and computes affect dynamics: variability, instability, inertia, runs and transitions.

Valence and arousal of each emotion are the mean ratings of the adjectives happy, angry, disgusted, fearful, sad and surprised in
Russell & Mehrabian (1977), "Evidence for a three-factor theory of emotions", Journal of Research in Personality 11, 273-294, from -1 to
1. Neutral is 0, 0 by definition. They are ratings of words, not of voices: surprise is pleasant there and need not be in a voice.
Contempt and other have no rating in that study, so their probability is left out.

Dynamics follow the literature: variability is the standard deviation; instability the mean squared successive difference (MSSD; Jahng,
Wood & Trull 2008, Psychological Methods 13, 354-375); inertia the lag-1 autocorrelation (Kuppens, Allen & Sheeber 2010, Psychological
Science 21, 984-991); all three as in Houben, Van Den Noortgate & Kuppens (2015), Psychological Bulletin 141, 901-930. Those studies
sample at planned times; speech is unequally spaced, so only segments at most NEIGHBOURS_S apart are successive, and a talkative day
says more about its conversations than about the time between them. The figures compare a person's own days only, not with studies that
use questionnaires.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from math import fsum, sqrt

from model.emotions import Emotion
from monitor.analysis.summary import AffectDynamics, EmotionRun
from monitor.storage.records import SegmentRecord

AFFECT_SOURCE = "Russell & Mehrabian (1977), Journal of Research in Personality 11, 273-294; neutral is 0, 0"


@dataclass(frozen=True, slots=True)
class AffectPoint:
    """valence: -1 (unpleasant) to 1 (pleasant). arousal: -1 (calm) to 1 (excited)."""

    valence: float
    arousal: float


EMOTION_AFFECT: Mapping[Emotion, AffectPoint] = {
    Emotion.ANGRY: AffectPoint(-0.51, 0.59),
    Emotion.SAD: AffectPoint(-0.63, -0.27),
    Emotion.HAPPY: AffectPoint(0.81, 0.51),
    Emotion.SURPRISE: AffectPoint(0.40, 0.67),
    Emotion.FEAR: AffectPoint(-0.64, 0.60),
    Emotion.DISGUST: AffectPoint(-0.60, 0.35),
    Emotion.NEUTRAL: AffectPoint(0.0, 0.0),
}

# With less probability than this on emotions that have a place, the rest says too little.
_ENOUGH_PLACED = 0.5


def expected_affect(posterior: Mapping[Emotion, float]) -> AffectPoint | None:
    """The expectation over a posterior, of the emotions that have a place; None when more than half of it lies on others."""
    valence = arousal = placed = 0.0
    for emotion, probability in posterior.items():
        place = EMOTION_AFFECT.get(emotion)
        if place is not None:
            valence += probability * place.valence
            arousal += probability * place.arousal
            placed += probability
    if placed < _ENOUGH_PLACED:
        return None
    return AffectPoint(valence / placed, arousal / placed)


def segment_affect(entry: SegmentRecord) -> AffectPoint | None:
    """Where a segment lies: at the emotion that the person named, else at the expectation over what the model said.

    Unsure segments count: a posterior that is spread out lies where it does, and leaving it out would favour strong emotions.
    """
    if entry.correction is not None and not entry.correction.confirmed:
        return EMOTION_AFFECT.get(entry.correction.emotion)
    return expected_affect(entry.prediction.posterior) if entry.prediction is not None else None


NEIGHBOURS_S = 300.0
"""Segments with a longer pause between them are not successive: five minutes of silence is another situation."""

MIN_SEGMENTS_FOR_SD = 5
MIN_SUCCESSIVE_PAIRS = 10
"""With fewer segments, or pairs of neighbours, there is no figure."""

_LONGEST_PAUSE = timedelta(seconds=NEIGHBOURS_S)
# A dimension that moves less than rounding errors does not move.
_STILL = 1e-12


def follows(before: SegmentRecord, after: SegmentRecord) -> bool:
    """Whether two segments, in order, are neighbours."""
    return after.start_at - before.end_at <= _LONGEST_PAUSE


def affect_dynamics(values: Sequence[float], seconds: Sequence[float], linked: Sequence[bool]) -> AffectDynamics:
    """Figures of at least one segment, in order. seconds: their weights. linked: of each, whether it is the neighbour of the one before."""
    total = fsum(seconds)
    mean = fsum(value * weight for value, weight in zip(values, seconds, strict=True)) / total
    variance = fsum(weight * (value - mean) ** 2 for value, weight in zip(values, seconds, strict=True)) / total
    pairs = [(values[i - 1], values[i]) for i in range(1, len(values)) if linked[i]]
    enough = len(pairs) >= MIN_SUCCESSIVE_PAIRS
    return AffectDynamics(
        mean=mean,
        sd=sqrt(variance) if len(values) >= MIN_SEGMENTS_FOR_SD else None,
        mssd=fsum((after - before) ** 2 for before, after in pairs) / len(pairs) if enough else None,
        inertia=_inertia(pairs) if enough else None,
    )


def _inertia(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's correlation of each value with its neighbour's; None where nothing moves, because then it is anything."""
    first = fsum(before for before, _ in pairs) / len(pairs)
    second = fsum(after for _, after in pairs) / len(pairs)
    before_var = fsum((before - first) ** 2 for before, _ in pairs) / len(pairs)
    after_var = fsum((after - second) ** 2 for _, after in pairs) / len(pairs)
    if before_var < _STILL or after_var < _STILL:
        return None
    covariance = fsum((before - first) * (after - second) for before, after in pairs) / len(pairs)
    return max(-1.0, min(1.0, covariance / sqrt(before_var * after_var)))


def transitions(named: Iterable[tuple[SegmentRecord, Emotion]]) -> dict[tuple[Emotion, Emotion], int]:
    """How often a segment of one emotion was followed by one of another, or of the same, among neighbours. In order."""
    counts: dict[tuple[Emotion, Emotion], int] = {}
    for (before, emotion), (after, following) in pairwise(named):
        if follows(before, after):
            counts[emotion, following] = counts.get((emotion, following), 0) + 1
    return counts


def longest_run(named: Iterable[tuple[SegmentRecord, Emotion]]) -> EmotionRun | None:
    """The most speech of one emotion in neighbouring segments; of two as long the earlier. None where there are no segments."""
    longest: EmotionRun | None = None
    current: EmotionRun | None = None
    last: SegmentRecord | None = None
    for entry, emotion in named:
        seconds = (entry.end_at - entry.start_at).total_seconds()
        if current is not None and last is not None and current.emotion is emotion and follows(last, entry):
            current = EmotionRun(emotion, current.segments + 1, current.seconds + seconds, current.start_at, entry.end_at)
        else:
            current = EmotionRun(emotion, 1, seconds, entry.start_at, entry.end_at)
        if longest is None or current.seconds > longest.seconds:
            longest = current
        last = entry
    return longest
