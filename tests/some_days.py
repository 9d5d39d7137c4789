"""Days as a person might have them, made without a database: speech between 7 and 22 o'clock, a pause, a lost microphone, gaps of days."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from model.types import Emotion, Prediction
from monitor.day.days import Day
from monitor.day.summarizing import summarize
from monitor.day.summary import DaySummary
from monitor.day.trend import trends
from monitor.look import Story
from monitor.report.material import Material
from monitor.report.period import Period
from monitor.store.records import CheckIn, Correction, Coverage, CoverageInterval, SegmentState, TimelineEntry, Voice

PARIS = ZoneInfo("Europe/Paris")
DAY = Day(date(2026, 7, 14), PARIS)
LETTERS = [Emotion(letter) for letter in "ASHUFDN"]
_AWAY = ((11.0, 12.5), (16.0, 17.2))
_WARM_UP = 40


def entries(
    day: Day = DAY, count: int = 200, seed: int = 0, bundle: str = "compact-5c1ad689", sad: float = 0.0, voice_version: str | None = None
) -> list[TimelineEntry]:
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
        voice = Voice(draw.gauss(-30, 4), draw.gauss(170, 20))
        place = (number + 1, "s", number, number + 1, start, end, str(day.zone))
        found.append(TimelineEntry(*place, SegmentState.JUDGED, None, prediction, end, said, voice, voice_version))
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


def story(count: int = 28, last: Day = DAY, without: Sequence[int] = (5, 6, 17), change_at: int | None = 20) -> Story:
    """Days up to `last`: those of the numbers `without` have no data, the last week is sadder, from `change_at` another model judges."""
    days = []
    for number in range(-_WARM_UP, count):
        day = Day(last.on - timedelta(days=count - 1 - number), last.zone)
        bundle = "compact-5c1ad689" if change_at is None or number < change_at else "compact-77aa10bc"
        sad = 1.2 if number >= count - 7 else 0.0
        made = empty_day(day) if number in without else full_day(day, 120, seed=number + 100, bundle=bundle, sad=sad)
        days.append(replace(made, now=last.end + timedelta(hours=3)))
    first = days[_WARM_UP].day.on
    told = trends(days, first)
    return Story(tuple(days[_WARM_UP:]), told)


CONTACTS = ("Dr Weber, 030 1234567", "crisis line 116 123")


def of_one_day(summary: DaySummary | None = None, said: Sequence[CheckIn] = (), segments: Sequence[TimelineEntry] = ()) -> Material:
    """What a report of a day is made of, without days before it."""
    day = summary or full_day()
    period = Period(day.day.on, day.day.on, day.day.zone)
    notes_off = tuple(replace(one, note=None) for one in said)
    return Material(period, day.now, (day,), trends([day]), tuple(segments), notes_off, contacts=CONTACTS)


def of_days(told: Story | None = None, patient: str = "") -> Material:
    """What a report of a period is made of, with check-ins on every third day."""
    told = told or story()
    said = [one for number, day in enumerate(told.days) if number % 3 == 0 for one in checkins(day.day)]
    period = Period(told.days[0].day.on, told.days[-1].day.on, PARIS)
    notes_off = tuple(replace(one, note=None) for one in said)
    return Material(period, told.days[-1].now, told.days, told.trends, (), notes_off, contacts=CONTACTS, patient=patient)
