"""The inference worker: loads bundle and engine, answers the daemon's requests, and ends when the daemon is gone.

It is a process of its own so that loading or crashing models never disturbs capture, and so that the daemon stays small. `main` reads
messages from the socket it inherits; `ModelRunner` holds one bundle and one engine and changes to another bundle while both stay loaded.
"""

import json
import logging
import math
import os
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np

from model.audio import Float32, Int16, pcm16_to_float, s_to_samples
from model.bundle import Bundle, open_bundle
from model.bundle_format import BundleManifest, find_bundle, read_bundle_manifest
from model.errors import AccessRefused, BundleError, EmosllmError, EngineUnavailable, NeedsRestart, TranscriberUnavailable
from model.predictor import Predictor, SpeechInput
from model.transcriber import Transcriber
from model.voice_reference import VoiceSums, voice_shift
from monitor.bundles.registry import open_transcriber
from monitor.config import EngineConfig
from monitor.inference.engines.base import Engine, check_compatible, check_finite, open_engine
from monitor.inference.prosody import measure_prosody
from monitor.inference.protocol import (
    BundleLoaded,
    BundleNotLoaded,
    EngineUnreachable,
    FailureKind,
    LoadBundle,
    PredictRequest,
    PredictResponse,
    SetReference,
    WorkerFailed,
    WorkerReady,
)
from monitor.storage.records import InferenceResult, VoiceContribution, VoiceReferenceSums

_logger = logging.getLogger(__name__)

_WARM_UP_S = (1.0, 2.0, 4.0, 8.0)
# A transcript takes a hundred times as long as all else: with more at once, answers and other bundles would wait for minutes.
_MAX_TRANSCRIBED_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Transcripts:
    """The words of some segments. failed: for how many the transcriber failed; those have none."""

    pcms: Sequence[Int16]
    words: list[str]
    failed: int


