"""One whole night: labels in, a decision out, and a new bundle where the promotion test lets it through.

What helps one person with few labels is learned first: biases of the letters and a temperature. Then mapper and adapter learn what the
biases leave to be learned, for as long as labels that they do not learn from are answered no worse; that may be not at all. The same is
done once without each part of the labels, to test what is learned this way, and then with all of them.
n segments, L letters of the bundle.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low

import numpy as np
import torch

from model.audio import Float32
from model.bundle import load_llm, open_bundle
from model.decision import Decision, OwnTest, Recalibration, Stage, Verdict
from model.errors import BundleError, TrainingError
from model.evidence import Evidence, HeardWith
from model.predictor import Answered
from model.priors import EVERYDAY, Prior
from model.prompts import Strategy, Task
from model.voice_reference import VoiceSums, shift_of
from train.asking import answers_from_states, from_states
from train.learning.curriculum import set_trainable
from train.learning.objective import EmoSLLM
from train.learning.trainer import Materials, Trainer, make_accelerator
from train.nightly.folds import Division, divide
from train.nightly.labels import Labels
from train.nightly.new_bundle import write_new_bundle
from train.nightly.recalibration import Fit, correction, recalibrated
from train.nightly.settings import NightSettings
from train.nightly.stopping import Stopping
from train.nightly.training_set import OwnSegment, encode_own, training_set
from train.nightly.vector_scaling import VectorScaling
from train.nightly.verdict import acted_in, own_test, public_test, verdict_of
from train.public_set import read_public_set
from train.recipe import Course
from train.scoring.metrics import Floats

logger = logging.getLogger(__name__)

_FLOOR = 1e-9

_OWN_FLOOR = 1e-3
"""Under it a probability of the person's own segments counts as this: few labels must not hang on how wrong a single answer is."""


@dataclass(frozen=True, slots=True)
class _Learned:
    """steps: of the weights; 0: they stayed as they were. scaling: of log-probabilities over the temperature of the bundle in use."""

    steps: int
    scaling: VectorScaling


