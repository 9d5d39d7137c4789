"""From predictions to the figures of an evaluation. It runs no model (inference.py) and knows no formula (metrics.py)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from model.emotions import Emotion
from model.errors import TrainingError
from train.corpora.manifest import Utterance
from train.evaluation import metrics
from train.evaluation.figures import (
    ClassFigures,
    ConditionFigures,
    Confidence,
    Confusion,
    Estimate,
    Evaluation,
    EvaluationSubject,
    GroupFigures,
    Grouping,
    PeopleFigures,
    ReferenceFigures,
    ReliabilityBin,
    RiskPoint,
)
from train.evaluation.metrics import NO_PREDICTION, Bools, Floats, Ints, Metric

_CURVE_POINTS = 50
_LEAST_CLIPS = 10  # of a person whose own UAR means anything
_AGES = (13, 18, 30, 45, 60)


@dataclass(frozen=True, slots=True)
class UtterancePrediction:
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
class _PredictionArrays:
    """Labelled clips as arrays (n,): classes by number in the order of labels, NONE for no answer.

    repeats: how often about the same clips were judged; `metrics.resample_speakers` says why it matters.
    """

    labels: list[Emotion]
    true: Ints
    predicted: Ints
    confidence: Floats
    sure: Bools
    speakers: npt.NDArray[np.str_]
    repeats: int = 1

    def of(self, chosen: Bools) -> "_PredictionArrays":
        arrays = {name: getattr(self, name)[chosen] for name in ("true", "predicted", "confidence", "sure", "speakers")}
        return replace(self, **arrays)

    def counts(self) -> Ints:
        return metrics.confusion_matrix(self.true, self.predicted, len(self.labels))

    def resampled(self, seed: int = 0) -> Ints:
        speakers = self.speakers.tolist()
        return metrics.resample_speakers(self.true, self.predicted, speakers, len(self.labels), seed=seed, repeats=self.repeats)

    def uar(self) -> Estimate:
        return _estimate(metrics.average_recall, self.counts(), self.resampled())

    def change_from(self, before: "_PredictionArrays") -> Estimate:
        """The UAR minus that of `before`, which are other answers to the same clips, resampled in pairs."""
        value = metrics.average_recall(self.counts()) - metrics.average_recall(before.counts())
        speakers, classes = self.speakers.tolist(), len(self.labels)
        draws = metrics.resample_pairs(self.true, before.predicted, self.predicted, speakers, classes, repeats=self.repeats)
        change = metrics.average_recall(draws[1]) - metrics.average_recall(draws[0])
        return Estimate(value=float(value), interval_95=metrics.interval_95(change))

    def sure_uar(self) -> float | None:
        return float(metrics.average_recall(self.of(self.sure).counts())) if self.sure.any() else None

    def ece(self) -> float | None:
        answered = self.predicted != NO_PREDICTION
        correct = self.predicted == self.true
        return metrics.expected_calibration_error(self.confidence[answered], correct[answered]) if answered.any() else None


def speaker_key(utterance: Utterance) -> str:
    """Who speaks, told apart from people of the same name in other corpora."""
    return f"{utterance.corpus}/{utterance.speaker}"


def compute_evaluation(judged: Sequence[UtterancePrediction], letters: Sequence[Emotion], about: EvaluationSubject) -> Evaluation:
    """The figures of judged utterances; those without a label are left out. letters: what the system can answer with.

    Speakers are told apart within a corpus; clips whose speaker is not known count as one speaker of their corpus. Raises TrainingError
    where nothing is labelled or an answer is none of `letters`.
    """
    labelled = [item for item in judged if item.utterance.emotion is not None]
    if not labelled:
        raise TrainingError(f"none of {len(judged)} clips of {about.split} has an emotion; name a split of a manifest that gives emotions")
    answers = _prediction_arrays(labelled, letters)
    counts, resampled = answers.counts(), answers.resampled()
    examples = dict(zip(answers.labels, counts.sum(axis=1).tolist(), strict=True))
    female, male = (answers.of(np.array([item.utterance.gender == gender for item in labelled])) for gender in ("female", "male"))
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
        gender_difference=_gender_difference(female, male),
        unparsable_share=float((answers.predicted == NO_PREDICTION).mean()),
        word_error_rate=rate,
        words=words,
        confidence=_confidence(answers) if about.has_probabilities else None,
        sure_share=float(answers.sure.mean()),
        sure_uar=answers.sure_uar(),
        cannot_answer=[emotion for emotion in answers.labels if emotion not in letters],
        absent=[emotion for emotion, clips in examples.items() if clips == 0],
        groups=group_figures(labelled, letters, has_probabilities=about.has_probabilities),
        people=people_figures(labelled, letters),
    )


def group_figures(
    labelled: Sequence[UtterancePrediction],
    letters: Sequence[Emotion],
    *,
    has_probabilities: bool = True,
    repeats: int = 1,
    before: Sequence[UtterancePrediction] | None = None,
    reference: Callable[[set[str]], ReferenceFigures] | None = None,
) -> list[GroupFigures]:
    """The figures of all labelled clips, of each corpus, and of each language, gender and age where there are several.

    repeats: how often about the same clips are among them. before: other answers to the same clips, in the same order, to tell the change.
    reference: what the references of some people, as CORPUS/SPEAKER, were built from.
    """
    answers = replace(_prediction_arrays(labelled, letters), repeats=repeats)
    earlier = replace(_prediction_arrays(before, letters), repeats=repeats) if before is not None else None
    found = []
    for by, name_of in _GROUPINGS.items():
        names = [name_of(item.utterance) for item in labelled]
        known = sorted({name for name in names if name is not None}, key=_in_order)
        if len(known) < 2 and by not in ("all", "corpus"):
            continue
        for name in known:
            chosen = np.array([one == name for one in names])
            part = answers.of(chosen)
            found.append(
                GroupFigures(
                    by=by,
                    name=name,
                    clips=len(part.true) // repeats,
                    speakers=len(set(part.speakers)),
                    chance=1 / len(set(part.true.tolist())),
                    uar=part.uar(),
                    reference=reference(set(part.speakers)) if reference else None,
                    change=part.change_from(earlier.of(chosen)) if earlier else None,
                    sure_share=float(part.sure.mean()) if has_probabilities else None,
                    sure_uar=part.sure_uar() if has_probabilities else None,
                    ece=part.ece() if has_probabilities else None,
                )
            )
    return found


def people_figures(labelled: Sequence[UtterancePrediction], letters: Sequence[Emotion], *, repeats: int = 1) -> list[PeopleFigures]:
    """How differently the people of each corpus are recognised; corpora without anybody who has enough clips are left out."""
    found = []
    for corpus in sorted({item.utterance.corpus for item in labelled}):
        answers = _prediction_arrays([item for item in labelled if item.utterance.corpus == corpus and item.utterance.speaker], letters)
        people = [answers.of(answers.speakers == speaker) for speaker in sorted(set(answers.speakers))]
        enough = [one for one in people if len(one.true) // repeats >= _LEAST_CLIPS and len(set(one.true.tolist())) > 1]
        if enough:
            each = [float(metrics.average_recall(one.counts())) for one in enough]
            clips = round(median(len(one.true) // repeats for one in enough))
            found.append(PeopleFigures(corpus=corpus, people=len(enough), clips=clips, worst=min(each), median=median(each)))
    return found


def condition_figures(
    name: str, clean: Sequence[UtterancePrediction], judged: Sequence[UtterancePrediction], letters: Sequence[Emotion]
) -> ConditionFigures:
    """`judged` are the clips of `clean`, in their order, heard in another condition."""
    before, after = _prediction_arrays(clean, letters), _prediction_arrays(judged, letters)
    return ConditionFigures(condition=name, uar=after.uar(), change=after.change_from(before))


def _age_of(utterance: Utterance) -> str | None:
    if utterance.age is None:
        return None
    bounds = [0, *_AGES]
    band = int(np.searchsorted(_AGES, utterance.age, side="right"))
    return f"{bounds[band]} and over" if band == len(_AGES) else f"{bounds[band]} to {bounds[band + 1] - 1}"


_GROUPINGS: Mapping[Grouping, Callable[[Utterance], str | None]] = {
    "all": lambda utterance: "",
    "corpus": lambda utterance: utterance.corpus,
    "language": lambda utterance: utterance.language,
    "gender": lambda utterance: utterance.gender,
    "age": _age_of,
}


def _in_order(name: str) -> tuple[int, str]:
    """Ages by number, everything else by name."""
    first = name.split(" ")[0]
    return (int(first) if first.isdecimal() else 0, name)


def _prediction_arrays(labelled: Sequence[UtterancePrediction], letters: Sequence[Emotion]) -> _PredictionArrays:
    foreign = {item.emotion for item in labelled} - {None, *letters}
    if foreign:
        raise TrainingError(
            f"{', '.join(sorted(map(str, foreign)))} was answered, which is none of the letters {', '.join(letters)}; name all it has"
        )
    occurring = {item.utterance.emotion for item in labelled}
    labels = [*letters, *(emotion for emotion in Emotion if emotion in occurring and emotion not in letters)]
    number = {emotion: index for index, emotion in enumerate(labels)}
    return _PredictionArrays(
        labels=labels,
        true=np.array([number[item.utterance.emotion] for item in labelled if item.utterance.emotion], dtype=np.int64),
        predicted=np.array([number[item.emotion] if item.emotion else NO_PREDICTION for item in labelled], dtype=np.int64),
        confidence=np.array([item.confidence for item in labelled], dtype=np.float64),
        sure=np.array([item.posterior is not None and not item.unsure for item in labelled], dtype=np.bool_),
        speakers=np.array([speaker_key(item.utterance) for item in labelled]),
    )


def _estimate(metric: Metric, counts: Ints, resampled: Ints) -> Estimate:
    return Estimate(value=float(metric(counts)), interval_95=metrics.interval_95(metric(resampled)))


def _per_class(labels: Sequence[Emotion], counts: Ints) -> dict[Emotion, ClassFigures]:
    columns = zip(labels, counts.sum(axis=1), metrics.recall(counts), metrics.precision(counts), metrics.f1(counts), strict=True)
    return {
        emotion: ClassFigures(clips=int(clips), recall=_or_none(recall), precision=_or_none(precision), f1=_or_none(f1))
        for emotion, clips, recall, precision, f1 in columns
    }


def _gender_difference(female: _PredictionArrays, male: _PredictionArrays) -> Estimate | None:
    """None where a mean over different emotions would be compared; draws of the two are independent, as no speaker is in both."""
    if not len(female.true) or set(female.true.tolist()) != set(male.true.tolist()):
        return None
    value = metrics.average_recall(female.counts()) - metrics.average_recall(male.counts())
    draws = metrics.average_recall(female.resampled()) - metrics.average_recall(male.resampled(seed=1))
    return Estimate(value=float(value), interval_95=metrics.interval_95(draws))


def _word_error_rate(labelled: Sequence[UtterancePrediction]) -> tuple[float | None, int]:
    """An answer without a transcript, where others have one, missed every word."""
    pairs = [(item.utterance.transcript, item.transcript or "") for item in labelled if item.utterance.transcript]
    spoken = [(said, wrote) for said, wrote in pairs if metrics.normalise_transcript(said)]
    if not spoken or all(item.transcript is None for item in labelled):
        return None, 0
    return metrics.word_error_rate([said for said, _ in spoken], [wrote for _, wrote in spoken])


def _confidence(answers: _PredictionArrays) -> Confidence:
    confidence, correct, answered = answers.confidence, answers.predicted == answers.true, answers.predicted != NO_PREDICTION
    coverage, risk = metrics.risk_coverage(confidence, correct)
    shown = np.unique(np.linspace(0, len(correct) - 1, _CURVE_POINTS).round().astype(int))
    certain = np.zeros(len(correct), dtype=np.bool_)
    certain[np.argsort(-confidence, kind="stable")[: (len(correct) + 1) // 2]] = True
    return Confidence(
        ece=answers.ece(),
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
