"""What was heard on its way to the timeline, through the engine: segments are stored with their sound, judged, and their sound is erased.

Two threads meet here: the one that listens hands segments and coverage in, the judge's fetches sound and brings answers. Neither is
stopped by a timeline that cannot be written for a while. It knows no microphone and no clock of a stream.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np

from model.audio import Int16
from model.errors import BundleError, EmosllmError, TimelineError
from monitor.config import Config
from monitor.day.stretches import Stretch
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.judge import Judge
from monitor.judging.listener import EngineState, Listener
from monitor.status import RECENT, Judged, Status
from monitor.store.patience import PatientWriter, Write
from monitor.store.records import Coverage, Judgement
from monitor.store.timeline import Timeline
from monitor.store.voice_reference import HeldReference
from monitor.switching import Switched, Switching
from monitor.view import View
from monitor.voice_memory import VoiceMemory

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_UNWRITTEN_BYTES = 64 * 2**20
_RETRY_S = 2.0
_TRIM_EVERY_S = 60.0
_UNWRITABLE = "the timeline could not be written for too long"
_SPOOL_FULL = "too much speech was waiting for the engine"
_SPOOL_OLD = "it had waited too long for the engine"


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where a stored segment lies, for the view."""

    start_at: datetime
    duration_s: float

    @property
    def end_at(self) -> datetime:
        """Aware UTC, as `start_at`."""
        return self.start_at + timedelta(seconds=self.duration_s)


