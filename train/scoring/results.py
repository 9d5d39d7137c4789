"""From judged utterances to the figures of an evaluation. It does not judge (judging.py) and knows no formula (metrics.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from model.errors import TrainingError
from model.types import Emotion
from train.corpora.manifest import Utterance
from train.scoring import metrics
from train.scoring.evaluation import (
    About,
    ClassFigures,
    ConditionFigures,
    Confidence,
    Confusion,
    Estimate,
    Evaluation,
    Gender,
    GenderFigures,
    ReliabilityBin,
    RiskPoint,
)
from train.scoring.metrics import NONE, Bools, Floats, Ints, Metric

_CURVE_POINTS = 50


@dataclass(frozen=True, slots=True)
class Judged:
    """One utterance and what was answered.

    posterior: None where the answer was not in the grammar, which counts as wrong. transcript: what the model wrote, None where the
    strategy writes none. unsure: the answer lies under the bundle's threshold.
    """

    utterance: Utterance
    posterior: Mapping[Emotion, float] | None
    transcript: str | None
    unsure: bool

    @property
    def emotion(self) -> Emotion | None:
        """The most probable emotion, None without an answer."""
        return max(self.posterior, key=self.posterior.__getitem__) if self.posterior else None

    @property
    def confidence(self) -> float:
        """The probability of `emotion`, 0 without an answer."""
        return max(self.posterior.values()) if self.posterior else 0.0


@dataclass(frozen=True, slots=True)
class _Answers:
    """Labelled clips as arrays (n,): classes by number in the order of labels, NONE for no answer."""

    labels: list[Emotion]
    true: Ints
    predicted: Ints
    speakers: npt.NDArray[np.str_]

    def of(self, chosen: Bools) -> "_Answers":
        return _Answers(self.labels, self.true[chosen], self.predicted[chosen], self.speakers[chosen])

    def counts(self) -> Ints:
        return metrics.confusion_matrix(self.true, self.predicted, len(self.labels))

    def resampled(self, seed: int = 0) -> Ints:
        return metrics.resample_speakers(self.true, self.predicted, self.speakers.tolist(), len(self.labels), seed=seed)


def evaluate(judged: Sequence[Judged], letters: Sequence[Emotion], about: About) -> Evaluation:
    """The figures of judged utterances; those without a label are left out. letters: what the system can answer with.

    Speakers are told apart within a corpus; clips whose speaker is not known count as one speaker of their corpus. Raises TrainingError
    where nothing is labelled or an answer is none of `letters`.
    """
    labelled = [item for item in judged if item.utterance.emotion is not None]
    if not labelled:
        raise TrainingError(f"none of {len(judged)} clips of {about.split} has an emotion; name a split of a manifest that gives emotions")
    answers = _answers(labelled, letters)
    counts, resampled = answers.counts(), answers.resampled()
    examples = dict(zip(answers.labels, counts.sum(axis=1).tolist(), strict=True))
    sure = answers.of(np.array([item.posterior is not None and not item.unsure for item in labelled]))
    genders = {gender: answers.of(np.array([item.utterance.gender == gender for item in labelled])) for gender in get_args(Gender)}
    rate, words = _word_error_rate(labelled)
    return Evaluation(
        about=about,
        clips=len(labelled),
        speakers=len(set(answers.speakers)),
        uar=_estimate(metrics.average_recall, counts, resampled),
        weighted_accuracy=_estimate(metrics.weighted_accuracy, counts, resampled),
        macro_f1=_estimate(metrics.macro_f1, counts, resampled),
        chance=1 / sum(clips > 0 for clips in examples.values()),
        classes=_per_class(answers.labels, counts),
        confusion=Confusion(labels=answers.labels, counts=counts.tolist()),
        genders={gender: _of_gender(part) for gender, part in genders.items() if len(part.true)},
        gender_difference=_gender_difference(genders["female"], genders["male"]),
        unparsable_share=float((answers.predicted == NONE).mean()),
        word_error_rate=rate,
        words=words,
        confidence=_confidence(labelled, answers) if about.has_probabilities else None,
        sure_share=len(sure.true) / len(labelled),
        sure_uar=float(metrics.average_recall(sure.counts())) if len(sure.true) else None,
        cannot_answer=[emotion for emotion in answers.labels if emotion not in letters],
        absent=[emotion for emotion, clips in examples.items() if clips == 0],
    )


def condition_figures(name: str, clean: Sequence[Judged], judged: Sequence[Judged], letters: Sequence[Emotion]) -> ConditionFigures:
    """`judged` are the clips of `clean`, in their order, heard in another condition."""
    before, after = _answers(clean, letters), _answers(judged, letters)
    counts = [answers.counts() for answers in (before, after)]
    draws = metrics.resample_pairs(before.true, before.predicted, after.predicted, before.speakers.tolist(), len(before.labels))
    change = metrics.average_recall(counts[1]) - metrics.average_recall(counts[0])
    return ConditionFigures(
        condition=name,
        uar=_estimate(metrics.average_recall, counts[1], draws[1]),
        change=Estimate(
            value=float(change), interval_95=metrics.interval_95(metrics.average_recall(draws[1]) - metrics.average_recall(draws[0]))
        ),
    )


def _answers(labelled: Sequence[Judged], letters: Sequence[Emotion]) -> _Answers:
    foreign = {item.emotion for item in labelled} - {None, *letters}
    if foreign:
        raise TrainingError(
            f"{', '.join(sorted(map(str, foreign)))} was answered, which is none of the letters {', '.join(letters)}; name all it has"
        )
    occurring = {item.utterance.emotion for item in labelled}
    labels = [*letters, *(emotion for emotion in Emotion if emotion in occurring and emotion not in letters)]
    number = {emotion: index for index, emotion in enumerate(labels)}
    return _Answers(
        labels=labels,
        true=np.array([number[item.utterance.emotion] for item in labelled if item.utterance.emotion], dtype=np.int64),
        predicted=np.array([number[item.emotion] if item.emotion else NONE for item in labelled], dtype=np.int64),
        speakers=np.array([f"{item.utterance.corpus}/{item.utterance.speaker}" for item in labelled]),
    )


def _estimate(metric: Metric, counts: Ints, resampled: Ints) -> Estimate:
    return Estimate(value=float(metric(counts)), interval_95=metrics.interval_95(metric(resampled)))


def _per_class(labels: Sequence[Emotion], counts: Ints) -> dict[Emotion, ClassFigures]:
    columns = zip(labels, counts.sum(axis=1), metrics.recall(counts), metrics.precision(counts), metrics.f1(counts), strict=True)
    return {
        emotion: ClassFigures(clips=int(clips), recall=_or_none(recall), precision=_or_none(precision), f1=_or_none(f1))
        for emotion, clips, recall, precision, f1 in columns
    }


def _of_gender(part: _Answers) -> GenderFigures:
    uar = _estimate(metrics.average_recall, part.counts(), part.resampled())
    return GenderFigures(clips=len(part.true), speakers=len(set(part.speakers)), uar=uar)


def _gender_difference(female: _Answers, male: _Answers) -> Estimate | None:
    """None where a mean over different emotions would be compared; draws of the two are independent, as no speaker is in both."""
    if not len(female.true) or set(female.true.tolist()) != set(male.true.tolist()):
        return None
    value = metrics.average_recall(female.counts()) - metrics.average_recall(male.counts())
    draws = metrics.average_recall(female.resampled()) - metrics.average_recall(male.resampled(seed=1))
    return Estimate(value=float(value), interval_95=metrics.interval_95(draws))


def _word_error_rate(labelled: Sequence[Judged]) -> tuple[float | None, int]:
    """An answer without a transcript, where others have one, missed every word."""
    pairs = [(item.utterance.transcript, item.transcript or "") for item in labelled if item.utterance.transcript]
    spoken = [(said, wrote) for said, wrote in pairs if metrics.normalise_transcript(said)]
    if not spoken or all(item.transcript is None for item in labelled):
        return None, 0
    return metrics.word_error_rate([said for said, _ in spoken], [wrote for _, wrote in spoken])


def _confidence(labelled: Sequence[Judged], answers: _Answers) -> Confidence:
    confidence = np.array([item.confidence for item in labelled])
    correct = np.array([item.emotion == item.utterance.emotion for item in labelled])
    answered = np.array([item.posterior is not None for item in labelled])
    coverage, risk = metrics.risk_coverage(confidence, correct)
    shown = np.unique(np.linspace(0, len(labelled) - 1, _CURVE_POINTS).round().astype(int))
    certain = np.zeros(len(labelled), dtype=np.bool_)
    certain[np.argsort(-confidence, kind="stable")[: (len(labelled) + 1) // 2]] = True
    return Confidence(
        ece=metrics.expected_calibration_error(confidence[answered], correct[answered]) if answered.any() else None,
        ece_by_chance=metrics.calibration_error_by_chance(confidence[answered]) if answered.any() else None,
        certain_half_uar=float(metrics.average_recall(answers.of(certain).counts())),
        reliability=_bins(confidence[answered], correct[answered]),
        aurc=metrics.area_under_risk_coverage(confidence, correct),
        risk_coverage=[RiskPoint(coverage=coverage[i], risk=risk[i]) for i in shown],
    )


def _bins(confidence: Floats, correct: Bools) -> list[ReliabilityBin]:
    clips, mean, accuracy = metrics.reliability_bins(confidence, correct)
    return [
        ReliabilityBin(low=m / len(clips), high=(m + 1) / len(clips), clips=int(clips[m]), confidence=mean[m], accuracy=accuracy[m])
        for m in np.flatnonzero(clips).tolist()
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