class Night:
    """One night with the bundle in `folder`.

    work: where weights are kept, so that a stopped night goes on. settings: as shipped by default. heard_with: the reference of the
    person's voice and the prior, as while the bundle serves them; by default a stranger's.
    bundle, llm: those of `folder`, and once it has learned the new ones, whatever the verdict.
    """

    def __init__(
        self,
        folder: Path,
        work: Path,
        seed: int = 0,
        settings: NightSettings | None = None,
        *,
        heard_with: HeardWith | None = None,
    ) -> None:
        """Raises BundleError for a bundle that is damaged, needs transcripts, or has no rehearsal set with voices to be measured with;
        TrainingError for a reference that the bundle has no use for."""
        self.bundle = open_bundle(folder)
        if self.bundle.manifest.strategy.needs_transcript:
            raise BundleError(
                f"{self.bundle.manifest.version} is asked with words ({self.bundle.manifest.strategy}): nights learn from sound alone"
            )
        self.llm = load_llm(self.bundle)
        self._letters = self.bundle.manifest.letters
        self._public = read_public_set(folder)
        self._settings = settings or NightSettings.load()
        heard_with = heard_with or HeardWith()
        self._work, self._seed, self._shift = work, seed, self._shift_of(heard_with.reference)
        self._prior = correction(self.bundle.manifest, Prior.named(heard_with.prior))
        self._before: Mapping[int, Answered] = {}
        self._own: Mapping[int, OwnSegment] = {}
        self._accelerator = make_accelerator(self._course())
        if not self._public.measured_with:
            raise BundleError(f"the rehearsal set of {folder} has no voices to be measured with: its training knew fewer than three")
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
        own = encode_own(self.bundle, division.everything, self._settings.views, self._shift)
        self._own = {one.evidence.segment: one for one in own}
        self._before = dict(zip(self._own, self._answers(division.everything), strict=True))
        folder, in_use = self._work / self._key(division), self._on_other_voices()
        tested, steps = self._tested(division, folder)
        learned = self._learn(division.everything, [], folder / "all", steps)
        update = {
            "own": tested,
            "stage": Stage.WEIGHTS if learned.steps else Stage.BIASES,
            "letter_bias": {letter: round(float(value), 4) for letter, value in zip(self._letters, learned.scaling.bias, strict=True)},
            "steps": learned.steps,
        }
        decision, fit = self._decided(decision.model_copy(update=update), learned, in_use)
        decision = decision.model_copy(update={"seconds": round(time.monotonic() - began, 1)})
        if decision.verdict is Verdict.PROMOTED:
            return write_new_bundle(self.bundle, self.llm, fit, division.everything, decision, out)
        return decision

    def _tested(self, division: Division, folder: Path) -> tuple[OwnTest, int]:
        """How labels are answered by what learned from the other parts, and how many steps their weights took, mostly."""
        after, steps = list[Floats](), list[int]()
        for number, fold in enumerate(division.folds, 1):
            logger.info("learning without part %d of %d", number, len(division.folds))
            learned = self._learn(fold.trained, fold.stopping, folder / f"fold-{number}")
            after.append(learned.scaling.of_speech(self._log_probs(fold.held_out)))
            steps.append(learned.steps)
            self._stopping.go_back()
        parts = np.repeat(np.arange(len(division.folds)), [len(fold.held_out) for fold in division.folds])
        answered = self._table([self._before[one.segment] for one in division.held_out])
        before = answered / self.bundle.manifest.temperature + self._bias_in_use() + self._prior
        labels = Labels.of(division.held_out, self._letters)
        return own_test(before, np.concatenate(after), labels, parts), median_low(steps)

    def _learn(self, trained: Sequence[Evidence], stopping: Sequence[Evidence], folder: Path, until: int | None = None) -> _Learned:
        """Fit biases to all of it, then let weights learn from `trained`; the network has the weights that are kept.

        until: so many steps, and `stopping` is not asked.
        """
        fitted_on = [*trained, *stopping]
        before = self._table([self._before[one.segment] for one in fitted_on]) / self.bundle.manifest.temperature
        scaling = VectorScaling.fit(before, Labels.of(fitted_on, self._letters), self._settings.bias_spread, prior=self._prior)
        set_trainable(self._settings.phase.trainable, self.bundle.mapper, self.llm)
        network = EmoSLLM(self.bundle.mapper, self.llm)
        settings = self._settings
        self._stopping = Stopping(network, folder, lambda: self._scores(stopping, scaling), settings.patience, settings.way, until)
        if until != 0:
            Trainer(self._course(), self._materials(trained, scaling), folder, self._seed, self._accelerator, self._stopping.look).run()
            self._stopping.look(settings.phase.steps or 0)
        self._stopping.take_best()
        return _Learned(self._stopping.steps, scaling)

    def _materials(self, trained: Sequence[Evidence], scaling: VectorScaling) -> Materials:
        """What weights learn from: what the person says, a little of it left to what the bundle in use thinks of such a label."""
        labels, temperature = Labels.of(trained, self._letters), self.bundle.manifest.temperature
        answers = [self._before[one.segment] for one in trained]
        thought = np.exp(scaling.of_labels(self._table(answers) / temperature, labels.shown))
        said = np.eye(len(self._letters))[labels.said]
        targets = (1 - self._settings.smoothing) * said + self._settings.smoothing * thought
        own, transcripts = [self._own[one.segment] for one in trained], [answer.transcript for answer in answers]
        offsets = scaling.offsets(labels.shown) * temperature * np.array([[one.distance] for one in own])
        made = training_set(self.bundle, own, targets, offsets, transcripts, self._public.clips, self._settings)
        return Materials(made.parts, made.hearing, self.bundle.mapper, self.llm, made.voices)

    def _scores(self, pieces: Sequence[Evidence], scaling: VectorScaling) -> Floats:
        """Log-probability of what the person says of each segment (n,), given that they say something of it."""
        labels = Labels.of(pieces, self._letters)
        return np.asarray(scaling.of_labels(self._log_probs(pieces), labels.shown)[np.arange(len(labels)), labels.said])

    def _decided(self, decision: Decision, learned: _Learned, in_use: Floats) -> tuple[Decision, Fit]:
        """The verdict, with what the voices that are never rehearsed say, and the calibration of the new bundle.

        in_use (n, L): log-probabilities that the bundle in use gave to these voices.
        """
        clips, manifest, released = self._public.measured_with, self.bundle.manifest, self._public
        after = self._on_other_voices()
        calibration = manifest.temperature, manifest.unsure_below
        old, new = recalibrated(in_use, after, acted_in(clips, self._letters), *calibration, correction(manifest, EVERYDAY))
        if not learned.steps:
            new = replace(new, temperature=manifest.temperature, unsure_below=manifest.unsure_below)
        new = replace(new, temperature=new.temperature / learned.scaling.scale)
        before = np.log(np.maximum(torch.stack([clip.posterior for clip in clips]).double().numpy(), _FLOOR))
        public = public_test(clips, before / released.temperature, after / new.temperature + learned.scaling.bias, self._letters)
        assert decision.own is not None
        verdict, reason = verdict_of(decision.own, public)
        told = _told(old, new, manifest.temperature, manifest.unsure_below)
        return decision.model_copy(update={"verdict": verdict, "reason": reason, "public": public, "calibration": told}), new

    def _on_other_voices(self) -> Floats:
        """Log-probabilities (n, L), uncalibrated, of the voices that are never rehearsed."""
        clips = self._public.measured_with
        found = from_states(self.bundle.uncalibrated(), self.llm, [clip.states for clip in clips], [clip.sound for clip in clips])
        return np.asarray(np.log(np.maximum([[one.posterior[letter] for letter in self._letters] for one in found], _FLOOR)))

    def _answers(self, pieces: Sequence[Evidence]) -> list[Answered]:
        """What is said of the person's segments, uncalibrated."""
        own = [self._own[one.segment] for one in pieces]
        return answers_from_states(self.bundle.uncalibrated(), self.llm, [one.views[0] for one in own], [one.sound for one in own])

    def _log_probs(self, pieces: Sequence[Evidence]) -> Floats:
        """Log-probabilities (n, L), over the temperature of the bundle in use."""
        return self._table(self._answers(pieces)) / self.bundle.manifest.temperature

    def _shift_of(self, reference: bytes | None) -> Float32 | None:
        """What of the person's voice is subtracted from encoder states (D,); None without a reference."""
        if reference is None:
            return None
        settings, version = self.bundle.reference_settings, self.bundle.manifest.version
        if settings is None:
            raise TrainingError(f"the bundle {version} does not normalise voices; start the night without a reference of the voice")
        try:
            return shift_of(VoiceSums.from_bytes(reference), settings)
        except ValueError as error:
            raise TrainingError(f"the bundle {version} cannot use the reference of the voice: {error}; nothing was learned") from error

    def _table(self, answers: Sequence[Answered]) -> Floats:
        """Log-probabilities (n, L); an answer outside the grammar says nothing."""
        nothing = dict.fromkeys(self._letters, 1 / len(self._letters))
        rows = [[(one.prediction.posterior if one.prediction else nothing)[k] for k in self._letters] for one in answers]
        return np.asarray(np.log(np.maximum(rows, _OWN_FLOOR)))

    def _bias_in_use(self) -> Floats:
        """The letter biases (L,) of the bundle in use."""
        return np.array([self.bundle.manifest.letter_bias.get(letter, 0.0) for letter in self._letters])

    def _course(self) -> Course:
        task = Task.JOINT if self.bundle.manifest.strategy is Strategy.JOINT else Task.SER
        features = self.bundle.manifest.features is not None
        phase = self._settings.phase.model_copy(update={"tasks": [task], "features": features, "shots": self.bundle.manifest.shots})
        return Course(letters=self._letters, loop=self._settings.loop, phases=[phase])

    def _key(self, division: Division) -> str:
        """Of what was begun: another bundle, evidence, reference, prior or seed begins anew."""
        learned = [(one.segment, one.emotion, one.weight) for one in division.everything]
        shift = None if self._shift is None else hashlib.sha256(self._shift.tobytes()).hexdigest()
        told = repr((self.bundle.manifest.version, self._settings, self._seed, learned, shift, self._prior.tolist()))
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