class Recorder:
    """Everything that one run of the monitor writes.

    microphone: which one what comes is heard through; None for a recording.
    """

    microphone: str | None = None

    def __init__(self, config: Config, timeline: Timeline, choice: BundleChoice, engine_log: Path, status: Status, view: View) -> None:
        self._spool, self._privacy = config.spool, config.privacy
        self._timeline = timeline
        self._choice = choice
        self._status = status
        self._view = view
        self._writer = PatientWriter(_UNWRITTEN_BYTES)
        self._stretches: dict[int, _Stretch] = {}
        self._trimmed_at = time.monotonic()
        self._closing = threading.Event()
        # Held while something is written, so that what is forgotten is not written between its being looked at and erased.
        self._writing = threading.Lock()
        self._forgotten: list[Stretch] = []
        self._switching = Switching()
        self._voices = VoiceMemory(timeline)
        listener = Listener(self._sound, self._on_judged, self._on_dropped, self._on_engine, self._on_switched, self._reference)
        self.judge = Judge(config.engine, choice, engine_log, listener, tireless=status.live)

    def resume(self) -> None:
        """Take up what earlier runs left waiting, oldest first, before anything new."""
        self.trim()
        for entry, start_at, duration_s in self._timeline.recover():
            self._submit(entry, _Stretch(start_at, duration_s))

    def segment(self, start_sample: int, pcm: Int16, start_at: datetime, end_at: datetime) -> None:
        """Store a closed segment with its sound, and have it judged."""
        self._status.segments += 1
        microphone = self.microphone

        def store() -> None:
            with self._writing:
                if self._is_forgotten(start_at, end_at):
                    return
                entry = self._timeline.add_segment(
                    start_sample=start_sample,
                    end_sample=start_sample + len(pcm),
                    start_at=start_at,
                    end_at=end_at,
                    sound=pcm.tobytes(),
                    microphone=microphone,
                )
                self._submit(entry, _Stretch(start_at, (end_at - start_at).total_seconds()))

        def lose() -> None:
            self._status.unjudged += 1
            self._cover(Coverage.ENGINE_DOWN, start_at, end_at, _UNWRITABLE)

        self._writer.add(Write(store, lose, pcm.nbytes))
        self.trim()

    def cover(self, kind: Coverage, start_at: datetime, end_at: datetime, reason: str) -> None:
        """Store what became of a stretch of time."""
        self._writer.add(Write(lambda: self._cover(kind, start_at, end_at, reason)))

    def forget(self, stretch: Stretch) -> None:
        """From any thread: from now on nothing of the stretch is written, and what waits of it is not judged.

        What is stored already is for the caller to erase. An open piece of speech that reaches into the stretch goes as a whole.
        """
        with self._writing:
            self._forgotten.append(stretch)
        entries = [entry for entry, known in list(self._stretches.items()) if stretch.overlaps(known.start_at, known.end_at)]
        self.judge.withdraw(entries)
        for entry in entries:
            self._stretches.pop(entry, None)
        kept = [item for item in list(self._status.recent) if not stretch.overlaps(item.start_at, item.end_at)]
        self._status.recent = deque(kept, RECENT)

    def voice_changed(self) -> None:
        """From any thread: something of what is known of the voice was erased. What is judged next is heard against what is left."""
        self._voices.forget()
        self._status.voice = None
        self.judge.drop_reference()

    def use_bundle(self, name: str, patience_s: float) -> str:
        """From any thread: have another bundle judge what comes. Its version once it is in use; empty where that takes longer.

        Raises BundleError with the reason where it is not used, EngineUnavailable once nothing is judged any more.
        """

        before = self._status.next_bundle

        def ask() -> None:
            # Before the judge knows: its answer may be there at once.
            self._status.next_bundle, self._status.bundle_problem = name, ""
            try:
                self.judge.use(name)
            except EmosllmError:
                self._status.next_bundle = before
                raise

        outcome = self._switching.wait(name, ask, patience_s)
        if outcome is not None and outcome.reason:
            raise BundleError(f"{name} is not used: {outcome.reason}")
        return outcome.version if outcome else ""

    def flush(self) -> None:
        """To be called about once a second: write what waits, and say whether something does; see to the spool's limits."""
        if time.monotonic() - self._trimmed_at > _TRIM_EVERY_S:
            self.trim()
        self._writer.flush()
        self._status.waiting, self._status.unwritten = self.judge.waiting, self._writer.waiting
        self._status.untranscribed = self.judge.untranscribed
        self._status.store_problem = self._writer.problem

    def trim(self) -> None:
        """Give up what the spool has no room or no time for, oldest first; later, while the timeline cannot be written."""
        self._trimmed_at = time.monotonic()
        if self._writer.waiting:
            return
        too_old = datetime.now(UTC) - timedelta(hours=self._spool.max_hours)
        self._writer.add(Write(lambda: self._give_up(self._timeline.waiting_since_before(too_old), _SPOOL_OLD)))
        self._writer.add(Write(lambda: self._give_up(self._timeline.beyond(self._spool.max_mib * 2**20), _SPOOL_FULL)))

    def finish(self, out_of_patience: Callable[[], bool]) -> None:
        """Wait for answers as long as somebody has patience, end the engine, and write what waits. What is unjudged stays in the spool.

        Raises TimelineError when something could not be written.
        """
        self.judge.finish(out_of_patience)
        self._closing.set()
        if not self._writer.flush(now=True):
            raise TimelineError(f"{self._writer.problem}; {self._writer.waiting} things that were heard could not be stored")

    def stop_waiting(self) -> None:
        """Let the judge's thread not insist on a write any longer."""
        self._closing.set()

    def _cover(self, kind: Coverage, start_at: datetime, end_at: datetime, reason: str) -> None:
        with self._writing:
            pieces = [(start_at, end_at)]
            for stretch in self._forgotten:
                pieces = [rest for piece in pieces for rest in stretch.left_of(*piece)]
            for piece in pieces:
                self._timeline.cover(kind, *piece, reason)

    def _is_forgotten(self, start_at: datetime, end_at: datetime) -> bool:
        return any(stretch.overlaps(start_at, end_at) for stretch in self._forgotten)

    def _submit(self, entry: int, stretch: _Stretch) -> None:
        self._stretches[entry] = stretch
        self.judge.submit(entry)

    def _give_up(self, entries: list[int], reason: str) -> None:
        if entries:
            self._timeline.give_up(entries, reason)
            self.judge.withdraw(entries)
            _logger.warning("%d segments were given up: %s", len(entries), reason)
            for entry in entries:
                self._show(entry, None, reason)

    def _sound(self, entry: int) -> Int16 | None:
        sound = self._insist(lambda: self._timeline.sound(entry))
        return None if sound is None else np.frombuffer(sound, np.int16)

    def _on_judged(self, judgements: Mapping[int, Judgement]) -> None:
        kept = judgements
        if not self._privacy.keep_transcripts:
            kept = {entry: replace(judgement, transcript=None) for entry, judgement in judgements.items()}
        settled = self._insist(lambda: self._timeline.judge(kept, self._privacy.keep_audio))
        for entry in settled:
            self._show(entry, judgements[entry], "")
        self._voices.learned(len(settled))
        self._show_voice()

    def _reference(self, entry: int, voice_space: str) -> HeldReference | None:
        return self._insist(lambda: self._voices.reference(entry, voice_space))

    def _show_voice(self) -> None:
        """In the judge's thread: how well the voice is known, where the bundle has use for that. One that is known stays as it is."""
        space, microphone, shown = self.judge.voice_space, self.microphone, self._status.voice
        self._status.learns_voice = space is not None and microphone is not None
        if space is None or microphone is None:
            self._status.voice = None
        elif shown is None or not shown.frozen or (shown.voice_space, shown.microphone) != (space, microphone):
            self._status.voice = self._insist(lambda: self._timeline.voice_reference(microphone, space))

    def _on_dropped(self, entry: int, reason: str) -> None:
        self._insist(lambda: self._timeline.give_up([entry], reason))
        self._show(entry, None, reason)

    def _show(self, entry: int, judgement: Judgement | None, reason: str) -> None:
        if judgement is None:
            self._status.unjudged += 1
        else:
            self._status.judged += 1
        stretch = self._stretches.pop(entry, None)
        if stretch is not None and not self._is_forgotten(stretch.start_at, stretch.end_at):
            item = Judged(stretch.start_at, stretch.duration_s, judgement.prediction if judgement else None, reason)
            self._status.recent.append(item)
            self._view.judged(item)

    def _on_engine(self, state: EngineState, detail: str) -> None:
        if state is EngineState.READY and self._choice.aside:
            detail += f"; the bundle that should be in use is set aside: {self._choice.aside}"
        if (state, detail) != (self._status.engine, self._status.engine_detail):
            self._view.tell(f"engine {state}: {detail}")
        self._status.engine, self._status.engine_detail = state, detail
        self._status.bundle, self._status.transcriber = self.judge.in_use, self.judge.transcriber
        self._status.away_since = self.judge.away_since
        if state is EngineState.READY:
            self._show_voice()
        _logger.info("engine %s", state)

    def _on_switched(self, name: str, version: str, reason: str) -> None:
        if self._status.next_bundle == name:
            self._status.next_bundle = ""
        told = f"the bundle {name} is not used: {reason}" if reason else f"{version} is in use now"
        self._view.tell(told)
        waited_for = self._switching.tell(name, Switched(version, reason))
        self._status.bundle_problem = told if reason and not waited_for else ""
        _logger.info("a bundle is %s: %s", "not used" if reason else "in use", version or name)

    def _insist(self, do: Callable[[], _T]) -> _T:
        """In the judge's thread, which may wait: try until it works or the end has come."""
        while True:
            try:
                return do()
            except TimelineError as error:
                self._status.store_problem = str(error)
                if self._closing.wait(_RETRY_S):
                    raise
