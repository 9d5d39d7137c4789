"""Days of a made-up person in a timeline, quickly: a year for a page, or a million segments for a benchmark.

Written past the program, in one transaction; the same seed and number make the same days, whenever they are. They are like real ones in
what matters to what reads them: conversations with pauses between, hours that were not heard, a mood that carries over from day to day
and from moment to moment, answers the model was not sure of, corrections, check-ins, days without data and days of which little was
heard.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from model.manifest import find_bundle, read_manifest
from model.types import Emotion
from monitor.day.days import Day
from monitor.store.cipher import Connection
from monitor.store.reader import stored_moment

_SEGMENT = (
    "INSERT INTO segment (stream, start_sample, end_sample, start_at, end_at, zone, state, emotion, confidence, unsure, posterior,"
    " bundle_version, judged_at, loudness_db, pitch_hz) VALUES (?, ?, ?, ?, ?, ?, 'judged', ?, ?, ?, ?, ?, ?, ?, ?)"
)
_COVERAGE = "INSERT INTO coverage (stream, kind, start_at, end_at, zone, reason) VALUES (?, ?, ?, ?, ?, '')"
_CHECKIN = "INSERT INTO checkin (at, zone, valence, emotion, note) VALUES (?, ?, ?, ?, ?)"
_CORRECT = (
    "INSERT INTO correction (segment_id, emotion, confirmed, at)"
    " SELECT id, ?, 0, judged_at FROM segment WHERE stream = ? AND id % ? = 0 ORDER BY id"
)
_AROUND_THE_WORLD = ("Europe/Paris", "America/New_York", "Pacific/Honolulu", "Australia/Sydney")
_TALK = 25  # segments of a conversation, on average
_PLEASANT = {Emotion.HAPPY: 1.6, Emotion.SAD: -1.2, Emotion.ANGRY: -0.8, Emotion.FEAR: -0.5, Emotion.SURPRISE: 0.4, Emotion.DISGUST: -0.6}
_COMMON = {Emotion.NEUTRAL: 2.2, Emotion.HAPPY: 0.6, Emotion.SAD: 0.4}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """segments: of a day, about. no_data, little: how many of a hundred days nothing, or an hour, was heard of.

    corrected: of so many segments one. change, fall: on which day, if any, the mood falls for good, and by how much. version: of the
    bundle that judged, by default nano's.
    """

    segments: int = 120
    no_data: int = 4
    little: int = 8
    corrected: int = 200
    change: int | None = None
    fall: float = 0.9
    version: str = ""
    seed: int = 1


def zone_by_day() -> ZoneInfo:
    """A zone whose midnight is hours away, so that a test's yesterday stays yesterday while it runs."""
    return min((ZoneInfo(name) for name in _AROUND_THE_WORLD), key=lambda zone: abs(datetime.now(zone).hour - 12))


def live(connection: Connection, zone: ZoneInfo, first: date, number: int, person: Person = Person()) -> int:
    """Write `number` days from `first` on; returns how many segments they have. The tables must be there, and empty of these days."""
    manifest = read_manifest(find_bundle("compact"))
    random = np.random.default_rng([person.seed, number])
    mood, written = 0.0, 0
    stream = f"made-up-{person.seed}-{first}"
    for index in range(number):
        mood = 0.4 * mood + random.normal(0, 0.25)
        day = Day(first + timedelta(days=index), zone)
        fate = random.integers(100)
        if day.start == day.end or fate < person.no_data:
            continue
        fallen = person.change is not None and index >= person.change
        heard = 1.0 if fate < person.no_data + person.little else float(random.uniform(9, 14))
        begin = day.start + timedelta(hours=float(random.uniform(6.5, 8.5)))
        stretches = _heard(begin, heard)
        amount = max(1, int(person.segments * heard / 12 * random.uniform(0.8, 1.2)))
        rows = list(_segments(random, stretches, amount, mood - person.fall * fallen, manifest.letters))
        version = person.version or manifest.version
        connection.executemany(
            _SEGMENT,
            (
                (
                    *(stream, written + i, written + i + 1, start, end, str(zone)),
                    *_answer(row, manifest.unsure_below, manifest.letters),
                    *(version, end, loudness, pitch),
                )
                for i, (start, end, row, loudness, pitch) in enumerate(rows)
            ),
        )
        connection.executemany(_COVERAGE, _coverage(stream, stretches, str(zone)))
        connection.executemany(_CHECKIN, _checkins(random, stretches, str(zone), mood - person.fall * fallen))
        written += len(rows)
    connection.execute(_CORRECT, (Emotion.HAPPY.value, stream, person.corrected))
    connection.commit()
    return written


