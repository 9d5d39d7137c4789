"""What the fault studies share: a home folder of their own, audio at a known pace, and a comparison of stored and expected segments.

The same audio through a Segmenter gives the same segments, so the expected ones are known without the database; a pipe tells
how much of the audio a killed monitor had read.
"""

import fcntl
import os
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Self

import numpy as np

from bench.harness import DEMO
from model.audio import float_to_pcm16, read_audio, s_to_samples
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk, SpeechSegment, StreamClock
from monitor.config import SegmenterConfig
from monitor.storage.coverage import CoverageTile, tile_coverage
from monitor.storage.reader import TimelineReader
from monitor.storage.records import Coverage, SegmentRecord
from tests.support.storage import keys

# Many short segments: the more often something is written, the more kills come in the middle of that.
_MAX_SEGMENT_MS = 2000
SETTINGS: dict[str, dict[str, object]] = {"engine": {"kind": "transformers"}, "segmenter": {"max_segment_ms": _MAX_SEGMENT_MS}}
_ENVIRONMENT = {
    "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    "HF_HUB_OFFLINE": "1",
    "TZ": "UTC",
}

_READ_BYTES = 65_536  # of StdinSource: what it may have taken without having looked at it yet
_MAY_BE_MISSED_S = 5.0
_STEP = s_to_samples(0.03)


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """One line of the table. back: how long until it listened again, in words."""

    fault: str
    times: int
    closed: int
    lost: int
    doubled: int
    wrong_s: float
    back: str

    def row(self) -> str:
        """In Markdown."""
        return f"| {self.fault} | {self.times} | {self.closed} | {self.lost} | {self.doubled} | {self.wrong_s:.1f} | {self.back} |"


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder that this process and those it starts take for the person's own, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        folder = Path(name)
        fresh = {**_ENVIRONMENT, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config")}
        before = {variable: os.environ.get(variable) for variable in fresh}
        os.environ.update(fresh)
        try:
            yield folder
        finally:
            for variable, value in before.items():
                if value is None:
                    del os.environ[variable]
                else:
                    os.environ[variable] = value


def database_path(folder: Path) -> Path:
    """Where a monitor with that home keeps its timeline."""
    return folder / "state" / "emosllm-monitor" / "timeline.db"


class EndlessSpeech:
    """Half a minute of the demo's speech without its pauses, then twelve seconds of its room, over and over; int16."""

    def __init__(self) -> None:
        audio = float_to_pcm16(read_audio(DEMO))
        segmenter = Segmenter(SegmenterConfig())
        spoken = segmenter.push(AudioChunk(0, audio)) + segmenter.flush()
        between = [audio[left.end : right.start] for left, right in pairwise(spoken)]
        room = np.concatenate(between)[: s_to_samples(12)]
        self.once = np.concatenate([*(segment.pcm for segment in spoken), room])
        self._segmenter = Segmenter(SegmenterConfig(max_segment_ms=_MAX_SEGMENT_MS))
        self._position = 0
        self._closed: list[tuple[int, SpeechSegment]] = []

    def closed_by(self, position: int) -> list[SpeechSegment]:
        """The segments that are closed once the sound was heard up to there, in samples; by silence or their length, not by an end."""
        while self._position < position:
            start = self._position % len(self.once)
            chunk = AudioChunk(self._position, self.once[start : start + min(_STEP, position - self._position)])
            self._position = chunk.end
            self._closed += [(chunk.end, segment) for segment in self._segmenter.push(chunk)]
        return [segment for at, segment in self._closed if at <= position]

    def closed_by_end(self, position: int) -> list[SpeechSegment]:
        """The same, where the sound ends there, which closes what is open. Nothing else can be asked after that."""
        return [*self.closed_by(position), *self._segmenter.flush()]


class SpeechPipe:
    """Endless speech on its way into a monitor, so many times as fast as it was spoken, and how much of it was taken."""

    def __init__(self, speech: EndlessSpeech, pace: float) -> None:
        self.outlet, self._inlet = os.pipe()
        os.set_blocking(self._inlet, False)
        self._sound = speech.once.astype("<i2").tobytes()
        self._bytes_per_s = 2 * pace * s_to_samples(1)
        self._written = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The sound ends, at a whole sample."""
        self._over.set()
        self._thread.join()
        if self._inlet >= 0:
            os.close(self._inlet)
            self._inlet = -1

    @property
    def taken(self) -> int:
        """Samples that were taken out, once the one who takes them is gone or at the end of the sound."""
        unread = struct.unpack("i", fcntl.ioctl(self.outlet, termios.FIONREAD, b"\0" * 4))[0]
        return (self._written - unread) // 2

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.end()
        os.close(self.outlet)

    def _feed(self) -> None:
        began = time.monotonic()
        while not self._over.wait(0.02):
            due = int((time.monotonic() - began) * self._bytes_per_s) // 2 * 2
            while self._written < due and not self._over.is_set():
                start = self._written % len(self._sound)
                try:
                    self._written += os.write(self._inlet, self._sound[start : start + min(4096, due - self._written)])
                except BlockingIOError:
                    # It is full; the sound waits, and then goes on at the pace.
                    began = time.monotonic() - self._written / self._bytes_per_s
                    break


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one run of a monitor on a pipe. wrong_s: heard time that is not stored beyond what a kill may cost, and time that never was."""

    closed: int
    lost: int
    invented: int
    wrong_s: float


def compare_stored(
    speech: EndlessSpeech, anchor: datetime, taken: int, entries: list[SegmentRecord], folder: Path, ended: bool = False
) -> Comparison:
    """anchor: when the run's sound began. taken: as of its Pipe. entries: that are stored of it. ended: as its sound did, not by a kill.

    Closed for certain is what is closed in the sound before its last read, which a killed monitor may not have looked at; all of the
    sound taken is what can be stored at most.
    """
    looked_at = taken if ended else max(0, taken - _READ_BYTES // 2)
    possible = speech.closed_by_end(taken) if ended else speech.closed_by(taken)
    certain = len(possible) if ended else len(speech.closed_by(looked_at))
    known = [(segment.start, segment.end) for segment in possible]
    stored = [(entry.start_sample, entry.end_sample) for entry in entries]
    clock, evening = StreamClock(anchor), anchor + timedelta(hours=12)
    with closing(TimelineReader.open(database_path(folder), keys())) as reader:
        coverage = reader.coverage_between(anchor, evening)
    missed = [part for part in tile_coverage(anchor, clock.at(looked_at), coverage, entries) if part.kind is not Coverage.HEARD]
    beyond = [part for part in tile_coverage(clock.at(taken), evening, coverage, entries) if part.kind is not Coverage.NOT_RUNNING]
    return Comparison(
        closed=max(certain, len(stored)),
        lost=sum(one not in stored for one in known[:certain]),
        invented=len(stored) - len(set(stored) & set(known)),
        wrong_s=max(0.0, _seconds(missed) - _MAY_BE_MISSED_S) + _seconds(beyond),
    )


def _seconds(parts: list[CoverageTile]) -> float:
    return sum(part.seconds for part in parts)


def median_and_longest(seconds: list[float]) -> str:
    """The middle one and the longest."""
    return f"{median(seconds):.1f} s (at most {max(seconds):.1f} s)" if seconds else "not seen"
