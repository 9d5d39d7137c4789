"""Judging inside the judging process: one bundle, one engine, and the change to another bundle while both go on. Knows no messages' way."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.audio import Float32, Int16, pcm16_to_float, s_to_samples
from model.bundle import Bundle, open_bundle
from model.errors import BundleError, EmosllmError, EngineUnavailable, NeedsRestart
from model.manifest import find_bundle, read_manifest
from model.predictor import Predictor, Sound
from model.voice_reference import VoiceSums, shift_of
from monitor.config import EngineConfig
from monitor.judging.engine import Engine, open_engine
from monitor.judging.fitting import check_fit, check_numbers
from monitor.judging.messages import NotUsed, Using
from monitor.judging.voice import measure
from monitor.store.records import Judgement
from monitor.store.voice_reference import HeardAgainst, HeldReference

_logger = logging.getLogger(__name__)

_WARM_UP_S = (1.0, 2.0, 4.0, 8.0)


class Judging:
    """Loads the configured bundle; `begin` comes before all else. Raises EmosllmError."""

    _engine: Engine
    _predictor: Predictor

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._bundle = open_bundle(find_bundle(config.bundle)).under(config.expected())
        self._reference: HeldReference | None = None
        self._shift: Float32 | None = None
        check_numbers(self._bundle.folder)

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
        """Segments of int16 (N,) to what is said of them and how they sounded; an answer outside the grammar is unsure."""
        answered = _judge(self._predictor, pcms, self._shift)
        if (space := self.voice_space) is None:
            return [judgement for judgement, _ in answered]
        version = None if self._reference is None else self._reference.version
        return [
            judgement if sums is None else replace(judgement, heard_against=HeardAgainst(space, sums, version))
            for judgement, sums in answered
        ]

    def use(self, name: str) -> Using | NotUsed:
        """Judge with another bundle from now on, or say why not and go on with the same. Raises EmosllmError: it can do neither."""
        before = self._bundle
        try:
            bundle = self._opened(name)
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
        self._bundle = bundle
        # The same sums may be another shift now.
        self.hear_against(self._reference)
        return Using(self.version, self.voice_space)

    def _opened(self, name: str) -> Bundle:
        folder = find_bundle(name)
        # Before anything is loaded: another encoder beside the one in use may be more than the memory holds.
        check_fit(self._bundle.manifest, read_manifest(folder))
        bundle = open_bundle(folder, self._bundle).under(self._config.expected())
        check_numbers(folder)
        return bundle

    def _tried(self, bundle: Bundle) -> Predictor:
        """What judges with the bundle, after a first batch, which allocates and compiles: nobody's speech has to wait for that."""
        predictor = Predictor(bundle, self._engine)
        for judgement, _ in _judge(predictor, [np.zeros(s_to_samples(seconds), np.int16) for seconds in _WARM_UP_S]):
            if not all(math.isfinite(probability) for probability in judgement.prediction.posterior.values()):
                raise BundleError(f"the bundle {bundle.folder} gives answers that are no numbers; its weights are damaged")
        return predictor


def _judge(predictor: Predictor, pcms: Sequence[Int16], shift: Float32 | None = None) -> list[tuple[Judgement, VoiceSums | None]]:
    """Of each segment the judgement, and what it adds to the reference of its voice."""
    answers = predictor.predict([Sound(pcm16_to_float(pcm)) for pcm in pcms], shift)
    return [
        (Judgement(answer.prediction or predictor.unknown(), answer.transcript, measure(pcm)), answer.sums)
        for answer, pcm in zip(answers, pcms, strict=True)
    ]
