"""One whole night: evidence in, a decision out, and a new bundle where the gate lets it through.

L letters of the bundle.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from model.audio import pcm16_to_float
from model.bundle import load_llm, open_bundle
from model.decision import Decision, PublicTest, Recalibration, Verdict
from model.errors import BundleError
from model.evidence import Evidence
from model.predictor import Answered, Predictor, Sound
from model.priors import EVERYDAY
from model.prompts import Strategy, Task
from model.types import Prediction
from train.asking import from_states
from train.learning.curriculum import set_trainable
from train.learning.objective import EmoSLLM
from train.learning.trainer import Materials, Trainer, make_accelerator
from train.nightly.division import Division, Round, divide
from train.nightly.examination import acted_in, own_test, public_test, verdict_of
from train.nightly.gate import Floats
from train.nightly.lesson import lesson_of
from train.nightly.new_bundle import write_new_bundle
from train.nightly.recalibration import Fit, recalibrated
from train.nightly.settings import NightSettings
from train.nightly.stopping import Stopping
from train.public_set import read_public_set
from train.recipe import Course

logger = logging.getLogger(__name__)

_FLOOR = 1e-9


class Night:
    """One night with the bundle in `folder`.

    work: where weights are kept, so that a stopped night goes on. settings: as shipped by default.
    bundle, llm: those of `folder`, and once it has learned the new ones, whatever the verdict.
    """

    def __init__(self, folder: Path, work: Path, seed: int = 0, settings: NightSettings | None = None) -> None:
        """Raises BundleError for a bundle that is damaged, needs transcripts, or has no public set with voices to be measured with."""
        self.bundle = open_bundle(folder)
        if self.bundle.manifest.strategy.needs_transcript:
            raise BundleError(
                f"{self.bundle.manifest.version} is asked with words ({self.bundle.manifest.strategy}): nights learn from sound alone"
            )
        self.llm = load_llm(self.bundle)
        self._public = read_public_set(folder)
        self._settings = settings or NightSettings.load()
        self._work, self._seed = work, seed
        self._letters = self.bundle.manifest.letters
        self._accelerator = make_accelerator(self._course())
        if not self._public.measured_with:
            raise BundleError(f"the public set of {folder} has no voices to be measured with: its training knew fewer than three")
        self.bundle.mapper.to(self._accelerator.device)
        self.llm.to(self._accelerator.device)
        if self.bundle.encoder.gains_from_gpu:
            self.bundle.encoder.to(self._accelerator.device)

    def learn(self, pieces: Iterable[Evidence], out: Path) -> Decision:
        """Learn, decide, and write the new bundle to `out` if it is promoted. Raises TrainingError, FormatError."""
        began = time.monotonic()
        division = divide(pieces, self._letters, self._settings)
        lacking = division.lacking(self._settings)
        decision = Decision(verdict=Verdict.TOO_LITTLE, reason=lacking, parent=self.bundle.manifest.version, learned=division.learned)
        if lacking:
            return decision
        before = {one.segment: answer for one, answer in zip(division.everything, self.answers(division.everything), strict=True)}
        after: list[Answered] = []
        for number, turn in enumerate(division.rounds):
            logger.info("round %d of %d", number + 1, len(division.rounds))
            stopping = self._learned(turn, before, self._work / self._key(division) / f"round-{number + 1}")
            after += self.answers(turn.held_out)
            if turn is not division.last:
                stopping.go_back()
        own = own_test(division.rounds, self._table([before[one.segment] for one in division.held_out]), self._table(after), self._letters)
        public, old, new = self._examined()
        verdict, reason = verdict_of(own, public, stopping.steps)
        decision = decision.model_copy(
            update={
                "verdict": verdict,
                "reason": reason,
                "own": own,
                "public": public,
                "calibration": _told(old, new, self.bundle.manifest.temperature, self.bundle.manifest.unsure_below),
                "steps": stopping.steps,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
        if verdict is Verdict.PROMOTED:
            return write_new_bundle(self.bundle, self.llm, new, division.everything, decision, out)
        return decision

    def answers(self, pieces: Sequence[Evidence]) -> list[Answered]:
        """What is said of the person's segments, uncalibrated."""
        return Predictor(self.bundle.uncalibrated(), self.llm).predict([Sound(pcm16_to_float(one.pcm)) for one in pieces])

    def _learned(self, turn: Round, before: Mapping[int, Answered], folder: Path) -> Stopping:
        """Learn what a round has to teach; the network has the weights that did best on the labels which say when to stop."""
        known = [before[one.segment] for one in turn.trained]
        lesson = lesson_of(self.bundle, turn.trained, known, self._public.clips, self._settings)
        materials = Materials(lesson.parts, lesson.hearing, self.bundle.mapper, self.llm, lesson.voices)
        set_trainable(self._settings.phase.trainable, self.bundle.mapper, self.llm)
        network = EmoSLLM(self.bundle.mapper, self.llm)
        stopping = Stopping(network, folder, lambda: self._likelihoods(turn.stopping), self._settings.patience, self._settings.way)
        Trainer(self._course(), materials, folder, self._seed, self._accelerator, stopping.look).run()
        stopping.look(self._settings.phase.steps or 0)
        stopping.take_best()
        return stopping

    def _likelihoods(self, pieces: Sequence[Evidence]) -> Floats:
        """Log-probability of what the person says of each piece (n,)."""
        table = self._table(self.answers(pieces))
        places = [self._letters.index(one.emotion) for one in pieces]
        return np.asarray(np.log(np.maximum(table[np.arange(len(places)), places], _FLOOR)))

    def _examined(self) -> tuple[PublicTest, Fit, Fit]:
        """The public set's voices that are never rehearsed, and the calibration before and after."""
        clips = self._public.measured_with
        found = from_states(self.bundle.uncalibrated(), self.llm, [clip.states for clip in clips], [clip.sound for clip in clips])
        before = np.log(np.maximum(torch.stack([clip.posterior for clip in clips]).double().numpy(), _FLOOR))
        after = np.log(np.maximum(self._rows(found), _FLOOR))
        acted = acted_in(clips, self._letters)
        old, new = recalibrated(before, after, acted, self._public.temperature, self._public.unsure_below, self._to_everyday())
        test = public_test(clips, before, after, self._letters)
        return test, old, new

    def _to_everyday(self) -> Floats | float:
        """What corrects the bundle's log-probabilities (L,) to everyday speech; 0 where it does not state the prior of its training."""
        heard = self.bundle.manifest.training_prior
        if heard is None:
            return 0.0
        expected = EVERYDAY.over(self._letters)
        return np.asarray(np.log([expected[letter] / heard[letter] for letter in self._letters]))

    def _table(self, answers: Sequence[Answered]) -> Floats:
        """Posteriors (n, L); an answer outside the grammar says nothing."""
        nothing = dict.fromkeys(self._letters, 1 / len(self._letters))
        return np.array([[(one.prediction.posterior if one.prediction else nothing)[k] for k in self._letters] for one in answers])

    def _rows(self, predictions: Sequence[Prediction]) -> Floats:
        return np.array([[one.posterior[letter] for letter in self._letters] for one in predictions])

    def _course(self) -> Course:
        task = Task.JOINT if self.bundle.manifest.strategy is Strategy.JOINT else Task.SER
        features = self.bundle.manifest.features is not None
        phase = self._settings.phase.model_copy(update={"tasks": [task], "features": features, "shots": self.bundle.manifest.shots})
        return Course(letters=self._letters, loop=self._settings.loop, phases=[phase])

    def _key(self, division: Division) -> str:
        """Of what was begun: another bundle, evidence or seed begins anew."""
        learned = [(one.segment, one.emotion, one.weight) for one in division.everything]
        told = repr((self.bundle.manifest.version, self._settings, self._seed, learned))
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def _told(old: Fit, new: Fit, temperature: float, unsure_below: float) -> Recalibration:
    """temperature, unsure_below: of the bundle in use, which may be a night's already."""
    return Recalibration(
        temperature_before=temperature,
        temperature_after=round(new.temperature, 4),
        unsure_below_before=unsure_below,
        unsure_below_after=round(new.unsure_below, 4),
        sure_share_before=round(old.sure_share, 4),
        sure_share_after=round(new.sure_share, 4),
    )