class ModelRunner:
    """Loads the configured bundle, and the transcriber where it needs one; `begin` comes before all else. Raises EmosllmError.

    untranscribed: for how many of the segments judged last the transcriber failed.
    """

    _engine: Engine
    _predictor: Predictor

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        folder = find_bundle(config.bundle)
        self._transcriber = open_transcriber(config, read_bundle_manifest(folder))
        self._written: _Transcripts | None = None
        self.untranscribed = 0
        self._bundle = open_bundle(folder).under(config.expected())
        self._reference: VoiceReferenceSums | None = None
        self._shift: Float32 | None = None
        check_finite(folder)

    def begin(self) -> None:
        """Open the engine and try it. Raises EmosllmError; after EngineUnavailable it may be tried again."""
        self._engine = open_engine(self._config, self._bundle)
        try:
            self._predictor = self._warm_up(self._bundle)
        except EngineUnavailable:
            self._engine.close()
            raise

    @property
    def version(self) -> str:
        """Of the bundle that judges."""
        return self._bundle.manifest.version

    @property
    def voice_space(self) -> str | None:
        """Of the bundle that judges."""
        return self._bundle.voice_space

    @property
    def transcriber(self) -> str:
        """What writes down the words; empty where the bundle needs none."""
        return self._transcriber.description if self._transcriber else ""

    @property
    def at_once(self) -> int:
        """How many segments are judged together at most."""
        return min(self._config.max_batch, _MAX_TRANSCRIBED_BATCH) if self._transcriber else self._config.max_batch

    def set_reference(self, reference: VoiceReferenceSums | None) -> None:
        """Judge what comes against this reference of the voice; against none where it is None or of another voice space."""
        self._reference = self._shift = None
        settings = self._bundle.reference_settings
        if reference is None or settings is None or reference.voice_space != self.voice_space:
            return
        try:
            self._shift = voice_shift(VoiceSums.from_bytes(reference.sums), settings)
            self._reference = reference
        except ValueError as error:
            _logger.error("the reference of the voice is not used: %s", error)

    def judge(self, pcms: Sequence[Int16]) -> list[InferenceResult]:
        """Segments of int16 (N,) to what is said of them and how they sounded; an answer outside the grammar is unsure.

        After EngineUnavailable the same segments may be tried again; they are transcribed once.
        """
        words: Sequence[str | None] = [None] * len(pcms)
        failed = 0
        if self._transcriber is not None:
            if self._written is None or self._written.pcms is not pcms:
                self._written = _transcribe(self._transcriber, pcms)
            words, failed = self._written.words, self._written.failed
        answered = _predict(self._predictor, pcms, words, self._shift)
        self._written, self.untranscribed = None, failed
        return [self._with_reference(result, sums) for result, sums in answered]

    def use(self, name: str) -> BundleLoaded | BundleNotLoaded:
        """Judge with another bundle from now on, or say why not and go on with the same. Raises EmosllmError: it can do neither."""
        before = self._bundle
        try:
            folder = find_bundle(name)
            manifest = read_bundle_manifest(folder)
            # First of all: where it cannot be had, a process that is started for the bundle cannot have it either.
            transcriber = open_transcriber(self._config, manifest, self._transcriber)
            bundle = self._opened(folder, manifest)
            self._engine.switch_to(bundle)
        except NeedsRestart as error:
            return BundleNotLoaded(str(error), needs_restart=True)
        except EmosllmError as error:
            return BundleNotLoaded(str(error), needs_restart=False)
        try:
            self._predictor = self._warm_up(bundle)
        except EmosllmError as error:
            self._engine.switch_to(before)
            return BundleNotLoaded(str(error), needs_restart=False)
        self._bundle, self._transcriber = bundle, transcriber
        # The same sums may be another shift now.
        self.set_reference(self._reference)
        return BundleLoaded(self.version, self.voice_space, self.transcriber)

    def _with_reference(self, result: InferenceResult, sums: VoiceSums | None) -> InferenceResult:
        """With the reference that it was heard against, and what it adds to one; a bundle that does not normalise has neither."""
        space = self.voice_space
        if space is None or sums is None:
            return result
        version = None if self._reference is None else self._reference.version
        return replace(result, voice_contribution=VoiceContribution(space, sums, version))

    def _opened(self, folder: Path, manifest: BundleManifest) -> Bundle:
        # Before anything is loaded: another encoder beside the one in use may be more than the memory holds.
        check_compatible(self._bundle.manifest, manifest)
        bundle = open_bundle(folder, self._bundle).under(self._config.expected())
        check_finite(folder)
        return bundle

    def _warm_up(self, bundle: Bundle) -> Predictor:
        """What judges with the bundle, after a first batch, which allocates and compiles: nobody's speech has to wait for that."""
        predictor = Predictor(bundle, self._engine)
        silences = [np.zeros(s_to_samples(seconds), np.int16) for seconds in _WARM_UP_S]
        # Silence has no words, and needs no transcriber to say so.
        for result, _ in _predict(predictor, silences, [""] * len(silences)):
            if not all(math.isfinite(probability) for probability in result.prediction.posterior.values()):
                raise BundleError(f"the bundle {bundle.folder} gives answers that are no numbers; its weights are damaged")
        return predictor


def _transcribe(transcriber: Transcriber, pcms: Sequence[Int16]) -> _Transcripts:
    """A segment that the transcriber fails on is judged without words, as one in which nothing is said."""
    words, failed = [], 0
    for pcm in pcms:
        try:
            words.append(transcriber.transcribe(pcm16_to_float(pcm)))
        except Exception as error:  # no transcript is worth the judging of all other segments
            _logger.warning("the transcriber failed on a segment, which is judged without its words (%s)", type(error).__name__)
            words.append("")
            failed += 1
    return _Transcripts(pcms, words, failed)


def _predict(
    predictor: Predictor, pcms: Sequence[Int16], words: Sequence[str | None], shift: Float32 | None = None
) -> list[tuple[InferenceResult, VoiceSums | None]]:
    """Of each segment the judgement, and what it adds to the reference of its voice.

    words: what a transcriber wrote of each segment, empty for nothing; None where none was asked.
    """
    answers = predictor.predict([SpeechInput(pcm16_to_float(pcm), said) for pcm, said in zip(pcms, words, strict=True)], shift)
    return [
        (InferenceResult(answer.prediction or predictor.unknown(), said or answer.transcript, measure_prosody(pcm)), answer.sums)
        for answer, pcm, said in zip(answers, pcms, words, strict=True)
    ]


_T = TypeVar("_T")

