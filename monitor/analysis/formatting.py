"""Formats durations, shares, dates, coverage and check-in answers for people, and parses check-in answers.

The seven steps from very unpleasant to very pleasant are those of HL7's State of Mind profile (Personal Health Records, 1.0.0-ballot2)
and of Apple's HKStateOfMind, so that a check-in means the same there. They call the middle step neutral; here neutral is an emotion.
"""

from datetime import date

from model.emotions import Emotion
from model.errors import WordError
from monitor.storage.records import Coverage

DISCLAIMER = (
    "These are estimates by a computer from the sound of a voice. They are often wrong and are not a diagnosis. "
    "Nobody is watching: only people you show this to can see it. "
    "If you or someone near you is in danger, call your local emergency number."
)

COVERAGE_TEXTS = {
    Coverage.HEARD: ("Recorded", "the microphone was open and working"),
    Coverage.ENGINE_DOWN: ("Not analysed", "recorded, but the model was unavailable for too long"),
    Coverage.PAUSED: ("Paused", "you had paused the microphone"),
    Coverage.MUTED: ("Muted", "the microphone was open but muted"),
    Coverage.DEVICE_LOST: ("Lost", "the microphone was disconnected"),
    Coverage.OVERFLOW: ("Lost", "audio arrived faster than it could be processed"),
    Coverage.NOT_RUNNING: ("Off", "monitor off, computer asleep, or data erased"),
}
"""Of each kind of coverage a name and what it means."""


def format_duration(seconds: float) -> str:
    """Seconds in the words of a clock: "34 s", "18 min", "9 h 05 min", "24 h"; less than a second still shows."""
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes % 60 else f"{minutes // 60} h"


def format_percent(share: float) -> str:
    """A share of 0 to 1 in per cent; one too small to round still shows."""
    return "under 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def format_segments(segments: int) -> str:
    """How many segments."""
    return "1 segment" if segments == 1 else f"{segments} segments"


def long_date(on: date) -> str:
    """Such as "Tuesday 14 July 2026"."""
    return f"{on:%A} {on.day} {on:%B %Y}"


def short_date(on: date) -> str:
    """Such as "Tue 14 Jul"."""
    return f"{on:%a} {on.day} {on:%b}"


VALENCE_SCALE = (
    "very unpleasant",
    "unpleasant",
    "slightly unpleasant",
    "neither unpleasant nor pleasant",
    "slightly pleasant",
    "pleasant",
    "very pleasant",
)
"""What the steps 1 to 7 are called, from valence -1 to 1."""

EMOTION_PHRASES = {
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

_MIDDLE_STEP = len(VALENCE_SCALE) // 2
_STEPS = {str(step): step for step in range(1, len(VALENCE_SCALE) + 1)}
_SYNONYMS = {
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
_EMOTION_BY_WORD = {emotion.value.lower(): emotion for emotion in Emotion} | {emotion.word: emotion for emotion in Emotion} | _SYNONYMS


def parse_valence_step(text: str) -> int:
    """The step of the scale, 1 to 7, that was typed. Raises WordError for anything else."""
    typed = text.strip()
    if typed not in _STEPS:
        raise WordError(f"{text!r} is not on the scale: use 1 ({VALENCE_SCALE[0]}) to {len(VALENCE_SCALE)} ({VALENCE_SCALE[-1]})")
    return _STEPS[typed]


def valence_of(step: int) -> float:
    """The valence, -1 to 1, of a step of the scale, 1 to 7."""
    return (step - 1 - _MIDDLE_STEP) / _MIDDLE_STEP


def step_of(valence: float) -> int:
    """The step of the scale, 1 to 7, that is nearest to a valence, -1 to 1."""
    return round(valence * _MIDDLE_STEP) + _MIDDLE_STEP + 1


def format_valence(valence: float) -> str:
    """What a valence, -1 to 1, is called."""
    return VALENCE_SCALE[step_of(valence) - 1]


def parse_emotion(text: str) -> Emotion:
    """The emotion that a letter or a word means, in capitals or not. Raises WordError that lists them."""
    emotion = _EMOTION_BY_WORD.get(" ".join(text.split()).lower())
    if emotion is None:
        raise WordError(f"unknown emotion {text!r}; choose from {emotion_list()}")
    return emotion


def emotion_list() -> str:
    """The letters with their words, on one line."""
    return ", ".join(f"{emotion.value} {emotion.word}" for emotion in Emotion)
