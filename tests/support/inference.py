"""An inference supervisor or recorder with everything it reported, in order, and helpers to wait for it."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from rich.console import Console

from model.audio import Int16
from model.emotions import version_without_prior
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig
from monitor.daemon.live_view import PlainView
from monitor.daemon.recorder import Recorder
from monitor.daemon.status import DaemonStatus
from monitor.inference.protocol import BundleSwitched, Dropped, EngineChanged, EngineState, Predicted, SupervisorEvent
from monitor.inference.supervisor import InferenceSupervisor
from monitor.storage.records import InferenceResult, VoiceReferenceSums
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys

FAST_ENGINE = EngineConfig(kind="transformers", bundle="compact", max_batch=4)


class DrivenSupervisor(InferenceSupervisor):
    """A supervisor on a thread of its own, without a timeline.

    audio: of a segment; None where it needs no prediction any more. handle: is called with every event. reference: of the voice, for a
    segment and a voice space.
    """

    def __init__(
        self,
        config: EngineConfig,
        folder: Path,
        audio: Callable[[int], Int16 | None],
        handle: Callable[[SupervisorEvent], object],
        reference: Callable[[int, str], VoiceReferenceSums | None] = lambda _segment_id, _voice_space: None,
        retry_forever: bool = False,
    ) -> None:
        self.registry = BundleRegistry(config.bundle, folder / "bundles.json")
        super().__init__(config, self.registry, folder / "engine.log", retry_forever)
        self._audio, self._handle_event, self._reference = audio, handle, reference
        self._thread = threading.Thread(target=self._drive, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, give_up: Callable[[], bool]) -> None:
        self.stop(give_up)
        self._thread.join()

    def _drive(self) -> None:
        try:
            while self.running:
                for segment_id in self.next_to_send():
                    pcm, space = self._audio(segment_id), self.voice_space
                    if pcm is None:
                        self.withdraw([segment_id])
                    else:
                        self.send(segment_id, pcm, None if space is None else self._reference(segment_id, space))
                match event := self.poll(1.0):
                    case Predicted(results):
                        self._handle_event(event)
                        self.settle(results)
                    case Dropped(segment_id):
                        self._handle_event(event)
                        self.settle([segment_id])
                    case EngineChanged() | BundleSwitched():
                        self._handle_event(event)
        finally:
            for refused in self.close():
                self._handle_event(refused)


class RecordedEvents:
    """What a supervisor reported, and the audio that it is given."""

    def __init__(self, sounds: Sequence[Int16] = ()) -> None:
        self.sounds = dict(enumerate(sounds))
        self.results: list[tuple[int, InferenceResult]] = []
        self.dropped: list[tuple[int, str]] = []
        self.states: list[EngineState] = []
        self.details: list[str] = []
        self.outcomes: list[tuple[str, str, str]] = []

    def judge(self, folder: Path, config: EngineConfig = FAST_ENGINE, retry_forever: bool = False) -> DrivenSupervisor:
        """One that answers here, with everything submitted."""
        judge = DrivenSupervisor(config, folder, self.sounds.get, self.handle, retry_forever=retry_forever)
        for entry in self.sounds:
            judge.submit(entry)
        return judge

    @property
    def answered(self) -> list[int]:
        """Entries in the order of their answers."""
        return [entry for entry, _ in self.results]

    def handle(self, event: SupervisorEvent) -> None:
        match event:
            case Predicted(results):
                self.results += results.items()
            case Dropped(segment_id, reason):
                self.dropped.append((segment_id, reason))
            case EngineChanged(state, detail):
                self.details.append(detail)
                self.states.append(state)
            case BundleSwitched(name, version, reason):
                self.outcomes.append((name, version, reason))


def noise_segments(count: int) -> list[Int16]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=16000 * (1 + n % 3)) * 1000).astype(np.int16) for n in range(count)]


def wait_until(until: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def never() -> bool:
    """Nobody loses patience."""
    return False


def worker_pid(judge: InferenceSupervisor) -> int:
    """The process id of the judging process."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return next(pid for pid in pids if b"monitor.inference.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())


PATIENCE_S = 300.0


class SwitchingSupervisor(RecordedEvents):
    """A running supervisor with everything it reported, in order."""

    def __init__(
        self, folder: Path, config: EngineConfig = FAST_ENGINE, sounds: list[Int16] | None = None, retry_forever: bool = False
    ) -> None:
        super().__init__(sounds or [])
        self.supervisor = self.judge(folder, config, retry_forever)
        self.registry = self.supervisor.registry
        self.supervisor.start()

    def submit(self, pcm: Int16) -> None:
        entry = len(self.sounds)
        self.sounds[entry] = pcm
        self.supervisor.submit(entry)

    def until_ready(self) -> None:
        wait_until(lambda: EngineState.READY in self.states, PATIENCE_S)

    def versions(self) -> dict[int, str]:
        """By entry, without the prior."""
        return {entry: version_without_prior(result.prediction.bundle_version)[0] for entry, result in self.results}

    def use(self, bundle: Path | str) -> tuple[str, str, str]:
        """Ask for a bundle and wait for what becomes of it."""
        known = len(self.outcomes)
        self.supervisor.use(str(bundle))
        wait_until(lambda: len(self.outcomes) > known, PATIENCE_S)
        return self.outcomes[-1]


UTC_ZONE = ZoneInfo("UTC")


RECORDED_AT = datetime(2026, 1, 5, 12, tzinfo=UTC)


def with_recorder(folder: Path, config: Config, act: Callable[[Recorder], None], bundle: str = "compact") -> Path:
    """Let a recorder act on a fresh timeline that two segments of a second were stored in; the timeline's file."""
    path = folder / "timeline.db"
    with closing(TimelineWriter.open(path, UTC_ZONE, keys())) as timeline:
        view = PlainView(Console(quiet=True), UTC_ZONE)
        registry = BundleRegistry(bundle, folder / "bundles.json")
        recorder = Recorder(config, timeline, registry, folder / "engine.log", DaemonStatus("a test", True), view)
        for second in (0, 5):
            start = RECORDED_AT + timedelta(seconds=second)
            recorder.segment(16_000 * second, np.ones(16_000, np.int16), start, start + timedelta(seconds=1))
        act(recorder)
    return path


def report(recorder: Recorder, *events: SupervisorEvent) -> None:
    """Let a recorder that was not started handle these events, as if its supervisor had reported them."""
    recorder.supervisor._events.extend(events)
    recorder.supervisor._stopping = True
    recorder._predict_waiting()
