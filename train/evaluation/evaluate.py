"""Evaluates a system on utterances: a bundle in any strategy of the paper's Table 3, or another audio LLM behind a server (Figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import torch

from model.bundle import Bundle, load_llm, open_bundle
from model.emotions import Emotion, Prior
from model.errors import TrainingError
from model.language_model import SpeechLLM
from model.predictor import PromptStyle
from model.prompts import Strategy
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart, CorpusSplits, NoiseSet, all_utterances
from train.evaluation.figures import Evaluation, EvaluationSubject, OutlierEvaluation, OutlierFigures, PersonalFigures
from train.evaluation.inference import (
    outlier_figures,
    predict_in_conditions,
    predict_outliers,
    predict_utterances,
    require_transcripts,
    transcribe_utterances,
    with_transcripts,
)
from train.evaluation.personalization import BundleSpeakerPredictor, personal_figures, predict_people
from train.evaluation.results import UtterancePrediction, compute_evaluation
from train.evaluation.served_models import ServedModel


@dataclass(frozen=True)
class EvaluatedBundle:
    """A bundle in memory, its language model, and how it is asked."""

    bundle: Bundle
    llm: SpeechLLM
    style: PromptStyle

    @classmethod
    def of_bundle(cls, folder: Path) -> Self:
        """A bundle as it was released, on a GPU where there is one. Raises BundleError."""
        bundle = open_bundle(folder)
        llm = load_llm(bundle)
        if torch.cuda.is_available():
            bundle.mapper.cuda()
            llm.cuda()
            if bundle.encoder.gains_from_gpu:
                bundle.encoder.cuda()
        return cls(bundle, llm, PromptStyle.of(bundle))

    def with_style(self, strategy: Strategy | None, shots: int | None, features: bool | None) -> Self:
        """Asked in another way. Raises TrainingError for features where the bundle has no terciles."""
        terciles = self.style.features if features is None else (self.bundle.manifest.features if features else None)
        if features and terciles is None:
            raise TrainingError(
                f"the bundle {self.bundle.manifest.version} was trained without paralinguistic features and has no terciles"
            )
        style = replace(self.style, strategy=strategy or self.style.strategy, shots=self.style.shots if shots is None else shots)
        return replace(self, style=replace(style, features=terciles))

    def under(self, prior: str | None) -> Self:
        """With posteriors corrected to a prior by its name. Raises TrainingError where the bundle does not state that of its training."""
        if prior is None:
            return self
        if self.bundle.manifest.training_prior is None:
            raise TrainingError(f"the bundle {self.bundle.manifest.version} does not state the prior of its training; leave out --prior")
        return replace(self, bundle=self.bundle.under(Prior.named(prior)))

    @property
    def parameters(self) -> int:
        """Of encoder, mapper, language model and adapter together."""
        return sum(p.numel() for part in (self.bundle.encoder, self.bundle.mapper, self.llm) for p in part.parameters())


@dataclass(frozen=True, slots=True)
class RobustnessSets:
    """What a bundle meets beside acted speech.

    outliers: recordings that no emotion was acted in, by corpus. noises: to lay under the clips, which are then also judged in a room,
    over a telephone and so on; None: they are judged as they are only.
    """

    outliers: Sequence[CorpusPart] = ()
    noises: Sequence[NoiseSet] | None = None

    @classmethod
    def of(cls, corpora: CorpusSplits, *, conditions: bool) -> Self:
        """Those that a recipe keeps for tests."""
        return cls([part for part in corpora.test if part.answer is not None], corpora.test_noises if conditions else None)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """From how many minutes of a person's speech the reference of their voice is built, each in turn; how often its clips are drawn."""

    minutes: Sequence[float] = (0, 1, 10, 60)
    draws: int = 5
    seed: int = 0


