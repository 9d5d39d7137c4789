"""Made-up posteriors, segments and days: many voices' answers, single segments, days without a database, and a year in a timeline."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from model.bundle_format import find_bundle, read_bundle_manifest
from model.emotions import Emotion, Prediction
from monitor.analysis.days import Day
from monitor.analysis.summarize import summarize
from monitor.analysis.summary import DaySummary
from monitor.analysis.timeline_query import DaysWithTrends
from monitor.analysis.trend import compute_trends
from monitor.reports.data import ReportData, ReportPeriod
from monitor.storage.cipher import Connection
from monitor.storage.reader import to_stored_moment
from monitor.storage.records import CheckIn, Correction, Coverage, CoverageInterval, PredictedSegment, Prosody, SegmentRecord, SegmentState
from train.calibration import LeftOutPredictions

A, S, N, H = Emotion.ANGRY, Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY
FOUR = (N, H, S, A)


def left_out(
    corpora: int = 4, voices: int = 6, clips: int = 10, lean: float = 0.6, signal: float = 2.0, seed: int = 0
) -> LeftOutPredictions:
    """Log-probabilities under an even prior. signal: of what was acted, in standard deviations of what was not.

    lean: how far answers of one corpus lean to some letters, as standard deviation; half as far those of a voice.
    """
    random = np.random.default_rng(seed)
    acted = np.tile(np.repeat(np.arange(len(FOUR)), clips), corpora * voices)
    corpus = np.repeat(np.arange(corpora), voices * len(FOUR) * clips)
    voice = np.repeat(np.arange(corpora * voices), len(FOUR) * clips)
    logits = random.standard_normal((len(acted), len(FOUR)))
    logits[np.arange(len(acted)), acted] += signal
    logits += lean * random.standard_normal((corpora, len(FOUR)))[corpus]
    logits += lean / 2 * random.standard_normal((corpora * voices, len(FOUR)))[voice]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return LeftOutPredictions(FOUR, logs, acted, np.array([f"corpus {c}" for c in corpus]), np.array([f"voice {v}" for v in voice]))


NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)


def judged(
    at_s: float,
    seconds: float,
    said: Prediction | Emotion | Mapping[Emotion, float],
    *,
    unsure: bool = False,
    corrected: Emotion | None = None,
    voice: Prosody | None = None,
    bundle: str = "compact-1",
) -> SegmentRecord:
    """A segment that begins `at_s` after NOON. corrected: what the person says it was."""
    if isinstance(said, Emotion):
        said = {said: 1.0}
    prediction = said if isinstance(said, Prediction) else Prediction(said, unsure, bundle)
    start = NOON + timedelta(seconds=at_s)
    end = start + timedelta(seconds=seconds)
    correction = None if corrected is None else Correction(1, corrected, corrected is prediction.emotion, end)
    number = round(at_s)
    place = (number, "s", number, number + 1, start, end, "UTC", SegmentState.JUDGED, None)
    return SegmentRecord(*place, prediction, end, correction, voice)


def estimates(entries: Iterable[SegmentRecord]) -> list[PredictedSegment]:
    """What the model said of those that are judged."""
    return [
        PredictedSegment(entry.id, entry.start_at, entry.end_at, entry.prediction.posterior, entry.prediction.unsure)
        for entry in entries
        if entry.prediction is not None
    ]


PARIS = ZoneInfo("Europe/Paris")
DAY = Day(date(2026, 7, 14), PARIS)
LETTERS = [Emotion(letter) for letter in "ASHUFDN"]
_AWAY = ((11.0, 12.5), (16.0, 17.2))
_WARM_UP = 40


def entries(
    day: Day = DAY, count: int = 200, seed: int = 0, bundle: str = "compact-5c1ad689", sad: float = 0.0, voice_version: str | None = None
) -> list[SegmentRecord]:
    """Judged segments, some unsure, some corrected by the person. sad: how much more probability sadness gets.

    voice_version: of the reference of the voice that they were heard against.
    """
    draw = random.Random(seed)
    found = []
    for number in range(count):
        hour = draw.uniform(7.2, 21.8)
        if any(start - 0.1 < hour < end for start, end in _AWAY):
            continue
        start = day.start + timedelta(hours=hour)
        posterior = {letter: draw.random() ** 6 for letter in LETTERS}
        posterior[Emotion.NEUTRAL] += 0.45
        posterior[Emotion.SAD] += sad * draw.random()
        posterior[draw.choice(LETTERS)] += 1.5 * draw.random()
        total = sum(posterior.values())
        prediction = Prediction(
            {letter: part / total for letter, part in posterior.items()}, max(posterior.values()) / total < 0.45, bundle
        )
        end = start + timedelta(seconds=1 + 8 * draw.random())
        said = Correction(number + 1, Emotion.SAD, False, end) if number % 50 == 7 else None
        voice = Prosody(draw.gauss(-30, 4), draw.gauss(170, 20))
        place = (number + 1, "s", number, number + 1, start, end, str(day.zone))
        found.append(SegmentRecord(*place, SegmentState.JUDGED, None, prediction, end, said, voice, voice_version))
    return sorted(found, key=lambda entry: entry.start_at)


def coverage(day: Day = DAY) -> list[CoverageInterval]:
    """Heard but for a pause, a lost microphone, a muted one, and the night."""
    parts = [
        (Coverage.HEARD, 7.0, 11.0),
        (Coverage.PAUSED, 11.0, 12.5),
        (Coverage.HEARD, 12.5, 16.0),
        (Coverage.DEVICE_LOST, 16.0, 16.7),
        (Coverage.MUTED, 16.7, 17.2),
        (Coverage.HEARD, 17.2, 22.0),
    ]
    hours = [(kind, day.start + timedelta(hours=start), day.start + timedelta(hours=end)) for kind, start, end in parts]
    return [CoverageInterval("s", kind, start, end, str(day.zone)) for kind, start, end in hours]


def full_day(day: Day = DAY, count: int = 200, **more: object) -> DaySummary:
    """A covered day that is over."""
    return summarize(day, entries(day, count, **more), coverage(day), day.end + timedelta(hours=3))  # type: ignore[arg-type]


def empty_day(day: Day = DAY) -> DaySummary:
    """A day of which nothing is known."""
    return summarize(day, [], [], day.end + timedelta(hours=3))


def checkins(day: Day = DAY) -> list[CheckIn]:
    """Three check-ins, one with a note that is nobody's business."""
    said = [(9.3, 0.5, Emotion.HAPPY, None), (14.2, -0.4, Emotion.SAD, "a private note"), (20.5, 0.0, Emotion.NEUTRAL, None)]
    return [
        CheckIn(number + 1, day.start + timedelta(hours=hour), str(day.zone), valence, emotion, note)
        for number, (hour, valence, emotion, note) in enumerate(said)
    ]


