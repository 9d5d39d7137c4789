"""One nightly retraining: labels in, a decision out, and a new bundle if the promotion test lets it through.

Letter biases and a temperature are learned first, because they help one person with few labels. Then mapper and adapter learn what the
biases leave, for as long as labels that they do not learn from are predicted no worse; that may be not at all. The same is done once
without each part of the labels, to test what is learned this way, and then with all of them. The new bundle is a copy of the one it began
with, except for mapper, adapter, biases, calibration and the list of what it learned from. n segments, L letters of the bundle.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from safetensors.torch import save_file

from model.audio import Float32
from model.bundle import Bundle, load_llm, open_bundle
from model.bundle_format import (
    DECISION_FILE,
    LEARNED_FROM_FILE,
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    PersonalTest,
    PromotionDecision,
    PromotionVerdict,
    Recalibration,
    Stage,
    compute_version,
    file_checksums,
)
from model.emotions import EVERYDAY, Prior
from model.errors import BundleError, TrainingError
from model.labelled_segment import HeardWith, LabelledSegment
from model.language_model import SpeechLLM
from model.predictor import PredictorOutput
from model.prompts import Strategy, Task
from model.voice_reference import VoiceSums, voice_shift
from train.evaluation.metrics import Floats
from train.learning.trainer import EmoSLLM, Trainer, TrainingMaterials, make_accelerator, set_trainable
from train.nightly.early_stopping import EarlyStopping
from train.nightly.promotion import acted_letters, decide_verdict, personal_test, rehearsal_test
from train.nightly.training_set import EncodedSegment, LabelFolds, NightlySettings, build_training_set, divide_labels, encode_segments
from train.nightly.vector_scaling import CalibrationFit, LabelArrays, VectorScaling, correction, recalibrate
from train.recipe import Curriculum
from train.rehearsal_set import predict_states, read_rehearsal_set, transcribe_and_predict_states
from train.release import refuse_existing, write_bundle_manifest

_SUFFIX = "-own"
_NEW = (MANIFEST_FILE, MODEL_CARD_FILE, LEARNED_FROM_FILE, DECISION_FILE, "mapper.safetensors", "adapter")
_LIMIT = "It learned from one person's own speech and words: figures on other voices are those of the bundle it began with."


def write_new_bundle(
    parent: Bundle, llm: SpeechLLM, fit: CalibrationFit, learned: Sequence[LabelledSegment], decision: PromotionDecision, folder: Path
) -> PromotionDecision:
    """Write to `folder`, which must not exist yet, whole or not at all. parent: with the new mapper in it. Returns the decision with the
    new version."""
    refuse_existing(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(parent.folder, partial, ignore=lambda at, _names: _NEW if Path(at) == parent.folder else ())
    save_file(parent.mapper.state_dict(), partial / "mapper.safetensors")
    llm.save(None, partial / "adapter")
    (partial / LEARNED_FROM_FILE).write_text(json.dumps(_learned(parent.folder, learned)), encoding="utf-8")
    name = parent.manifest.name.removesuffix(_SUFFIX) + _SUFFIX
    # Biases are no file of their own, and have a say in its answers.
    version = compute_version(name, {**file_checksums(partial), "letter_bias": json.dumps(decision.letter_bias)})
    decision = decision.model_copy(update={"version": version})
    (partial / DECISION_FILE).write_text(decision.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (partial / MODEL_CARD_FILE).write_text(_card(parent, decision), encoding="utf-8")
    manifest = parent.manifest.model_copy(
        update={
            "name": name,
            "version": version,
            "created": datetime.now(UTC).date().isoformat(),
            "letter_bias": decision.letter_bias,
            "temperature": round(fit.temperature, 4),
            "unsure_below": round(fit.unsure_below, 4),
            "limits": [*(limit for limit in parent.manifest.limits if limit != _LIMIT), _LIMIT],
            "files": file_checksums(partial),
        }
    )
    write_bundle_manifest(partial, manifest)
    partial.rename(folder)
    return decision


def _learned(parent: Path, learned: Sequence[LabelledSegment]) -> dict[str, object]:
    """From which segments, and of which time: what the one before learned from, and this."""
    try:
        known = json.loads((parent / LEARNED_FROM_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = {"segments": [], "from": None, "to": None}
    moments = [one.at.isoformat() for one in learned]
    return {
        "segments": sorted({*known["segments"], *(one.segment for one in learned)}),
        "from": min(filter(None, [known["from"], *moments])),
        "to": max(filter(None, [known["to"], *moments])),
    }


def _card(parent: Bundle, decision: PromotionDecision) -> str:
    learned = decision.learned
    return "\n".join(
        [
            f"# {decision.version}",
            "",
            f"Learned at night on this machine from {learned.corrections} corrections, {learned.confirmations} confirmations and"
            f" {learned.checkins} check-ins of one person, beginning with {decision.parent}. It is for that person alone: whoever has it"
            " may learn something of their voice. Why it was let through: `decision.json`.",
            "",
            f"Licence: {parent.manifest.license}, as that of the bundle it began with.",
            "",
        ]
    )


logger = logging.getLogger(__name__)

_FLOOR = 1e-9

_OWN_FLOOR = 1e-3
"""Under it a probability of the person's own segments counts as this: few labels must not hang on how wrong a single answer is."""