def evaluate_bundle(
    asked: EvaluatedBundle,
    utterances: Sequence[Utterance],
    split: str,
    manifest_sha256: str,
    *,
    asr: bool = False,
    surroundings: RobustnessSets | None = None,
    enrolment: Enrolment | None = None,
) -> Evaluation:
    """The figures of a bundle on labelled utterances.

    asr: also ask for the words alone, for the word error rate, where the strategy writes none itself. enrolment: also judge people's
    clips with a reference of their voice. Raises TrainingError, FormatError.
    """
    around = surroundings or RobustnessSets()
    judged, outliers, personal = _predictions(asked, utterances, around.outliers, enrolment)
    if asr and asked.style.strategy is not Strategy.JOINT:
        texts = transcribe_utterances(asked.bundle, asked.llm, [one.utterance for one in judged], asked.style)
        judged = [replace(one, transcript=text) for one, text in zip(judged, texts, strict=True)]
    evaluation = compute_evaluation(judged, asked.bundle.manifest.letters, _about(asked, split, manifest_sha256))
    conditions = []
    if around.noises is not None:
        clips = [one.utterance for one in judged]
        conditions = predict_in_conditions(asked.bundle, asked.llm, clips, asked.style, judged, around.noises)
    return evaluation.model_copy(update={"conditions": conditions, "outliers": outliers, "personal": personal})


def evaluate_outliers(
    asked: EvaluatedBundle, parts: Sequence[CorpusPart], split: str, manifest_sha256: str, *, enrolment: Enrolment | None = None
) -> OutlierEvaluation:
    """What a bundle makes of recordings that no emotion was acted in, by corpus. Raises as `evaluate_bundle`."""
    _, outliers, personal = _predictions(asked, [], parts, enrolment)
    return OutlierEvaluation(about=_about(asked, split, manifest_sha256), outliers=outliers, personal=personal)


def _predictions(
    asked: EvaluatedBundle, utterances: Sequence[Utterance], outliers: Sequence[CorpusPart], enrolment: Enrolment | None
) -> tuple[list[UtterancePrediction], list[OutlierFigures], list[PersonalFigures]]:
    """The utterances with their answers, and the figures of the outliers and of enrolment. No clip is encoded twice."""
    bundle, llm, style = asked.bundle, asked.llm, asked.style
    if enrolment is None:
        return predict_utterances(bundle, llm, utterances, style), predict_outliers(bundle, llm, outliers, style), []
    outliers = [with_transcripts(part) for part in outliers]
    everybody = [*utterances, *all_utterances(outliers)]
    require_transcripts(everybody, style.strategy)
    predictor = BundleSpeakerPredictor(bundle, llm, style)
    people = predict_people(predictor, everybody, enrolment.minutes, draws=enrolment.draws, seed=enrolment.seed)
    strangers = [utterance for utterance in everybody if not utterance.speaker]
    answers = {one.utterance: one for one in [*people.judged, *predict_utterances(bundle, llm, strangers, style)]}
    letters = bundle.manifest.letters
    return (
        [answers[utterance] for utterance in utterances],
        [outlier_figures(part.corpus, [answers[u] for u in part.utterances], letters) for part in outliers if part.utterances],
        personal_figures(people, letters, {part.corpus for part in outliers}),
    )


def _about(asked: EvaluatedBundle, split: str, manifest_sha256: str) -> EvaluationSubject:
    return EvaluationSubject(
        system=asked.bundle.version,
        parameters=asked.parameters,
        strategy=asked.style.strategy,
        features=asked.style.features is not None,
        shots=asked.style.shots,
        manifest_sha256=manifest_sha256,
        split=split,
        has_probabilities=True,
        date=datetime.now(UTC).date(),
    )


def evaluate_served(
    model: ServedModel, name: str, parameters: float | None, utterances: Sequence[Utterance], split: str, digest: str, progress: Path | None
) -> Evaluation:
    """The figures of any audio LLM behind a server, asked without training for it. progress: where answers are kept for a next try.

    Raises EngineUnavailable, EngineRejected.
    """
    answers = model.answer(utterances, progress)
    about = EvaluationSubject(
        system=name,
        parameters=model.parameter_count(parameters),
        strategy="zero-shot",
        features=False,
        shots=0,
        manifest_sha256=digest,
        split=split,
        has_probabilities=model.has_probabilities,
        date=datetime.now(UTC).date(),
    )
    judged = [UtterancePrediction(one.utterance, one.posterior, None, unsure=False) for one in answers]
    return compute_evaluation(judged, list(Emotion), about)
