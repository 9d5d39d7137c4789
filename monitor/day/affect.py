"""Where each emotion lies between unpleasant and pleasant, and between calm and excited; and so what a posterior means on both.

The places are the mean ratings of the adjectives happy, angry, disgusted, fearful, sad and surprised in Russell & Mehrabian (1977),
"Evidence for a three-factor theory of emotions", Journal of Research in Personality 11, 273-294: pleasure and arousal, -1 to 1.
Neutral is 0, 0 by definition. Ratings of words are no ratings of voices: surprise is pleasant there, and in a voice it need not be.
Contempt and other have no place here, because that study gives none that could be checked; their probability is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from model.types import Emotion
from monitor.store.records import TimelineEntry

SOURCE = "Russell & Mehrabian (1977), Journal of Research in Personality 11, 273-294; neutral is 0, 0"


@dataclass(frozen=True, slots=True)
class Place:
    """valence: -1 (unpleasant) to 1 (pleasant). arousal: -1 (calm) to 1 (excited)."""

    valence: float
    arousal: float


PLACES: Mapping[Emotion, Place] = {
    Emotion.ANGRY: Place(-0.51, 0.59),
    Emotion.SAD: Place(-0.63, -0.27),
    Emotion.HAPPY: Place(0.81, 0.51),
    Emotion.SURPRISE: Place(0.40, 0.67),
    Emotion.FEAR: Place(-0.64, 0.60),
    Emotion.DISGUST: Place(-0.60, 0.35),
    Emotion.NEUTRAL: Place(0.0, 0.0),
}

# With less probability than this on emotions that have a place, the rest says too little.
_ENOUGH_PLACED = 0.5


def expected_place(posterior: Mapping[Emotion, float]) -> Place | None:
    """The expectation over a posterior, of the emotions that have a place; None when more than half of it lies on others."""
    valence = arousal = placed = 0.0
    for emotion, probability in posterior.items():
        place = PLACES.get(emotion)
        if place is not None:
            valence += probability * place.valence
            arousal += probability * place.arousal
            placed += probability
    if placed < _ENOUGH_PLACED:
        return None
    return Place(valence / placed, arousal / placed)


def place_of(entry: TimelineEntry) -> Place | None:
    """Where a segment lies: at the emotion that the person named, else at the expectation over what the model said.

    Unsure segments count: a posterior that is spread out lies where it does, and leaving it out would favour strong emotions.
    """
    if entry.correction is not None and not entry.correction.confirmed:
        return PLACES.get(entry.correction.emotion)
    return expected_place(entry.prediction.posterior) if entry.prediction is not None else None