@dataclass(frozen=True, slots=True)
class _LearnedModel:
    """steps: of the weights; 0: they stayed as they were. scaling: of log-probabilities over the temperature of the bundle in use."""

    steps: int
    scaling: VectorScaling


class NightlyRetraining:
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
        settings: NightlySettings | None = None,
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
        self._public = read_rehearsal_set(folder)
        self._settings = settings or NightlySettings.load()
        heard_with = heard_with or HeardWith()
        self._work, self._seed, self._shift = work, seed, self._shift_of(heard_with.reference)
        self._prior = correction(self.bundle.manifest, Prior.named(heard_with.prior))
        self._before: Mapping[int, PredictorOutput] = {}
        self._own: Mapping[int, EncodedSegment] = {}
        self._accelerator = make_accelerator(self._course())
        if not self._public.measured_with:
            raise BundleError(f"the rehearsal set of {folder} has no voices to be measured with: its training knew fewer than three")
        self.bundle.mapper.to(self._accelerator.device)
        self.llm.to(self._accelerator.device)
        if self.bundle.encoder.gains_from_gpu:
            self.bundle.encoder.to(self._accelerator.device)

    def learn(self, pieces: Iterable[LabelledSegment], out: Path) -> PromotionDecision:
        """Learn, decide, and write the new bundle to `out` if it is promoted. Raises TrainingError, FormatError."""
        began = time.monotonic()
        division = divide_labels(pieces, self._letters, self._settings)
        lacking = division.lacking(self._settings)
        decision = PromotionDecision(
            verdict=PromotionVerdict.TOO_LITTLE, reason=lacking, parent=self.bundle.manifest.version, learned=division.learned
        )
        if lacking:
            return decision
        own = encode_segments(self.bundle, division.everything, self._settings.views, self._shift)
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
        if decision.verdict is PromotionVerdict.PROMOTED:
            return write_new_bundle(self.bundle, self.llm, fit, division.everything, decision, out)
        return decision

    def _tested(self, division: LabelFolds, folder: Path) -> tuple[PersonalTest, int]:
        """How labels are answered by what learned from the other parts, and how many steps their weights took, mostly."""
        after, steps = list[Floats](), list[int]()
        for number, fold in enumerate(division.folds, 1):
            logger.info("learning without part %d of %d", number, len(division.folds))
            learned = self._learn(fold.trained, fold.stopping, folder / f"fold-{number}")
            after.append(learned.scaling.of_speech(self._log_probs(fold.held_out)))
            steps.append(learned.steps)
            self._stopping.restore_initial()
        parts = np.repeat(np.arange(len(division.folds)), [len(fold.held_out) for fold in division.folds])
        answered = self._table([self._before[one.segment] for one in division.held_out])
        before = answered / self.bundle.manifest.temperature + self._bias_in_use() + self._prior
        labels = LabelArrays.of(division.held_out, self._letters)
        return personal_test(before, np.concatenate(after), labels, parts), median_low(steps)

    def _learn(
        self, trained: Sequence[LabelledSegment], stopping: Sequence[LabelledSegment], folder: Path, until: int | None = None
    ) -> _LearnedModel:
        """Fit biases to all of it, then let weights learn from `trained`; the network has the weights that are kept.

        until: so many steps, and `stopping` is not asked.
        """
        fitted_on = [*trained, *stopping]
        before = self._table([self._before[one.segment] for one in fitted_on]) / self.bundle.manifest.temperature
        scaling = VectorScaling.fit(before, LabelArrays.of(fitted_on, self._letters), self._settings.bias_spread, prior=self._prior)
        set_trainable(self._settings.phase.trainable, self.bundle.mapper, self.llm)
        network = EmoSLLM(self.bundle.mapper, self.llm)
        settings = self._settings
        self._stopping = EarlyStopping(network, folder, lambda: self._scores(stopping, scaling), settings.patience, settings.way, until)
        if until != 0:
            Trainer(self._course(), self._materials(trained, scaling), folder, self._seed, self._accelerator, self._stopping.look).run()
            self._stopping.look(settings.phase.steps or 0)
        self._stopping.restore_best()
        return _LearnedModel(self._stopping.steps, scaling)

    def _materials(self, trained: Sequence[LabelledSegment], scaling: VectorScaling) -> TrainingMaterials:
        """What weights learn from: what the person says, a little of it left to what the bundle in use thinks of such a label."""
        labels, temperature = LabelArrays.of(trained, self._letters), self.bundle.manifest.temperature
        answers = [self._before[one.segment] for one in trained]
        thought = np.exp(scaling.of_labels(self._table(answers) / temperature, labels.shown))
        said = np.eye(len(self._letters))[labels.said]
        targets = (1 - self._settings.smoothing) * said + self._settings.smoothing * thought
        own, transcripts = [self._own[one.segment] for one in trained], [answer.transcript for answer in answers]
        offsets = scaling.offsets(labels.shown) * temperature * np.array([[one.distance] for one in own])
        made = build_training_set(self.bundle, own, targets, offsets, transcripts, self._public.clips, self._settings)
        return TrainingMaterials(made.parts, made.hearing, self.bundle.mapper, self.llm, made.voices)

    def _scores(self, pieces: Sequence[LabelledSegment], scaling: VectorScaling) -> Floats:
        """Log-probability of what the person says of each segment (n,), given that they say something of it."""
        labels = LabelArrays.of(pieces, self._letters)
        return np.asarray(scaling.of_labels(self._log_probs(pieces), labels.shown)[np.arange(len(labels)), labels.said])

    def _decided(self, decision: PromotionDecision, learned: _LearnedModel, in_use: Floats) -> tuple[PromotionDecision, CalibrationFit]:
        """The verdict, with what the voices that are never rehearsed say, and the calibration of the new bundle.

        in_use (n, L): log-probabilities that the bundle in use gave to these voices.
        """
        clips, manifest, released = self._public.measured_with, self.bundle.manifest, self._public
        after = self._on_other_voices()
        calibration = manifest.temperature, manifest.unsure_below
        old, new = recalibrate(in_use, after, acted_letters(clips, self._letters), *calibration, correction(manifest, EVERYDAY))
        if not learned.steps:
            new = replace(new, temperature=manifest.temperature, unsure_below=manifest.unsure_below)
        new = replace(new, temperature=new.temperature / learned.scaling.scale)
        before = np.log(np.maximum(torch.stack([clip.posterior for clip in clips]).double().numpy(), _FLOOR))
        public = rehearsal_test(clips, before / released.temperature, after / new.temperature + learned.scaling.bias, self._letters)
        assert decision.own is not None
        verdict, reason = decide_verdict(decision.own, public)
        told = _recalibration_figures(old, new, manifest.temperature, manifest.unsure_below)
        return decision.model_copy(update={"verdict": verdict, "reason": reason, "public": public, "calibration": told}), new

    def _on_other_voices(self) -> Floats:
        """Log-probabilities (n, L), uncalibrated, of the voices that are never rehearsed."""
        clips = self._public.measured_with
        found = predict_states(self.bundle.uncalibrated(), self.llm, [clip.states for clip in clips], [clip.sound for clip in clips])
        return np.asarray(np.log(np.maximum([[one.posterior[letter] for letter in self._letters] for one in found], _FLOOR)))

    def _answers(self, pieces: Sequence[LabelledSegment]) -> list[PredictorOutput]:
        """What is said of the person's segments, uncalibrated."""
        own = [self._own[one.segment] for one in pieces]
        return transcribe_and_predict_states(
            self.bundle.uncalibrated(), self.llm, [one.views[0] for one in own], [one.sound for one in own]
        )

    def _log_probs(self, pieces: Sequence[LabelledSegment]) -> Floats:
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
            return voice_shift(VoiceSums.from_bytes(reference), settings)
        except ValueError as error:
            raise TrainingError(f"the bundle {version} cannot use the reference of the voice: {error}; nothing was learned") from error

    def _table(self, answers: Sequence[PredictorOutput]) -> Floats:
        """Log-probabilities (n, L); an answer outside the grammar says nothing."""
        nothing = dict.fromkeys(self._letters, 1 / len(self._letters))
        rows = [[(one.prediction.posterior if one.prediction else nothing)[k] for k in self._letters] for one in answers]
        return np.asarray(np.log(np.maximum(rows, _OWN_FLOOR)))

    def _bias_in_use(self) -> Floats:
        """The letter biases (L,) of the bundle in use."""
        return np.array([self.bundle.manifest.letter_bias.get(letter, 0.0) for letter in self._letters])

    def _course(self) -> Curriculum:
        task = Task.JOINT if self.bundle.manifest.strategy is Strategy.JOINT else Task.SER
        features = self.bundle.manifest.features is not None
        phase = self._settings.phase.model_copy(update={"tasks": [task], "features": features, "shots": self.bundle.manifest.shots})
        return Curriculum(letters=self._letters, loop=self._settings.loop, phases=[phase])

    def _key(self, division: LabelFolds) -> str:
        """Of what was begun: another bundle, evidence, reference, prior or seed begins anew."""
        learned = [(one.segment, one.emotion, one.weight) for one in division.everything]
        shift = None if self._shift is None else hashlib.sha256(self._shift.tobytes()).hexdigest()
        told = repr((self.bundle.manifest.version, self._settings, self._seed, learned, shift, self._prior.tolist()))
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def _recalibration_figures(old: CalibrationFit, new: CalibrationFit, temperature: float, unsure_below: float) -> Recalibration:
    """temperature, unsure_below: of the bundle in use, which may be a night's already."""
    return Recalibration(
        temperature_before=temperature,
        temperature_after=round(new.temperature, 4),
        unsure_below_before=unsure_below,
        unsure_below_after=round(new.unsure_below, 4),
        sure_share_before=round(old.sure_share, 4),
        sure_share_after=round(new.sure_share, 4),
    )
