"""Judging inside the judging process: one bundle, one engine, and the change to another bundle while both go on. Knows no messages' way."""

import math
from collections.abc import Sequence

import numpy as np

from model.audio import Int16, pcm16_to_float, s_to_samples
from model.bundle import Bundle, open_bundle
from model.errors import BundleError, EmosllmError, EngineUnavailable, NeedsRestart
from model.manifest import find_bundle, read_manifest
from model.predictor import Predictor, Sound
from monitor.config import EngineConfig
from monitor.judging.engine import Engine, open_engine
from monitor.judging.fitting import check_fit, check_numbers
from monitor.judging.messages import NotUsed, Using
from monitor.judging.voice import measure
from monitor.store.records import Judgement

_WARM_UP_S = (1.0, 2.0, 4.0, 8.0)


class Judging:
    """Loads the configured bundle; `begin` comes before all else. Raises EmosllmError."""

    _engine: Engine
    _predictor: Predictor

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._bundle = open_bundle(find_bundle(config.bundle)).under(config.expected())
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

    def judge(self, pcms: Sequence[Int16]) -> list[Judgement]:
        """Segments of int16 (N,) to what is said of them and how they sounded; an answer outside the grammar is unsure."""
        return _judge(self._predictor, pcms)

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
        return Using(self.version)

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
        for judgement in _judge(predictor, [np.zeros(s_to_samples(seconds), np.int16) for seconds in _WARM_UP_S]):
            if not all(math.isfinite(probability) for probability in judgement.prediction.posterior.values()):
                raise BundleError(f"the bundle {bundle.folder} gives answers that are no numbers; its weights are damaged")
        return predictor


def _judge(predictor: Predictor, pcms: Sequence[Int16]) -> list[Judgement]:
    answers = predictor.predict([Sound(pcm16_to_float(pcm)) for pcm in pcms])
    return [
        Judgement(answer.prediction or predictor.unknown(), answer.transcript, measure(pcm))
        for answer, pcm in zip(answers, pcms, strict=True)
    ]
