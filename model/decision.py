"""What became of one night's training: whether its bundle may be used, and every figure that decided it. No torch here.

It is printed by the training, kept in the bundle that may be used (`decision.json`), and stored in the monitor's history. It holds counts
and figures, no words and no sound.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from model.types import Emotion

DECISION = "decision.json"


class Verdict(StrEnum):
    """promoted: shown to be better for the person. refused: not shown to be. too-little: nothing was trained."""

    PROMOTED = "promoted"
    REFUSED = "refused"
    TOO_LITTLE = "too-little"


class Stage(StrEnum):
    """What a night learned. biases: of the letters, with a temperature. weights: those of mapper and adapter too."""

    BIASES = "biases"
    WEIGHTS = "weights"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Learned(_Record):
    """What there is to learn from, in segments: by kind. trained: those that the new bundle learned from. stopping: those that only told it
    when to stop. held_out: those that it was tested on. left_out: those that cannot be used, by reason."""

    corrections: int
    confirmations: int
    checkins: int
    trained: int
    stopping: int = 0
    held_out: int
    left_out: dict[str, int] = {}


class OwnTest(_Record):
    """The person's labels, each answered by a model that had not learned from it.

    right_before, right_after: answered as the person says, by the bundle in use and by the new one. gained, lost: by one of the two only.
    net_gain: gained less lost, a confirmation counting as many times as it is rarer than a correction; None in nights before it was used.
    p_no_better: chance that a bundle which is no better would fit the labels so much better. p_by_chance: chance that corrections which say
    nothing about the sound would go so well with what the new bundle hears. alpha: what both must not exceed.
    """

    segments: int
    right_before: int
    right_after: int
    gained: int
    lost: int
    net_gain: float | None = None
    p_no_better: float
    p_by_chance: float
    alpha: float


class ClassChange(_Record):
    """Recall of one emotion in the public set, 0 to 1: of the released bundle that all this began with, and of the new one."""

    clips: int
    before: float
    after: float


class PublicTest(_Record):
    """The rehearsal set that comes with the bundle: voices that this night did not learn from.

    uar: unweighted accuracy. change_at_least: one-sided 95 % lower bound of how it changed, which must not lie under -margin.
    class_margin: by so much a recall was allowed to fall; None: by any amount.
    """

    clips: int
    speakers: int
    uar_before: float
    uar_after: float
    change_at_least: float
    margin: float
    classes: dict[Emotion, ClassChange]
    class_margin: float | None = None


class Recalibration(_Record):
    """temperature and unsure_below, before and after; sure_share: of the public set's answers."""

    temperature_before: float
    temperature_after: float
    unsure_below_before: float
    unsure_below_after: float
    sure_share_before: float
    sure_share_after: float


class Decision(_Record):
    """verdict and reason, one sentence for people. parent: version it began with. version: of the new bundle, where there is one.

    stage: what was learned; None where nothing was. letter_bias: in log-odds, over what the language model answers. steps: optimizer steps
    of the kept weights. seconds: of the whole.
    """

    verdict: Verdict
    reason: str
    parent: str
    version: str | None = None
    learned: Learned
    own: OwnTest | None = None
    public: PublicTest | None = None
    calibration: Recalibration | None = None
    stage: Stage | None = None
    letter_bias: dict[Emotion, float] = {}
    steps: int = 0
    seconds: float = 0.0
