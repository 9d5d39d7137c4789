"""Scores a system on utterances: a bundle in any strategy of the paper's Table 3, or another audio LLM behind a server (Figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import torch

from model.bundle import Bundle, load_llm, open_bundle
from model.encoder import TransformersEncoder
from model.errors import TrainingError
from model.predictor import Style
from model.priors import Prior
from model.prompts import Strategy
from model.speech_llm import SpeechLLM
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.corpora.splits import Corpora, Noise, Part
from train.scoring.conditions import judge_in_conditions
from train.scoring.evaluation import About, Evaluation
from train.scoring.judging import judge, transcribe
from train.scoring.outliers import judge_outliers
from train.scoring.results import Judged, evaluate
from train.scoring.served import ServedModel


@dataclass(frozen=True)
class Asked:
    """A bundle in memory, its language model, and how it is asked."""

    bundle: Bundle
    llm: SpeechLLM
    style: Style

    @classmethod
    def of_bundle(cls, folder: Path) -> Self:
        """A bundle as it was released, on a GPU where there is one. Raises BundleError."""
        bundle = open_bundle(folder)
        llm = load_llm(bundle)
        if torch.cuda.is_available():
            bundle.mapper.cuda()
            llm.cuda()
            if isinstance(bundle.encoder, TransformersEncoder):  # nano's is as quick on a CPU
                bundle.encoder.cuda()
        return cls(bundle, llm, Style.of(bundle))

    def restyled(self, strategy: Strategy | None, shots: int | None, features: bool | None) -> Self:
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
class Surroundings:
    """What a bundle meets beside clean speech: noises to lay under it, and recordings without an emotion."""

    noises: Sequence[Noise]
    outliers: Sequence[Part]

    @classmethod
    def of(cls, corpora: Corpora) -> Self:
        """Those that a recipe keeps for tests."""
        return cls(corpora.test_noises, [part for part in corpora.test if part.answer is not None])


def evaluate_bundle(
    asked: Asked,
    utterances: Sequence[Utterance],
    split: str,
    manifest_sha256: str,
    *,
    asr: bool = False,
    surroundings: Surroundings | None = None,
) -> Evaluation:
    """The figures of a bundle on labelled utterances.

    asr: also ask for the words alone, for the word error rate, where the strategy writes none itself. surroundings: also judge the same
    clips in noise, in a room, over a telephone and quietly, and what else the bundle may hear.
    """
    judged = judge(asked.bundle, asked.llm, utterances, asked.style)
    if asr and asked.style.strategy is not Strategy.JOINT:
        texts = transcribe(asked.bundle, asked.llm, utterances, asked.style)
        judged = [replace(one, transcript=text) for one, text in zip(judged, texts, strict=True)]
    about = About(
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
    evaluation = evaluate(judged, asked.bundle.manifest.letters, about)
    if surroundings is None:
        return evaluation
    conditions = judge_in_conditions(asked.bundle, asked.llm, utterances, asked.style, judged, surroundings.noises)
    outliers = judge_outliers(asked.bundle, asked.llm, surroundings.outliers, asked.style)
    return evaluation.model_copy(update={"conditions": conditions, "outliers": outliers})


def evaluate_served(
    model: ServedModel, name: str, parameters: float | None, utterances: Sequence[Utterance], split: str, digest: str, progress: Path | None
) -> Evaluation:
    """The figures of any audio LLM behind a server, asked without training for it. progress: where answers are kept for a next try.

    Raises EngineUnavailable, EngineRejected.
    """
    answers = model.answer(utterances, progress)
    about = About(
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
    judged = [Judged(one.utterance, one.posterior, None, unsure=False) for one in answers]
    return evaluate(judged, list(Emotion), about)