# Between two tries to reach an engine elsewhere, each of which is patient itself. By chance, so that not everyone comes back at once.
_RETRY_DELAYS_S = (1.0, 10.0)


class WorkerInbox:
    """What the daemon has sent and nobody has taken up yet. Filled by one thread, emptied by another.

    Another bundle is taken up before the questions that wait: whoever goes back from a bad one shall not wait for its answers. A reference
    of the voice keeps its place among the questions: those after it are heard against it.
    """

    def __init__(self) -> None:
        self._messages: deque[PredictRequest | SetReference | LoadBundle] = deque()
        self._change = threading.Condition()

    def put(self, message: PredictRequest | SetReference | LoadBundle) -> None:
        """Add what has arrived."""
        with self._change:
            if isinstance(message, LoadBundle):
                self._messages.appendleft(message)
            else:
                self._messages.append(message)
            self._change.notify()

    def take(self, limit: int) -> list[PredictRequest] | SetReference | LoadBundle:
        """Wait for a message; questions come together, up to `limit`, and are judged by the same bundle."""
        with self._change:
            self._change.wait_for(lambda: self._messages)
            first = self._messages.popleft()
            if not isinstance(first, PredictRequest):
                return first
            batch = [first]
            while len(batch) < limit and self._messages and isinstance(self._messages[0], PredictRequest):
                batch.append(self._messages.popleft())  # type: ignore[arg-type]
            return batch

    def take_use(self, patience_s: float) -> LoadBundle | None:
        """Another bundle, if one is asked for within that time; questions go on waiting."""
        with self._change:
            if self._change.wait_for(lambda: self._messages and isinstance(self._messages[0], LoadBundle), patience_s):
                return self._messages.popleft()  # type: ignore[return-value]
            return None


def main() -> None:
    """`python -m monitor.inference.worker FD CONFIG`: FD a socket inherited from the daemon, CONFIG the [engine] section as JSON."""
    # Ctrl-C in a terminal reaches every process of the group; the daemon alone decides when judging ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    inbox = WorkerInbox()
    threading.Thread(target=_receive_messages, args=(connection, inbox), daemon=True).start()
    try:
        run_worker(connection, inbox, EngineConfig.model_validate(json.loads(sys.argv[2])))
    except (AccessRefused, TranscriberUnavailable) as error:
        connection.send(WorkerFailed(str(error), FailureKind.ABSENT))
    except EmosllmError as error:
        connection.send(WorkerFailed(str(error), FailureKind.LASTING))
    except OSError:
        _exit()  # the daemon is gone, and with it everyone who could want an answer
    _exit()


def run_worker(connection: Connection, inbox: WorkerInbox, config: EngineConfig) -> None:
    """Load, say Ready, then do what the messages say, in their order. Raises EmosllmError, OSError."""

    judging = ModelRunner(config)

    def use_other() -> None:
        if (other := inbox.take_use(random.uniform(*_RETRY_DELAYS_S))) is not None:
            connection.send(judging.use(other.bundle))

    _retry_while_unreachable(judging.begin, connection, use_other)
    connection.send(WorkerReady(judging.version, config.kind, judging.voice_space, judging.transcriber))
    while True:
        message = inbox.take(judging.at_once)
        if isinstance(message, LoadBundle):
            connection.send(judging.use(message.bundle))
            continue
        if isinstance(message, SetReference):
            judging.set_reference(message.reference)
            continue
        results = _retry_while_unreachable(partial(judging.judge, [ask.pcm for ask in message]), connection, use_other)
        connection.send(PredictResponse(dict(zip((ask.segment_id for ask in message), results, strict=True)), judging.untranscribed))


def _retry_while_unreachable(do: Callable[[], _T], connection: Connection, pause: Callable[[], None]) -> _T:
    """Do it, again and again while the engine is elsewhere and does not answer. What is loaded stays loaded meanwhile."""
    since = datetime.now(UTC)
    while True:
        try:
            return do()
        except EngineUnavailable as error:
            connection.send(EngineUnreachable(since, str(error)))
        pause()


def _receive_messages(connection: Connection, inbox: WorkerInbox) -> None:
    """Take messages off the socket as they come, so that the daemon never waits for a busy engine; end when it is gone."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        _exit()


def _exit() -> None:
    # Not sys.exit: vLLM leaves threads behind that would keep this process alive.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
