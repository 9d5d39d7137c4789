"""Summaries of days as text, to be kept beside the timeline, and back again without loss.

The text is compact JSON without the day and without the moment it was made: a day that is over reads the same at any later one.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from model.types import Emotion
from monitor.day.days import Day
from monitor.day.figures import Affect, Quartiles, Run, Spread, VoiceFigures
from monitor.day.summary import Amount, DayState, DaySummary, Gap, HourSummary, Speech
from monitor.store.records import Coverage
from monitor.store.tiling import Tile

FORMAT = 2
"""What is kept in another format is made anew. To be raised whenever the same timeline would give another text."""


def to_text(summary: DaySummary) -> str:
    """The same summary always gives the same text."""
    run = summary.longest_run
    values = {
        "state": summary.state.value,
        "gaps": [gap.name for gap in summary.gaps],
        "coverage": [[part.kind.value, _text(part.start_at), _text(part.end_at), part.reason] for part in summary.coverage],
        "speech": _speech_values(summary.speech),
        "bundles": dict(summary.bundles),
        "hours": [[hour.label, _text(hour.start), _text(hour.end), hour.heard_s, _speech_values(hour.speech)] for hour in summary.hours],
        "run": run and [run.emotion.value, run.segments, run.seconds, _text(run.start_at), _text(run.end_at)],
        "transitions": {before.value + after.value: count for (before, after), count in summary.transitions.items()},
    }
    if summary.references:
        # Not before there is one: what was kept without stays true.
        values["references"] = dict(summary.references)
    return json.dumps(values, separators=(",", ":"), ensure_ascii=False)


def from_text(text: str, day: Day, now: datetime, with_hours: bool = True) -> DaySummary:
    """What `to_text` was given, as it stands at `now`, which is after the day; without its hours in under half the time."""
    values = json.loads(text)
    return DaySummary(
        day=day,
        now=now,
        state=DayState(values["state"]),
        gaps=tuple(Gap[name] for name in values["gaps"]),
        coverage=tuple(Tile(Coverage(kind), _moment(start), _moment(end), reason) for kind, start, end, reason in values["coverage"]),
        speech=_speech(values["speech"]),
        bundles=values["bundles"],
        hours=tuple(
            HourSummary(label, _moment(start), _moment(end), heard_s, _speech(speech))
            for label, start, end, heard_s, speech in (values["hours"] if with_hours else ())
        ),
        longest_run=values["run"] and _run(*values["run"]),
        transitions={(Emotion(pair[0]), Emotion(pair[1])): count for pair, count in values["transitions"].items()},
        references=values.get("references", {}),
    )


def _speech_values(speech: Speech) -> list[Any]:
    return [
        _amounts_values(speech.emotions),
        _amount_values(speech.unsure),
        _amount_values(speech.waiting),
        _amounts_values(speech.unjudged),
        {emotion.value: share for emotion, share in speech.estimated.items()},
        {emotion.value: interval for emotion, interval in speech.intervals.items()},
        speech.affect and _affect_values(speech.affect),
        speech.corrected,
        speech.voice and [speech.voice.segments, _quartiles_values(speech.voice.loudness_db), _quartiles_values(speech.voice.pitch_hz)],
    ]


def _speech(values: list[Any]) -> Speech:
    emotions, unsure, waiting, unjudged, estimated, intervals, affect, corrected, voice = values
    return Speech(
        emotions={Emotion(letter): Amount(*amount) for letter, amount in emotions.items()},
        unsure=Amount(*unsure),
        waiting=Amount(*waiting),
        unjudged={reason: Amount(*amount) for reason, amount in unjudged.items()},
        estimated={Emotion(letter): share for letter, share in estimated.items()},
        intervals={Emotion(letter): (low, high) for letter, (low, high) in intervals.items()},
        affect=affect and Affect(affect[0], affect[1], Spread(*affect[2]), Spread(*affect[3])),
        corrected=corrected,
        voice=voice and VoiceFigures(voice[0], voice[1] and Quartiles(*voice[1]), voice[2] and Quartiles(*voice[2])),
    )


def _amounts_values(amounts: Mapping[Any, Amount]) -> dict[str, list[float]]:
    return {str(key): _amount_values(amount) for key, amount in amounts.items()}


def _amount_values(amount: Amount) -> list[float]:
    return [amount.segments, amount.seconds]


def _affect_values(affect: Affect) -> list[Any]:
    return [affect.segments, affect.seconds, *([s.mean, s.sd, s.mssd, s.inertia] for s in (affect.valence, affect.arousal))]


def _quartiles_values(quartiles: Quartiles | None) -> list[float] | None:
    return None if quartiles is None else [quartiles.low, quartiles.median, quartiles.high]


def _run(letter: str, segments: int, seconds: float, start: str, end: str) -> Run:
    return Run(Emotion(letter), segments, seconds, _moment(start), _moment(end))


def _text(moment: datetime) -> str:
    return moment.isoformat()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
