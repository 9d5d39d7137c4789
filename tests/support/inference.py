"""An inference supervisor or recorder with everything it reported, in order, and helpers to wait for it."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
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
from monitor.inference.protocol import EngineState, SupervisorCallbacks
from monitor.inference.supervisor import InferenceSupervisor
from monitor.storage.records import InferenceResult
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys

FAST_ENGINE = EngineConfig(kind="transformers", bundle="compact", max_batch=4)


class RecordedCallbacks:
    """What a judge's callbacks were told, and the sound that it asked for."""

    def __init__(self, sounds: Sequence[Int16] = ()) -> None:
        self.sounds = dict(enumerate(sounds))
        self.results: list[tuple[int, InferenceResult]] = []
        self.dropped: list[tuple[int, str]] = []
        self.states: list[EngineState] = []
        self.details: list[str] = []

    def judge(self, folder: Path, config: EngineConfig = FAST_ENGINE, retry_forever: bool = False) -> InferenceSupervisor:
        """One that answers here, with everything submitted."""
        listener = SupervisorCallbacks(
            self.sounds.get, self._judged, lambda entry, reason: self.dropped.append((entry, reason)), self._changed
        )
        registry = BundleRegistry(config.bundle, folder / "bundles.json")
        judge = InferenceSupervisor(config, registry, folder / "engine.log", listener, retry_forever)
        for entry in self.sounds:
            judge.submit(entry)
        return judge

    @property
    def answered(self) -> list[int]:
        """Entries in the order of their answers."""
        return [entry for entry, _ in self.results]

    def _judged(self, results: Mapping[int, InferenceResult]) -> None:
        self.results += results.items()

    def _changed(self, state: EngineState, detail: str) -> None:
        self.states.append(state)
        self.details.append(detail)


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


class SwitchingSupervisor:
    """A judge with everything it told, in order."""

    def __init__(
        self, folder: Path, config: EngineConfig = FAST_ENGINE, sounds: list[Int16] | None = None, retry_forever: bool = False
    ) -> None:
        self.sounds = dict(enumerate(sounds or []))
        self.results: list[tuple[int, InferenceResult]] = []
        self.dropped: list[int] = []
        self.states: list[EngineState] = []
        self.outcomes: list[tuple[str, str, str]] = []
        self.registry = BundleRegistry(config.bundle, folder / "bundles.json")
        listener = SupervisorCallbacks(
            self.sounds.get, self._judged, lambda entry, _: self.dropped.append(entry), self._changed, self._switched
        )
        self.judge = InferenceSupervisor(config, self.registry, folder / "engine.log", listener, retry_forever)
        for entry in self.sounds:
            self.judge.submit(entry)
        self.judge.start()

    def submit(self, pcm: Int16) -> None:
        entry = len(self.sounds)
        self.sounds[entry] = pcm
        self.judge.submit(entry)

    def until_ready(self) -> None:
        wait_until(lambda: EngineState.READY in self.states, PATIENCE_S)

    def versions(self) -> dict[int, str]:
        """By entry, without the prior."""
        return {entry: version_without_prior(result.prediction.bundle_version)[0] for entry, result in self.results}

    def use(self, bundle: Path | str) -> tuple[str, str, str]:
        """Ask for a bundle and wait for what becomes of it."""
        known = len(self.outcomes)
        self.judge.use(str(bundle))
        wait_until(lambda: len(self.outcomes) > known, PATIENCE_S)
        return self.outcomes[-1]

    def _judged(self, results: Mapping[int, InferenceResult]) -> None:
        self.results += results.items()

    def _changed(self, state: EngineState, _detail: str) -> None:
        self.states.append(state)

    def _switched(self, name: str, version: str, reason: str) -> None:
        self.outcomes.append((name, version, reason))


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
