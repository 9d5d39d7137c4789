"""Judging inside the judging process: one bundle, one engine, and the change to another bundle while both go on. Knows no messages' way."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.audio import Float32, Int16, pcm16_to_float, s_to_samples
from model.bundle import Bundle, open_bundle
from model.errors import BundleError, EmosllmError, EngineUnavailable, NeedsRestart
from model.manifest import BundleManifest, find_bundle, read_manifest
from model.predictor import Predictor, Sound
from model.transcriber import Transcriber
from model.voice_reference import VoiceSums, shift_of
from monitor.config import EngineConfig
from monitor.judging.engine import Engine, open_engine
from monitor.judging.fitting import check_fit, check_numbers
from monitor.judging.messages import NotUsed, Using
from monitor.judging.transcription import open_transcriber
from monitor.judging.voice import measure
from monitor.store.records import Judgement
from monitor.store.voice_reference import HeardAgainst, HeldReference

_logger = logging.getLogger(__name__)

_WARM_UP_S = (1.0, 2.0, 4.0, 8.0)
# A transcript takes a hundred times as long as all else: with more at once, answers and other bundles would wait for minutes.
_TRANSCRIBED_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """The words of some segments. failed: for how many the transcriber failed; those have none."""

    pcms: Sequence[Int16]
    words: list[str]
    failed: int


class Judging:
    """Loads the configured bundle, and the transcriber where it needs one; `begin` comes before all else. Raises EmosllmError.

    untranscribed: for how many of the segments judged last the transcriber failed.
    """

    _engine: Engine
    _predictor: Predictor

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        folder = find_bundle(config.bundle)
        self._transcriber = open_transcriber(config, read_manifest(folder))
        self._written: _Written | None = None
        self.untranscribed = 0
        self._bundle = open_bundle(folder).under(config.expected())
        self._reference: HeldReference | None = None
        self._shift: Float32 | None = None
        check_numbers(folder)

    def begin(self) -> None:
        """Open the engine and try it. Raises EmosllmError; after EngineUnavailable it may be tried again."""
        self._engine = open_engine(self._config, self._bundle)
        try:
            self._predictor = self._tried(self._bundle)
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
        return min(self._config.max_batch, _TRANSCRIBED_AT_ONCE) if self._transcriber else self._config.max_batch

    def hear_against(self, reference: HeldReference | None) -> None:
        """Judge what comes against this reference of the voice; against none where it is None or of another voice space."""
        self._reference = self._shift = None
        settings = self._bundle.reference_settings
        if reference is None or settings is None or reference.voice_space != self.voice_space:
            return
        try:
            self._shift = shift_of(VoiceSums.from_bytes(reference.sums), settings)
            self._reference = reference
        except ValueError as error:
            _logger.error("the reference of the voice is not used: %s", error)

    def judge(self, pcms: Sequence[Int16]) -> list[Judgement]:
        """Segments of int16 (N,) to what is said of them and how they sounded; an answer outside the grammar is unsure.

        After EngineUnavailable the same segments may be tried again; they are transcribed once.
        """
        words: Sequence[str | None] = [None] * len(pcms)
        failed = 0
        if self._transcriber is not None:
            if self._written is None or self._written.pcms is not pcms:
                self._written = _write(self._transcriber, pcms)
            words, failed = self._written.words, self._written.failed
        answered = _judge(self._predictor, pcms, words, self._shift)
        self._written, self.untranscribed = None, failed
        return [self._with_reference(judgement, sums) for judgement, sums in answered]

    def use(self, name: str) -> Using | NotUsed:
        """Judge with another bundle from now on, or say why not and go on with the same. Raises EmosllmError: it can do neither."""
        before = self._bundle
        try:
            folder = find_bundle(name)
            manifest = read_manifest(folder)
            # First of all: where it cannot be had, a process that is started for the bundle cannot have it either.
            transcriber = open_transcriber(self._config, manifest, self._transcriber)
            bundle = self._opened(folder, manifest)
            self._engine.adopt(bundle)
        except NeedsRestart as error:
            return NotUsed(str(error), needs_restart=True)
        except EmosllmError as error:
            return NotUsed(str(error), needs_restart=False)
        try:
            self._predictor = self._tried(bundle)
        except EmosllmError as error:
            self._engine.adopt(before)
            return NotUsed(str(error), needs_restart=False)
        self._bundle, self._transcriber = bundle, transcriber
        # The same sums may be another shift now.
        self.hear_against(self._reference)
        return Using(self.version, self.voice_space, self.transcriber)

    def _with_reference(self, judgement: Judgement, sums: VoiceSums | None) -> Judgement:
        """With the reference that it was heard against, and what it adds to one; a bundle that does not normalise has neither."""
        space = self.voice_space
        if space is None or sums is None:
            return judgement
        version = None if self._reference is None else self._reference.version
        return replace(judgement, heard_against=HeardAgainst(space, sums, version))

    def _opened(self, folder: Path, manifest: BundleManifest) -> Bundle:
        # Before anything is loaded: another encoder beside the one in use may be more than the memory holds.
        check_fit(self._bundle.manifest, manifest)
        bundle = open_bundle(folder, self._bundle).under(self._config.expected())
        check_numbers(folder)
        return bundle

    def _tried(self, bundle: Bundle) -> Predictor:
        """What judges with the bundle, after a first batch, which allocates and compiles: nobody's speech has to wait for that."""
        predictor = Predictor(bundle, self._engine)
        silences = [np.zeros(s_to_samples(seconds), np.int16) for seconds in _WARM_UP_S]
        # Silence has no words, and needs no transcriber to say so.
        for judgement, _ in _judge(predictor, silences, [""] * len(silences)):
            if not all(math.isfinite(probability) for probability in judgement.prediction.posterior.values()):
                raise BundleError(f"the bundle {bundle.folder} gives answers that are no numbers; its weights are damaged")
        return predictor


def _write(transcriber: Transcriber, pcms: Sequence[Int16]) -> _Written:
    """A segment that the transcriber fails on is judged without words, as one in which nothing is said."""
    words, failed = [], 0
    for pcm in pcms:
        try:
            words.append(transcriber.transcribe(pcm16_to_float(pcm)))
        except Exception as error:  # no transcript is worth the judging of all other segments
            _logger.warning("the transcriber failed on a segment, which is judged without its words (%s)", type(error).__name__)
            words.append("")
            failed += 1
    return _Written(pcms, words, failed)


def _judge(
    predictor: Predictor, pcms: Sequence[Int16], words: Sequence[str | None], shift: Float32 | None = None
) -> list[tuple[Judgement, VoiceSums | None]]:
    """Of each segment the judgement, and what it adds to the reference of its voice.

    words: what a transcriber wrote of each segment, empty for nothing; None where none was asked.
    """
    answers = predictor.predict([Sound(pcm16_to_float(pcm), said) for pcm, said in zip(pcms, words, strict=True)], shift)
    return [
        (Judgement(answer.prediction or predictor.unknown(), said or answer.transcript, measure(pcm)), answer.sums)
        for answer, pcm, said in zip(answers, pcms, words, strict=True)
    ]
