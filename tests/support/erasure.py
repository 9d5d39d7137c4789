"""A timeline with everything that erasure must find: segments, sound, feedback, backups and bundles that learned from them."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from model.bundle_format import find_bundle
from model.emotions import Emotion, Prediction
from model.voice_reference import VoiceSums
from monitor.analysis.days import TimeRange
from monitor.config import Config
from monitor.storage.backup import Backups
from monitor.storage.cipher import StoreKey
from monitor.storage.feedback import FeedbackStore
from monitor.storage.records import Coverage, InferenceResult, VoiceContribution
from monitor.storage.writer import TimelineWriter
from tests.support.storage import decrypted_bytes, keys, raw

PARIS = ZoneInfo("Europe/Paris")


NOON = datetime(2026, 7, 14, 12, 0, 0, 918273, tzinfo=UTC)


HOUR = timedelta(hours=1)


ERASED = TimeRange(NOON.replace(microsecond=0), NOON.replace(microsecond=0) + HOUR)


WITHIN, BEFORE, AFTER = NOON + timedelta(minutes=20), NOON - timedelta(minutes=20), NOON + timedelta(minutes=80)


def sound(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(-3000, 3000, 32_000, np.int16).tobytes()


def voice(number: int) -> VoiceSums:
    """What the piece of that number adds to the reference of the voice."""
    return VoiceSums(1.0, 2.0, np.random.default_rng(1000 + number).normal(size=16).astype(np.float32))


class SeededTimeline:
    """A timeline with something said before, within and after the hour that is to be forgotten, its backups and an older one put aside."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "state" / "emosllm-monitor"
        self.config = Config()
        self.database = self.config.timeline.database_path()
        self.backups = Backups.of(self.config.timeline)
        self.ids: dict[str, int] = {}

    def live(self, sounds: bool = True) -> None:
        with (
            closing(TimelineWriter.open(self.database, PARIS, keys())) as timeline,
            FeedbackStore.open(self.database, PARIS, keys()) as words,
        ):
            timeline.cover(Coverage.HEARD, NOON - HOUR, NOON + 2 * HOUR)
            for number, (name, at) in enumerate((("before", BEFORE), ("within", WITHIN), ("after", AFTER))):
                self.ids[name] = self._say(timeline, number, at, f"{name}-words")
                timeline.cover(Coverage.PAUSED, at + timedelta(seconds=30), at + timedelta(seconds=40), f"{name}-reason")
                words.asked(at + timedelta(seconds=70))
                words.check_in(at + timedelta(seconds=80), -0.5, Emotion.SAD, f"{name}-note")
                words.correct(self.ids[name], Emotion.HAPPY)
                waiting = timeline.add_segment(
                    start_sample=10**6 * number + 5,
                    end_sample=10**6 * number + 32_005,
                    start_at=at + timedelta(seconds=4, microseconds=number),
                    end_at=at + timedelta(seconds=6),
                    sound=sound(100 + number) if sounds else b"12",
                )
                self.ids[f"{name} waiting"] = waiting

    def _say(self, timeline: TimelineWriter, number: int, at: datetime, words: str) -> int:
        segment = timeline.add_segment(
            start_sample=10**6 * number,
            end_sample=10**6 * number + 32_000,
            start_at=at,
            end_at=at + timedelta(seconds=2),
            sound=sound(number),
            microphone="desk",
        )
        said = Prediction({Emotion.SAD: 0.75, Emotion.HAPPY: 0.25}, False, f"{words}-bundle")
        timeline.judge({segment: InferenceResult(said, words, None, VoiceContribution("space", voice(number), None))}, keep_audio=True)
        return segment

    def summarize(self) -> None:
        with closing(raw(self.database)) as connection:
            for name, day in (("within", "2026-07-14"), ("other", "2026-07-13")):
                end = datetime.fromisoformat(day) + timedelta(days=1)
                connection.execute(
                    "INSERT INTO day_summary VALUES (?, 'UTC', ?, ?, 1, ?)",
                    (day, f"{day} 00:00:00.000000", f"{end:%Y-%m-%d} 00:00:00.000000", f"{name}-summary"),
                )
            connection.commit()

    def all_bytes(self, *more: StoreKey) -> bytes:
        known = [keys().find(self.database)] if self.database.exists() else []
        return decrypted_bytes([self.folder], [*known, *more])

    def rows(self) -> dict[str, list[Any]]:
        queries = {
            "segment": "SELECT stream, start_sample, transcript FROM segment ORDER BY id",
            "sound": "SELECT segment_id FROM sound",
            "correction": "SELECT segment_id FROM correction",
            "coverage": "SELECT kind, start_at, end_at FROM coverage ORDER BY kind, start_at",
            "checkin": "SELECT note FROM checkin ORDER BY at",
            "prompt": "SELECT at FROM prompt ORDER BY at",
            "day_summary": "SELECT summary FROM day_summary",
            "voice_hour": "SELECT on_date, start_at, end_at, segments, sums FROM voice_hour ORDER BY start_at",
        }
        with closing(raw(self.database)) as connection:
            return {table: connection.execute(query).fetchall() for table, query in queries.items()}


def traces(name: str) -> list[bytes]:
    """What one piece of the life has left: words, notes, reasons, the model's version, sound, moments, what was learned of the voice."""
    number, at = {"before": (0, BEFORE), "within": (1, WITHIN), "after": (2, AFTER)}[name]
    moments = [at, at + timedelta(seconds=2), at + timedelta(seconds=80), at + timedelta(seconds=4, microseconds=number)]
    texts = [f"{name}-words", f"{name}-note", f"{name}-reason", *(f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in moments)]
    return [*(text.encode() for text in texts), sound(number)[:2000], sound(100 + number)[:2000], voice(number).to_bytes()]


def bundle_that_learned(folder: Path, learned: str | None) -> Path:

    folder.mkdir(parents=True)
    manifest = json.loads((find_bundle("compact") / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {"version": folder.name}))
    (folder / "mapper.safetensors").write_bytes(b"weights of " + folder.name.encode())
    if learned is not None:
        (folder / "learned_from.json").write_text(learned)
    return folder
