"""The figures of an evaluation as they are stored in evaluation.json, with units and what limits them. It computes nothing."""

import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model.emotions import Emotion

KNOWN = ", voices known"
"""What a corpus is called whose speakers were each heard against a reference of their voice."""

_FEW_SPEAKERS = 10
_FEW_EXAMPLES = 5

Rounded = Annotated[float, AfterValidator(lambda value: round(value, 4))]
Grouping = Literal["all", "corpus", "language", "gender", "age"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvaluationSubject(_Record):
    """What was evaluated on what. system: a name or a bundle's version; split: in words; has_probabilities: not only letters."""

    system: str
    parameters: Annotated[int, Field(gt=0)] | None
    strategy: str
    features: bool
    shots: Annotated[int, Field(ge=0)]
    manifest_sha256: str
    split: str
    has_probabilities: bool
    date: datetime.date


class Estimate(_Record):
    """A figure and its 95 % interval: bootstrap over speakers, then over their clips, 2000 draws."""

    value: Rounded
    interval_95: tuple[Rounded, Rounded]


class ClassFigures(_Record):
    """One emotion, each figure 0 to 1. None: no example (recall, f1) or never answered (precision)."""

    clips: int
    recall: Rounded | None
    precision: Rounded | None
    f1: Rounded | None


class Confusion(_Record):
    """Clips by true emotion (rows, in the order of labels) and answer (columns: labels, then answers that name no emotion)."""

    labels: list[Emotion]
    counts: list[list[int]]


class ReferenceFigures(_Record):
    """What the references of people's voices were built from.

    Attributes:
        minutes: Of speech, on average over people and draws; less than asked where a person's clips give no more.
        neutral_share: How much of it is neutral; None where there is none.
    """

    minutes: Rounded
    neutral_share: Rounded | None


class GroupFigures(_Record):
    """The clips that have something in common; their UAR is over the emotions that occur among them.

    Attributes:
        by: What they have in common.
        name: Which of these, such as a corpus's name; "" for all clips.
        clips: How many; of an average draw where several were judged.
        speakers: Of how many people.
        chance: One over the number of emotions that occur.
        uar: Unweighted accuracy over these emotions, whatever else was answered.
        reference: With references of the voices only, as `change`: what they were built from.
        change: `uar` minus that of the same clips without a reference, resampled in pairs.
        sure_share: Share of clips with an answer that is not unsure; None without probabilities, as the next two.
        sure_uar: UAR among those; None where there are none.
        ece: Expected calibration error over clips with an answer.
    """

    by: Grouping
    name: str
    clips: int
    speakers: int
    chance: Rounded
    uar: Estimate
    reference: ReferenceFigures | None = None
    change: Estimate | None = None
    sure_share: Rounded | None
    sure_uar: Rounded | None
    ece: Rounded | None


class PeopleFigures(_Record):
    """How differently the people of one corpus are recognised: UAR of each over the emotions that occur among their clips.

    Attributes:
        corpus: Its name.
        people: How many have at least ten clips of at least two emotions; the others are left out.
        clips: The median of their clips.
        worst: The lowest UAR of one of them.
        median: The median of their UARs.
    """

    corpus: str
    people: int
    clips: int
    worst: Rounded
    median: Rounded


class ReliabilityBin(_Record):
    """Answers whose confidence lies in (low, high]."""

    low: Rounded
    high: Rounded
    clips: int
    confidence: Rounded
    accuracy: Rounded


class RiskPoint(_Record):
    """The error rate (risk) among the most confident share (coverage) of the clips."""

    coverage: Rounded
    risk: Rounded


class Confidence(_Record):
    """How far probabilities can be trusted.

    ece (None where nothing was answered) and reliability (bins that hold something, of 15 of equal width): over clips with an answer.
    ece_by_chance: the mean ECE that answers with these very probabilities would show on as many clips if each were right exactly as often
    as it says. aurc and risk_coverage (50 points at most): over all clips, those without an answer last and wrong. certain_half_uar: UAR
    among the more confident half of the clips.
    """

    ece: Rounded | None
    ece_by_chance: Rounded | None = None
    certain_half_uar: Rounded | None = None
    reliability: list[ReliabilityBin]
    aurc: Rounded
    risk_coverage: list[RiskPoint]


class ConditionFigures(_Record):
    """The same clips heard in another condition. change: its UAR minus that of the clips as they are, resampled in pairs."""

    condition: str
    uar: Estimate
    change: Estimate


class OutlierFigures(_Record):
    """Recordings that no emotion was acted in. sure_share: not unsure; emotional_share: sure of anything but neutral; sure: of what.

    reference: what references of the voices were built from, where there were some.
    """

    corpus: str
    clips: int
    sure_share: Rounded
    emotional_share: Rounded
    sure: dict[Emotion, int]
    reference: ReferenceFigures | None = None

    @property
    def emotional_share_of_sure(self) -> float | None:
        """The share of the sure answers that are not neutral; None where it is never sure."""
        return self.emotional_share / self.sure_share if self.sure_share else None


class PersonalFigures(_Record):
    """What a reference of the person's voice is worth: clips that are not in it, judged with it.

    Attributes:
        minutes: Of the person's speech, as asked.
        draws: How often it was drawn which clips make the reference; the figures are of all draws together.
        groups: All clips, and those of each corpus, language, gender and age; empty where no clip is labelled.
        people: By corpus.
        outliers: Recordings of people who act no emotion.
    """

    minutes: float
    draws: int
    groups: list[GroupFigures]
    people: list[PeopleFigures]
    outliers: list[OutlierFigures]


class OutlierEvaluation(_Record):
    """The figures of one system on recordings that no emotion was acted in; see Evaluation."""

    about: EvaluationSubject
    outliers: list[OutlierFigures]
    personal: list[PersonalFigures] = []


class Evaluation(_Record):
    """The figures of one system on one split; shares, recalls and rates are 0 to 1.

    uar: mean recall of the emotions that occur, chance: what guessing reaches there. gender_difference: UAR of female minus that of male
    voices, where both have the same emotions. sure_share: clips with an answer that is not unsure; sure_uar: UAR among them.
    cannot_answer: emotions that occur but are no answer of this system; absent: answers without an example. confidence: None without
    probabilities. word_error_rate: None without transcripts. groups: all clips, those of each corpus, and those of each language, gender
    and age where there are several. people: by corpus. conditions, outliers, personal: empty where they were not measured.
    """

    about: EvaluationSubject
    clips: int
    speakers: int
    uar: Estimate
    weighted_accuracy: Estimate
    macro_f1: Estimate
    chance: Rounded
    classes: dict[Emotion, ClassFigures]
    confusion: Confusion
    gender_difference: Estimate | None
    unparsable_share: Rounded
    word_error_rate: Rounded | None
    words: int
    confidence: Confidence | None
    sure_share: Rounded
    sure_uar: Rounded | None
    cannot_answer: list[Emotion]
    absent: list[Emotion]
    groups: list[GroupFigures]
    people: list[PeopleFigures]
    conditions: list[ConditionFigures] = []
    outliers: list[OutlierFigures] = []
    personal: list[PersonalFigures] = []

    @property
    def warnings(self) -> list[str]:
        """Why the intervals are wide, in words; empty where they need no such excuse."""
        few = [f"{e.word} ({c.clips})" for e, c in self.classes.items() if 0 < c.clips < _FEW_EXAMPLES]
        speakers = [f"only {self.speakers} speaker{'s' * (self.speakers != 1)}"] if self.speakers < _FEW_SPEAKERS else []
        return speakers + ([f"fewer than {_FEW_EXAMPLES} clips of {', '.join(few)}"] if few else [])
