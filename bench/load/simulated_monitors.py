"""Many monitors in one process: `python -m bench.load.simulated_monitors SPEC OUT`, each in a thread, sharing one encoder.

Each has a real timeline with its spool and key, encoder and mapper, the server's engine, outbox and sender. The recording is segmented once
for all, and each segment comes when it would have been closed. What a process of its own would add is left out: capture from a microphone,
and the supervision of its inference worker, which the tests kill.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import torch

from bench.harness import DEMO
from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, ms_to_samples, pcm16_to_float, read_audio, samples_to_s
from model.bundle import Bundle, open_bundle
from model.bundle_format import find_bundle
from model.errors import EmosllmError, EngineUnavailable
from model.predictor import Predictor, SpeechInput
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk, SpeechSegment, StreamClock
from monitor.clinic.address import ClinicAddress
from monitor.clinic.sync import SyncThread
from monitor.config import SegmenterConfig
from monitor.inference.engines.server import ServerConnection, ServerEngine
from monitor.storage.keys import KeyStore
from monitor.storage.outbox import Outbox
from monitor.storage.records import Coverage, InferenceResult
from monitor.storage.writer import TimelineWriter

_HANGOVER = ms_to_samples(SegmenterConfig().hangover_ms)
_BATCH = 64
_RETRY_S = 1.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class MonitorSpec:
    """Where one monitor keeps its files, and what it may reach. offset: at which second of the recording it begins."""

    name: str
    folder: str
    server: str
    key: str
    ca_file: str
    clinic: str
    offset: float


@dataclass(frozen=True)
class SegmentedRecording:
    """A recording, mono int16 (N,) at SAMPLE_RATE, and what the segmenter cuts out of it."""

    sound: Int16
    segments: Sequence[SpeechSegment]

    @classmethod
    def of(cls, sound: Int16) -> Self:
        """Cut it once for all monitors of a process: fifty detectors in its threads would only wait for each other."""
        segmenter = Segmenter(SegmenterConfig())
        return cls(sound, segmenter.push(AudioChunk(0, sound)) + segmenter.flush())


@dataclass
class MonitorReport:
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

    def __init__(self, place: MonitorSpec, bundle: Bundle, heard: SegmentedRecording) -> None:
        self._place, self._bundle, self._heard = place, bundle, heard
        self._database = Path(place.folder) / "timeline.db"
        self._keys = KeyStore("file", Path(place.folder))
        self._timeline = TimelineWriter.open(self._database, ZoneInfo("UTC"), self._keys)
        self._told = MonitorReport(place.name)
        self._waiting: dict[int, None] = {}
        self._change = threading.Condition()
        self._over = False

    def run(self, start: float, end: float) -> MonitorReport:
        """Raises nothing: what went wrong is told."""
        outbox = Outbox.open(self._database, self._keys)
        assert outbox is not None
        outbox.enable_sharing(datetime.now(UTC), past=False)
        judge = threading.Thread(target=self._judge, name=f"judge {self._place.name}")
        judge.start()
        with SyncThread(ClinicAddress.parse(self._place.clinic, "the load test's URL"), outbox, self._database, lambda *_: None):
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
                self._close(SpeechSegment(begin, segment.pcm), clock)
                self._timeline.cover(Coverage.HEARD, clock.at(covered), clock.at(begin + len(segment.pcm)))
                covered = begin + len(segment.pcm)

    def _close(self, segment: SpeechSegment, clock: StreamClock) -> None:
        now = time.time()
        time_range = {"start_at": clock.at(segment.start), "end_at": clock.at(segment.end)}
        sound = segment.pcm.tobytes()
        entry = self._timeline.add_segment(start_sample=segment.start, end_sample=segment.end, sound=sound, **time_range)
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
        answers = predictor.predict([SpeechInput(pcm16_to_float(np.frombuffer(sound or b"", np.int16))) for sound in sounds])
        settled = self._timeline.judge(
            {entry: InferenceResult(answer.prediction or predictor.unknown()) for entry, answer in zip(batch, answers, strict=True)}
        )
        now = time.time()
        with self._change:
            self._told.twice += len(batch) - len(settled)
            for entry in batch:
                self._told.judged[entry] = now
                self._waiting.pop(entry, None)


def main() -> None:
    """Run them, and write what each tells."""
    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    bundle, heard = open_bundle(find_bundle("compact")), SegmentedRecording.of(float_to_pcm16(read_audio(DEMO)))
    monitors = [SimulatedMonitor(MonitorSpec(**place), bundle, heard) for place in spec["places"]]
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    with ThreadPoolExecutor(len(monitors)) as pool:
        told = list(pool.map(lambda monitor: monitor.run(start, start + spec["seconds"]), monitors))
    out.write_text(json.dumps([one.as_json() for one in told]))


if __name__ == "__main__":
    main()
