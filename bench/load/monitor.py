"""One of the many monitors, in a thread's shape: its own encrypted timeline, key, client and sender; the encoder is its process's.

What a monitor is made of is real: timeline with its spool, encoder and mapper, the server's engine, outbox and sender. The recording is cut
once for all, and each segment comes when it would have been closed. What a process of its own would bring is not here: capture from a
microphone, and the supervision of its judging process, which the tests kill.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np

from model.audio import SAMPLE_RATE, Int16, ms_to_samples, pcm16_to_float, samples_to_s
from model.bundle import Bundle
from model.errors import EmosllmError, EngineUnavailable
from model.predictor import Predictor, Sound
from monitor.clinic.address import Address
from monitor.config import SegmenterConfig
from monitor.judging.served_engine import ServerEngine
from monitor.judging.server import ServerConnection
from monitor.sharing.sender import Sender
from monitor.sound.segmenter import Segmenter
from monitor.sound.types import AudioChunk, Segment, StreamClock
from monitor.store.keys import Keys
from monitor.store.outbox import Outbox
from monitor.store.records import Coverage, Judgement
from monitor.store.timeline import Timeline

_HANGOVER = ms_to_samples(SegmenterConfig().hangover_ms)
_BATCH = 64
_RETRY_S = 1.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """Where one monitor keeps its files, and what it may reach. offset: at which second of the recording it begins."""

    name: str
    folder: str
    server: str
    key: str
    ca_file: str
    clinic: str
    offset: float


@dataclass(frozen=True)
class Heard:
    """A recording, mono int16 (N,) at SAMPLE_RATE, and what the segmenter cuts out of it."""

    sound: Int16
    segments: Sequence[Segment]

    @classmethod
    def of(cls, sound: Int16) -> Self:
        """Cut it once for all monitors of a process: fifty detectors in its threads would only wait for each other."""
        segmenter = Segmenter(SegmenterConfig())
        return cls(sound, segmenter.push(AudioChunk(0, sound)) + segmenter.flush())


@dataclass
class Told:
    """What a monitor tells when it is over: of each segment, when it was closed and when its row was judged, in seconds since the epoch."""

    name: str
    closed: dict[int, float] = field(default_factory=dict)
    judged: dict[int, float] = field(default_factory=dict)
    twice: int = 0
    outages: int = 0
    refused: list[str] = field(default_factory=list)
    waiting_most: int = 0

    def as_json(self) -> dict[str, Any]:
        """In JSON's types."""
        return asdict(self)


class SimulatedMonitor:
    """Hears the recording over and over in real time from `start` until `end` (seconds since the epoch); then finishes what waits."""

    def __init__(self, place: Place, bundle: Bundle, heard: Heard) -> None:
        self._place, self._bundle, self._heard = place, bundle, heard
        self._database = Path(place.folder) / "timeline.db"
        self._keys = Keys("file", Path(place.folder))
        self._timeline = Timeline.open(self._database, ZoneInfo("UTC"), self._keys)
        self._told = Told(place.name)
        self._waiting: dict[int, None] = {}
        self._change = threading.Condition()
        self._over = False

    def run(self, start: float, end: float) -> Told:
        """Raises nothing: what went wrong is told."""
        outbox = Outbox.open(self._database, self._keys)
        assert outbox is not None
        outbox.switch_on(datetime.now(UTC), past=False)
        judge = threading.Thread(target=self._judge, name=f"judge {self._place.name}")
        judge.start()
        with Sender(Address.parse(self._place.clinic, "the load test's URL"), outbox, self._database, lambda *_: None):
            self._hear(start, end)
            with self._change:
                self._over = True
                self._change.notify_all()
            judge.join()
        self._timeline.close()
        return self._told

    def _hear(self, start: float, end: float) -> None:
        """Close each segment when its sound would have been heard, and account for the time between."""
        clock, length = StreamClock(datetime.fromtimestamp(start, UTC)), len(self._heard.sound)
        first, covered = round(self._place.offset * SAMPLE_RATE), 0
        for around in count():
            for segment in self._heard.segments:
                begin = around * length + segment.start - first
                if begin < 0:
                    continue
                closed_at = start + samples_to_s(begin + len(segment.pcm) + _HANGOVER)
                if closed_at >= end:
                    return
                time.sleep(max(0.0, closed_at - time.time()))
                self._close(Segment(begin, segment.pcm), clock)
                self._timeline.cover(Coverage.HEARD, clock.at(covered), clock.at(begin + len(segment.pcm)))
                covered = begin + len(segment.pcm)

    def _close(self, segment: Segment, clock: StreamClock) -> None:
        now = time.time()
        stretch = {"start_at": clock.at(segment.start), "end_at": clock.at(segment.end)}
        sound = segment.pcm.tobytes()
        entry = self._timeline.add_segment(start_sample=segment.start, end_sample=segment.end, sound=sound, **stretch)
        with self._change:
            self._told.closed[entry] = now
            self._waiting[entry] = None
            self._told.waiting_most = max(self._told.waiting_most, len(self._waiting))
            self._change.notify_all()

    def _judge(self) -> None:
        engine: ServerEngine | None = None
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._over)
                batch = list(self._waiting)[:_BATCH]
            if not batch:
                break
            try:
                if engine is None:
                    engine = ServerEngine(self._bundle, ServerConnection(self._place.server, self._place.key, self._place.ca_file))
                self._settle(batch, Predictor(self._bundle, engine))
            except EngineUnavailable:
                self._told.outages += 1
                time.sleep(_RETRY_S)
            except EmosllmError as error:
                self._told.refused.append(str(error))
                time.sleep(_RETRY_S)
        if engine is not None:
            engine.close()

    def _settle(self, batch: list[int], predictor: Predictor) -> None:
        sounds = [self._timeline.sound(entry) for entry in batch]
        answers = predictor.predict([Sound(pcm16_to_float(np.frombuffer(sound or b"", np.int16))) for sound in sounds])
        settled = self._timeline.judge(
            {entry: Judgement(answer.prediction or predictor.unknown()) for entry, answer in zip(batch, answers, strict=True)}
        )
        now = time.time()
        with self._change:
            self._told.twice += len(batch) - len(settled)
            for entry in batch:
                self._told.judged[entry] = now
                self._waiting.pop(entry, None)
