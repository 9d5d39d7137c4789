"""The words in which a person says how they feel, and in which that is shown again: a scale from unpleasant to pleasant, and nine names.

The seven steps are those of HL7's State of Mind profile (Personal Health Records, 1.0.0-ballot2) and of Apple's HKStateOfMind, so that
what is said here means the same there; they call the middle one neutral, which here is the name of an emotion. Knows no terminal and
no page.
"""

from model.errors import WordError
from model.types import Emotion

SCALE = (
    "very unpleasant",
    "unpleasant",
    "slightly unpleasant",
    "neither unpleasant nor pleasant",
    "slightly pleasant",
    "pleasant",
    "very pleasant",
)
"""What the steps 1 to 7 are called, from valence -1 to 1."""

PLAIN = {
    Emotion.ANGRY: "angry",
    Emotion.SAD: "sad",
    Emotion.HAPPY: "happy",
    Emotion.SURPRISE: "surprised",
    Emotion.FEAR: "afraid or worried",
    Emotion.DISGUST: "disgusted",
    Emotion.CONTEMPT: "contemptuous: looking down on someone",
    Emotion.NEUTRAL: "neutral: calm, nothing in particular",
    Emotion.OTHER: "something else",
}
"""How a person is asked for each emotion."""

_MIDDLE = len(SCALE) // 2
_STEPS = {str(step): step for step in range(1, len(SCALE) + 1)}
_ALSO = {
    "anger": Emotion.ANGRY,
    "sadness": Emotion.SAD,
    "happiness": Emotion.HAPPY,
    "surprised": Emotion.SURPRISE,
    "afraid": Emotion.FEAR,
    "worried": Emotion.FEAR,
    "disgusted": Emotion.DISGUST,
    "contemptuous": Emotion.CONTEMPT,
    "calm": Emotion.NEUTRAL,
    "something else": Emotion.OTHER,
}
_KNOWN = {emotion.value.lower(): emotion for emotion in Emotion} | {emotion.word: emotion for emotion in Emotion} | _ALSO


def parse_step(text: str) -> int:
    """The step of the scale, 1 to 7, that was typed. Raises WordError for anything else."""
    typed = text.strip()
    if typed not in _STEPS:
        raise WordError(f"{text!r} is not on the scale: 1 is {SCALE[0]}, {_MIDDLE + 1} is {SCALE[_MIDDLE]}, {len(SCALE)} is {SCALE[-1]}")
    return _STEPS[typed]


def valence_of(step: int) -> float:
    """The valence, -1 to 1, of a step of the scale, 1 to 7."""
    return (step - 1 - _MIDDLE) / _MIDDLE


def step_of(valence: float) -> int:
    """The step of the scale, 1 to 7, that is nearest to a valence, -1 to 1."""
    return round(valence * _MIDDLE) + _MIDDLE + 1


def valence_words(valence: float) -> str:
    """What a valence, -1 to 1, is called."""
    return SCALE[step_of(valence) - 1]


def parse_emotion(text: str) -> Emotion:
    """The emotion that a letter or a word means, in capitals or not. Raises WordError that lists them."""
    emotion = _KNOWN.get(" ".join(text.split()).lower())
    if emotion is None:
        raise WordError(f"{text!r} is none of the feelings that can be named: {listed()}")
    return emotion


def listed() -> str:
    """The letters with their words, on one line."""
    return ", ".join(f"{emotion.value} {emotion.word}" for emotion in Emotion)