def story(count: int = 28, last: Day = DAY, without: Sequence[int] = (5, 6, 17), change_at: int | None = 20) -> DaysWithTrends:
    """Days up to `last`: those of the numbers `without` have no data, the last week is sadder, from `change_at` another model judges."""
    days = []
    for number in range(-_WARM_UP, count):
        day = Day(last.on - timedelta(days=count - 1 - number), last.zone)
        bundle = "compact-5c1ad689" if change_at is None or number < change_at else "compact-77aa10bc"
        sad = 1.2 if number >= count - 7 else 0.0
        made = empty_day(day) if number in without else full_day(day, 120, seed=number + 100, bundle=bundle, sad=sad)
        days.append(replace(made, now=last.end + timedelta(hours=3)))
    first = days[_WARM_UP].day.on
    told = compute_trends(days, first)
    return DaysWithTrends(tuple(days[_WARM_UP:]), told)


CONTACTS = ("Dr Weber, 030 1234567", "crisis line 116 123")


def of_one_day(summary: DaySummary | None = None, said: Sequence[CheckIn] = (), segments: Sequence[SegmentRecord] = ()) -> ReportData:
    """What a report of a day is made of, without days before it."""
    day = summary or full_day()
    period = ReportPeriod(day.day.on, day.day.on, day.day.zone)
    notes_off = tuple(replace(one, note=None) for one in said)
    return ReportData(period, day.now, (day,), compute_trends([day]), tuple(segments), notes_off, contacts=CONTACTS)


def of_days(told: DaysWithTrends | None = None, patient: str = "") -> ReportData:
    """What a report of a period is made of, with check-ins on every third day."""
    told = told or story()
    said = [one for number, day in enumerate(told.days) if number % 3 == 0 for one in checkins(day.day)]
    period = ReportPeriod(told.days[0].day.on, told.days[-1].day.on, PARIS)
    notes_off = tuple(replace(one, note=None) for one in said)
    return ReportData(period, told.days[-1].now, told.days, told.trends, (), notes_off, contacts=CONTACTS, patient=patient)


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
class SimulatedPerson:
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