def _answer(probabilities: list[float], unsure_below: float, letters: list[Emotion]) -> tuple[str, float, bool, str]:
    """Emotion, confidence, unsure and posterior as columns hold them."""
    best = max(range(len(letters)), key=probabilities.__getitem__)
    posterior = json.dumps({letter.value: p for letter, p in zip(letters, probabilities, strict=True)})
    return letters[best].value, probabilities[best], probabilities[best] < unsure_below, posterior


def _heard(begin: datetime, hours: float) -> list[tuple[datetime, datetime]]:
    """Two stretches with an hour's pause between, or one that is short."""
    if hours <= 2:
        return [(begin, begin + timedelta(hours=hours))]
    noon = begin + timedelta(hours=hours / 2)
    return [(begin, noon), (noon + timedelta(hours=1), noon + timedelta(hours=1 + hours / 2))]


def _segments(
    random: np.random.Generator, stretches: list[tuple[datetime, datetime]], amount: int, mood: float, letters: list[Emotion]
) -> Iterator[tuple[str, str, list[float], float, float]]:
    """Start, end, posterior, loudness and pitch of segments that do not overlap, in order."""
    slots = [amount // len(stretches)] * len(stretches)
    posteriors = iter(_posteriors(random, sum(slots), mood, letters).tolist())
    voices = iter(np.stack([random.normal(-26, 4, sum(slots)), random.normal(160, 25, sum(slots))], axis=1).tolist())
    for (start, end), slot in zip(stretches, slots, strict=True):
        room_s = (end - start).total_seconds()
        lengths = random.gamma(3.0, 1.2, slot).clip(1, 15)
        lengths *= min(1.0, 0.6 * room_s / max(1.0, lengths.sum()))
        gaps = random.exponential(1.0, slot) * np.where(random.random(slot) < 1 / _TALK, 40.0, 1.0)
        gaps *= (room_s - lengths.sum()) / gaps.sum() * 0.99
        ends = np.cumsum(gaps + lengths)
        for length_s, end_s in zip(lengths.tolist(), ends.tolist(), strict=True):
            moments = (start + timedelta(seconds=end_s - length_s), start + timedelta(seconds=end_s))
            loudness, pitch = next(voices)
            yield stored_moment(moments[0]), stored_moment(moments[1]), next(posteriors), loudness, pitch


def _posteriors(random: np.random.Generator, amount: int, mood: float, letters: list[Emotion]) -> Floats:
    """(amount, letters): a mood of the moment that carries over, and what the model makes of it."""
    moment = np.empty(amount)
    state = 0.0
    for i, push in enumerate(random.normal(0, 0.8, amount).tolist()):
        state = 0.5 * state + push
        moment[i] = state
    pleasant, common = (np.array([table.get(letter, 0.0) for letter in letters]) for table in (_PLEASANT, _COMMON))
    scores = common + (mood + moment)[:, None] * pleasant + random.gumbel(0, 0.9, (amount, len(letters)))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    posteriors: Floats = powers / powers.sum(axis=1, keepdims=True)
    return posteriors


def _coverage(stream: str, stretches: list[tuple[datetime, datetime]], zone: str) -> list[tuple[str, str, str, str, str]]:
    rows = [(stream, "heard", stored_moment(start), stored_moment(end), zone) for start, end in stretches]
    if len(stretches) == 2:
        rows.append((stream, "paused", stored_moment(stretches[0][1]), stored_moment(stretches[1][0]), zone))
    return rows


def _checkins(
    random: np.random.Generator, stretches: list[tuple[datetime, datetime]], zone: str, mood: float
) -> list[tuple[str, str, float, str, str | None]]:
    rows = []
    for start, end in stretches:
        at = start + (end - start) * float(random.random())
        valence = float(np.clip(mood + random.normal(0, 0.3), -1, 1))
        emotion = Emotion.HAPPY if valence > 0.25 else Emotion.SAD if valence < -0.25 else Emotion.NEUTRAL
        rows.append((stored_moment(at), zone, round(valence, 2), emotion.value, "a walk by the river" if random.random() < 0.1 else None))
    return rows
