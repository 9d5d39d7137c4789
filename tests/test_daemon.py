"""A run of the monitor on sources that fail as devices do: what is stored as what, and that it opens them again for ever."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Self
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from rich.console import Console

from model.audio import SAMPLE_RATE
from model.errors import DeviceError, DeviceFault
from monitor.config import Config, EngineConfig
from monitor.daemon import Daemon
from monitor.judging.bundle_choice import BundleChoice
from monitor.notify import Notifier
from monitor.pausing import Pause
from monitor.recorder import Recorder
from monitor.sound.sources import Delivery
from monitor.sound.types import AudioChunk
from monitor.status import Status
from monitor.store.reader import TimelineReader
from monitor.store.records import Coverage, CoverageInterval
from monitor.store.tiling import tile
from monitor.store.timeline import Timeline
from monitor.view import PlainView
from tests.stores import keys

UTC_ZONE = ZoneInfo("UTC")
CHUNK = SAMPLE_RATE // 10
HUM = np.random.default_rng(0).normal(scale=20, size=CHUNK).astype(np.int16) | np.int16(1)


class Microphone:
    """Hums in real time until it fails as it is told, or is closed. The only fake here: a fault of hardware."""

    description, live, microphone = "a microphone", True, "a microphone"
    delivered: Delivery | None = None

    def __init__(self, fault: DeviceFault | None, seconds: float = 0.5, opens: bool = True) -> None:
        self._fault, self._chunks, self._opens = fault, round(seconds * 10), opens
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if not self._opens:
            raise DeviceError("it is not there", DeviceFault.UNAVAILABLE)
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()

    def __iter__(self) -> Iterator[AudioChunk]:
        number = 0
        while not self._closed.wait(0.1):
            if self._fault is not None and number >= self._chunks:
                raise DeviceError("it failed", self._fault)
            yield AudioChunk(number * CHUNK, HUM)
            number += 1


class Run:
    """A daemon on its own thread, over a real timeline."""

    def __init__(self, folder: Path, sources: Sequence[Microphone], unattended: bool = True) -> None:
        self.path = folder / "timeline.db"
        self.pause = Pause(folder / "timeline.db.paused")
        self.opened = 0
        self.began = datetime.now(UTC)
        self._timeline = Timeline.open(self.path, UTC_ZONE, keys())
        config = Config(engine=EngineConfig(kind="transformers"))
        status, view = Status("a microphone", live=True), PlainView(Console(quiet=True), UTC_ZONE)
        self.status = status
        recorder = Recorder(config, self._timeline, BundleChoice("compact", folder / "bundles.json"), folder / "engine.log", status, view)
        left = list(sources)

        def next_source() -> Microphone:
            self.opened += 1
            return left.pop(0) if len(left) > 1 else left[0]

        self.daemon = Daemon(config, next_source, None, recorder, self.pause, status, view, Notifier({}), unattended)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.daemon.run()
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def until(self, happened: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, "waited too long"
            assert self.error is None, self.error
            time.sleep(0.02)

    def end(self) -> list[CoverageInterval]:
        """Stop it; what is stored as coverage."""
        self.daemon.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._timeline.close()
        with closing(TimelineReader.open(self.path, keys())) as reader:
            return reader.coverage_between(self.began - timedelta(days=1), self.began + timedelta(days=1))


def story(coverage: Sequence[CoverageInterval], began: datetime) -> list[tuple[str, str]]:
    """Kind and reason of each stretch in order, from the first sound on; nothing in between may be missing."""
    start = min(part.start_at for part in coverage)
    parts = tile(start, max(part.end_at for part in coverage), coverage)
    assert start - began < timedelta(seconds=10)
    return [kind for kind, _ in groupby((part.kind.value, part.reason) for part in parts)]


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (DeviceFault.LOST, ("device-lost", "lost")),
        (DeviceFault.STALLED, ("device-lost", "stalled")),
        (DeviceFault.DEFAULT_CHANGED, ("device-lost", "default-changed")),
        (DeviceFault.SLEPT, ("not-running", "the machine slept")),
    ],
)
def test_every_fault_is_stored_with_its_reason_and_the_microphone_opened_again(
    tmp_path: Path, fault: DeviceFault, stored: tuple[str, str]
) -> None:
    run = Run(tmp_path, [Microphone(fault), Microphone(None)])
    run.start()
    run.until(lambda: run.opened == 2 and run.status.listening)
    time.sleep(0.4)
    assert story(run.end(), run.began) == [("heard", ""), stored, ("heard", "")]


def test_a_microphone_that_is_away_is_tried_for_ever_and_its_absence_has_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.sound.backoff._PAUSES_S", (0.05,))
    away = [Microphone(None, opens=False) for _ in range(20)]
    run = Run(tmp_path, [Microphone(DeviceFault.LOST), *away, Microphone(None)])
    run.start()
    run.until(lambda: run.opened == 22 and run.status.listening)
    time.sleep(0.4)
    kinds = [kind for kind, _ in groupby(kind for kind, _ in story(run.end(), run.began))]
    assert kinds == ["heard", "device-lost", "heard"]


def test_a_microphone_that_never_was_there_ends_it_unless_nobody_is_there_to_mend_that(tmp_path: Path) -> None:
    attended = Run(tmp_path / "attended", [Microphone(None, opens=False)], unattended=False)
    with pytest.raises(DeviceError, match="it is not there"):
        attended.daemon.run()
    alone = Run(tmp_path / "alone", [Microphone(None, opens=False), Microphone(None)])
    alone.start()
    alone.until(lambda: alone.status.listening)
    time.sleep(0.4)
    assert story(alone.end(), alone.began) == [("device-lost", "unavailable"), ("heard", "")]


def test_a_pause_ends_by_itself(tmp_path: Path) -> None:
    run = Run(tmp_path, [Microphone(None), Microphone(None)])
    run.start()
    run.until(lambda: run.status.listening)
    run.until(lambda: run.status.position is not None)
    run.daemon.pause(datetime.now(UTC) + timedelta(seconds=0.6))
    run.until(lambda: run.status.paused)
    assert not run.status.listening
    run.until(lambda: not run.status.paused)
    assert Coverage.PAUSED in {part.kind for part in run.end()}