def write_days(connection: Connection, zone: ZoneInfo, first: date, number: int, person: SimulatedPerson = SimulatedPerson()) -> int:
    """Write `number` days from `first` on; returns how many segments they have. The tables must be there, and empty of these days."""
    manifest = read_bundle_manifest(find_bundle("compact"))
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
        time_ranges = _heard(begin, heard)
        amount = max(1, int(person.segments * heard / 12 * random.uniform(0.8, 1.2)))
        rows = list(_segments(random, time_ranges, amount, mood - person.fall * fallen, manifest.letters))
        version = person.version or manifest.version
        connection.executemany(
            _SEGMENT,
            (
                (
                    *(stream, written + i, written + i + 1, start, end, str(zone)),
                    *_posterior(row, manifest.unsure_below, manifest.letters),
                    *(version, end, loudness, pitch),
                )
                for i, (start, end, row, loudness, pitch) in enumerate(rows)
            ),
        )
        connection.executemany(_COVERAGE, _coverage(stream, time_ranges, str(zone)))
        connection.executemany(_CHECKIN, _checkins(random, time_ranges, str(zone), mood - person.fall * fallen))
        written += len(rows)
    connection.execute(_CORRECT, (Emotion.HAPPY.value, stream, person.corrected))
    connection.commit()
    return written


def _posterior(probabilities: list[float], unsure_below: float, letters: list[Emotion]) -> tuple[str, float, bool, str]:
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
    random: np.random.Generator, time_ranges: list[tuple[datetime, datetime]], amount: int, mood: float, letters: list[Emotion]
) -> Iterator[tuple[str, str, list[float], float, float]]:
    """Start, end, posterior, loudness and pitch of segments that do not overlap, in order."""
    slots = [amount // len(time_ranges)] * len(time_ranges)
    posteriors = iter(_posteriors(random, sum(slots), mood, letters).tolist())
    voices = iter(np.stack([random.normal(-26, 4, sum(slots)), random.normal(160, 25, sum(slots))], axis=1).tolist())
    for (start, end), slot in zip(time_ranges, slots, strict=True):
        room_s = (end - start).total_seconds()
        lengths = random.gamma(3.0, 1.2, slot).clip(1, 15)
        lengths *= min(1.0, 0.6 * room_s / max(1.0, lengths.sum()))
        gaps = random.exponential(1.0, slot) * np.where(random.random(slot) < 1 / _TALK, 40.0, 1.0)
        gaps *= (room_s - lengths.sum()) / gaps.sum() * 0.99
        ends = np.cumsum(gaps + lengths)
        for length_s, end_s in zip(lengths.tolist(), ends.tolist(), strict=True):
            moments = (start + timedelta(seconds=end_s - length_s), start + timedelta(seconds=end_s))
            loudness, pitch = next(voices)
            yield to_stored_moment(moments[0]), to_stored_moment(moments[1]), next(posteriors), loudness, pitch


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


def _coverage(stream: str, time_ranges: list[tuple[datetime, datetime]], zone: str) -> list[tuple[str, str, str, str, str]]:
    rows = [(stream, "heard", to_stored_moment(start), to_stored_moment(end), zone) for start, end in time_ranges]
    if len(time_ranges) == 2:
        rows.append((stream, "paused", to_stored_moment(time_ranges[0][1]), to_stored_moment(time_ranges[1][0]), zone))
    return rows


def _checkins(
    random: np.random.Generator, time_ranges: list[tuple[datetime, datetime]], zone: str, mood: float
) -> list[tuple[str, str, float, str, str | None]]:
    rows = []
    for start, end in time_ranges:
        at = start + (end - start) * float(random.random())
        valence = float(np.clip(mood + random.normal(0, 0.3), -1, 1))
        emotion = Emotion.HAPPY if valence > 0.25 else Emotion.SAD if valence < -0.25 else Emotion.NEUTRAL
        rows.append(
            (to_stored_moment(at), zone, round(valence, 2), emotion.value, "a walk by the river" if random.random() < 0.1 else None)
        )
    return rows
